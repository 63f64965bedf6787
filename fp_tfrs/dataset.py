"""Sessions → padded batches. The methods differ here only by which events are inputs and targets.

In: the `SessionTable` of a split. Out: training batches, in a new order each epoch that depends on (seed, epoch) alone,
and ranking batches for validation. The arithmetic of a batch is in pure functions on `item_index <int32>[B, N]`,
`is_false_positive <bool>[B, N]`: N events of a session, oldest first, right-padded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import LossConfig, TrainingConfig
from fp_tfrs.errors import InputError
from fp_tfrs.false_positives import UserFalsePositives, session_false_positives
from fp_tfrs.methods import Method
from fp_tfrs.session_table import SessionTable


class TrainingBatches:
    """The training split as batches of one method.

    Every session that has a target is in exactly one batch of every epoch; the last batch of a bucket may be smaller.

    Attributes:
        n_sessions, n_targets: of an epoch.

    Raises:
        InputError: no session has a target.
    """

    def __init__(self, table: SessionTable, method: Method, loss: LossConfig, training: TrainingConfig, seed: int):
        is_input = ~table.is_false_positive | (method.inputs == "all")
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
        self._session_id, self._seed, self._method, self._loss, self._training = (
            table.session_id,
            seed,
            method,
            loss,
            training,
        )
        self._item_index, self._is_false_positive = table.ragged(table.item_index, table.is_false_positive)
        self._n_inputs = tf.constant(table.count(is_input) - 1, tf.int32)
        has_users = method.metric is not None and loss.fp_scope == "user"
        self._users = UserFalsePositives(table, loss) if has_users else None

    def epoch(self, epoch: int) -> tf.data.Dataset:
        """The training batches (`schema.py`) of an epoch, counted from 0."""
        steps = self._steps(epoch).enumerate()
        seed = np.random.SeedSequence([self._seed, epoch, 1]).generate_state(1)[0]

        def batch(step: tf.Tensor, rows: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._batch(rows, tf.stack([tf.constant(int(seed), tf.int64), step]))

        return steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def session_ids(self, epoch: int, step: int) -> list[str]:
        """The sessions of a batch, by its epoch and step counted from 0."""
        for rows in self._steps(epoch).skip(step).take(1):
            return [name.decode(errors="replace") for name in self._session_id[rows.numpy()]]
        return []

    def _steps(self, epoch: int) -> tf.data.Dataset:
        """<int32>[B] rows of the table, a batch each: sessions of similar length together, else in random order."""
        order = np.random.default_rng([self._seed, epoch]).permutation(self._rows)
        bounds = [bound + 1 for bound in self._training.length_buckets]
        return tf.data.Dataset.from_tensor_slices(order).bucket_by_sequence_length(
            lambda row: tf.gather(self._n_inputs, row), bounds, [self._training.batch_size] * (len(bounds) + 1)
        )

    def _batch(self, rows: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        item_index = tf.gather(self._item_index, rows).to_tensor()
        is_false_positive = tf.gather(self._is_false_positive, rows).to_tensor()
        inputs, label, label_event = select_inputs(item_index, is_false_positive, self._method)
        if self._method.metric is None:
            fp_index = tf.zeros_like(inputs[:, :1])
            fp_probability = tf.zeros_like(inputs, tf.float32)[:, :, tf.newaxis]
        elif self._users is not None:
            fp_index, fp_probability = self._users.sample(rows, label, label_event, seed)
        else:
            fp_index, fp_probability = session_false_positives(
                item_index, is_false_positive, label, label_event, self._loss
            )
        return {
            schema.ITEM_INDEX: inputs,
            schema.LABEL: label,
            schema.FP_INDEX: fp_index,
            schema.FP_PROBABILITY: fp_probability,
        }


def ranking_batches(table: SessionTable, method: Method, batch_size: int) -> tf.data.Dataset:
    """The ranking batches (`schema.py`) of a split: every target that counts, the same list for every method.

    Sessions go from short to long, and those without a target are left out.

    Raises:
        InputError: no session has a kept target.
    """
    is_target = _before(table, ~table.is_false_positive) > 0
    if not (is_target & ~table.is_false_positive).any():
        raise InputError(
            f"none of {len(table.length)} sessions has two kept events in the catalogue, so there is nothing to rank; "
            "lower data.min_item_support, or give more events"
        )
    rows = np.flatnonzero(table.count(is_target))
    rows = rows[np.argsort(table.length[rows], kind="stable")]
    item_index, is_false_positive = table.ragged(table.item_index, table.is_false_positive)

    def batch(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return select_targets(
            tf.gather(item_index, rows).to_tensor(), tf.gather(is_false_positive, rows).to_tensor(), method
        )

    steps = tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)
    return steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def select_inputs(
    item_index: tf.Tensor, is_false_positive: tf.Tensor, method: Method
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A method's inputs and labels: after each input event, the next one, if it is a target.

    Args:
        item_index: <int32>[B, N]; is_false_positive: <bool>[B, N].

    Returns:
        inputs <int32>[B, T], label <int32>[B, T] (PAD_INDEX = nothing to predict) and label_event <int32>[B, T], the
        column in N that the label came from (0 where nothing comes after). The last input event is no input.
    """
    is_input = _is_input(item_index, is_false_positive, method)
    sequence, event = _compact(is_input, item_index, _columns(item_index))
    is_target = ~is_false_positive | (method.targets == "all")
    label, has_next = sequence[:, 1:], sequence[:, 1:] != schema.PAD_INDEX
    label_event = event[:, 1:]
    is_target = has_next & tf.gather(is_target, label_event, batch_dims=1)
    return (
        tf.where(has_next, sequence[:, :-1], schema.PAD_INDEX),
        tf.where(is_target, label, schema.PAD_INDEX),
        label_event,
    )


