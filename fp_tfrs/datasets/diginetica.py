"""Diginetica (CIKM Cup 2016, track 2): views of shop items, one row a view → events.

Config `views`: `train-item-views.csv` as published: header `sessionId;userId;itemId;timeframe;eventdate`, `NA` for an
unknown user, `timeframe` in milliseconds since the session's start, `eventdate` a day (names verified in public code that
reads the file). A view's time is the day's midnight, UTC, plus `timeframe`: right within a session, rough between them.
Config `sr_gnn`: see `sequences.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TextPart, read_text, text_parts
from fp_tfrs.datasets.sequences import find_sequences

_VIEWS = ("sessionId", "userId", "itemId", "timeframe", "eventdate")
_EPOCH = datetime.date(1970, 1, 1)
_DAY_MS = 86_400_000


class Diginetica(EventLogBuilder):
    """Events of Diginetica: `session_id`, `item_id`, `timestamp_ms`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="views", description="All item views as published."),
        tfds.core.BuilderConfig(name="sr_gnn", description="What SR-GNN's preprocessing wrote, without times."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Take part in https://competitions.codalab.org/competitions/11161 (CIKM Cup 2016, track 2), fetch its training "
        "data, unpack them and name the folder that holds train-item-views.csv as manual_dir."
    )
    ABOUT = About(
        description="Views of shop items. Nothing measures how a view was liked: there are no false positives.",
        homepage="https://competitions.codalab.org/competitions/11161",
        citation="",
        license="The competition's terms: research use.",
    )
    FEATURES: ClassVar = {
        "session_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        if self.builder_config.name == "sr_gnn":
            return find_sequences(folder)
        return [(_read_views, part) for part in text_parts(find_file(folder, "train-item-views.csv"), ";")]


def _read_views(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _VIEWS):
        day = (datetime.date.fromisoformat(row["eventdate"]) - _EPOCH).days
        yield {
            "session_id": row["sessionId"],
            "item_id": row["itemId"],
            "timestamp_ms": day * _DAY_MS + int(row["timeframe"]),
        }
