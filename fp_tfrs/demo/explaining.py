"""What a model answers to a session with its marks, what it would answer without them, and why items fell.

In: an exported model and a `Request`, whose flags are the marks. Out: an `Answer`. Ranks are those of the `rank` signature,
over the whole catalogue; likeness is the cosine of what the model scores two items by, their rows of the candidates.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fp_tfrs.errors import InputError
from fp_tfrs.serving import metadata
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import SavedModel, read_catalogue

SHOWN = 10  # items of a list


class Likeness(NamedTuple):
    """Of the abandoned items the one that an item is most like, their cosine, and the share of the catalogue that is less
    like it."""

    item_id: str
    cosine: float
    share_below: float


class Listed(NamedTuple):
    """An item with its rank after the session, 1 = best, and its rank if nothing were marked."""

    item_id: str
    rank: int
    rank_unmarked: int
    likeness: Likeness | None  # None: nothing that the model knows is marked


class Answer(NamedTuple):
    """What a model makes of a request.

    top: the first SHOWN items, best first; fallen: those that would be among them if nothing were marked; target: the
    request's; unknown: ids of the request that are not in the catalogue; is_popular: no input was left, and the items are
    the popular ones.
    """

    top: list[Listed]
    fallen: list[Listed]
    target: Listed | None  # None: there is none, or the model does not know it
    unknown: list[str]
    is_popular: bool


class TriedModel:
    """A model that is tried.

    Args:
        name: for the eye.
        kind: of the method and tower, for the eye; "" = not known.
        model: its signatures.
        catalogue: the V item ids in the order of its columns.
        candidates: <float>[V, P] what it scores items by.
        popularity_score: <float32>[V] the scores of what it answers without an input.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        model: SavedModel,
        catalogue: Sequence[str],
        candidates: np.ndarray,
        popularity_score: np.ndarray,
    ) -> None:
        self.name, self.kind, self.catalogue = name, kind, catalogue
        self.inputs = model.takes("recommend")
        self._model, self._popularity_score = model, popularity_score
        self._column: Mapping[str, int] = {item: column for column, item in enumerate(catalogue)}
        vectors = candidates.astype(np.float32)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._direction = vectors / np.where(length > 0, length, 1)

    def answer(self, request: Request) -> Answer:
        """Asks for the session as it is marked and as it would be without marks."""
        both = request, request._replace(is_false_positive=[0] * len(request.item_id))
        found = self._model.answer(both)
        top, before = ([item for item in row if item][:SHOWN] for row in found.item_id)
        fallen = [item for item in before if item not in top]
        target = [request.target] if request.target in self._column else []
        asked = list(dict.fromkeys([*top, *fallen, *target]))
        ranks = self._model.rank_targets([one._replace(target=item) for one in both for item in asked])
        likeness = self._find_likeness(asked, request)
        listed = {
            item: Listed(item, int(rank), int(unmarked), likeness.get(item))
            for item, rank, unmarked in zip(asked, *np.split(ranks, 2), strict=True)
        }
        ids = [*request.item_id, *request.history_item_id, *request.unclicked_item_id, request.target]
        popularity = self._popularity_score[[self._column[item] for item in top]]
        return Answer(
            [listed[item] for item in top],
            [listed[item] for item in fallen],
            listed[request.target] if target else None,
            [item for item in dict.fromkeys(ids) if item and item not in self._column],
            bool(np.array_equal(found.score[0, : len(top)], popularity)),
        )

    def _find_likeness(self, items: Sequence[str], request: Request) -> dict[str, Likeness]:
        """Of each item; empty when no known item is marked."""
        marked = [item for item, mark in zip(request.item_id, request.is_false_positive, strict=True) if mark]
        abandoned = [item for item in dict.fromkeys(marked) if item in self._column]
        if not abandoned:
            return {}
        rows = [self._column[item] for item in items]
        cosine = self._direction[rows] @ self._direction[[self._column[item] for item in abandoned]].T
        nearest = cosine.argmax(1)
        # The catalogue beside one abandoned item at a time: memory does not grow with the session.
        sorted_cosine = {
            n: np.sort(self._direction @ self._direction[self._column[abandoned[n]]]) for n in set(nearest)
        }
        return {
            item: Likeness(
                abandoned[n],
                float(value),
                float(np.searchsorted(sorted_cosine[n], value - 1e-6) / len(self.catalogue)),
            )
            for item, n, value in zip(items, nearest, cosine.max(1), strict=True)
        }


def load(directory: str) -> TriedModel:
    """The exported model in a version's folder, named by the last two parts of its path.

    Raises:
        InputError: there is none, or none that fp-tfrs has written.
    """
    model = SavedModel(directory)
    name = "/".join(os.path.abspath(directory).split(os.sep)[-2:])
    tables = [_read_variable(directory, variable) for variable in ("candidates", "popularity_score")]
    return TriedModel(name, _read_kind(directory), model, read_catalogue(directory), *tables)


def _read_kind(directory: str) -> str:
    """What the export says of itself; "" for one that is older than that, or says nothing that can be read."""
    try:
        values = metadata.read_export(directory)
        return f"{values['method']} with {values['tower']}"[:200]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


def _read_variable(directory: str, name: str) -> np.ndarray:
    """A variable of `recommender.Recommender`."""
    try:
        variables = tf.train.load_checkpoint(os.path.join(directory, "variables", "variables"))
        return variables.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE")
    except (tf.errors.OpError, ValueError) as error:
        raise InputError(f"{directory} holds no variable {name!r}; give an export of fp-tfrs") from error