def select_targets(item_index: tf.Tensor, is_false_positive: tf.Tensor, method: Method) -> dict[str, tf.Tensor]:
    """The ranking batch: targets are the events that come after a kept event.

    Args:
        item_index: <int32>[B, N]; is_false_positive: <bool>[B, N].

    Returns:
        <int32>[B, T] ITEM_INDEX and [B, E] TARGET_INDEX <int32>, TARGET_POSITION <int32>, TARGET_IS_FP <bool>.
    """
    is_input = _is_input(item_index, is_false_positive, method)
    is_kept = (item_index != schema.PAD_INDEX) & ~is_false_positive
    position = tf.cumsum(tf.cast(is_input, tf.int32), axis=1, exclusive=True) - 1
    is_target = (tf.cumsum(tf.cast(is_kept, tf.int32), axis=1, exclusive=True) > 0) & (item_index != schema.PAD_INDEX)
    (inputs,) = _compact(is_input, item_index)
    target, position, is_abandoned = _compact(is_target, item_index, position, is_false_positive)
    return {
        schema.ITEM_INDEX: inputs,
        schema.TARGET_INDEX: target,
        schema.TARGET_POSITION: position,
        schema.TARGET_IS_FP: is_abandoned,
    }


def _before(table: SessionTable, is_counted: np.ndarray) -> np.ndarray:
    """<int64>[all events] how many events before it in its session `is_counted <bool>[all events]` holds for."""
    before = np.cumsum(is_counted) - is_counted
    session_first = np.cumsum(table.length) - table.length
    return (
        before - np.repeat(before[np.minimum(session_first, len(before) - 1)], table.length) if len(before) else before
    )


def _is_input(item_index: tf.Tensor, is_false_positive: tf.Tensor, method: Method) -> tf.Tensor:
    return (item_index != schema.PAD_INDEX) & (~is_false_positive | (method.inputs == "all"))


def _columns(values: tf.Tensor) -> tf.Tensor:
    """<int32>[B, N] the number of each column."""
    return tf.broadcast_to(tf.range(tf.shape(values)[1]), tf.shape(values))


def _compact(mask: tf.Tensor, *values: tf.Tensor) -> Iterator[tf.Tensor]:
    """The values under the mask moved to the left of their rows, right-padded with zeros to the longest."""
    return (tf.ragged.boolean_mask(value, mask).to_tensor() for value in values)
