"""Serving: the trained model → a SavedModel that takes sessions of raw item ids and answers with raw item ids.

The export is a `tf.Module` with explicit signatures, no custom op, no optimizer and no metric; its only link to the
training data is the vocabulary, which it carries as an asset. Every signature goes through the same steps:
item_id → column of the vocabulary → the method's usable inputs → session embedding → scores of the whole catalogue.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from fp_tfrs import expectations, schema
from fp_tfrs.config import RunConfig, ServingConfig
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.methods import METHODS
from fp_tfrs.metrics import count_ranks
from fp_tfrs.saved_model import SavedModel
from fp_tfrs.vocabulary import read_vocabulary

RANK_CHUNK = 8_192  # items that `rank` scores at once


class TrainedModel(Protocol):
    """What is read of a trained model (`fp_tfrs.model.SessionModel` is one)."""

    def session_embeddings(self, item_index: tf.Tensor, training: bool = False) -> tf.Tensor: ...
    def item_embeddings(self) -> tf.Tensor: ...


# The steps inside the graph, as pure functions of tensors.


def usable_inputs(column: tf.Tensor, is_false_positive: tf.Tensor, is_fp_input: bool, max_length: int) -> tf.Tensor:
    """The events that the session tower sees: known items, the last `max_length` of them, moved to the left.

    Args:
        column: <int64>[B, T] position in the vocabulary, −1 for what is not in it.
        is_false_positive: <int64>[B, T] not 0 = abandoned.
        is_fp_input: abandoned items are inputs of the method.
        max_length: columns of the answer at most.

    Returns:
        <int32>[B, T'] item_index, right-padded with PAD_INDEX; 1 ≤ T' ≤ max(1, max_length).
    """
    is_usable = column >= 0
    if not is_fp_input:
        is_usable &= tf.equal(is_false_positive, 0)
    number = tf.cumsum(tf.cast(is_usable, tf.int32), axis=1)  # 1 for the first usable event of a row
    n_usable = tf.reduce_sum(tf.cast(is_usable, tf.int32), axis=1, keepdims=True)
    n_dropped = tf.maximum(n_usable - max_length, 0)
    where = tf.where(is_usable & (number > n_dropped))
    to_column = tf.gather_nd(number - n_dropped, where) - 1
    length = tf.maximum(tf.reduce_max(n_usable - n_dropped), 1)  # of no rows: the least int32, so 1
    return tf.scatter_nd(
        tf.stack([tf.cast(where[:, 0], tf.int32), to_column], axis=1),
        tf.cast(tf.gather_nd(column, where), tf.int32) + schema.FIRST_ITEM_INDEX,
        tf.stack([tf.shape(column)[0], length]),
    )


def last_embedding(session_embeddings: tf.Tensor, item_index: tf.Tensor) -> tf.Tensor:
    """<float32>[B, D] of [B, T, D]: the one at the last item of <int32>[B, T] item_index; at column 0 if there is none."""
    n_items = tf.math.count_nonzero(item_index, axis=1, dtype=tf.int32)
    return tf.gather(session_embeddings, tf.maximum(n_items - 1, 0), axis=1, batch_dims=1)


def exclude(scores: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
    """<float32>[B, V] scores with −∞ for each item of the row's session, used as input or not (<int64>[B, T] column)."""
    where = tf.where(column >= 0)
    cells = tf.stack([where[:, 0], tf.gather_nd(column, where)], axis=1)
    return tf.tensor_scatter_nd_update(scores, cells, tf.fill(tf.shape(cells)[:1], -np.inf))


def dense_events(item_id: tf.SparseTensor, is_false_positive: tf.SparseTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """<string>[B, T] ids filled up with "" and <int64>[B, T] flags; missing flags are 0, superfluous ones are ignored."""
    ids = tf.sparse.to_dense(item_id, default_value="")
    flags = tf.sparse.to_dense(is_false_positive)
    n_steps = tf.shape(ids)[1]
    missing = tf.maximum(n_steps - tf.shape(flags)[1], 0)
    return ids, tf.pad(flags, [[0, 0], [0, missing]])[:, :n_steps]


class Recommender(tf.Module):
    """What is exported: item embeddings, popularity, vocabulary, and the session tower's variables."""

    def __init__(
        self,
        session_embeddings: Callable[[tf.Tensor], tf.Tensor],
        item_embeddings: np.ndarray,
        popularity: np.ndarray,
        vocabulary_path: str,
        is_fp_input: bool,
        max_length: int,
        serving: ServingConfig,
        model_version: str,
    ) -> None:
        """Args as in `export`; session_embeddings: <int32>[B, T] → <float32>[B, T, D], item_embeddings <float32>[V, D]."""
        super().__init__(name="recommender")
        # A copy of the item table's rows: a slice of the table itself would be copied again with each request.
        self.item_embeddings = tf.Variable(item_embeddings, trainable=False, name="item_embeddings")
        popular = popularity_score(popularity)
        self.popularity_score = tf.Variable(popular, trainable=False, name="popularity_score")
        self.popularity_rank = tf.Variable(_conservative_rank(popular), trainable=False, name="popularity_rank")
        self.vocabulary = tf.saved_model.Asset(vocabulary_path)
        line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        self.column_of_item = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(self.vocabulary, tf.string, line, tf.int64, number), default_value=-1
        )
        self.item_of_column = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(self.vocabulary, tf.int64, number, tf.string, line), default_value=""
        )
        self._session_embeddings = session_embeddings
        self._is_fp_input, self._max_length = is_fp_input, max_length
        self._top_k, self._is_seen_excluded = min(serving.top_k, len(item_embeddings)), serving.exclude_seen
        self._model_version = model_version

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """The signatures by name, traced; from here on the module tracks the model's variables that they use."""
        ids = tf.TensorSpec([None, None], tf.string, "item_id")
        flags = tf.TensorSpec([None, None], tf.int64, "is_false_positive")
        traced = {
            name: tf.function(function, input_signature=inputs, autograph=False).get_concrete_function()
            for name, function, inputs in (
                ("serving_default", self.recommend_examples, [tf.TensorSpec([None], tf.string, "examples")]),
                ("recommend", self.recommend, [ids, flags]),
                ("rank", self.rank, [ids, flags, tf.TensorSpec([None], tf.string, "target")]),
            )
        }
        self.used_variables = list({id(v): v for function in traced.values() for v in function.variables}.values())
        return traced

    def recommend_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `recommend`, of <string>[B] serialized `tf.train.Example`s."""
        features = tf.io.parse_example(
            examples,
            {
                schema.ITEM_ID: tf.io.VarLenFeature(tf.string),
                schema.IS_FALSE_POSITIVE: tf.io.VarLenFeature(tf.int64),
            },
        )
        return self.recommend(*dense_events(features[schema.ITEM_ID], features[schema.IS_FALSE_POSITIVE]))

    def recommend(self, item_id: tf.Tensor, is_false_positive: tf.Tensor) -> dict[str, tf.Tensor]:
        """<string>[B, K] item_id and <float32>[B, K] score, best first, of <string>[B, T] ids and <int64>[B, T] flags.

        Popular items answer a session without a usable item. Where exclude_seen leaves fewer than K items, the rest of
        the answer is "" with −∞.
        """
        column, item_index = self._events(item_id, is_false_positive)
        scores = tf.matmul(self._session(item_index), self.item_embeddings, transpose_b=True)
        scores = tf.where(_is_empty(item_index)[:, tf.newaxis], self.popularity_score, scores)
        if self._is_seen_excluded:
            scores = exclude(scores, column)
        top_score, top_column = tf.math.top_k(scores, self._top_k)
        top_item_id = self.item_of_column.lookup(tf.cast(top_column, tf.int64))
        if self._is_seen_excluded:
            top_item_id = tf.where(tf.math.is_inf(top_score), "", top_item_id)
        version = tf.fill(tf.shape(item_id)[:1], self._model_version)
        return {"item_id": top_item_id, "score": top_score, "model_version": version}

    def rank(self, item_id: tf.Tensor, is_false_positive: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        """<int64>[B] rank of <string>[B] target over the whole catalogue, seen items included, as `metrics.count_ranks`
        counts: 1 = best, ties conservative, 0 = not in the catalogue, −1 = a score is NaN."""
        _, item_index = self._events(item_id, is_false_positive)
        target_column = self.column_of_item.lookup(target)
        popularity_rank = tf.gather(self.popularity_rank, tf.maximum(target_column, 0))
        ranks = tf.where(
            _is_empty(item_index),
            tf.where(target_column >= 0, popularity_rank, 0),
            count_ranks(self._session(item_index), self.item_embeddings, target_column, RANK_CHUNK),
        )
        return {"rank": ranks}

    def _events(self, item_id: tf.Tensor, is_false_positive: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """<int64>[B, T] column of every event, <int32>[B, T'] item_index of the usable ones."""
        same_shape = tf.debugging.assert_equal(
            tf.shape(item_id), tf.shape(is_false_positive), "item_id and is_false_positive differ in shape"
        )
        with tf.control_dependencies([same_shape]):
            column = self.column_of_item.lookup(item_id)
        return column, usable_inputs(column, is_false_positive, self._is_fp_input, self._max_length)

    def _session(self, item_index: tf.Tensor) -> tf.Tensor:
        return last_embedding(self._session_embeddings(item_index), item_index)


def _is_empty(item_index: tf.Tensor) -> tf.Tensor:
    return tf.equal(item_index[:, 0], schema.PAD_INDEX)


def popularity_score(popularity: np.ndarray) -> np.ndarray:
    """float32 [V] log(1 + number of kept clicks in training): the scores that answer an empty session."""
    return np.log1p(popularity).astype(np.float32)


def _conservative_rank(scores: np.ndarray) -> np.ndarray:
    """int64 [V] rank of each item by scores [V]: the number of items that score as high or higher, itself included."""
    n_below = np.searchsorted(np.sort(scores), scores, side="left")
    return np.subtract(len(scores), n_below, dtype=np.int64)


def export(
    directory: str | os.PathLike[str],
    model: TrainedModel,
    vocabulary_path: str,
    popularity: np.ndarray,
    run: RunConfig,
    model_version: str,
    sessions: Sequence[expectations.RawSession],
) -> None:
    """Writes the SavedModel and, below assets.extra, the answers that `probe` will hold it against.

    Args:
        directory: where to; must not exist, or be empty. It appears complete, by rename.
        model: the trained model.
        vocabulary_path: text file, one item_id a line; line number + FIRST_ITEM_INDEX = item_index.
        popularity: number of kept clicks of each item of the vocabulary in training [V].
        run: read are the method, data.sessions.max_length and serving.
        model_version: what every answer carries as `model_version`.
        sessions: real sessions of raw item ids to make the probe's requests of; validation has them.

    Raises:
        RunError: the place is taken, vocabulary, model and popularity do not fit together, scores are not finite, or
            the written model does not answer.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(f"{directory} is there already and is not rewritten; move it away and repeat")
    item_embeddings = model.item_embeddings().numpy()
    vocabulary = read_vocabulary(vocabulary_path)
    if not len(vocabulary) == len(item_embeddings) == len(popularity):
        raise RunError(
            f"{vocabulary_path} has {len(vocabulary)} items, the model {len(item_embeddings)}, their popularity "
            f"{len(popularity)}; train again from the start: delete the run's state"
        )
    is_fp_input, max_length = METHODS[run.model.method].inputs == "all", run.data.sessions.max_length

    # Traced once for all signatures; AutoGraph would take seconds to find that there is nothing for it to convert.
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False)
    def session_embeddings(item_index: tf.Tensor) -> tf.Tensor:
        return model.session_embeddings(item_index, training=False)

    recommender = Recommender(
        session_embeddings,
        item_embeddings,
        popularity,
        vocabulary_path,
        is_fp_input,
        max_length,
        run.serving,
        model_version,
    )
    scorer = expectations.Scorer(
        vocabulary,
        popularity_score(popularity),
        item_embeddings,
        lambda item_index: model.session_embeddings(tf.constant(item_index), training=False).numpy(),
        is_fp_input,
        max_length,
        run.serving.top_k,
        run.serving.exclude_seen,
    )
    expected = expectations.expect(sessions, scorer)
    stage = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        signatures = recommender.signatures()
        _call_each(lambda name, inputs: signatures[name](**{k: tf.constant(v) for k, v in inputs.items()}), vocabulary)
        tf.saved_model.save(recommender, os.fspath(stage), signatures)
        written = SavedModel(stage)
        _call_each(lambda name, inputs: written.call(name, **inputs), vocabulary)
        expectations.write(stage / expectations.FILE_NAME, expected)
        directory.parent.mkdir(parents=True, exist_ok=True)
        os.rename(stage, directory)
    except (OSError, InputError, tf.errors.OpError) as error:
        raise RunError(
            f"cannot export to {directory}: {str(error).splitlines()[0]}; free that place and repeat"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _call_each(call: Callable[[str, dict[str, np.ndarray]], object], vocabulary: Sequence[str]) -> None:
    """Calls every signature once: a model that was never called, or that lost a resource, fails here."""
    item = np.array([vocabulary[0].encode()], dtype=object)
    flag = tf.train.Feature(int64_list=tf.train.Int64List(value=[0]))
    feature = {
        schema.ITEM_ID: tf.train.Feature(bytes_list=tf.train.BytesList(value=item)),
        schema.IS_FALSE_POSITIVE: flag,
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    events = {"item_id": item[np.newaxis], "is_false_positive": np.zeros([1, 1], np.int64)}
    call("recommend", events)
    call("rank", {**events, "target": item})
    call("serving_default", {"examples": np.array([example], dtype=object)})
