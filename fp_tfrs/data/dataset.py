"""Sessions → padded batches. The methods differ here only by which events are inputs and targets.

In: the `SessionTable` of a split. Out: training batches, in a new order each epoch that depends on (seed, epoch) alone,
and ranking batches for validation. The arithmetic of a batch is in pure functions on `item_index <int32>[B, N]`,
`is_false_positive <bool>[B, N]`: N events of a session, oldest first, right-padded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import ModelConfig, TrainingConfig
from fp_tfrs.data.false_positives import UserFalsePositives, session_false_positives
from fp_tfrs.data.session_table import SessionTable
from fp_tfrs.data.soft_labels import dislike_degree, estimate
from fp_tfrs.errors import InputError
from fp_tfrs.methods import Method, resolve


class TrainingBatches:
    """The training split as batches of one method.

    Every session that has a target is in exactly one batch of every epoch; the last batch of a bucket may be smaller.

    Attributes:
        n_sessions, n_targets, n_steps: of an epoch.

    Raises:
        InputError: no session has a target, or what the method learns from cannot be had of this data.
    """

    def __init__(self, table: SessionTable, config: ModelConfig, training: TrainingConfig, seed: int):
        method = resolve(config)
        table, dislike = _judge_clicks(table, config)
        is_input = ~table.is_false_positive | (method.inputs != "tp")
        is_target = is_input & (~table.is_false_positive | (method.targets == "all"))
        inputs_before = _before(table, is_input)
        targets = table.count(is_target & (inputs_before > 0))
        self._rows = np.flatnonzero(targets).astype(np.int32)
        self.n_sessions, self.n_targets = len(self._rows), int(targets.sum())
        if not self.n_sessions:
            raise InputError(
                f"no session of the training split has anything to predict for method {method.name} among "
                f"{len(table.length)} sessions; lower data.min_item_support, or give more events"
            )
        self._session_id, self._seed, self._training = table.session_id, seed, training
        self._config, self._method = config, method
        self._item_index, self._is_false_positive = table.ragged(table.item_index, table.is_false_positive)
        self._dislike = None if dislike is None else table.ragged(dislike)[0]
        self._n_inputs = table.count(is_input) - 1
        self._bounds = [bound + 1 for bound in training.length_buckets]
        in_bucket = np.bincount(np.digitize(self._n_inputs[self._rows], self._bounds))
        self.n_steps = int((-(-in_bucket // training.batch_size)).sum())
        self._context = _Context(table, config)
        has_user_scope = method.term is not None and config.loss.fp_scope == "user"
        self._users = UserFalsePositives(table, config.loss, dislike) if has_user_scope else None
        # Traced once, not by each epoch's `map`, which would take as long as many a step.
        self._make = tf.function(
            self._batch,
            input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([2], tf.int64)],
            autograph=False,
        )

    def epochs(self, first: int) -> tf.data.Dataset:
        """The training batches (`schema.py`) of epoch `first`, counted from 0, and all after it: n_steps each, without an end."""
        signature = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([2], tf.int64))
        steps = tf.data.Dataset.from_generator(lambda: self._steps_from(first), output_signature=signature)
        return _prepare_ahead(steps.map(self._make, num_parallel_calls=tf.data.AUTOTUNE))

    def epoch(self, epoch: int) -> tf.data.Dataset:
        """The training batches of one epoch."""
        return self.epochs(epoch).take(self.n_steps)

    def session_ids(self, epoch: int, step: int) -> list[str]:
        """The sessions of a batch, by its epoch and step counted from 0."""
        return [name.decode(errors="replace") for name in self._session_id[self._steps(epoch)[step]]]

    def _steps_from(self, epoch: int) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
        """Rows and the seed of each batch."""
        while True:
            seed = int(np.random.SeedSequence([self._seed, epoch, 1]).generate_state(1)[0])
            for step, rows in enumerate(self._steps(epoch)):
                yield rows, (seed, step)
            epoch += 1

    def _steps(self, epoch: int) -> list[np.ndarray]:
        """<int32>[B] rows of the table for each batch: sessions of similar length together, else in random order."""
        order = np.random.default_rng([self._seed, epoch]).permutation(self._rows)
        bucket = np.digitize(self._n_inputs[order], self._bounds)
        size = self._training.batch_size
        places = [np.flatnonzero(bucket == i) for i in range(len(self._bounds) + 1)]
        batches = [found[begin : begin + size] for found in places for begin in range(0, len(found), size)]
        # A batch comes when its last session does, one that never fills up at the end.
        batches.sort(key=lambda batch: batch[-1] if len(batch) == size else len(order))
        return [order[batch] for batch in batches]

    def _batch(self, rows: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        method = self._method
        item_index = tf.gather(self._item_index, rows).to_tensor()
        is_false_positive = tf.gather(self._is_false_positive, rows).to_tensor()
        dislike = None if self._dislike is None else tf.gather(self._dislike, rows).to_tensor()
        batch, label_event = select_inputs(item_index, is_false_positive, method)
        if method.reads_label_feedback:
            batch[schema.LABEL_IS_FP] = tf.gather(is_false_positive, label_event, batch_dims=1)
        if method.has_soft_labels and dislike is not None:
            batch[schema.LABEL_WEIGHT] = 1 - tf.gather(dislike, label_event, batch_dims=1)
        if method.term is not None:
            label = batch[schema.LABEL]
            if self._users is not None:
                found = self._users.sample(rows, label, label_event, seed)
            else:
                found = session_false_positives(
                    item_index, is_false_positive, label, label_event, self._config.loss, dislike
                )
            batch[schema.FP_INDEX], batch[schema.FP_PROBABILITY] = found.index, found.probability
            if found.dislike is not None and method.has_soft_labels:
                batch[schema.FP_PROBABILITY] *= found.dislike[:, tf.newaxis, :]
            elif found.dislike is not None:
                batch[schema.FP_DEGREE] = found.dislike
        return batch | self._context.of(rows, label_event, batch[schema.LABEL] != schema.PAD_INDEX)


def ranking_batches(table: SessionTable, config: ModelConfig, batch_size: int) -> tf.data.Dataset:
    """The ranking batches (`schema.py`) of a split: every target that counts, the same list for every method.

    Sessions go from short to long, and those without a target are left out. The longest of a batch has less than twice the
    events of its shortest, so that less than half is padding.

    Args:
        batch_size: sessions of a batch, at most

    Raises:
        InputError: no session has a kept target.
    """
    method = resolve(config)
    is_target = is_ranked(table)
    if not (is_target & ~table.is_false_positive).any():
        raise InputError(
            f"none of {len(table.length)} sessions has two kept events in the catalogue, so there is nothing to rank; "
            "lower data.min_item_support, or give more events"
        )
    rows = ranked_sessions(table)
    item_index, is_false_positive = table.ragged(table.item_index, table.is_false_positive)
    context = _Context(table, config)

    def batch(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        events = tf.gather(item_index, rows).to_tensor(), tf.gather(is_false_positive, rows).to_tensor()
        selected = select_targets(*events, method)
        found = context.of(rows, selected[schema.TARGET_EVENT], selected[schema.TARGET_INDEX] != schema.PAD_INDEX)
        if config.penalty == 0:
            del selected[schema.TARGET_EVENT]
        else:
            selected[schema.EVENT_INDEX], selected[schema.EVENT_IS_FP] = events
        return selected | found

    doublings = np.flatnonzero(np.diff(np.frexp(table.length[rows])[1])) + 1
    sizes = [
        min(batch_size, len(part) - begin)
        for part in np.split(rows, doublings)
        for begin in range(0, len(part), batch_size)
    ]
    steps = tf.data.Dataset.from_tensor_slices(tf.RaggedTensor.from_row_lengths(rows, sizes))
    return _prepare_ahead(steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE))


def is_ranked(table: SessionTable) -> np.ndarray:
    """<bool>[all events] the targets of `ranking_batches`: events with a kept one before them in their session."""
    return _before(table, ~table.is_false_positive) > 0


def ranked_sessions(table: SessionTable) -> np.ndarray:
    """<int32>[S'] rows of the table in the order of `ranking_batches`; each session's targets stay together, in order."""
    rows = np.flatnonzero(table.count(is_ranked(table))).astype(np.int32)
    return rows[np.argsort(table.length[rows], kind="stable")]


def _judge_clicks(table: SessionTable, config: ModelConfig) -> tuple[SessionTable, np.ndarray | None]:
    """The table with the flags that the method goes by, and <float32>[all events] a measure of dislike or None: with
    soft labels the probability of a false positive, for a supervised gate the measured degree, NaN = not measured."""
    if not config.uses_satisfaction:
        return table, None
    if table.satisfaction is None:
        raise InputError("the examples have no satisfaction values; run the pipeline again with data.satisfaction")
    if resolve(config).has_soft_labels:
        probability = estimate(table.satisfaction, table.position).astype(np.float32)
        return dataclasses.replace(table, is_false_positive=probability > 0.5), probability
    abandoned = table.satisfaction[table.is_false_positive]
    return table, dislike_degree(table.satisfaction, abandoned).astype(np.float32)


class _Context:
    """What a batch holds of its sessions beside their events: users, their histories and unclicked items, if the model
    has them."""

    def __init__(self, table: SessionTable, config: ModelConfig):
        self._user_index = tf.constant(table.user_index) if config.has_users else None
        self._history = table.ragged_history() if config.has_history else None
        self._unclicked = table.ragged_unclicked() if config.has_unclicked else None

    def of(self, rows: tf.Tensor, event: tf.Tensor, has_event: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of the sessions `rows <int32>[B]` what is known before `event <int32>[B, E]`, where `has_event <bool>[B, E]`."""
        found = {}
        if self._user_index is not None:
            found[schema.USER_INDEX] = tf.gather(self._user_index, rows)
        if self._history is not None:
            found[schema.HISTORY_INDEX] = tf.gather(self._history, rows).to_tensor()
        if self._unclicked is not None:
            index, first, end = (tf.gather(values, rows).to_tensor() for values in self._unclicked)
            column = event[:, :, tf.newaxis]
            is_listed = (first[:, tf.newaxis] <= column) & (column < end[:, tf.newaxis]) & has_event[:, :, tf.newaxis]
            # Without the entries that are in no list, which are most of a long session's.
            is_used = tf.reduce_any(is_listed, axis=1)
            index, of_entry = _compact(is_used, index, tf.transpose(is_listed, [0, 2, 1]))
            found[schema.UNCLICKED_INDEX] = _with_column(index)
            found[schema.IS_UNCLICKED] = _with_column(tf.transpose(of_entry, [0, 2, 1]))
        return found


def select_inputs(
    item_index: tf.Tensor, is_false_positive: tf.Tensor, method: Method
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """A method's inputs and labels: after each input event, the next one, if it is a target.

    Args:
        item_index: <int32>[B, N]; is_false_positive: <bool>[B, N].

    Returns:
        <int32>[B, T] ITEM_INDEX and LABEL (PAD_INDEX = nothing to predict) and, for marked inputs, <bool>[B, T]
        INPUT_IS_FP; and label_event <int32>[B, T], the column in N that the label came from (0 where nothing comes
        after). The last input event is no input.
    """
    is_input = _is_input(item_index, is_false_positive, method)
    sequence, event = _compact(is_input, item_index, _columns(item_index))
    is_target = ~is_false_positive | (method.targets == "all")
    label, has_next = sequence[:, 1:], sequence[:, 1:] != schema.PAD_INDEX
    label_event = event[:, 1:]
    is_target = has_next & tf.gather(is_target, label_event, batch_dims=1)
    batch = {
        schema.ITEM_INDEX: tf.where(has_next, sequence[:, :-1], schema.PAD_INDEX),
        schema.LABEL: tf.where(is_target, label, schema.PAD_INDEX),
    }
    if method.inputs == "marked":
        batch[schema.INPUT_IS_FP] = has_next & tf.gather(is_false_positive, event[:, :-1], batch_dims=1)
    return batch, label_event


def select_targets(item_index: tf.Tensor, is_false_positive: tf.Tensor, method: Method) -> dict[str, tf.Tensor]:
    """The ranking batch: targets are the events that come after a kept event.

    Args:
        item_index: <int32>[B, N]; is_false_positive: <bool>[B, N].

    Returns:
        <int32>[B, T] ITEM_INDEX and, for marked inputs, <bool>[B, T] INPUT_IS_FP; and [B, E] TARGET_INDEX <int32>,
        TARGET_POSITION <int32>, TARGET_IS_FP <bool>, TARGET_EVENT <int32>.
    """
    is_input = _is_input(item_index, is_false_positive, method)
    is_kept = (item_index != schema.PAD_INDEX) & ~is_false_positive
    position = tf.cumsum(tf.cast(is_input, tf.int32), axis=1, exclusive=True) - 1
    is_target = (tf.cumsum(tf.cast(is_kept, tf.int32), axis=1, exclusive=True) > 0) & (item_index != schema.PAD_INDEX)
    inputs, input_is_fp = _compact(is_input, item_index, is_false_positive)
    target, position, is_abandoned, event = _compact(
        is_target, item_index, position, is_false_positive, _columns(item_index)
    )
    batch = {
        schema.ITEM_INDEX: inputs,
        schema.TARGET_INDEX: target,
        schema.TARGET_POSITION: position,
        schema.TARGET_IS_FP: is_abandoned,
        schema.TARGET_EVENT: event,
    }
    return batch | ({schema.INPUT_IS_FP: input_is_fp} if method.inputs == "marked" else {})


def _before(table: SessionTable, is_counted: np.ndarray) -> np.ndarray:
    """<int64>[all events] how many events before it in its session `is_counted <bool>[all events]` holds for."""
    before = np.cumsum(is_counted) - is_counted
    session_first = np.cumsum(table.length) - table.length
    return (
        before - np.repeat(before[np.minimum(session_first, len(before) - 1)], table.length) if len(before) else before
    )


def _prepare_ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Makes the next batches on other threads while one is used.

    Without tf.data's autotuning: its thread keeps the end of every epoch waiting for as much as a second, a third of a small
    log's epoch, and a pipeline of one stage has nothing to tune. Nor to rewrite, which takes a quarter of an iterator's start.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return batches.prefetch(2).with_options(options)


def _is_input(item_index: tf.Tensor, is_false_positive: tf.Tensor, method: Method) -> tf.Tensor:
    return (item_index != schema.PAD_INDEX) & (~is_false_positive | (method.inputs != "tp"))


def _columns(values: tf.Tensor) -> tf.Tensor:
    """<int32>[B, N] the number of each column."""
    return tf.broadcast_to(tf.range(tf.shape(values)[1]), tf.shape(values))


def _compact(mask: tf.Tensor, *values: tf.Tensor) -> Iterator[tf.Tensor]:
    """The values under the mask moved to the left of their rows, right-padded with zeros to the longest."""
    return (tf.ragged.boolean_mask(value, mask).to_tensor() for value in values)


def _with_column(values: tf.Tensor) -> tf.Tensor:
    """The tensor with a column, its last axis, at least: zeros where it had none."""
    padding = [[0, 0]] * (values.shape.rank - 1) + [[0, tf.maximum(1 - tf.shape(values)[-1], 0)]]
    return tf.pad(values, padding)
