"""Transformed examples → the sessions of a split as flat arrays: what training and validation batches are cut from.

In: TFRecord files (GZIP) of transformed examples (`schema.py`), one a session. They are parsed once, into ≈ 5 bytes an
event, 4 more with satisfaction, and 4 an item of a history; without items out of the catalogue. Out: a `SessionTable`,
for `dataset.py`.
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
_MORE_FEATURES = {
    schema.USER_INDEX: tf.io.FixedLenFeature([], tf.int64),
    schema.HISTORY_INDEX: tf.io.RaggedFeature(tf.int64),
    schema.SATISFACTION: tf.io.RaggedFeature(tf.float32),
}

# Fields of the table that are put in order, and cut down to known items, in the same way.
_SESSION_FIELDS = ("session_id", "user_id", "start_s", "user_index")
_EVENT_FIELDS = ("item_index", "is_false_positive", "satisfaction")


@dataclasses.dataclass(frozen=True)
class SessionTable:
    """The sessions of a split, ordered by session id; events flat, without those out of the catalogue.

    Attributes:
        session_id, user_id: <object (bytes)>[S]; start_s: <int64>[S], time of the first event.
        length: <int32>[S] events of each session; 0 where no event is in the catalogue.
        item_index: <int32>[all events]; is_false_positive: <bool>[all events].
        user_index: <int32>[S]; UNKNOWN_USER_INDEX everywhere if it was not read.
        history_index: <int32>[all items of histories], each latest first, without those out of the catalogue, and
            history_length: <int32>[S], how many each session has; None if they were not read.
        satisfaction: <float32>[all events], NaN = not measured; None if it was not read.
    """

    session_id: npt.NDArray[np.object_]
    user_id: npt.NDArray[np.object_]
    start_s: np.ndarray
    length: np.ndarray
    item_index: np.ndarray
    is_false_positive: np.ndarray
    user_index: np.ndarray = None  # type: ignore[assignment]  # never None once it is made
    history_index: np.ndarray | None = None
    history_length: np.ndarray | None = None
    satisfaction: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.user_index is None:
            nobody = np.full(len(self.length), schema.UNKNOWN_USER_INDEX, np.int32)
            object.__setattr__(self, "user_index", nobody)

    @property
    def row(self) -> np.ndarray:
        """<int64>[all events] the session of each event."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @property
    def position(self) -> np.ndarray:
        """<int64>[all events] each event's place in its session, from 0."""
        return np.arange(len(self.item_index)) - np.repeat(np.cumsum(self.length) - self.length, self.length)

    def count(self, is_counted: np.ndarray) -> np.ndarray:
        """<int64>[S] events of each session for which `is_counted <bool>[all events]` holds."""
        return np.bincount(self.row, is_counted, len(self.length)).astype(np.int64)

    def count_kept_items(self, n_items: int) -> np.ndarray:
        """<int64>[V] how often each item of the vocabulary was kept."""
        return np.bincount(self.item_index[~self.is_false_positive] - schema.FIRST_ITEM_INDEX, minlength=n_items)

    def raw_sessions(self, vocabulary: Sequence[str], most: int) -> list[Session]:
        """The first `most` sessions with their users' and items' ids."""
        items = _cut(self.item_index, self.length[:most])
        flags = _cut(self.is_false_positive, self.length[:most])
        histories = [self.item_index[:0]] * len(items)
        if self.history_index is not None and self.history_length is not None:
            histories = _cut(self.history_index, self.history_length[:most])

        def ids(indices: np.ndarray) -> tuple[str, ...]:
            return tuple(vocabulary[index - schema.FIRST_ITEM_INDEX] for index in indices)

        return [
            Session(
                self.session_id[row].decode(),
                ids(items[row]),
                tuple(map(bool, flags[row])),
                self.user_id[row].decode(),
                history_item_id=ids(histories[row]),
            )
            for row in range(len(items))
        ]

    def ragged(self, *values: np.ndarray) -> tuple[tf.RaggedTensor, ...]:
        """<…>[all events] arrays such as `item_index`, each as [S, (n)]."""
        lengths = tf.constant(self.length)
        return tuple(tf.RaggedTensor.from_row_lengths(value, lengths) for value in values)

    def ragged_history(self) -> tf.RaggedTensor:
        """<int32>[S, (H)] the sessions' histories, latest first.

        Raises:
            InputError: they were not read.
        """
        if self.history_index is None:
            raise InputError("the examples have no histories; run the pipeline again with data.history")
        return tf.RaggedTensor.from_row_lengths(self.history_index, self.history_length)


