"""Spotify MSSD (Sequential Skip Prediction Challenge): listening sessions of 2018, one row a track; log CSVs → events.

`log_*.csv` of the training set as published, unpacked (header `session_id,session_position,session_length,track_id_clean,
skip_1,…`; names verified in public code that reads them). A row tells its date and hour only: its time is the beginning
of that hour plus one second per position in the session, right in order and rough in time. Not verified: that dates are YYYY-MM-DD and truth is true/false or 1/0; anything else
stops the making.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_files
from fp_tfrs.datasets.raw_files import TextPart, read_text, text_parts

_FLAGS = ("skip_1", "skip_2", "skip_3", "not_skipped", "context_switch", "premium")
_TEXTS = ("context_type", "hist_user_behavior_reason_start", "hist_user_behavior_reason_end")
_COLUMNS = ("session_id", "session_position", "track_id_clean", "hour_of_day", "date", *_FLAGS, *_TEXTS)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_EPOCH = datetime.date(1970, 1, 1)


class SpotifyMssd(EventLogBuilder):
    """Events of Spotify MSSD: `session_id`, `item_id`, `timestamp_ms` and the published feedback."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Accept the terms at https://www.aicrowd.com/challenges/spotify-sequential-skip-prediction-challenge, fetch the "
        "training set or a part of it, unpack it and name the folder that holds the log_*.csv as manual_dir."
    )
    ABOUT = About(
        description=(
            "Tracks played in sessions of up to 20. skip_1 (played very briefly), skip_2 (briefly) and skip_3 (most of "
            "it) tell false positives."
        ),
        homepage="https://www.aicrowd.com/challenges/spotify-sequential-skip-prediction-challenge",
        citation=(
            "@inproceedings{brost2019music, author={Brost, Brian and Mehrotra, Rishabh and Jehan, Tristan}, title={The "
            "Music Streaming Sessions Dataset}, booktitle={The World Wide Web Conference}, year={2019}}"
        ),
        license="Spotify's terms of the challenge: research use, no redistribution.",
    )
    FEATURES: ClassVar = {
        "session_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        **dict.fromkeys(_FLAGS, np.bool_),
        **dict.fromkeys(_TEXTS, tfds.features.Text()),
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        return [(_read, part) for file in find_files(folder, "log_*.csv") for part in text_parts(file, ",")]


def _read(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _COLUMNS):
        hours = 24 * (datetime.date.fromisoformat(row["date"]) - _EPOCH).days + int(row["hour_of_day"])
        yield {
            "session_id": row["session_id"],
            "item_id": row["track_id_clean"],
            "timestamp_ms": (hours * 3_600 + int(row["session_position"])) * 1_000,
            **{name: _parse_bool(row[name]) for name in _FLAGS},
            **{name: row[name] for name in _TEXTS},
        }


def _parse_bool(text: str) -> bool:
    known = _BOOLEANS.get(text.lower())
    if known is None:
        raise ValueError(f"{text!r} is not true or false")
    return known
