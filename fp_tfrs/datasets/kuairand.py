"""KuaiRand: short videos that were shown, one row an impression; the published CSV logs → events.

Configs `pure`, `1k` and `27k` are the three releases. Of each, all logs are read: the standard policy's (27K has each in
two parts) and the random one's. Verified in the publisher's description: the names of the files; in public code that
reads them: the header line (`user_id, video_id, date, hourmin, time_ms, is_click, …, is_rand, tab`).

Config `pure` also reads `interactions.parquet`, a re-packed part of the release with some of the columns, if there are no
logs; `is_rand` is then −1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TablePart, TextPart, read_table, read_text, table_parts, text_parts, to_id

_LOGS = {
    "pure": ("standard_4_08_to_4_21_pure", "standard_4_22_to_5_08_pure", "random_4_22_to_5_08_pure"),
    "1k": ("standard_4_08_to_4_21_1k", "standard_4_22_to_5_08_1k", "random_4_22_to_5_08_1k"),
    "27k": (
        "standard_4_08_to_4_21_27k_part1",
        "standard_4_08_to_4_21_27k_part2",
        "standard_4_22_to_5_08_27k_part1",
        "standard_4_22_to_5_08_27k_part2",
        "random_4_22_to_5_08_27k",
    ),
}
_FLAGS = ("is_click", "is_like", "is_follow", "is_hate", "long_view")
_NUMBERS = ("play_time_ms", "duration_ms", "tab")
_COLUMNS = ("user_id", "video_id", "time_ms", *_FLAGS, *_NUMBERS)
_REPACKED = "interactions.parquet"


class Kuairand(EventLogBuilder):
    """Events of KuaiRand: `user_id`, `item_id`, `timestamp_ms` and the published feedback; `is_click` tells clicks."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="pure", description="KuaiRand-Pure: the videos of the random policy's pool only."),
        tfds.core.BuilderConfig(name="1k", description="KuaiRand-1K: 1,000 users, all videos."),
        tfds.core.BuilderConfig(name="27k", description="KuaiRand-27K: all users, all videos, 23 GB of logs."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Fetch KuaiRand-Pure, -1K or -27K from https://zenodo.org/records/10439422 (see https://kuairand.com), unpack it "
        "and name the folder that holds its log_*.csv, or the one above, as manual_dir."
    )
    ABOUT = About(
        description=(
            "Videos shown to users of Kuaishou, April and May 2022. A click of which little was played "
            "(play_time_ms / duration_ms) or is_hate tells a false positive; rows with is_click = 0 were only shown."
        ),
        homepage="https://kuairand.com",
        citation=(
            "@inproceedings{gao2022kuairand, author={Gao, Chongming and Li, Shijun and Zhang, Yuan and Chen, Jiawei and "
            "Li, Biao and Lei, Wenqiang and Jiang, Peng and He, Xiangnan}, title={{KuaiRand}: An Unbiased Sequential "
            "Recommendation Dataset with Randomly Exposed Videos}, booktitle={CIKM}, year={2022}, "
            "doi={10.1145/3511808.3557624}}"
        ),
        license="CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/",
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        **dict.fromkeys(_FLAGS, np.bool_),
        **dict.fromkeys(_NUMBERS, np.int64),
        "is_rand": np.int64,
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        name = self.builder_config.name
        if name == "pure":
            first = find_file(folder, f"log_{_LOGS[name][0]}.csv", _REPACKED)
            if first.endswith(_REPACKED):
                return [(_read_repacked, part) for part in table_parts(first)]
        files = [find_file(folder, f"log_{log}.csv") for log in _LOGS[name]]
        return [(_read_log, part) for file in files for part in text_parts(file, ",")]


def _read_log(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, (*_COLUMNS, "is_rand")):
        yield {**_make_event(row), "is_rand": int(row["is_rand"])}


def _read_repacked(part: TablePart) -> Iterator[dict[str, Any]]:
    for row in read_table(part, _COLUMNS):
        yield {**_make_event(row), "is_rand": -1}


def _make_event(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "user_id": to_id(row["user_id"]),
        "item_id": to_id(row["video_id"]),
        "timestamp_ms": int(row["time_ms"]),
        **{name: bool(int(row[name])) for name in _FLAGS},
        **{name: int(row[name]) for name in _NUMBERS},
    }
