"""What people call the items. In: a file of the data set beside its log, such as a list of films. Out: item_id → title, with
which a report tells of real sessions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

from fp_tfrs.config import Section, SourceConfig
from fp_tfrs.config.section import field
from fp_tfrs.data.events import BadValue, parse_text
from fp_tfrs.data.sources import expand_files, read_rows
from fp_tfrs.errors import InputError


class TitlesPlan(Section):
    """Where the items' titles are."""

    source: SourceConfig = field(..., "their file, as data.source says where the log is")
    item_id: str = field(..., "its column of the items' ids, as the log has them")
    title: str = field(..., "its column of the titles")


def read_titles(plan: TitlesPlan, item_ids: Collection[str]) -> dict[str, str]:
    """item_id → title of those of the items that have one; of several titles the first.

    Raises:
        InputError: a file is missing or unreadable, a column is missing, or no item has a title.
    """
    try:
        files = expand_files(plan.source)
    except InputError as error:
        raise InputError(f"titles: {error}") from error
    wanted, titles, problem = frozenset(item_ids), dict[str, str](), ""
    for path in files:
        for row in read_rows(path, plan.source, (plan.item_id, plan.title)):
            if row.values is None:
                problem = problem or f" (line {row.line} is {row.problem})"
                continue
            for column in (plan.item_id, plan.title):
                if column not in row.values:
                    raise _no_column(path, column, plan.source)
            title = _text(row.values[plan.title])
            with contextlib.suppress(BadValue):  # no item has such an id
                item_id = parse_text(row.values[plan.item_id])
                if title and item_id in wanted:
                    titles.setdefault(item_id, title)
    if not titles:
        raise InputError(
            f"titles: none of {len(wanted)} items has one in {', '.join(files)}{problem}; check titles.source, and whether "
            f"column {plan.item_id!r} has the ids of the log"
        )
    return titles


def _text(value: Any) -> str:
    """The value without the spaces around it; half a character, as JSON can have it, becomes "?", so that it can be written."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else "" if value is None else str(value)
    return text.strip().encode(errors="replace").decode()


def _no_column(path: str, column: str, source: SourceConfig) -> InputError:
    names = next((row.values for row in read_rows(path, source) if row.values), {})
    return InputError(f"titles: {path} has no column {column!r}; choose one of {', '.join(names)}")
