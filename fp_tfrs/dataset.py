"""Transformed examples → padded batches. The methods differ here only by which events are inputs and targets.

In: TFRecord files (GZIP) of transformed examples (`schema.py`), one a session. They are parsed once, into flat arrays of
≈ 5 bytes an event, without events out of the catalogue. Out: training batches, in a new order each epoch that depends
on (seed, epoch) alone, and ranking batches for validation. The arithmetic of a batch is in pure functions on
`item_index <int32>[B, N]`, `is_false_positive <bool>[B, N]`: N events of a session, oldest first, right-padded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import LossConfig, TrainingConfig
from fp_tfrs.errors import InputError
from fp_tfrs.false_positives import UserFalsePositives, session_false_positives
from fp_tfrs.methods import Method
from fp_tfrs.sessions import Session

_PARSE_BATCH_SIZE = 1024
_FEATURES = {
    schema.SESSION_ID: tf.io.FixedLenFeature([], tf.string),
    schema.USER_ID: tf.io.FixedLenFeature([], tf.string, default_value=""),
    schema.ITEM_INDEX: tf.io.RaggedFeature(tf.int64),
    schema.IS_FALSE_POSITIVE: tf.io.RaggedFeature(tf.int64),
    schema.TIMESTAMP_S: tf.io.RaggedFeature(tf.int64),
}


@dataclasses.dataclass(frozen=True)
class SessionTable:
    """The sessions of a split, ordered by session id; events flat, without those out of the catalogue.

    Attributes:
        session_id, user_id: <object (bytes)>[S]; start_s: <int64>[S], time of the first event.
        length: <int32>[S] events of each session; 0 where no event is in the catalogue.
        item_index: <int32>[all events]; is_false_positive: <bool>[all events].
    """

    session_id: npt.NDArray[np.object_]
    user_id: npt.NDArray[np.object_]
    start_s: np.ndarray
    length: np.ndarray
    item_index: np.ndarray
    is_false_positive: np.ndarray

    @property
    def row(self) -> np.ndarray:
        """<int64>[all events] the session of each event."""
        return np.repeat(np.arange(len(self.length)), self.length)

    def count(self, is_counted: np.ndarray) -> np.ndarray:
        """<int64>[S] events of each session for which `is_counted <bool>[all events]` holds."""
        return np.bincount(self.row, is_counted, len(self.length)).astype(np.int64)

    def count_kept_items(self, n_items: int) -> np.ndarray:
        """<int64>[V] how often each item of the vocabulary was kept."""
        return np.bincount(self.item_index[~self.is_false_positive] - schema.FIRST_ITEM_INDEX, minlength=n_items)

    def raw_sessions(self, vocabulary: Sequence[str], most: int) -> list[Session]:
        """The first `most` sessions with their items' ids."""
        ends = np.cumsum(self.length)[:most]
        return [
            Session(
                self.session_id[row].decode(),
                tuple(vocabulary[index - schema.FIRST_ITEM_INDEX] for index in self.item_index[start:end]),
                tuple(map(bool, self.is_false_positive[start:end])),
            )
            for row, (start, end) in enumerate(zip(ends - self.length[:most], ends, strict=True))
        ]

    def ragged(self) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """item_index <int32>[S, (n)] and is_false_positive <bool>[S, (n)]."""
        lengths = tf.constant(self.length)
        return (
            tf.RaggedTensor.from_row_lengths(self.item_index, lengths),
            tf.RaggedTensor.from_row_lengths(self.is_false_positive, lengths),
        )


def read_sessions(files: Sequence[str]) -> SessionTable:
    """Reads all sessions of a split; the order of files and records makes no difference.

    Raises:
        InputError: no files, an unreadable file, no sessions, or features of unequal length in a session.
    """
    if not files:
        raise InputError("no files of transformed examples; run the Transform step first")
    records = tf.data.TFRecordDataset(sorted(files), compression_type="GZIP").batch(_PARSE_BATCH_SIZE)
    parsed = records.map(lambda record: tf.io.parse_example(record, _FEATURES), num_parallel_calls=tf.data.AUTOTUNE)
    try:
        parts = [_flat(batch) for batch in parsed.prefetch(tf.data.AUTOTUNE)]
    except tf.errors.OpError as error:
        reason = " ".join(str(error.message).split())
        raise InputError(f"transformed examples cannot be read ({reason}); run the Transform step again") from error
    if not parts:
        raise InputError(f"no sessions in {len(files)} files of transformed examples, the first is {files[0]}")
    session_id, user_id, start_s, length, item_index, is_false_positive = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(session_id, kind="stable")
    first = np.cumsum(length) - length
    event = np.repeat(first[order] - (np.cumsum(length[order]) - length[order]), length[order]) + np.arange(
        length.sum()
    )
    is_known = item_index[event] != schema.OOV_INDEX
    row = np.repeat(np.arange(len(order)), length[order])
    return SessionTable(
        session_id[order],
        user_id[order],
        start_s[order],
        np.bincount(row[is_known], minlength=len(order)).astype(np.int32),
        item_index[event][is_known],
        is_false_positive[event][is_known],
    )


def _flat(batch: dict[str, tf.Tensor]) -> tuple[np.ndarray, ...]:
    """A parsed batch as arrays: three a session, its length, two an event."""
    item_index, flags, times = (
        batch[name] for name in (schema.ITEM_INDEX, schema.IS_FALSE_POSITIVE, schema.TIMESTAMP_S)
    )
    length = item_index.row_lengths().numpy()
    for name, other in ((schema.IS_FALSE_POSITIVE, flags), (schema.TIMESTAMP_S, times)):
        wrong = np.flatnonzero(other.row_lengths().numpy() != length)
        if wrong.size:
            session_id = batch[schema.SESSION_ID].numpy()[wrong[0]].decode(errors="replace")
            raise InputError(
                f"session {session_id!r}: {name} has {other.row_lengths()[wrong[0]]} values for {length[wrong[0]]} "
                "events; run the Transform step again"
            )
    return (
        batch[schema.SESSION_ID].numpy(),
        batch[schema.USER_ID].numpy(),
        times[:, :1].to_tensor(shape=[None, 1]).numpy()[:, 0],
        length,
        item_index.flat_values.numpy().astype(np.int32),
        flags.flat_values.numpy().astype(bool),
    )


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
        self._item_index, self._is_false_positive = table.ragged()
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
    item_index, is_false_positive = table.ragged()

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
