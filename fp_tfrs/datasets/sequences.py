"""Sessions without times, as SR-GNN prepared Yoochoose and Diginetica → events with made-up times.

In: `train_sessions.parquet` (`items`: a session's item ids) and `test_prefixes.parquet` (`prefix`, `target`: of each
test session first all but the last click, then ever shorter beginnings). These are the pickles that SR-GNN's
preprocessing writes, re-packed. Out: each session's clicks once.

The published times are lost, only the order is known. So session n of a file starts at minute n after 1970, test after
train, and its clicks are 0.1 s apart: sorting by time gives the order of the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fp_tfrs.datasets.event_log import Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TablePart, read_table, table_parts, to_id
from fp_tfrs.errors import InputError

_SESSIONS = 20_000  # of a part
_FIRST_TEST_MINUTE = 2_000_000
_MINUTE_MS, _CLICK_MS = 60_000, 100


def find_sequences(folder: str) -> list[tuple[PartReader, Part]]:
    """The parts of both files, as of `EventLogBuilder.find_parts`; events of `session_id, item_id, timestamp_ms`.

    Raises:
      InputError: a file is missing, or test is not one row group.
    """
    test = table_parts(find_file(folder, "test_prefixes.parquet"), part_rows=1 << 62)
    if len(test) > 1:
        raise InputError(f"{test[0].path} must be one row group, so that no session is cut; write it so")
    train = table_parts(find_file(folder, "train_sessions.parquet"), _SESSIONS)
    return [*((_read_train, part) for part in train), *((_read_test, part) for part in test)]


def _read_train(part: TablePart) -> Iterator[dict[str, Any]]:
    first = part.offset + part.start
    for number, row in enumerate(read_table(part, ("items",)), first):
        yield from _make_events(f"train-{number}", number, row["items"])


def _read_test(part: TablePart) -> Iterator[dict[str, Any]]:
    shorter: list[int] = []
    for number, row in enumerate(read_table(part, ("prefix", "target"))):
        items = [*row["prefix"], row["target"]]
        if items != shorter:
            yield from _make_events(f"test-{number}", _FIRST_TEST_MINUTE + number, items)
        shorter = row["prefix"]


def _make_events(session_id: str, minute: int, items: list[int]) -> Iterator[dict[str, Any]]:
    for position, item in enumerate(items):
        yield {
            "session_id": session_id,
            "item_id": to_id(item),
            "timestamp_ms": minute * _MINUTE_MS + position * _CLICK_MS,
        }
