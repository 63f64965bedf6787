"""Sessions to begin with. In: the test sessions of a log, or what lies beside an export. Out: `Request`s."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from fp_tfrs.data.sessions import Session
from fp_tfrs.demo.content import MOST_ITEMS
from fp_tfrs.evaluation.targets import list_targets
from fp_tfrs.serving import expectations
from fp_tfrs.serving.request import Request

MOST = 100


def from_log(sessions: Iterable[Session], catalogue: Sequence[str], seed: int) -> list[Request]:
    """MOST sessions, each up to the last item that was kept, which is the target; first those with abandoned items.

    Raises:
        InputError: no session has a target; see `evaluation.targets.list_targets`.
    """
    targets = list_targets(sessions, catalogue)
    last = {targets.session[row]: row for row in np.flatnonzero(~targets.is_false_positive)}
    rows = np.random.default_rng(seed).permutation(list(last.values()))
    return [
        _cut(targets.sessions[targets.session[row]], int(targets.position[row]))
        for row in sorted(rows, key=lambda row: targets.n_abandoned[row] == 0)[:MOST]
    ]


def _cut(session: Session, position: int) -> Request:
    request = Request(
        list(session.item_id[:position]),
        [int(flag) for flag in session.is_false_positive[:position]],
        session.user_id,
        list(session.history_item_id),
        list(session.unclicked_before(position)),
        session.item_id[position],
    )
    return _latest(request)


def _latest(request: Request) -> Request:
    """The request with as many items in each list, the latest, as the page may ask for."""
    return request._replace(
        item_id=request.item_id[-MOST_ITEMS:],
        is_false_positive=request.is_false_positive[-MOST_ITEMS:],
        history_item_id=request.history_item_id[:MOST_ITEMS],
        unclicked_item_id=request.unclicked_item_id[:MOST_ITEMS],
    )


def from_export(directory: str) -> list[Request]:
    """The real sessions that an export was probed with, without a target; none where they cannot be read."""
    try:
        expected = expectations.read(os.path.join(directory, expectations.FILE_NAME))
    except (OSError, ValueError):  # an export of an older version, or of another program
        return []
    return [_latest(request) for request in expectations.real_requests(expected) if request.item_id][:MOST]