def _cut(values: np.ndarray, length: np.ndarray) -> list[np.ndarray]:
    """The values of the first sessions, one array each."""
    return np.split(values[: length.sum()], np.cumsum(length)[:-1]) if len(length) else []


def read_sessions(
    files: Sequence[str], has_users: bool = False, has_history: bool = False, has_satisfaction: bool = False
) -> SessionTable:
    """Reads all sessions of a split; the order of files and records makes no difference.

    Args:
        files: GZIP TFRecords of transformed examples.
        has_users, has_history, has_satisfaction: read USER_INDEX, HISTORY_INDEX, SATISFACTION; what is not read takes
            no memory.

    Raises:
        InputError: no files, an unreadable file, no sessions, or features of unequal length in a session.
    """
    if not files:
        raise InputError("no files of transformed examples; run the Transform step first")
    asked = {schema.USER_INDEX: has_users, schema.HISTORY_INDEX: has_history, schema.SATISFACTION: has_satisfaction}
    features = _FEATURES | {name: feature for name, feature in _MORE_FEATURES.items() if asked[name]}
    records = tf.data.TFRecordDataset(sorted(files), compression_type="GZIP").batch(_PARSE_BATCH_SIZE)
    parsed = records.map(lambda record: tf.io.parse_example(record, features), num_parallel_calls=tf.data.AUTOTUNE)
    try:
        parts = [_flat(batch) for batch in parsed.prefetch(tf.data.AUTOTUNE)]
    except tf.errors.OpError as error:
        reason = " ".join(str(error.message).split())
        raise InputError(f"transformed examples cannot be read ({reason}); run the Transform step again") from error
    if not parts:
        raise InputError(f"no sessions in {len(files)} files of transformed examples, the first is {files[0]}")
    flat = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    order = np.argsort(flat["session_id"], kind="stable")
    event, length = _select_known(order, flat["length"], flat["item_index"])
    fields: dict[str, np.ndarray] = {name: flat[name][order] for name in _SESSION_FIELDS if name in flat}
    fields |= {name: flat[name][event] for name in _EVENT_FIELDS if name in flat}
    if has_history:
        past, fields["history_length"] = _select_known(order, flat["history_length"], flat["history_index"])
        fields["history_index"] = flat["history_index"][past]
    return SessionTable(length=length, **fields)


def _select_known(order: np.ndarray, length: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """<int64> where in the flat `index` the sessions' items are, in the new order and without OOV_INDEX, and <int32>[S]
    how many each session has."""
    first = np.cumsum(length) - length
    ordered = length[order]
    position = np.repeat(first[order] - (np.cumsum(ordered) - ordered), ordered) + np.arange(ordered.sum())
    is_known = index[position] != schema.OOV_INDEX
    row = np.repeat(np.arange(len(order)), ordered)
    return position[is_known], np.bincount(row[is_known], minlength=len(order)).astype(np.int32)


def _flat(batch: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """A parsed batch as arrays, by the table's names: some with a value a session, some with one an event."""
    item_index, times = batch[schema.ITEM_INDEX], batch[schema.TIMESTAMP_S]
    length = item_index.row_lengths().numpy()
    for name in (schema.IS_FALSE_POSITIVE, schema.TIMESTAMP_S, schema.SATISFACTION):
        other = batch.get(name, item_index).row_lengths().numpy()
        wrong = np.flatnonzero(other != length)
        if wrong.size:
            session_id = batch[schema.SESSION_ID].numpy()[wrong[0]].decode(errors="replace")
            raise InputError(
                f"session {session_id!r}: {name} has {other[wrong[0]]} values for {length[wrong[0]]} events; run the "
                "Transform step again"
            )
    flat = {
        "session_id": batch[schema.SESSION_ID].numpy(),
        "user_id": batch[schema.USER_ID].numpy(),
        "start_s": times[:, :1].to_tensor(shape=[None, 1]).numpy()[:, 0],
        "length": length,
        "item_index": item_index.flat_values.numpy().astype(np.int32),
        "is_false_positive": batch[schema.IS_FALSE_POSITIVE].flat_values.numpy().astype(bool),
    }
    if schema.USER_INDEX in batch:
        flat["user_index"] = batch[schema.USER_INDEX].numpy().astype(np.int32)
    if schema.HISTORY_INDEX in batch:
        flat["history_index"] = batch[schema.HISTORY_INDEX].flat_values.numpy().astype(np.int32)
        flat["history_length"] = batch[schema.HISTORY_INDEX].row_lengths().numpy()
    if schema.SATISFACTION in batch:
        flat["satisfaction"] = batch[schema.SATISFACTION].flat_values.numpy()
    return flat
