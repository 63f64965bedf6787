"""Data sets by name: published files in parts, what each builder makes of them, and the way into a run."""

import functools
import math
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_files import DUMMY_DATA, NOON_MS, write_ebnerd, write_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_tfrs.config import DataConfig, SourceConfig
from fp_tfrs.data import preprocess as preprocessing
from fp_tfrs.data.preprocess import preprocess
from fp_tfrs.data.sources import check_source, count_rows, read_rows
from fp_tfrs.datasets import event_log, prepared, raw_files
from fp_tfrs.errors import InputError


def find_builder(name: str, config: str | None, data_dir: Path):
    source = SourceConfig(format="tfds", name=name, config=config, data_dir=str(data_dir))
    return prepared._find_builder(source)


def events_of(name: str, config: str | None, folder: Path, data_dir: Path) -> list[dict]:
    builder = find_builder(name, config, data_dir)
    return [event for read, part in builder.find_parts(str(folder)) for event in read(part)]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.text("aé|", max_size=8)), min_size=1, max_size=30),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_parts_of_any_size_have_every_line_once_and_in_order(tmp_path_factory, rows, part_bytes, ends, end):
    path = tmp_path_factory.mktemp("raw") / "a.csv"
    text = end.join(["number;text", *(f"{number};{text}" for number, text in rows)]) + end * ends
    path.write_bytes(text.encode())
    parts = raw_files.text_parts(str(path), ";", part_bytes=part_bytes)
    found = [row for part in parts for row in raw_files.read_text(part, ("text",))]
    assert found == [{"number": str(number), "text": text} for number, text in rows]
    assert parts[-1].stop == path.stat().st_size


def test_a_large_file_has_a_hundred_parts_or_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1\n" * 3_000)
    assert 100 <= len(raw_files.text_parts(str(path), ",", ("n",), part_bytes=1)) <= 101


