"""The exported graph: sessions of raw item ids in, the top items' ids or a target's rank out. `exporting.py` writes it.

A `tf.Module` with explicit signatures, no custom op, no optimizer and no metric; its only links to the training data are
the vocabularies, which it carries as assets. Every signature goes the same way: ids → columns of the vocabulary → the
method's usable inputs → the model's query → scores of the whole catalogue.
"""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import RunConfig
from fp_tfrs.learning.metrics import count_ranks
from fp_tfrs.learning.scoring import SeenOffsets, add_offsets, score_items, score_pairs
from fp_tfrs.methods import resolve
from fp_tfrs.serving.input_choice import dense_events, first_items, usable_inputs
from fp_tfrs.serving.item_table import PackedTable, unpack
from fp_tfrs.serving.scann_index import ScannIndex
from fp_tfrs.serving.top_items import (
    ItemLists,
    columns_between,
    exclude,
    has_lists,
    keep_listed,
    rows_between,
    top_items,
    widest_part,
)

RANK_CHUNK = 8_192  # items that `rank` scores at once
_POOL = 2  # times as many items as are answered are scored where an index finds them
SCORES_AT_ONCE = 2**24  # that `recommend` holds; 64 MB, and while they are made and ordered as much again
# Inputs that a request may leave out, and what it then means: nobody, and no items, in one row for all sessions. A list of
# allowed items without items restricts nothing.
OMITTED: Mapping[str, list[object]] = {
    schema.USER_ID: [""],
    schema.HISTORY_ITEM_ID: [[""]],
    schema.UNCLICKED_ITEM_ID: [[""]],
    schema.ALLOWED_ITEM_ID: [[""]],
    schema.DENIED_ITEM_ID: [[""]],
}

Tensors = dict[str, tf.Tensor]


def popularity_score(popularity: np.ndarray) -> np.ndarray:
    """float32 [V] log(1 + number of kept clicks in training): the scores that answer an empty session."""
    return np.log1p(popularity).astype(np.float32)


