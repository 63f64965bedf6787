"""Sessions of one user → the same sessions, each with what the user was shown before its events and did not click.

In: `Session`s as `sessions.py` cuts them, and all that the user has `Seen`, in any order. Out: those sessions with
`unclicked`, XDM's unclicked sequence (Lv et al., DASFAA 2022, appendix B.1: shown in the last three days, more than once,
never clicked, latest first, at most 100). `preprocess_steps.py` runs this on every user (`data.unclicked`).
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
import math
import operator
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fp_tfrs.config import UnclickedConfig
from fp_tfrs.data.events import Event, Shown
from fp_tfrs.data.sessions import Session

_DAY_S = 86_400


class Seen(NamedTuple):
    """An item that a user clicked, or was shown."""

    second: int
    item_id: str
    is_clicked: bool


def to_seen(event: Event | Shown, unclicked: UnclickedConfig) -> Seen:
    """What the event says about its item: clicked or only shown; with `source: false_positives`, kept or abandoned."""
    if isinstance(event, Shown):
        return Seen(event.second, event.item_id, False)
    is_clicked = unclicked.source == "impressions" or not event.is_false_positive
    return Seen(math.floor(event.timestamp_s), event.item_id, is_clicked)


def own_clicks(session: Session, unclicked: UnclickedConfig) -> Iterator[Seen]:
    """What the user saw of a session's clicks, of those that were kept: also from before anybody knew who it was."""
    for second, item, is_false_positive in zip(session.timestamp_s, session.item_id, session.is_false_positive):
        yield Seen(second, item, unclicked.source == "impressions" or not is_false_positive)


def add_unclicked(
    sessions: Iterable[Session], seen: Iterable[tuple[int, str, bool]], unclicked: UnclickedConfig
) -> Iterator[Session]:
    """Gives every session of one user the unclicked items of each of its events.

    For an event in second t these are the items that were shown at least `min_impressions` times in the seconds from
    t − `window_days` to t − 1 (with `source: false_positives`: once) and were not clicked before second t, however long
    ago. Last shown first, in one second by item id, the first `max_items`. An item that was shown several times in one
    second counts once, since a row may be repeated. The event's own item may be among them: to leave it out would tell
    which it is. As with histories, the split sets no bounds: what was shown before a test session is its past.

    One pass in time order; beside its arguments it holds a count for each item in the window, and the entries of the
    sessions that are under way. The order and repetition of the arguments' elements have no effect.

    Args:
      sessions: all sessions of one user; at least one event each.
      seen: `Seen`s of that user or plain tuples of the same fields, also those of clicks that are in no session.
      unclicked: limits.

    Returns:
      The sessions in the order of their ends.
    """
    ordered = sorted(sessions, key=lambda session: (session.timestamp_s[0], session.session_id))
    window = _Window(seen, unclicked)
    under_way = {number: _Entries() for number in range(len(ordered))}
    clocks = (zip(s.timestamp_s, itertools.repeat(number), itertools.count()) for number, s in enumerate(ordered))
    for second, number, event in heapq.merge(*clocks):
        session = ordered[number]
        under_way[number].update(window.list_before(second), event)
        if event == len(session.timestamp_s) - 1:
            entries = under_way.pop(number).finish(event + 1)
            yield dataclasses.replace(session, unclicked=entries)


class _Window:
    """What counts as unclicked at a time that only goes forward."""

    def __init__(self, seen: Iterable[tuple[int, str, bool]], unclicked: UnclickedConfig):
        # Of one second the greatest id comes first, as lists are read from the end.
        self._seen = sorted(set(seen), key=operator.itemgetter(1), reverse=True)
        self._seen.sort(key=operator.itemgetter(0))
        self._window_s = unclicked.window_days * _DAY_S
        self._least = unclicked.min_impressions if unclicked.source == "impressions" else 1
        self._max_items = unclicked.max_items
        self._first = self._end = 0  # of `_seen`, what is in the window
        self._count: collections.Counter[str] = collections.Counter()  # how often an item was shown in the window
        self._clicked: set[str] = set()
        self._shown: dict[str, int] = {}  # unclicked item → second in which it was shown last, oldest first

    def list_before(self, second: int) -> dict[str, int]:
        """Unclicked item → second in which it was shown last, the latest first; `second` never goes back."""
        while self._end < len(self._seen) and self._seen[self._end][0] < second:
            self._enter(*self._seen[self._end])
            self._end += 1
        while self._first < self._end and self._seen[self._first][0] < second - self._window_s:
            _, item, is_clicked = self._seen[self._first]
            if not is_clicked:
                self._leave(item)
            self._first += 1
        return dict(itertools.islice(reversed(self._shown.items()), self._max_items))

    def _enter(self, second: int, item: str, is_clicked: bool) -> None:
        if is_clicked:
            self._clicked.add(item)
            self._shown.pop(item, None)
            return
        self._count[item] += 1
        if self._count[item] >= self._least and item not in self._clicked:
            self._shown.pop(item, None)  # a dict keeps an item's first place, unless it is taken out
            self._shown[item] = second

    def _leave(self, item: str) -> None:
        self._count[item] -= 1
        if self._count[item] < self._least:
            self._shown.pop(item, None)
        if not self._count[item]:
            del self._count[item]


class _Entries:
    """The lists of a session's events so far, each item once for a run of events in which its place stays."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], int] = {}  # (item, second in which it was shown last) → first event
        self._closed: list[tuple[int, str, int, int]] = []  # (-second, item, first event, end)

    def update(self, shown: dict[str, int], event: int) -> None:
        """`shown` is the list of the event; events come in order."""
        for item, second in [key for key in self._open if shown.get(key[0]) != key[1]]:
            self._closed.append((-second, item, self._open.pop((item, second)), event))
        for key in shown.items():
            self._open.setdefault(key, event)

    def finish(self, end: int) -> tuple[tuple[str, int, int], ...]:
        """(item, first event, end) of all, ordered so that those of any event are last shown first."""
        self.update({}, end)
        return tuple((item, first, last) for _, item, first, last in sorted(self._closed))
