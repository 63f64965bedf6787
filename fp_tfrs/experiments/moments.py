"""A model at chosen moments of sessions: what it is given before an event, and its best items then.

In: a table of sessions and events of it that are targets. Out: ranking batches (`schema.py`) with one target a session;
what the model makes of the sessions, and the best items of the whole catalogue, before each event: for `analysis.py` and
for the lists that a run is judged by. Each session ends with its target, so that nothing that came later is in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import ModelConfig
from fp_tfrs.data.dataset import ranked_sessions, ranking_batches
from fp_tfrs.data.session_table import SessionTable
from fp_tfrs.evaluation.top_lists import TopItems
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.learning.scoring import SeenOffsets, score_items

_BATCH_SIZE = 128  # sessions: at most 50 MiB of scores for 100,000 items
_OF_TARGET = {
    schema.TARGET_INDEX,
    schema.TARGET_POSITION,
    schema.TARGET_IS_FP,
    schema.TARGET_EVENT,
    schema.IS_UNCLICKED,
}
# Of the table, by the name of their lengths.
_MORE_FIELDS = {
    "history": (schema.HISTORY_INDEX,),
    "unclicked": (schema.UNCLICKED_INDEX, schema.UNCLICKED_FIRST, schema.UNCLICKED_END),
}


class SessionVectors(NamedTuple):
    """What a model makes of n sessions, <float32>[n, D] each.

    clicked: h, of the clicks alone. unclicked: n, of what was not clicked, zero without any; None: a model without XDM.
    scored: z, what items are compared with: h in a model without XDM.
    """

    clicked: np.ndarray
    unclicked: np.ndarray | None
    scored: np.ndarray


def batches_before(
    table: SessionTable, config: ModelConfig, event: np.ndarray
) -> Iterator[tuple[np.ndarray, Mapping[str, tf.Tensor]]]:
    """The moments before the events <int64>[n] of the table, in parts: which they are, <int64>[B] of 0..n-1, and the
    ranking batch of B sessions with one target each."""
    if not len(event):
        return
    cut = cut_sessions(table, event)
    order, begin = ranked_sessions(cut), 0
    for batch in ranking_batches(cut, config, _BATCH_SIZE):
        last = tf.math.count_nonzero(batch[schema.TARGET_INDEX], axis=1, keepdims=True, dtype=tf.int32) - 1
        one = {name: tf.gather(batch[name], last, batch_dims=1) for name in _OF_TARGET & batch.keys()}
        yield order[begin : begin + len(last)], batch | one
        begin += len(last)


def session_vectors(model: SessionModel, config: ModelConfig, table: SessionTable, event: np.ndarray) -> SessionVectors:
    """The sessions before the events <int64>[n] of the table."""
    shape = (len(event), config.tower.embedding_dim)
    found = SessionVectors(np.zeros(shape, np.float32), None, np.zeros(shape, np.float32))
    if model.unclicked is not None:
        found = found._replace(unclicked=np.zeros(shape, np.float32))
    for rows, batch in batches_before(table, config, event):
        clicked = tf.gather(model.session_embeddings(batch), batch[schema.TARGET_POSITION], batch_dims=1)
        found.clicked[rows] = found.scored[rows] = clicked[:, 0].numpy()
        if model.unclicked is not None and found.unclicked is not None:
            user = None if model.users is None else model.users(batch[schema.USER_INDEX])
            fused = model.unclicked(
                clicked, model.items(batch[schema.UNCLICKED_INDEX]), batch[schema.IS_UNCLICKED], user
            )
            found.unclicked[rows] = fused.unclicked_embeddings[:, 0].numpy()
            found.scored[rows] = fused.session_embeddings[:, 0].numpy()
    return found


def best_items(
    model: SessionModel, config: ModelConfig, table: SessionTable, event: np.ndarray, n_best: int
) -> TopItems:
    """The best min(n_best, V) items before each event <int64>[S] of the table; of equals, the first ones."""
    candidates = model.candidates()
    n_best = min(n_best, candidates.shape[0])
    found = TopItems(np.empty([len(event), n_best], np.int64), np.empty([len(event), n_best], np.float32))
    for rows, batch in batches_before(table, config, event):
        queries, seen = model.target_queries(batch)[:, 0], model.seen_offsets(batch)
        if seen is not None:
            seen = SeenOffsets(seen.column[:, 0], seen.offset[:, 0])
        best = tf.math.top_k(score_items(queries, candidates, model.penalty, seen), n_best)
        found.column[rows], found.score[rows] = best.indices.numpy(), best.values.numpy()
    return found


def cut_sessions(table: SessionTable, event: np.ndarray) -> SessionTable:
    """The table of the sessions of events <int64>[B], each up to and with its event."""
    row, length = table.row[event], (table.position[event] + 1).astype(np.int32)
    selected = _runs(event + 1 - length, length)
    more: dict[str, np.ndarray] = {}
    for name, fields in _MORE_FIELDS.items():
        lengths = getattr(table, f"{name}_length")
        if lengths is not None:
            more[f"{name}_length"] = lengths[row]
            entry = _runs((np.cumsum(lengths) - lengths)[row], lengths[row])
            more |= {field: getattr(table, field)[entry] for field in fields}
    return SessionTable(
        session_id=table.session_id[row],
        user_id=table.user_id[row],
        start_s=table.start_s[row],
        length=length,
        item_index=table.item_index[selected],
        is_false_positive=table.is_false_positive[selected],
        user_index=table.user_index[row],
        **more,
    )


def _runs(first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """<int64>[sum of lengths] first, first + 1, … of each run, one after the other."""
    return np.repeat(first - (np.cumsum(length) - length), length) + np.arange(length.sum())
