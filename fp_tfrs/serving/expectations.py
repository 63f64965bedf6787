"""What the trained model answers, written beside its export: requests and answers for the probe to hold it against.

The answers come from the trained model's queries through NumPy, by another way than the exported graph: vocabulary,
selection of the inputs, scores and order are worked out here in Python.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pydantic

from fp_tfrs import schema, storage
from fp_tfrs.config import RunConfig
from fp_tfrs.data.sessions import Session
from fp_tfrs.errors import RunError
from fp_tfrs.serving.request import Request

FILE_NAME = "assets.extra/expectations.json"  # below the SavedModel's folder; model servers leave it alone
COMPARED = 20  # items per answer that must be the same
TOLERANCE = 1e-5  # of scores, times the session's largest absolute score where that is above 1
REAL_SESSIONS = 100
_UNKNOWN = "\x00 not an item"
_ODD_REQUESTS = 11  # after those of real sessions


@dataclasses.dataclass(frozen=True)
class Expectation:
    """A request and what the trained model answers to it."""

    request: Request
    top_item_id: list[str]  # best first; "" for items that exclude_seen or lists took out
    top_score: list[float]
    rank_low: int  # the target's rank if every near-tie is lost by the others; 0 = not in the catalogue
    rank_high: int  # and if every near-tie is won by them
    is_exact: bool = True  # an index that approximates may leave items out


_EXPECTATIONS = pydantic.TypeAdapter(list[Expectation])


@dataclasses.dataclass(frozen=True)
class Scorer:
    """The trained model without its exported graph: scores [V] of one session of raw ids."""

    vocabulary: Sequence[str]
    user_vocabulary: Sequence[str]  # empty for a model without users
    popularity_score: np.ndarray  # float32 [V]
    candidates: np.ndarray  # float32 [V, P], as the export has them
    target_queries: Callable[[dict[str, np.ndarray]], np.ndarray]  # a batch with one target a session → [n, 1, Q]
    inputs: str  # of the method
    run: RunConfig
    offset_of_kept: float = 0.0  # of the scores of the inputs' items (`repeat_offsets.py`)
    offset_of_abandoned: float = 0.0

    @functools.cached_property
    def column(self) -> dict[str, int]:
        """Position in the vocabulary of each item."""
        return {item: number for number, item in enumerate(self.vocabulary)}

    def columns(self, items: Sequence[str]) -> list[int]:
        """Of the known ones among them."""
        return [self.column[item] for item in items if item in self.column]

    def has_input(self, request: Request) -> bool:
        """Otherwise popular items answer it."""
        return bool(self._used(self._events(request)))

    def offered(self, request: Request, scores: np.ndarray) -> np.ndarray:
        """A copy of its scores, −∞ at what may not be answered."""
        offered = scores.copy()
        if self.run.serving.exclude_seen:
            offered[self.columns(request.item_id)] = -np.inf
        if request.allowed_item_id:
            offered[np.setdiff1d(np.arange(len(offered)), self.columns(request.allowed_item_id))] = -np.inf
        offered[self.columns(request.denied_item_id)] = -np.inf
        return offered

    def scores(self, requests: Sequence[Request]) -> Iterator[np.ndarray]:
        """float64 [V] scores of the catalogue after each session."""
        rows = [self._events(request) for request in requests]
        used = [self._used(events) for events in rows]
        n_used = np.array([len(events) for events in used], np.int32)
        batch = {
            schema.ITEM_INDEX: _padded([[index for index, _ in events] for events in used]),
            schema.TARGET_POSITION: np.maximum(n_used - 1, 0)[:, np.newaxis],
        }
        if self.inputs == "marked":
            batch[schema.INPUT_IS_FP] = _padded([[is_fp for _, is_fp in events] for events in used]).astype(bool)
        if self.run.model.penalty:
            batch[schema.EVENT_INDEX] = _padded([[index for index, _ in events] for events in rows])
            batch[schema.EVENT_IS_FP] = _padded([[is_fp for _, is_fp in events] for events in rows]).astype(bool)
            batch[schema.TARGET_EVENT] = np.array([[len(events)] for events in rows], np.int32)
        if self.run.model.has_users:
            number = {user: index for index, user in enumerate(self.user_vocabulary, schema.FIRST_USER_INDEX)}
            users = [number.get(request.user_id, schema.UNKNOWN_USER_INDEX) for request in requests]
            batch[schema.USER_INDEX] = np.array(users, np.int32)
        if self.run.model.has_history and self.run.data.history:
            most = self.run.data.history.max_items
            batch[schema.HISTORY_INDEX] = self._first_items([r.history_item_id for r in requests], most)
        if self.run.model.has_unclicked and self.run.data.unclicked:
            most = self.run.data.unclicked.max_items
            unclicked = self._first_items([r.unclicked_item_id for r in requests], most)
            batch[schema.UNCLICKED_INDEX] = unclicked
            batch[schema.IS_UNCLICKED] = (unclicked != schema.PAD_INDEX)[:, np.newaxis]
        items, queries = self.candidates.astype(np.float64), self.target_queries(batch)[:, 0].astype(np.float64)
        for query, inputs in zip(queries, used):
            yield self._score(query, items, inputs) if inputs else self.popularity_score.astype(np.float64)

    def _score(self, query: np.ndarray, items: np.ndarray, inputs: list[tuple[int, bool]]) -> np.ndarray:
        n = items.shape[1]
        scores = items @ query[:n]
        if self.run.model.penalty:
            abandoned = query[n:]
            scores -= self.run.model.penalty * np.maximum(items[:, : len(abandoned)] @ abandoned, 0)
        for index, is_fp in set(inputs):
            scores[index - schema.FIRST_ITEM_INDEX] += self.offset_of_abandoned if is_fp else self.offset_of_kept
        return scores

    def _events(self, request: Request) -> list[tuple[int, bool]]:
        """(item_index, abandoned) of the known items."""
        pairs = zip(request.item_id, request.is_false_positive)
        return [(self._index(item), bool(is_fp)) for item, is_fp in pairs if item in self.column]

    def _used(self, events: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
        """Those of a session's known items that are inputs of the model."""
        return [e for e in events if self.inputs != "tp" or not e[1]][-self.run.data.sessions.max_length :]

    def _first_items(self, rows: Sequence[Sequence[str]], most: int) -> np.ndarray:
        """int32 [n, N] item_index of each row's first `most` known items, each once."""
        known = [dict.fromkeys(item for item in items if item in self.column) for items in rows]
        return _padded([[self._index(item) for item in items][:most] for items in known])

    def _index(self, item: str) -> int:
        return self.column[item] + schema.FIRST_ITEM_INDEX


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """int32 [n, longest, but at least 1], filled up with 0 on the right."""
    padded = np.zeros((len(rows), max([1, *map(len, rows)])), np.int32)
    for row, values in zip(padded, rows):
        row[: len(values)] = values
    return padded


