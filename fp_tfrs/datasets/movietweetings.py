"""MovieTweetings: film ratings 0–10 that people tweeted, one row a rating; `user::film::rating::seconds` → events.

The files of the publisher's repository are read, `snapshots/…/ratings.dat` and `latest/ratings.dat` alike; the 100K
snapshot is fetched if `manual_dir` has none. Verified there: the separator, the four fields, and the size of the 100K
file, which the checksum belongs to (100,000 lines).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TextPart, read_text, text_parts

_COLUMNS = ("user", "film", "rating", "seconds")


class Movietweetings(EventLogBuilder):
    """Events of MovieTweetings: `user_id`, `item_id`, `timestamp_ms`, `rating`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put a ratings.dat of https://github.com/sidooms/MovieTweetings into manual_dir; without manual_dir it is fetched."
    ABOUT = About(
        description="Film ratings 0–10 from Twitter, in the order of the users. A low rating tells a false positive.",
        homepage="https://github.com/sidooms/MovieTweetings",
        citation=(
            "@inproceedings{dooms2013movietweetings, author={Dooms, Simon and De Pessemier, Toon and Martens, Luc}, "
            "title={{MovieTweetings}: a Movie Rating Dataset Collected From Twitter}, "
            "booktitle={Workshop on Crowdsourcing and Human Computation for Recommender Systems, RecSys}, year={2013}}"
        ),
        license="MIT, Copyright (c) 2013 Simon Dooms",
        url=(
            "https://raw.githubusercontent.com/sidooms/MovieTweetings/4d8280a3f1ea83e3e23f13d1710d19f43564274f/"
            "snapshots/100K/ratings.dat"
        ),
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        "rating": np.int64,
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        return [(_read, part) for part in text_parts(find_file(folder, "ratings.dat"), "::", _COLUMNS)]


def _read(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _COLUMNS):
        yield {
            "user_id": row["user"],
            "item_id": row["film"],
            "timestamp_ms": int(row["seconds"]) * 1_000,
            "rating": int(row["rating"]),
        }
