"""Last.fm-1K: what 992 people listened to until May 2009, one row a play → events with the time to the next play.

`userid-timestamp-artid-artname-traid-traname.tsv` as published: no header, those six fields by tabs, no quoting, times in
ISO 8601 UTC, each user's plays together and the latest first (the publisher's README and its example). An item is the
track's MusicBrainz id or, where it has none, "artist – track".

`gap_to_next_s`: seconds from this play's start to the user's next one, the longest it can have been played: whoever skips a
track starts another. Unknown (NaN) for a user's last play.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TextPart, read_text, text_parts

_FILE = "userid-timestamp-artid-artname-traid-traname.tsv"
_COLUMNS = ("userid", "timestamp", "artid", "artname", "traid", "traname")
_EPOCH = datetime.datetime(1970, 1, 1)
_MS = datetime.timedelta(milliseconds=1)
_LONGEST_LINE = 1 << 16


class Lastfm1k(EventLogBuilder):
    """Events of Last.fm-1K: `user_id`, `item_id`, `timestamp_ms`, `gap_to_next_s`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Fetch lastfm-dataset-1K.tar.gz from http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html, unpack it and "
        f"name the folder that holds {_FILE} as manual_dir."
    )
    ABOUT = About(
        description="Plays of music tracks. A short gap_to_next_s tells a false positive: the track was skipped.",
        homepage="https://ocelma.net/MusicRecommendationDataset/lastfm-1K.html",
        citation=(
            "@book{celma2010music, author={Celma, Oscar}, title={Music Recommendation and Discovery in the Long Tail}, "
            "publisher={Springer}, year={2010}}"
        ),
        license="Distributed with permission of Last.fm for non-commercial use.",
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        "gap_to_next_s": np.float32,
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        return [(_read, part) for part in text_parts(find_file(folder, _FILE), "\t", _COLUMNS)]


def _read(part: TextPart) -> Iterator[dict[str, Any]]:
    next_user, next_ms = _find_play_before(part)
    for row in read_text(part, _COLUMNS):
        user, time_ms = row["userid"], _parse_ms(row["timestamp"])
        is_same = user == next_user and next_ms >= time_ms
        yield {
            "user_id": user,
            "item_id": row["traid"] or f"{row['artname']} – {row['traname']}",
            "timestamp_ms": time_ms,
            "gap_to_next_s": (next_ms - time_ms) / 1_000 if is_same else math.nan,
        }
        next_user, next_ms = user, time_ms


def _find_play_before(part: TextPart) -> tuple[str, int]:
    """User and time of the line before the part, which is the next play."""
    line = None
    for line in read_text(replace(part, start=max(part.start - _LONGEST_LINE, 0), stop=part.start), _COLUMNS):
        pass
    return (line["userid"], _parse_ms(line["timestamp"])) if line else ("", 0)


def _parse_ms(text: str) -> int:
    return (datetime.datetime.fromisoformat(text.removesuffix("Z")) - _EPOCH) // _MS
