"""Events → sessions → splits, as plain Python: everything that decides which event is in which session and split.

In: the events of one session key (one session id, or one user), in any order. Out: `Session` objects, the counts of
what was left out, and each session's split. `preprocess.py` runs this at scale.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fp_tfrs import schema
from fp_tfrs.config import SessionsConfig, SplitConfig

MAX_BUCKETS = 65_536  # of a StartHistogram


@dataclasses.dataclass(frozen=True)
class Session:
    """One visit. The tuples are parallel, oldest event first; `timestamp_s` in whole seconds since 1970 UTC.

    But for `history_item_id`: items that the user kept before, latest first (`histories.py`); () without `data.history`.
    And for `unclicked`: (item_id, first, end), not clicked though shown before the events first ≤ event < end, in the
    order of the example's lists (`unclicked.py`); () without `data.unclicked`.
    """

    session_id: str
    item_id: tuple[str, ...]
    is_false_positive: tuple[bool, ...]
    user_id: str = ""
    timestamp_s: tuple[int, ...] = ()
    feedback: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    history_item_id: tuple[str, ...] = ()
    unclicked: tuple[tuple[str, int, int], ...] = ()

    def unclicked_before(self, event: int) -> tuple[str, ...]:
        """The items that were shown before the event and not clicked, last shown first."""
        return tuple(item for item, first, end in self.unclicked if first <= event < end)


class SessionEvent(NamedTuple):
    """What is known of an event once its session key is known. Field order = sort order: time, then fixed tie-breaks."""

    timestamp_s: float
    item_id: str
    is_false_positive: bool
    feedback: tuple[Any, ...]
    user_id: str


class Cut(NamedTuple):
    """The sessions of one key, and what was left out of them."""

    sessions: list[Session]
    duplicate_events: int
    short_sessions: int
    short_events: int
    cut_events: int
    tied_events: int  # of the time of the one before, whether or not they are in sessions
    shared_keys: int  # 1 for a session id under which several users have events, else 0


def cut_sessions(
    key: str,
    events: Iterable[tuple[Any, ...]],
    sessions: SessionsConfig,
    feedback_names: Sequence[str] = (),
    *,
    has_session_id: bool,
) -> Cut:
    """Turns all events of one key into sessions; the result doesn't depend on the events' order or repetition.

    Args:
      key: the session id, or the user id when the log has no session ids.
      events: at least one; `SessionEvent`s or plain tuples of the same fields.
      sessions: gap (used without session ids only), length limits and the order of equal times.
      feedback_names: the names of the values in each event's `feedback`.
      has_session_id: what the key is. Without session ids a session is called `user@start second`.
    """
    events = list(events)
    ordered = sorted(SessionEvent(*event) for event in set(events))
    tied_events = sum(event.timestamp_s == before.timestamp_s for before, event in itertools.pairwise(ordered))
    if tied_events and sessions.same_time == "hash":
        same_time = itertools.groupby(ordered, key=lambda event: event.timestamp_s)
        ordered = [event for _, tied in same_time for event in _without_order(key, tied)]
    duplicates = len(events) - len(ordered)
    runs = [ordered] if has_session_id or sessions.gap_s is None else _split_at_pauses(ordered, sessions.gap_s)
    kept: list[Session] = []
    short_sessions = short_events = cut_events = 0
    names: set[str] = set()
    for run in runs:
        # Pauses may be shorter than a second: a second session of the same second gets a number.
        name = key if has_session_id else _unused(f"{key}@{math.floor(run[0].timestamp_s)}", names)
        names.add(name)
        if len(run) < sessions.min_length:
            short_sessions += 1
            short_events += len(run)
            continue
        cut_events += max(0, len(run) - sessions.max_length)
        last = run[-sessions.max_length :]
        kept.append(
            Session(
                session_id=name,
                # Who logs in on the way is known from there on only.
                user_id=next((event.user_id for event in run if event.user_id), "") if has_session_id else key,
                item_id=tuple(event.item_id for event in last),
                timestamp_s=tuple(math.floor(event.timestamp_s) for event in last),
                is_false_positive=tuple(event.is_false_positive for event in last),
                feedback=dict(zip(feedback_names, zip(*(event.feedback for event in last)))),
            )
        )
    is_shared = has_session_id and len({event.user_id for event in ordered} - {""}) > 1
    return Cut(kept, duplicates, short_sessions, short_events, cut_events, tied_events, int(is_shared))


def _without_order(key: str, tied: Iterable[SessionEvent]) -> list[SessionEvent]:
    def rank(event: SessionEvent) -> tuple[bytes, SessionEvent]:
        return hashlib.blake2b(f"{key}:{event.item_id}".encode(), digest_size=8).digest(), event

    return sorted(tied, key=rank)


def _split_at_pauses(ordered: list[SessionEvent], gap_s: float) -> list[list[SessionEvent]]:
    runs = [ordered[:1]]
    for before, event in itertools.pairwise(ordered):
        if event.timestamp_s - before.timestamp_s > gap_s:
            runs.append([])
        runs[-1].append(event)
    return runs


def _unused(name: str, taken: set[str]) -> str:
    numbered = (f"{name}.{number}" for number in itertools.count(1))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in taken)


def count_targets(session: Session) -> dict[str, int]:
    """How often each item is to be predicted: the true positives after the session's first one."""
    positives = [item for item, is_fp in zip(session.item_id, session.is_false_positive) if not is_fp]
    counts: dict[str, int] = {}
    for item in positives[1:]:
        counts[item] = counts.get(item, 0) + 1
    return counts


