"""RetailRocket: what visitors of a shop did, summer 2015, one row an action; `events.csv` → events.

Read as published (header `timestamp,visitorid,event,itemid,transactionid`, times in ms: the publisher's description).
`event` is `view`, `addtocart` or `transaction`; a run that wants views only says so in `click_when`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TextPart, read_text, text_parts

_COLUMNS = ("timestamp", "visitorid", "event", "itemid")


class Retailrocket(EventLogBuilder):
    """Events of RetailRocket: `user_id`, `item_id`, `timestamp_ms`, `event`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Fetch the data set from https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset, unpack it and name the "
        "folder that holds events.csv as manual_dir."
    )
    ABOUT = About(
        description="Views, additions to the cart and purchases. Nothing measures how a view was disliked.",
        homepage="https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset",
        citation="",
        license="See the data set's page; research use.",
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        "event": tfds.features.Text(),
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        return [(_read, part) for part in text_parts(find_file(folder, "events.csv"), ",")]


def _read(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _COLUMNS):
        yield {
            "user_id": row["visitorid"],
            "item_id": row["itemid"],
            "timestamp_ms": int(row["timestamp"]),
            "event": row["event"],
        }