class Recommender(tf.Module):
    """What is exported: candidates, popularity, vocabularies, and the variables that make a query.

    Args:
        target_queries: a batch of `schema.py` with one target a session → <float32>[B, 1, Q]; see `SessionModel`.
        seen_offsets: such a batch → what is added to scores, of [B, 1, T]; None = nothing.
        table: of [V, P], what queries are scored with.
        popularity: number of kept clicks of each item in training [V].
        vocabulary_path, user_vocabulary_path: text files, one id a line; the users' only for a model with users.
        run: read are model, data.sessions.max_length, data.history, data.unclicked and serving.
        model_version: what every answer carries.
    """

    def __init__(
        self,
        target_queries: Callable[[Tensors], tf.Tensor],
        seen_offsets: Callable[[Tensors], SeenOffsets | None],
        table: PackedTable,
        popularity: np.ndarray,
        vocabulary_path: str,
        user_vocabulary_path: str | None,
        run: RunConfig,
        model_version: str,
    ) -> None:
        super().__init__(name="recommender")
        # A copy of the item table's rows: a slice of the table itself would be copied again with each request.
        self.candidates = tf.Variable(table.values, trainable=False, name="candidates")
        self.candidate_scale = None if table.scale is None else tf.Variable(table.scale, trainable=False, name="scale")
        self.index: ScannIndex | None = None
        if run.serving.index == "scann":
            pool_size = min(_POOL * run.serving.top_k, len(table.values))
            self.index = ScannIndex(unpack(table), pool_size)
        popular = popularity_score(popularity)
        self.popularity_score = tf.Variable(popular, trainable=False, name="popularity_score")
        self.popularity_rank = tf.Variable(_conservative_rank(popular), trainable=False, name="popularity_rank")
        self.vocabulary = _Vocabulary(vocabulary_path)
        self.column_of_item = _number_of_line(self.vocabulary)
        line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        self.item_of_column = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(self.vocabulary, tf.int64, number, tf.string, line), default_value=""
        )
        if user_vocabulary_path is not None:
            self.user_vocabulary = _Vocabulary(user_vocabulary_path)
            self.line_of_user = _number_of_line(self.user_vocabulary)
        self._target_queries, self._inputs, self._penalty = target_queries, resolve(run.model).inputs, run.model.penalty
        self._max_length = run.data.sessions.max_length
        self._max_history = run.data.history.max_items if run.model.has_history and run.data.history else None
        self._max_unclicked = run.data.unclicked.max_items if run.model.has_unclicked and run.data.unclicked else None
        self._has_users = user_vocabulary_path is not None
        self._n_items, self._top_k = len(table.values), min(run.serving.top_k, len(table.values))
        self._is_seen_excluded = run.serving.exclude_seen
        self._model_version, self._seen_offsets = model_version, seen_offsets

    def signatures(self) -> dict[str, tf.types.experimental.PolymorphicFunction]:
        """The signatures by name, traced; from here on the module tracks the model's variables that they use.

        Inputs in OMITTED have defaults (`SignatureDef.defaults`): a graph session and TensorFlow Serving's gRPC
        interface do without them; its REST interface and `tf.saved_model.load` want every input, as OMITTED has it.
        """
        events = self.event_specs()
        signatures = {
            name: _signature(function, inputs)
            for name, function, inputs in (
                (
                    "serving_default",
                    self.recommend_examples,
                    {"examples": tf.TensorSpec([None], tf.string, "examples")},
                ),
                ("recommend", self.recommend, events),
                ("recommend_among", self.recommend, self.among_specs()),
                ("rank", self.rank, {"target": tf.TensorSpec([None], tf.string, "target"), **events}),
            )
        }
        traced = [function.get_concrete_function() for function in signatures.values()]
        self.used_variables = list({id(v): v for function in traced for v in function.variables}.values())
        return signatures

    def event_specs(self) -> dict[str, tf.TensorSpec]:
        """A session so far, by name, what may be left out last: what `recommend` and `rank` both take."""
        specs = {"item_id": tf.TensorSpec([None, None], tf.string, "item_id")}
        specs["is_false_positive"] = tf.TensorSpec([None, None], tf.int64, "is_false_positive")
        if self._has_users:
            specs["user_id"] = tf.TensorSpec([None], tf.string, "user_id")
        if self._max_history is not None:
            specs["history_item_id"] = tf.TensorSpec([None, None], tf.string, "history_item_id")
        if self._max_unclicked is not None:
            specs["unclicked_item_id"] = tf.TensorSpec([None, None], tf.string, "unclicked_item_id")
        return specs

    def among_specs(self) -> dict[str, tf.TensorSpec]:
        """What `recommend_among` takes: a session so far, and which items may be answered.

        A signature of its own, so that those who have no lists need not send empty ones: REST wants every input, and a
        server that batches wants as many rows of each.
        """
        lists = (schema.ALLOWED_ITEM_ID, schema.DENIED_ITEM_ID)
        return self.event_specs() | {name: tf.TensorSpec([None, None], tf.string, name) for name in lists}

    def recommend_examples(self, examples: tf.Tensor) -> Tensors:
        """As `recommend`, of <string>[B] serialized `tf.train.Example`s; what one of them lacks is empty or unknown."""
        specs = {
            schema.ITEM_ID: tf.io.VarLenFeature(tf.string),
            schema.IS_FALSE_POSITIVE: tf.io.VarLenFeature(tf.int64),
        }
        if self._has_users:
            specs[schema.USER_ID] = tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True, default_value="")
        if self._max_history is not None:
            specs[schema.HISTORY_ITEM_ID] = tf.io.VarLenFeature(tf.string)
        if self._max_unclicked is not None:
            specs[schema.UNCLICKED_ITEM_ID] = tf.io.VarLenFeature(tf.string)
        specs[schema.ALLOWED_ITEM_ID] = specs[schema.DENIED_ITEM_ID] = tf.io.VarLenFeature(tf.string)
        features = tf.io.parse_example(examples, specs)
        item_id, flags = dense_events(features[schema.ITEM_ID], features[schema.IS_FALSE_POSITIVE])
        context = {
            name: tf.sparse.to_dense(features[name], default_value="")
            for name in (schema.ALLOWED_ITEM_ID, schema.DENIED_ITEM_ID)
        }
        if self._has_users:
            context["user_id"] = tf.pad(features[schema.USER_ID], [[0, 0], [0, 1]], constant_values="")[:, 0]
        if self._max_history is not None:
            context["history_item_id"] = tf.sparse.to_dense(features[schema.HISTORY_ITEM_ID], default_value="")
        if self._max_unclicked is not None:
            context["unclicked_item_id"] = tf.sparse.to_dense(features[schema.UNCLICKED_ITEM_ID], default_value="")
        return self.recommend(item_id, flags, **context)

    def recommend(self, item_id: tf.Tensor, is_false_positive: tf.Tensor, **context: tf.Tensor) -> Tensors:
        """<string>[B, K] item_id and <float32>[B, K] score, best first, of <string>[B, T] ids and <int64>[B, T] flags.

        context: of a model with users <string>[B] user_id, of one with histories <string>[B, H] history_item_id, of one
        with unclicked items <string>[B, M] unclicked_item_id, last shown first; one row counts for every session. Popular
        items answer a session without a usable item.

        With lists <string>[B, N], or one row for all sessions, of allowed_item_id only those are answered if there are any,
        and none of denied_item_id. Unknown ids are ignored: allowed ones that are all unknown allow nothing. Where lists or
        exclude_seen leave fewer than K items, the rest of the answer is "" with −∞.
        """
        column, batch = self._events(item_id, is_false_positive, context)
        query, seen, is_empty = self._query(batch), self._seen(batch), _is_empty(batch)
        lists = self._lists(context) if schema.ALLOWED_ITEM_ID in context else None

        def score_part(start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
            items = tf.cast(rows_between(self.candidates, start, end), tf.float32)
            scores = score_items(query, items, self._penalty)
            if self.candidate_scale is not None:  # what scales an item scales its score; cheaper where P > B
                scores *= self.candidate_scale[start:end]
            if seen is not None:
                scores = add_offsets(scores, seen._replace(column=columns_between(seen.column, start, end)))
            scores = tf.where(is_empty[:, tf.newaxis], self.popularity_score[start:end], scores)
            if self._is_seen_excluded:
                scores = exclude(scores, columns_between(column, start, end))
            return scores if lists is None else keep_listed(scores, lists, start, end)

        n_rows = tf.shape(item_id)[0]
        width = widest_part(self.candidates, n_rows, SCORES_AT_ONCE)

        def exact() -> tuple[tf.Tensor, tf.Tensor]:
            return top_items(score_part, n_rows, self._n_items, self._top_k, width)

        if self.index is None:
            top_score, top_column = exact()
        else:  # all together: a batch is answered exactly if one of its sessions must be, or has too few left
            must_be_exact = tf.reduce_any(is_empty) if lists is None else tf.reduce_any(is_empty) | has_lists(lists)
            shape = tf.stack([n_rows, self._top_k])
            found = tf.cond(
                must_be_exact,
                lambda: (tf.fill(shape, -np.inf), tf.zeros(shape, tf.int32)),
                functools.partial(self._best_of_pool, self.index, query, seen, column),
            )
            top_score, top_column = tf.cond(tf.reduce_all(tf.math.is_finite(found[0])), lambda: found, exact)
        top_item_id = self.item_of_column.lookup(tf.cast(top_column, tf.int64))
        top_item_id = tf.where(tf.math.is_inf(top_score), "", top_item_id)
        version = tf.fill([n_rows], self._model_version)
        return {"item_id": top_item_id, "score": top_score, "model_version": version}

    def rank(
        self, item_id: tf.Tensor, is_false_positive: tf.Tensor, target: tf.Tensor, **context: tf.Tensor
    ) -> Tensors:
        """<int64>[B] rank of <string>[B] target over the whole catalogue, seen items included, as `metrics.count_ranks`
        counts: 1 = best, ties conservative, 0 = not in the catalogue, −1 = a score is NaN."""
        _, batch = self._events(item_id, is_false_positive, context)
        target_column = self.column_of_item.lookup(target)
        popularity_rank = tf.gather(self.popularity_rank, tf.maximum(target_column, 0))
        ranks = tf.where(
            _is_empty(batch),
            tf.where(target_column >= 0, popularity_rank, 0),
            count_ranks(
                self._query(batch),
                self.candidates,
                target_column,
                RANK_CHUNK,
                self._penalty,
                self._seen(batch),
                self.candidate_scale,
            ),
        )
        return {"rank": ranks}

    def _events(self, item_id: tf.Tensor, is_false_positive: tf.Tensor, context: Tensors) -> tuple[tf.Tensor, Tensors]:
        """<int64>[B, T] column of every event, and the model's batch: its usable inputs, the target after the last."""
        same_shape = tf.debugging.assert_equal(
            tf.shape(item_id), tf.shape(is_false_positive), "item_id and is_false_positive differ in shape"
        )
        with tf.control_dependencies([same_shape]):
            column = self.column_of_item.lookup(item_id)
        item_index, is_abandoned = usable_inputs(column, is_false_positive, self._inputs != "tp", self._max_length)
        n_items = tf.math.count_nonzero(item_index, axis=1, keepdims=True, dtype=tf.int32)
        batch = {schema.ITEM_INDEX: item_index, schema.TARGET_POSITION: tf.maximum(n_items - 1, 0)}
        if self._inputs == "marked":
            batch[schema.INPUT_IS_FP] = is_abandoned
        if self._penalty:
            index = tf.where(column >= 0, tf.cast(column, tf.int32) + schema.FIRST_ITEM_INDEX, schema.PAD_INDEX)
            batch[schema.EVENT_INDEX] = index
            batch[schema.EVENT_IS_FP] = (column >= 0) & tf.not_equal(is_false_positive, 0)
            batch[schema.TARGET_EVENT] = tf.fill(tf.shape(n_items), tf.shape(index)[1])
        n_rows = tf.shape(item_id)[0]
        if self._has_users:
            line = tf.cast(self.line_of_user.lookup(context["user_id"]), tf.int32)
            index = tf.where(line >= 0, line + schema.FIRST_USER_INDEX, schema.UNKNOWN_USER_INDEX)
            batch[schema.USER_INDEX] = tf.broadcast_to(index, [n_rows])
        if self._max_history is not None:
            batch[schema.HISTORY_INDEX] = self._items(context["history_item_id"], self._max_history, n_rows)
        if self._max_unclicked is not None:
            unclicked = self._items(context["unclicked_item_id"], self._max_unclicked, n_rows)
            batch[schema.UNCLICKED_INDEX] = unclicked
            batch[schema.IS_UNCLICKED] = (unclicked != schema.PAD_INDEX)[:, tf.newaxis]
        return column, batch

    def _items(self, item_id: tf.Tensor, max_items: int, n_rows: tf.Tensor) -> tf.Tensor:
        """<int32>[B, N'] `first_items` of <string>[B, N] ids, or of <string>[1, N] for all of B = n_rows."""
        found = first_items(self.column_of_item.lookup(item_id), max_items)
        return tf.broadcast_to(found, [n_rows, tf.shape(found)[1]])

    def _best_of_pool(
        self, index: ScannIndex, query: tf.Tensor, seen: SeenOffsets | None, column: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """<float32>[B, K] scores and <int32>[B, K] columns of the best that the index finds, seen items included.

        −∞ where the index finds too few.
        """
        pool = index.nearest(query[:, : self.candidates.shape[1]])
        if seen is not None:
            of_pool = tf.reduce_any(seen.column[:, :, tf.newaxis] == pool[:, tf.newaxis], axis=2)
            pool = tf.concat([pool, tf.where(of_pool, -1, seen.column)], axis=1)
        n_items, known = tf.shape(pool)[1], tf.maximum(tf.reshape(pool, [-1]), 0)
        items = tf.cast(tf.gather(self.candidates, known), tf.float32)
        if self.candidate_scale is not None:
            items *= tf.gather(self.candidate_scale, known)[:, tf.newaxis]
        scores = tf.reshape(score_pairs(tf.repeat(query, n_items, axis=0), items, self._penalty), tf.shape(pool))
        if seen is not None:
            is_same = pool[:, :, tf.newaxis] == seen.column[:, tf.newaxis]
            scores += tf.reduce_sum(tf.where(is_same, seen.offset[:, tf.newaxis], 0), axis=2)
        is_refused = pool < 0
        if self._is_seen_excluded:
            had = tf.cast(column, tf.int32)[:, tf.newaxis]
            is_refused |= tf.reduce_any(pool[:, :, tf.newaxis] == had, axis=2)
        top_score, place = tf.math.top_k(tf.where(is_refused, -np.inf, scores), self._top_k)
        return top_score, tf.gather(pool, place, batch_dims=1)

    def _lists(self, context: Tensors) -> ItemLists:
        allowed = context[schema.ALLOWED_ITEM_ID]
        denied = self.column_of_item.lookup(context[schema.DENIED_ITEM_ID])
        return ItemLists(tf.reduce_any(allowed != "", axis=1), self.column_of_item.lookup(allowed), denied)

    def _query(self, batch: Tensors) -> tf.Tensor:
        return self._target_queries(batch)[:, 0]

    def _seen(self, batch: Tensors) -> SeenOffsets | None:
        found = self._seen_offsets(batch)
        return None if found is None else SeenOffsets(found.column[:, 0], found.offset[:, 0])


def _signature(
    function: Callable[..., Tensors], specs: Mapping[str, tf.TensorSpec]
) -> tf.types.experimental.PolymorphicFunction:
    """The function of inputs of these names and kinds; `tf.saved_model.save` writes the defaults of those in OMITTED."""

    def call(*values: tf.Tensor) -> Tensors:
        return function(**dict(zip(specs, values, strict=True)))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name, kind, default=tf.constant(OMITTED[name]) if name in OMITTED else inspect.Parameter.empty
            )
            for name in specs
        ]
    )
    return tf.function(call, input_signature=list(specs.values()), autograph=False)


class _Vocabulary(tf.saved_model.Asset):
    """A file of ids, whose tables are no other file's.

    TensorFlow names a table after its file's `str`, which of an Asset is its address, and gives a table of an earlier name
    the earlier contents: an export's tables could be those of one that this process had made before.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._unique_name = uuid.uuid4().hex  # as TensorFlow names tables without a file

    def __str__(self) -> str:
        return self._unique_name


def _number_of_line(asset: _Vocabulary) -> tf.lookup.StaticHashTable:
    """Line of the file → its number from 0; −1 for what is not in it."""
    line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    initializer = tf.lookup.TextFileInitializer(asset, tf.string, line, tf.int64, number)
    return tf.lookup.StaticHashTable(initializer, default_value=-1)


def _is_empty(batch: Tensors) -> tf.Tensor:
    return tf.equal(batch[schema.ITEM_INDEX][:, 0], schema.PAD_INDEX)


def _conservative_rank(scores: np.ndarray) -> np.ndarray:
    """int64 [V] rank of each item by scores [V]: the number of items that score as high or higher, itself included."""
    n_below = np.searchsorted(np.sort(scores), scores, side="left")
    return np.subtract(len(scores), n_below, dtype=np.int64)
