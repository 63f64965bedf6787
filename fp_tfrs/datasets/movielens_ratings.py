"""MovieLens 100K, 1M and 20M: film ratings, one row a rating → events.

Read as published: `u.data` (user, film, rating, seconds by tabs), `ratings.dat` (the same by "::") and `ratings.csv`
(header `userId,movieId,rating,timestamp`); the archives are fetched if `manual_dir` has none. Formats, addresses and
checksums are those that TFDS' own `movielens` data set uses; it has no events in order and no `manual_dir`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TextPart, read_text, text_parts

_COLUMNS = ("userId", "movieId", "rating", "timestamp")
_FILES = {"100k": ("u.data", "\t", _COLUMNS), "1m": ("ratings.dat", "::", _COLUMNS), "20m": ("ratings.csv", ",", ())}


class MovielensRatings(EventLogBuilder):
    """Events of MovieLens: `user_id`, `item_id`, `timestamp_ms`, `rating`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="100k", description="100,000 ratings 1–5, 1997 and 1998."),
        tfds.core.BuilderConfig(name="1m", description="1 million ratings 1–5, 2000 to 2003."),
        tfds.core.BuilderConfig(name="20m", description="20 million ratings 0.5–5, 1995 to 2015."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Fetch ml-100k.zip, ml-1m.zip or ml-20m.zip from https://grouplens.org/datasets/movielens/, unpack it and name "
        "the folder as manual_dir; without manual_dir it is fetched."
    )
    ABOUT = About(
        description=(
            "Film ratings in the order of the users. A low rating tells a false positive. Users rate many films in one "
            "sitting, so that the time between ratings says little."
        ),
        homepage="https://grouplens.org/datasets/movielens/",
        citation=(
            "@article{harper2015movielens, author={Harper, F. Maxwell and Konstan, Joseph A.}, title={The {MovieLens} "
            "Datasets: History and Context}, journal={ACM Transactions on Interactive Intelligent Systems}, volume={5}, "
            "number={4}, year={2015}, doi={10.1145/2827872}}"
        ),
        license="GroupLens' terms (README of each archive): research use with a citation, no redistribution.",
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        "rating": np.float32,
    }

    @property
    def url(self) -> str:
        return f"https://files.grouplens.org/datasets/movielens/ml-{self.builder_config.name}.zip"

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        name, separator, columns = _FILES[self.builder_config.name]
        return [(_read, part) for part in text_parts(find_file(folder, name), separator, columns)]


def _read(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _COLUMNS):
        yield {
            "user_id": row["userId"],
            "item_id": row["movieId"],
            "timestamp_ms": int(row["timestamp"]) * 1_000,
            "rating": float(row["rating"]),
        }