def test_parts_of_a_table_have_every_row_once_and_in_order(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(50), "m": range(50)}), path, row_group_size=20)
    parts = raw_files.table_parts(str(path), part_rows=7)
    assert [row["n"] for part in parts for row in raw_files.read_table(part, ("n",))] == list(range(50))
    assert [part.offset + part.start for part in parts] == [0, 7, 14, 20, 27, 34, 40, 47]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a,b\n1,2\n3\n", "not 2 fields"),
        (b"a,b\n1,\xff\n", "not 2 fields of text"),
        (b"a,c\n1,2\n", "no column 'b'; it has: a, c"),
        (b"a,b\n", "has no rows"),
    ],
)
def test_a_file_that_is_not_what_was_published_is_named(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    with pytest.raises(InputError, match=message) as caught:
        [list(raw_files.read_text(part, ("a", "b"))) for part in raw_files.text_parts(str(path), ",")]
    assert str(path) in str(caught.value)


def test_movietweetings(tmp_path):
    assert events_of("movietweetings", None, DUMMY_DATA / "movietweetings", tmp_path)[1] == {
        "user_id": "1",
        "item_id": "0068646",
        "timestamp_ms": 1_362_062_460_000,
        "rating": 3,
    }


@pytest.mark.parametrize(("config", "logs"), [("pure", 3), ("1k", 3), ("27k", 5)])
def test_kuairand(tmp_path, config, logs):
    events = events_of("kuairand", config, DUMMY_DATA / "kuairand", tmp_path)
    assert events[0] == {
        "user_id": "7",
        "item_id": "100",
        "timestamp_ms": 1_649_466_000_123,
        "is_click": True,
        "is_like": True,
        "is_follow": False,
        "is_hate": False,
        "long_view": True,
        "play_time_ms": 9_000,
        "duration_ms": 12_000,
        "tab": 1,
        "is_rand": 0,
    }
    assert not events[1]["is_click"] and events[-1]["is_rand"] == 1
    assert sum(event["item_id"] == "100" for event in events) == logs


def test_kuairand_as_repacked(tmp_path):
    log = pd.read_csv(DUMMY_DATA / "kuairand/log_standard_4_08_to_4_21_pure.csv")
    log.drop(columns=["date", "hourmin", "is_rand"]).to_parquet(tmp_path / "interactions.parquet")
    as_published = events_of("kuairand", "pure", DUMMY_DATA / "kuairand", tmp_path)[:2]
    assert events_of("kuairand", "pure", tmp_path, tmp_path) == [event | {"is_rand": -1} for event in as_published]
    with pytest.raises(InputError, match=r"no log_standard_4_08_to_4_21_1k\.csv"):
        events_of("kuairand", "1k", tmp_path, tmp_path)


def test_globo_as_published_and_as_repacked(tmp_path):
    events = events_of("globo", None, DUMMY_DATA / "globo", tmp_path)
    assert [event["item_id"] for event in events] == ["157", "68", "157"]
    assert events[0] == {
        "user_id": "0",
        "session_id": "1500000000000001",
        "item_id": "157",
        "timestamp_ms": 1_500_000_060_000,
    }
    hours = [pd.read_csv(path) for path in sorted((DUMMY_DATA / "globo/clicks").iterdir())]
    pd.concat(hours).to_parquet(tmp_path / "clicks.parquet")
    assert events_of("globo", None, tmp_path, tmp_path) == events


def test_ebnerd(tmp_path):
    write_ebnerd(tmp_path)
    events = events_of("ebnerd", "demo", tmp_path, tmp_path)
    first, last, shown, clicked, *several = events
    assert (first["user_id"], first["item_id"], first["session_id"], first["read_time"]) == ("7", "901", "", 17.0)
    assert first["timestamp_ms"] == NOON_MS and last["timestamp_ms"] == NOON_MS + 9_000
    assert math.isnan(last["scroll_percentage"]) and last["read_time"] == 0
    assert (shown["item_id"], shown["is_click"], shown["is_history"]) == ("902", False, False)
    assert math.isnan(shown["read_time"])
    assert (clicked["item_id"], clicked["is_click"], clicked["read_time"]) == ("903", True, 4.0)
    assert clicked["session_id"] == "21" and math.isnan(clicked["scroll_percentage"])
    assert all(event["is_click"] and math.isnan(event["read_time"]) for event in several) and len(several) == 2

    flat = tmp_path / "flat"  # the names that the train part's files have elsewhere
    flat.mkdir()
    for name in ("history", "behaviors"):
        shutil.copy(tmp_path / f"train/{name}.parquet", flat / f"{name}_train.parquet")
    assert repr(events_of("ebnerd", "demo", flat, tmp_path)) == repr(events)

    (tmp_path / "validation").mkdir()
    shutil.copy(tmp_path / "train/behaviors.parquet", tmp_path / "validation")
    assert len(events_of("ebnerd", "demo", tmp_path, tmp_path)) == len(events) + 4


def test_yoochoose_clicks_and_gru4rec_tables(tmp_path):
    clicks = events_of("yoochoose", "clicks", DUMMY_DATA / "yoochoose", tmp_path)
    expected_ms = pd.Timestamp("2014-04-07T10:51:09.277Z").value // 10**6
    assert clicks[0] == {"session_id": "1", "item_id": "214536502", "timestamp_ms": expected_ms}
    assert clicks[-1]["timestamp_ms"] % 1_000 == 0  # a whole second is written without a fraction
    table = events_of("yoochoose", "gru4rec", DUMMY_DATA / "yoochoose", tmp_path)
    assert [(event["session_id"], event["timestamp_ms"]) for event in table[:4:3]] == [
        ("3", 1_396_437_466_940),
        ("4", 1_396_860_669_277),
    ]


def test_diginetica_views(tmp_path):
    events = events_of("diginetica", "views", DUMMY_DATA / "diginetica", tmp_path)
    assert events[0]["timestamp_ms"] == pd.Timestamp("2016-05-09", tz="UTC").value // 10**6 + 526_309
    second = sorted((event for event in events if event["session_id"] == "2"), key=lambda event: event["timestamp_ms"])
    assert [event["item_id"] for event in second] == ["31331", "9654", "32118"]


@pytest.mark.parametrize("name", ["yoochoose", "diginetica"])
def test_sessions_without_times_keep_their_order(tmp_path, name):
    write_sequences(tmp_path)
    sessions: dict[str, list[str]] = {}
    for event in sorted(events_of(name, "sr_gnn", tmp_path, tmp_path), key=lambda event: event["timestamp_ms"]):
        sessions.setdefault(event["session_id"], []).append(event["item_id"])
    assert list(sessions.values()) == [["1", "2"], ["4", "5", "6"]]


def write_ratings(folder: Path, users: int) -> None:
    """Each user rates five of six films, a minute apart; the third one badly."""
    rows = [
        f"{user}::{(user + step) % 6:07d}::{3 if step == 2 else 8}::{1_362_062_400 + 86_400 * user + 60 * step}"
        for user in range(users)
        for step in range(5)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "ratings.dat").write_text("\n".join(rows) + "\n")


def data_config(source: dict, **changes) -> DataConfig:
    return DataConfig(
        source=source,
        columns={"user_id": "user_id", "timestamp": "timestamp_ms", "feedback": {"rating": "int"}},
        false_positive_when=[{"column": "rating", "op": "<=", "value": 5}],
        min_item_support=1,
        **{"time_unit": "ms", **changes},
    )


@pytest.fixture
def by_name(tmp_path) -> dict:
    write_ratings(tmp_path / "raw", 30)
    return {
        "format": "tfds",
        "name": "movietweetings",
        "manual_dir": str(tmp_path / "raw"),
        "data_dir": str(tmp_path / "prepared"),
    }


def test_a_data_set_by_name_gives_the_sessions_that_its_file_gives(tmp_path, by_name, monkeypatch):
    monkeypatch.setattr(raw_files.text_parts, "__defaults__", ((), 1_500))  # three parts
    as_file = {
        "format": "csv",
        "files": [f"{by_name['manual_dir']}/ratings.dat"],
        "separator": "::",
        "header": False,
        "column_names": ["user_id", "item_id", "rating", "timestamp_ms"],
    }
    made = {}
    for kind, data in (
        ("name", data_config(by_name)),
        ("file", data_config(as_file, time_unit="s")),
    ):
        out = tmp_path / kind
        manifest = preprocess(data, 3, str(out), str(tmp_path / f"{kind}.jsonl"), 2e9)
        made[kind] = manifest
    assert made["name"].model_dump(exclude={"shards"}) == made["file"].model_dump(exclude={"shards"})
    assert made["name"].clicks == 150 and made["name"].feedback_ranges == {"rating": (3, 8)}
    assert {shard.sha256 for shard in made["name"].shards} == {shard.sha256 for shard in made["file"].shards}


def test_rows_come_back_typed_in_order_and_by_column(tmp_path, by_name, monkeypatch):
    monkeypatch.setattr(raw_files.text_parts, "__defaults__", ((), 1_500))
    source = SourceConfig(**by_name)
    files = check_source(data_config(by_name))
    assert len(files) > 1 and sum(count_rows(path, source) for path in files) == 150
    rows = [row for path in files for row in read_rows(path, source, ["item_id", "rating"])]
    assert [row.values for row in rows[:3]] == [
        {"item_id": "0000000", "rating": 8},
        {"item_id": "0000001", "rating": 8},
        {"item_id": "0000002", "rating": 3},
    ]
    everything = list(read_rows(files[0], source))
    assert [row.line for row in everything] == list(range(1, len(everything) + 1))
    assert everything[0].values == {"user_id": "0", "item_id": "0000000", "timestamp_ms": 1362062400000, "rating": 8}


def test_values_that_were_not_measured_become_dead_letters(tmp_path):
    write_ebnerd(tmp_path / "ebnerd_demo")
    source = {
        "format": "tfds",
        "name": "ebnerd",
        "manual_dir": str(tmp_path / "ebnerd_demo"),
        "data_dir": str(tmp_path / "p"),
    }
    data = DataConfig(
        source=source,
        columns={
            "user_id": "user_id",
            "timestamp": "timestamp_ms",
            "feedback": {"is_click": "bool", "read_time": "float"},
        },
        time_unit="ms",
        click_when=[{"column": "is_click", "op": "==", "value": True}],
    )
    with pytest.raises(InputError, match=r"2 of 6 rows \(33.3%\) are bad.*read_time is NaN"):
        preprocess(data, 1, str(tmp_path / "out"), str(tmp_path / "dead.jsonl"), 2e9)
    letters = pd.read_json(tmp_path / "dead.jsonl", lines=True)
    assert list(letters.reason) == ["read_time is NaN"] * 2 and list(letters.line) == [3, 4]


def test_other_files_are_prepared_anew_and_the_same_ones_are_not(tmp_path, by_name, monkeypatch):
    source = SourceConfig(**by_name)
    [path] = prepared.prepare(source)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_make", functools.partial(pytest.fail, "made again"))
        assert prepared.prepare(source) == [path]
    write_ratings(tmp_path / "raw", 31)
    assert prepared.prepare(source) == [path] and count_rows(path, source) == 155
    # Without a folder what is there is taken as it is.
    assert prepared.prepare(source.model_copy(update={"manual_dir": None})) == [path]


def test_two_runs_at_once_make_a_data_set_once(tmp_path, by_name, monkeypatch):
    """The other run is this thread: it has the lock, and makes what the run in the thread is about to make."""
    source, is_waiting, make = SourceConfig(**by_name), threading.Event(), prepared._make
    makers = []
    monkeypatch.setattr(prepared, "say", lambda text: is_waiting.set() if "waiting for another run" in text else None)
    monkeypatch.setattr(prepared, "_make", lambda *some: (makers.append(threading.current_thread()), make(*some)))
    with ThreadPoolExecutor(1) as pool:
        builder = prepared._find_builder(source)
        with prepared._locked(builder):
            found = pool.submit(prepared.prepare, source)
            assert is_waiting.wait(60) and not found.done()
            prepared._make(builder, by_name["manual_dir"], 0)
        [path] = found.result(60)
    assert makers == [threading.current_thread()] and count_rows(path, source) == 150


def test_a_data_set_that_is_made_of_other_files_while_it_is_read_stops_the_run(tmp_path, by_name, monkeypatch):
    data = data_config(by_name)
    write_ratings(tmp_path / "other", 31)

    def run(*arguments):
        facts = read(*arguments)
        prepared.prepare(data.source.model_copy(update={"manual_dir": str(tmp_path / "other")}))
        return facts

    read = preprocessing._run
    monkeypatch.setattr(preprocessing, "_run", run)
    arguments = (data, 3, str(tmp_path / "out"), str(tmp_path / "dead.jsonl"), 2e9)
    with pytest.raises(
        InputError, match="was made anew, of other files, .* give each data.source.manual_dir a data_dir"
    ):
        preprocess(*arguments)
    monkeypatch.undo()
    assert preprocess(*arguments).clicks == 150


@pytest.mark.e2e
def test_beam_makes_the_same_rows(tmp_path, by_name, monkeypatch):
    monkeypatch.setattr(raw_files.text_parts, "__defaults__", ((), 1_500))
    source = SourceConfig(**by_name)
    rows = [[row.values for row in read_rows(path, source)] for path in prepared.prepare(source)]
    monkeypatch.setattr(prepared, "BEAM_BYTES", 0)
    source = source.model_copy(update={"data_dir": str(tmp_path / "by-beam")})
    assert [[row.values for row in read_rows(path, source)] for path in prepared.prepare(source)] == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "movietwetings"}, "no data set 'movietwetings'; there are: amazon_reviews, diginetica"),
        ({"name": "kuairand", "config": "2k"}, "config.*2k.*not found"),
        ({"manual_dir": "/nonexistent"}, r"(?s)/nonexistent has no ratings.dat.*github.com/sidooms"),
        ({"manual_dir": "$NO_SUCH_DIR/x"}, r"\$NO_SUCH_DIR/x uses a variable that is not set"),
        ({"name": "globo", "manual_dir": None}, "globo is not fetched for you.*kaggle"),
    ],
)
def test_what_cannot_be_prepared_is_refused_with_the_remedy(by_name, changes, message):
    with pytest.raises(InputError, match=message):
        prepared.prepare(SourceConfig(**by_name | changes))


def test_a_broken_row_stops_the_making_and_leaves_nothing(tmp_path, by_name):
    (tmp_path / "raw/ratings.dat").write_text("1::2::8::1362062400\n1::3::good::1362062460\n")
    with pytest.raises(InputError, match="event 2 of .*ratings.dat.* is broken.*'good'"):
        prepared.prepare(SourceConfig(**by_name))
    assert not find_builder("movietweetings", None, tmp_path / "prepared").is_prepared()
    assert event_log.rows_made is None


def test_nothing_goes_to_stdout(by_name, capfd):
    prepared.prepare(SourceConfig(**by_name))
    out, err = capfd.readouterr()
    assert out == "" and "preparing movietweetings: done (150 rows" in err
