"""Transformed examples → the sessions of a split as flat arrays: what training and validation batches are cut from.

In: TFRecord files (GZIP) of transformed examples (`schema.py`), one a session. They are parsed once, into ≈ 5 bytes an
event, without events out of the catalogue. Out: a `SessionTable`, for `dataset.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.errors import InputError
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
