"""30Music: listening sessions from Last.fm, 2014, one row a session; `relations/sessions.idomaar` → events.

A line has `event.session`, the session's id, its start in seconds and, by tabs, two JSON objects with a space between them:
counts, then `subjects` (the user) and `objects` (the plays: `id`, `playstart` and `playtime` in seconds, `playratio`,
`action`). Names verified in public code that reads the file. A play's time is the session's plus `playstart`.
`playratio` is unknown (NaN) where the track's length is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TextPart, read_text, text_parts, to_id

_COLUMNS = ("kind", "session", "seconds", "objects")
_JSON = json.JSONDecoder()


class ThirtyMusic(EventLogBuilder):
    """Events of 30Music: `user_id`, `session_id`, `item_id`, `timestamp_ms`, `playtime` (s), `playratio`, `action`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Fetch ThirtyMusic.tar.gz (see the paper, https://ceur-ws.org/Vol-1441/recsys2015_poster13.pdf), unpack it and name "
        "the folder that holds relations/ as manual_dir."
    )
    ABOUT = About(
        description="Plays of music tracks. action = skip or a low playratio tells a false positive.",
        homepage="https://ceur-ws.org/Vol-1441/recsys2015_poster13.pdf",
        citation=(
            "@inproceedings{turrin2015music, author={Turrin, Roberto and Quadrana, Massimo and Condorelli, Andrea and "
            "Pagano, Roberto and Cremonesi, Paolo}, title={30Music Listening and Playlists Dataset}, booktitle={RecSys "
            "Posters}, year={2015}}"
        ),
        license="Not stated here; see the publisher's page. Research use.",
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "session_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        "playtime": np.float32,
        "playratio": np.float32,
        "action": tfds.features.Text(),
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        return [(_read, part) for part in text_parts(find_file(folder, "sessions.idomaar"), "\t", _COLUMNS)]


def _read(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _COLUMNS):
        text = row["objects"]
        _, end = _JSON.raw_decode(text)
        linked = json.loads(text[end:])
        try:
            user_id = to_id(linked["subjects"][0]["id"])
            for play in linked["objects"]:
                yield {
                    "user_id": user_id,
                    "session_id": row["session"],
                    "item_id": to_id(play["id"]),
                    "timestamp_ms": (int(row["seconds"]) + int(play["playstart"])) * 1_000,
                    "playtime": _to_float(play.get("playtime")),
                    "playratio": _to_float(play.get("playratio")),
                    "action": play.get("action") or "",
                }
        except (KeyError, IndexError) as error:
            raise ValueError(f"session {row['session']} has no user or a play without {error}") from error


def _to_float(value: float | None) -> float:
    return math.nan if value is None else float(value)
