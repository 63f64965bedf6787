"""Amazon reviews, any category (the papers use films): stars that buyers gave, one row a review → events.

Configs: `ratings_2014` reads `ratings_*.csv` (no header; user, item, stars, seconds), `ratings_2018` every other `*.csv`
(no header; item, user, stars, seconds: the order changed), `five_core` the reviews of the 5-core as JSON lines,
`*_5.json` (fields `reviewerID`, `asin`, `overall`, `unixReviewTime`), unpacked. All files of the folder that fit are
read: put one category into it. Orders and fields are those of the publisher's pages as quoted in public notes on them.

Times are days: several reviews of a user often share one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_files
from fp_tfrs.datasets.raw_files import TextPart, read_text, text_parts
from fp_tfrs.errors import InputError

_COLUMNS = {"ratings_2014": ("user", "item", "stars", "seconds"), "ratings_2018": ("item", "user", "stars", "seconds")}
_JSON = ("json",)  # one field: the whole line, which has no NUL


class AmazonReviews(EventLogBuilder):
    """Events of Amazon reviews: `user_id`, `item_id`, `timestamp_ms`, `rating`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="ratings_2014", description="A category's ratings, release of 2014."),
        tfds.core.BuilderConfig(name="ratings_2018", description="A category's ratings, release of 2018."),
        tfds.core.BuilderConfig(name="five_core", description="A category's 5-core reviews, either release."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Fetch a category's file from https://jmcauley.ucsd.edu/data/amazon (2014) or https://nijianmo.github.io/amazon "
        "(2018), unpack it if its name ends in .gz, and name its folder as manual_dir."
    )
    ABOUT = About(
        description="Reviews of one category with 1 to 5 stars. Few stars tell a false positive.",
        homepage="https://nijianmo.github.io/amazon/index.html",
        citation=(
            "@inproceedings{ni2019justifying, author={Ni, Jianmo and Li, Jiacheng and McAuley, Julian}, title={Justifying "
            "Recommendations using Distantly-Labeled Reviews and Fine-Grained Aspects}, booktitle={EMNLP}, year={2019}}"
        ),
        license="Not stated by the publisher; research use.",
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        "rating": np.float32,
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        name = self.builder_config.name
        if name == "five_core":
            files = find_files(folder, "*_5.json")
            return [(_read_json, part) for file in files for part in text_parts(file, "\0", _JSON)]
        files = find_files(folder, "*.csv")
        files = [file for file in files if os.path.basename(file).startswith("ratings_") == (name == "ratings_2014")]
        if not files:
            raise InputError(f"{folder} has no csv file of config {name}; name the other release's config")
        return [(_read_csv, part) for file in files for part in text_parts(file, ",", _COLUMNS[name])]


def _read_csv(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, part.names):
        yield _make_event(row["user"], row["item"], row["stars"], row["seconds"])


def _read_json(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _JSON):
        review = json.loads(row["json"])
        try:
            yield _make_event(review["reviewerID"], review["asin"], review["overall"], review["unixReviewTime"])
        except KeyError as error:
            raise ValueError(f"no field {error}") from error


def _make_event(user: str, item: str, stars: str | float, seconds: str | int) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "timestamp_ms": int(seconds) * 1_000, "rating": float(stars)}
