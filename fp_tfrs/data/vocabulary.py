"""Vocabulary files: one id a line, most frequent first; Transform writes them, and every export carries them.

An item's line number + FIRST_ITEM_INDEX is its item_index, and the line number is its column among the scores. A user's
line number + FIRST_USER_INDEX is its user_index.
"""

from __future__ import annotations

import os

from fp_tfrs import storage
from fp_tfrs.errors import RunError


def read_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    """The ids, in the order of their indices.

    Raises:
        RunError: what is no UTF-8, an id twice, an empty line, or a carriage return, which lookups would take for part of
            an id.
    """
    try:
        items = storage.read_text(path).removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        items = []
    if not items or len(set(items)) < len(items) or "" in items or any("\r" in item for item in items):
        raise RunError(
            f"{path} has an item twice, an empty line, a carriage return or what is no UTF-8; delete the run's root and run "
            "again"
        )
    return items
