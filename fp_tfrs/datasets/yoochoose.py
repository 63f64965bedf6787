"""Yoochoose (RecSys Challenge 2015): shop clicks of 2014, one row a click → events.

Config `clicks`: `yoochoose-clicks.dat` as published: no header, `session, time (ISO 8601, UTC), item, category` by commas
(order of the fields as in the publisher's README). Config `gru4rec`: `clicks_train.tsv` and `clicks_test.tsv`, tables
`SessionId, ItemId, Time` (seconds) by tabs as GRU4Rec's preprocessing writes them; sessions of both files together.
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

_CLICKS = ("session", "time", "item", "category")
_GRU4REC = ("SessionId", "ItemId", "Time")
_EPOCH = datetime.datetime(1970, 1, 1)
_MS = datetime.timedelta(milliseconds=1)


class Yoochoose(EventLogBuilder):
    """Events of Yoochoose: `session_id`, `item_id`, `timestamp_ms`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="clicks", description="All clicks as published, 1.4 GB."),
        tfds.core.BuilderConfig(name="gru4rec", description="A part that GRU4Rec's preprocessing wrote."),
        tfds.core.BuilderConfig(name="sr_gnn", description="A part that SR-GNN's preprocessing wrote, without times."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Fetch the data of the RecSys Challenge 2015 (https://recsys.acm.org/recsys15/challenge), unpack them and name the "
        "folder that holds yoochoose-clicks.dat as manual_dir."
    )
    ABOUT = About(
        description="Clicks of shop sessions. Nothing measures how a click was liked: there are no false positives.",
        homepage="https://recsys.acm.org/recsys15/challenge",
        citation=(
            "@inproceedings{benshimon2015recsys, author={Ben-Shimon, David and Tsikinovsky, Alexander and Friedmann, "
            "Michael and Shapira, Bracha and Rokach, Lior and Hoerle, Johannes}, title={{RecSys} Challenge 2015 and the "
            "{YOOCHOOSE} Dataset}, booktitle={RecSys}, year={2015}}"
        ),
        license="The challenge's terms: research use.",
    )
    FEATURES: ClassVar = {
        "session_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        name = self.builder_config.name
        if name == "sr_gnn":
            return find_sequences(folder)
        if name == "clicks":
            return [
                (_read_clicks, part) for part in text_parts(find_file(folder, "yoochoose-clicks.dat"), ",", _CLICKS)
            ]
        files = [find_file(folder, "clicks_train.tsv"), find_file(folder, "clicks_test.tsv")]
        return [(_read_gru4rec, part) for file in files for part in text_parts(file, "\t")]


def _read_clicks(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _CLICKS):
        time = datetime.datetime.fromisoformat(row["time"].removesuffix("Z"))
        yield {"session_id": row["session"], "item_id": row["item"], "timestamp_ms": (time - _EPOCH) // _MS}


def _read_gru4rec(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _GRU4REC):
        time_ms = round(float(row["Time"]) * 1_000)
        yield {"session_id": row["SessionId"], "item_id": row["ItemId"], "timestamp_ms": time_ms}
