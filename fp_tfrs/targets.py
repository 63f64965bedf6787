"""The events that every method is judged on: one list, which depends on the sessions and the catalogue alone.

In: raw test sessions and the catalogue (the items training knows). Out: the targets in a fixed order, and the counts of
kept events that could not be judged. A target is an event whose item is in the catalogue and that has a kept event of
the catalogue before it in its session: without one, no method has anything to go by. Kept targets count for HR, MRR and
NDCG; abandoned ones (false positives) for FP-HR.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from fp_tfrs.catalogue import kept_columns, number_columns
from fp_tfrs.errors import InputError
from fp_tfrs.sessions import Session


@dataclasses.dataclass(frozen=True)
class Targets:
    """The n targets of S sessions, in order of session and position."""

    sessions: tuple[Session, ...]  # in order of session_id, those without a target included
    session: np.ndarray  # <int64>[n] index into sessions
    position: np.ndarray  # <int64>[n] index of the event in its session
    column: np.ndarray  # <int64>[n] column of its item in the catalogue
    is_false_positive: np.ndarray  # <bool>[n]
    n_inputs: np.ndarray  # <int64>[n] kept events of the catalogue before it
    candidates: int  # kept events after a kept event, whatever their items: the kept targets if all items were known
    unseen: int  # of these, dropped as their item is not in the catalogue
    without_input: int  # of these, dropped as no kept event before them is of the catalogue


def list_targets(sessions: Iterable[Session], catalogue: Sequence[str]) -> Targets:
    """Finds the targets; the result does not depend on the order of the sessions.

    Raises:
        InputError: the catalogue lists an item twice, or there is no kept target at all.
    """
    column_of = number_columns(catalogue)
    ordered = tuple(sorted(sessions, key=lambda s: (s.session_id, s.item_id, s.is_false_positive)))
    found: list[tuple[int, int, int, bool, int]] = []
    candidates = unseen = without_input = 0
    for index, session in enumerate(ordered):
        is_input = kept_columns(session.item_id, session.is_false_positive, column_of) >= 0
        n_inputs = np.cumsum(is_input) - is_input
        has_kept_before = False
        for position, (item_id, is_fp) in enumerate(zip(session.item_id, session.is_false_positive, strict=True)):
            column = column_of.get(item_id)
            if has_kept_before and not is_fp:
                candidates += 1
                unseen += column is None
                without_input += column is not None and n_inputs[position] == 0
            if column is not None and n_inputs[position]:
                found.append((index, position, column, is_fp, n_inputs[position]))
            has_kept_before |= not is_fp
    session_index, position, column, is_fp, n_inputs = np.array(found, np.int64).reshape(-1, 5).T
    if not (is_fp == 0).any():
        raise InputError(
            f"none of {len(ordered)} test sessions has an item of the catalogue ({len(column_of)} items) after another "
            "that was kept; give more sessions, or sessions with items that training saw"
        )
    return Targets(
        ordered, session_index, position, column, is_fp.astype(bool), n_inputs, candidates, unseen, without_input
    )
