"""EB-NeRD: reading at Ekstra Bladet, spring 2023; users' click histories and impressions → events.

Of a bundle (`demo`, `small`, `large`) these are read: `train/history.parquet` (per user the lists of the 21 days before:
article, time, read time in seconds, scroll), one event per click; then `train/behaviors.parquet` and, where it is there,
`validation/behaviors.parquet` (one impression a row), one event per article that was shown. The validation part's
history overlaps with train's files and is left out. The same files as `history_train.parquet` and
`behaviors_train.parquet` in one folder are read too.

An impression says in `next_read_time` how long the article was read that was clicked in it; where several were clicked
nothing says which is meant, and their read time is unknown. An article that an impression lists twice among the clicked
ones is one click. Verified: names of files and columns in the publisher's
description and in files as published; times have no zone and are taken as UTC.
"""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TablePart, read_table, table_parts, to_id
from fp_tfrs.errors import InputError

_USERS = 500  # of a part of a history: about 80,000 clicks
_IMPRESSIONS = 10_000  # of a part: about 110,000 shown articles
_HISTORY = ("user_id", "article_id_fixed", "impression_time_fixed", "read_time_fixed", "scroll_percentage_fixed")
_BEHAVIORS = (
    "user_id",
    "session_id",
    "impression_time",
    "article_ids_inview",
    "article_ids_clicked",
    "next_read_time",
    "next_scroll_percentage",
)
_EPOCH = datetime.datetime(1970, 1, 1)
_MS = datetime.timedelta(milliseconds=1)


class Ebnerd(EventLogBuilder):
    """Events of EB-NeRD: `user_id`, `session_id` ("" in histories), `item_id`, `timestamp_ms`, `is_click`,
    `is_history`, and of clicks `read_time` (s) and `scroll_percentage`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="demo", description="ebnerd_demo, about 1,590 users."),
        tfds.core.BuilderConfig(name="small", description="ebnerd_small."),
        tfds.core.BuilderConfig(name="large", description="ebnerd_large, all users."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Accept the terms at https://recsys.eb.dk, fetch a bundle (ebnerd_demo, ebnerd_small, ebnerd_large), unpack it and "
        "name the folder that holds train/ as manual_dir."
    )
    ABOUT = About(
        description=(
            "News articles that were shown to users and clicked. A short read_time tells a false positive; rows with "
            "is_click = false were only shown."
        ),
        homepage="https://recsys.eb.dk",
        citation=(
            "@misc{kruse2024ebnerd, author={Kruse, Johannes and Lindskow, Kasper and Kalloori, Saikishore and Polignano, "
            "Marco and Pomo, Claudio and Srivastava, Abhishek and Uppal, Anshuk and Andersen, Michael Riis and Frellsen, "
            "Jes}, title={{EB-NeRD}: A Large-Scale Dataset for News Recommendation}, year={2024}, eprint={2410.03432}, "
            "archivePrefix={arXiv}}"
        ),
        license="Research use on the publisher's terms; do not redistribute.",
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "session_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        "is_click": np.bool_,
        "is_history": np.bool_,
        "read_time": np.float32,
        "scroll_percentage": np.float32,
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        histories = [find_file(folder, "train/history.parquet", "history_train.parquet")]
        behaviors = [find_file(folder, "train/behaviors.parquet", "behaviors_train.parquet")]
        with contextlib.suppress(InputError):  # the train part alone is a log, too
            behaviors.append(find_file(folder, "validation/behaviors.parquet"))
        return [(_read_history, part) for file in histories for part in table_parts(file, _USERS)] + [
            (_read_behaviors, part) for file in behaviors for part in table_parts(file, _IMPRESSIONS)
        ]


def _read_history(part: TablePart) -> Iterator[dict[str, Any]]:
    for row in read_table(part, _HISTORY):
        user_id = to_id(row["user_id"])
        for article, time, read_time, scroll in zip(*(row[column] for column in _HISTORY[1:]), strict=True):
            yield _make_event(user_id, "", article, time, True, True, read_time, scroll)


def _read_behaviors(part: TablePart) -> Iterator[dict[str, Any]]:
    for row in read_table(part, _BEHAVIORS):
        clicked = set(row["article_ids_clicked"] or ())
        is_known = len(clicked) == 1
        read_time, scroll = (row["next_read_time"], row["next_scroll_percentage"]) if is_known else (None, None)
        ids = to_id(row["user_id"]), to_id(row["session_id"])
        for article in row["article_ids_inview"]:
            if article in clicked:
                yield _make_event(*ids, article, row["impression_time"], True, False, read_time, scroll)
            else:
                yield _make_event(*ids, article, row["impression_time"], False, False, None, None)


def _make_event(
    user_id: str,
    session_id: str,
    article: int,
    time: datetime.datetime,
    is_click: bool,
    is_history: bool,
    read_time: float | None,
    scroll: float | None,
) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "session_id": session_id,
        "item_id": to_id(article),
        "timestamp_ms": (time - _EPOCH) // _MS,
        "is_click": is_click,
        "is_history": is_history,
        "read_time": math.nan if read_time is None else read_time,
        "scroll_percentage": math.nan if scroll is None else scroll,
    }