def expect(sessions: Sequence[Session], scorer: Scorer) -> list[Expectation]:
    """Requests made of `sessions`, with the trained model's answers; RunError for scores that are not finite."""
    random = np.random.default_rng(0)
    requests = _requests(sessions, scorer.vocabulary, scorer.run.data.sessions.max_length, random)
    return [_expect(request, scores, scorer, random) for request, scores in zip(requests, scorer.scores(requests))]


def write(path: Path, expected: Sequence[Expectation]) -> None:
    """Writes a JSON file, and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([dataclasses.asdict(one) for one in expected], indent=0))


def read(path: str) -> list[Expectation]:
    """The inverse of `write`; OSError or ValueError when the file cannot be read."""
    return _EXPECTATIONS.validate_json(storage.read_text(path))


def real_requests(expected: Sequence[Expectation]) -> list[Request]:
    """The requests of real sessions, without the unknown ids and without targets, which need not be what came next."""
    real = []
    for request in (one.request for one in expected[:-_ODD_REQUESTS]):
        events = [event for event in zip(request.item_id, request.is_false_positive) if event[0] != _UNKNOWN]
        user = "" if request.user_id == _UNKNOWN else request.user_id
        real.append(
            request._replace(
                item_id=[item for item, _ in events],
                is_false_positive=[flag for _, flag in events],
                user_id=user,
                target="",
            )
        )
    return real


def _requests(
    sessions: Sequence[Session], vocabulary: Sequence[str], max_length: int, random: np.random.Generator
) -> list[Request]:
    """Starts of real sessions, a fifth with an unknown id, each with the item that came next; and the odd lengths."""
    requests: list[Request] = []
    for number, session in enumerate(sessions[:REAL_SESSIONS]):
        items, flags = list(session.item_id), [int(flag) for flag in session.is_false_positive]
        cut = int(random.integers(1, max(len(items), 2)))
        target = items[cut] if cut < len(items) else _UNKNOWN
        items, flags = items[:cut], flags[:cut]
        if number % 5 == 0:
            at = int(random.integers(0, cut + 1))
            items.insert(at, _UNKNOWN)
            flags.insert(at, 0)
        user = _UNKNOWN if number % 7 == 0 else session.user_id
        unclicked = list(session.unclicked_before(cut))
        requests.append(Request(items, flags, user, list(session.history_item_id), unclicked, target))
    for length in (0, 1, max_length, max_length + 7, 10 * max_length):
        # Positions, as NumPy would make an array of the whole vocabulary, as wide as its longest id.
        items = [vocabulary[column] for column in random.choice(len(vocabulary), length)]
        flags = [int(flag) for flag in random.integers(0, 2, length)]
        requests.append(Request(items, flags, "", items[::-1], [_UNKNOWN, *sorted(items)], vocabulary[-1]))
    requests.append(Request([_UNKNOWN, _UNKNOWN], [0, 1], "", [_UNKNOWN], [_UNKNOWN], vocabulary[0]))
    requests.append(Request([vocabulary[0]] * 3, [1, 1, 1], "", [], [], vocabulary[0]))
    some = [vocabulary[column] for column in random.choice(len(vocabulary), 30)]
    popular = list(vocabulary[:200:2])
    for n_items, allowed, denied in (
        (2, [*some, _UNKNOWN], some[:9]),
        (0, popular, [_UNKNOWN]),
        (2, [], [*popular, _UNKNOWN]),
        (2, [_UNKNOWN], []),
    ):
        requests.append(
            Request(some[-n_items:] if n_items else [], [0] * n_items, "", [], [], some[0], allowed, denied)
        )
    return requests


def _expect(request: Request, scores: np.ndarray, scorer: Scorer, random: np.random.Generator) -> Expectation:
    target = request.target
    if not np.isfinite(scores).all():
        raise RunError("the trained model's scores are not finite; train with a lower learning_rate or clip_norm")
    offered = scorer.offered(request, scores)
    # As many again as are compared, for near-ties that rounding may put in another order.
    order = np.argsort(-offered, kind="stable")[: min(scorer.run.serving.top_k, 2 * COMPARED)]
    if random.random() < 0.5:
        target = scorer.vocabulary[int(random.choice(order))]  # ranks near the top are the ones that matter
    rank_low = rank_high = 0
    column = scorer.column.get(target)
    if column is not None:
        others = np.delete(scores, column)
        slack = _slack(scores)
        rank_low = 1 + int((others > scores[column] + slack).sum())
        rank_high = 1 + int((others >= scores[column] - slack).sum())
    return Expectation(
        request._replace(target=target),
        [scorer.vocabulary[number] if np.isfinite(offered[number]) else "" for number in order],
        [float(offered[number]) for number in order],
        rank_low,
        rank_high,
        scorer.run.serving.index == "exact" or request.signature != "recommend" or not scorer.has_input(request),
    )


def _slack(scores: np.ndarray | Sequence[float]) -> float:
    """How far a score may be off: float32 sums of products err in proportion to the largest ones."""
    finite = np.abs(np.asarray(scores)[np.isfinite(scores)])
    return TOLERANCE * max(1.0, float(finite.max(initial=0.0)))


def difference(expected: Expectation, item_id: Sequence[str], score: Sequence[float]) -> str | None:
    """What is wrong with an answer's first COMPARED items, in one sentence; None when nothing is.

    Ids may change places only where their scores are equal up to TOLERANCE. Where they need not be exact, other items may
    stand between those that were expected.
    """
    n_items = min(COMPARED, len(expected.top_item_id))
    if len(item_id) < n_items:
        return f"{len(item_id)} items instead of {n_items}"
    scores = dict(zip(expected.top_item_id, expected.top_score))
    slack = _slack(expected.top_score)
    if not expected.is_exact:
        return _difference_of_some(expected, scores, item_id[:n_items], score[:n_items], slack)
    for place in range(n_items):
        trained = [expected.top_score[place], scores.get(item_id[place], np.nan)]  # of the place, of the item served
        if not np.isclose(score[place], trained, rtol=0.0, atol=slack).all():
            return (
                f"place {place + 1}: {item_id[place]!r} with score {score[place]:.8g}; "
                f"trained: {expected.top_item_id[place]!r} with {expected.top_score[place]:.8g}"
            )
    if len(set(item_id[:n_items]) - {""}) != sum(item != "" for item in item_id[:n_items]):
        return f"an item appears twice in {list(item_id[:n_items])}"
    return None


def _difference_of_some(
    expected: Expectation, scores: Mapping[str, float], item_id: Sequence[str], score: Sequence[float], slack: float
) -> str | None:
    """`difference` where items may be missing: those that are there have their scores, in order."""
    found = [(item, served) for item, served in zip(item_id, score) if item]
    for place, (item, served) in enumerate(found):
        # What is not expected at all scores less than all that is.
        highest, lowest = (scores[item],) * 2 if item in scores else (expected.top_score[-1], -np.inf)
        if not lowest - slack <= served <= highest + slack:
            return f"place {place + 1}: {item!r} with score {served:.8g}; trained: {highest:.8g} at most"
    if len({item for item, _ in found}) < len(found) or np.any(np.diff([served for _, served in found]) > 0):
        return f"items twice, or in another order than their scores, in {list(item_id)}"
    return None
