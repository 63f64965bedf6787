"""Made-up Parquet files in the form of those published, for the tests of data sets; text files are in dummy_data/."""

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

DUMMY_DATA = Path(__file__).parent / "dummy_data"
NOON = datetime.datetime(2023, 5, 1, 12)
NOON_MS = 1_682_942_400_000


def write_ebnerd(folder: Path) -> None:
    """A user's history of two clicks, and two impressions: of one article clicked and one not; of two clicked ones."""
    (folder / "train").mkdir(parents=True)
    time, article, number = pa.timestamp("us"), pa.int32(), pa.float32()
    history = {
        "user_id": pa.array([7], pa.uint32()),
        "impression_time_fixed": pa.array([[NOON, NOON + datetime.timedelta(seconds=9)]], pa.large_list(time)),
        "scroll_percentage_fixed": pa.array([[100.0, None]], pa.large_list(number)),
        "article_id_fixed": pa.array([[901, 902]], pa.large_list(article)),
        "read_time_fixed": pa.array([[17.0, 0.0]], pa.large_list(number)),
    }
    behaviors = {
        "impression_id": pa.array([1, 2], pa.uint32()),
        "impression_time": pa.array([NOON, NOON], time),
        "article_ids_inview": pa.array([[902, 903], [904, 905]], pa.large_list(article)),
        "article_ids_clicked": pa.array([[903], [904, 905]], pa.large_list(article)),
        "user_id": pa.array([7, 8], pa.uint32()),
        "session_id": pa.array([21, 22], pa.uint32()),
        "next_read_time": pa.array([4.0, 6.0], number),
        "next_scroll_percentage": pa.array([None, 50.0], number),
    }
    pq.write_table(pa.table(history), folder / "train/history.parquet")
    pq.write_table(pa.table(behaviors), folder / "train/behaviors.parquet")


def write_sequences(folder: Path) -> None:
    """A training session of two clicks, and a test session of three by its two prefixes."""
    pq.write_table(pa.table({"items": [[1, 2]]}), folder / "train_sessions.parquet")
    pq.write_table(pa.table({"prefix": [[4, 5], [4]], "target": [6, 5]}), folder / "test_prefixes.parquet")