class StartHistogram:
    """Counts session starts in constant memory, exactly the same for every order of adding and merging.

    The bucket width is the smallest power of two (in seconds) with which at most `max_buckets` buckets are in use.
    Coarser buckets never number more than finer ones, nor those of a part more than those of the whole, so widening
    only when it is needed always ends at that width.
    """

    def __init__(self, max_buckets: int = MAX_BUCKETS):
        self.max_buckets = max_buckets
        self.width_s = 1
        self.counts: dict[int, int] = {}

    def add(self, start_s: int) -> None:
        bucket = start_s // self.width_s
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self._widen(self.width_s)

    def merge(self, other: StartHistogram) -> None:
        """Adds the other's counts to this one; the other is left as it is."""
        self._widen(other.width_s)
        factor = self.width_s // other.width_s
        for bucket, count in other.counts.items():
            bucket //= factor
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self._widen(self.width_s)

    def _widen(self, at_least_s: int) -> None:
        while self.width_s < at_least_s or len(self.counts) > self.max_buckets:
            self.width_s *= 2
            wider: dict[int, int] = {}
            for bucket, count in self.counts.items():
                wider[bucket // 2] = wider.get(bucket // 2, 0) + count
            self.counts = wider

    def find_cuts(self, split: SplitConfig) -> tuple[int, int]:
        """The seconds at which valid and test begin: the bucket bounds nearest to the wanted shares.

        No split stays empty while there are three buckets; with fewer, the later splits do.
        """
        buckets = sorted(self.counts)
        before = [0, *itertools.accumulate(self.counts[bucket] for bucket in buckets)]
        bounds_s = [bucket * self.width_s for bucket in buckets]
        end = len(buckets)
        bounds_s.append(bounds_s[-1] + self.width_s if buckets else 0)

        def nearest(share: float, first: int, last: int) -> int:
            wanted = share * before[-1]
            return min(range(first, last + 1), key=lambda i: (abs(before[i] - wanted), i), default=end)

        valid = nearest(1 - split.valid - split.test, 1, end - 2)
        test = nearest(1 - split.test, valid + 1, end - 1)
        return bounds_s[valid], bounds_s[test]


def assign_split(
    session_id: str, start_s: int, split: SplitConfig, seed: int, cuts_s: tuple[int, int] | None = None
) -> str:
    """The session's split: by its start and `StartHistogram.find_cuts`, or, with `by: random`, by a seeded hash."""
    if split.by == "time":
        assert cuts_s is not None
        valid_s, test_s = cuts_s
        return schema.TRAIN if start_s < valid_s else schema.VALID if start_s < test_s else schema.TEST
    digest = hashlib.blake2b(f"{seed}:{session_id}".encode(), digest_size=8).digest()
    uniform = int.from_bytes(digest, "big") / 2**64
    if uniform < split.test:
        return schema.TEST
    return schema.VALID if uniform < split.test + split.valid else schema.TRAIN
