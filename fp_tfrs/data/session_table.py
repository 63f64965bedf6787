"""Transformed examples → the sessions of a split as flat arrays: what training and validation batches are cut from.

In: TFRecord files (GZIP) of transformed examples (`schema.py`), one a session. They are parsed once, into ≈ 5 bytes an
event, 4 more with satisfaction, 4 an item of a history, and 12 an entry of unclicked items; without items out of the
catalogue. Out: a `SessionTable`, for `dataset.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf.message import DecodeError

from fp_tfrs import schema
from fp_tfrs.config import ModelConfig
from fp_tfrs.data.sessions import Session
from fp_tfrs.errors import InputError

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
_UNCLICKED_FEATURES = {
    schema.UNCLICKED_INDEX: tf.io.RaggedFeature(tf.int64),
    schema.UNCLICKED_FIRST: tf.io.RaggedFeature(tf.int64),
    schema.UNCLICKED_END: tf.io.RaggedFeature(tf.int64),
}

# What indices and positions are at least; at most they are what an int32 holds.
_LEAST = {
    schema.ITEM_INDEX: schema.OOV_INDEX,
    schema.USER_INDEX: 0,
    schema.HISTORY_INDEX: schema.OOV_INDEX,
    schema.UNCLICKED_INDEX: schema.OOV_INDEX,
    schema.UNCLICKED_FIRST: 0,
    schema.UNCLICKED_END: 0,
}

# Fields of the table that are put in order, and cut down to known items, in the same way.
_SESSION_FIELDS = ("session_id", "user_id", "start_s", "user_index")
_EVENT_FEATURES = (schema.IS_FALSE_POSITIVE, schema.TIMESTAMP_S, schema.SATISFACTION)
_EVENT_FIELDS = ("item_index", "is_false_positive", "satisfaction")
_UNCLICKED_FIELDS = tuple(_UNCLICKED_FEATURES)  # the features' names are the table's


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
        unclicked_index: <int32>[all entries], an item that counts as unclicked for the session's events unclicked_first
            <int32>[all entries] ≤ position < unclicked_end <int32>[all entries], those of an event last shown first, and
            unclicked_length: <int32>[S], how many each session has; None if they were not read.
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
    unclicked_index: np.ndarray | None = None
    unclicked_first: np.ndarray | None = None
    unclicked_end: np.ndarray | None = None
    unclicked_length: np.ndarray | None = None

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
        """The first `most` sessions with their users' and items' ids.

        Raises:
            InputError: an index beyond the vocabulary.
        """
        items = _cut(self.item_index, self.length[:most])
        flags = _cut(self.is_false_positive, self.length[:most])
        histories = [self.item_index[:0]] * len(items)
        if self.history_index is not None and self.history_length is not None:
            histories = _cut(self.history_index, self.history_length[:most])
        entries = [[self.item_index[:0]] * len(items)] * len(_UNCLICKED_FIELDS)
        if self.unclicked_index is not None and self.unclicked_length is not None:
            length = self.unclicked_length[:most]
            entries = [_cut(getattr(self, name), length) for name in _UNCLICKED_FIELDS]
        unclicked, first, end = entries

        def ids(indices: np.ndarray) -> tuple[str, ...]:
            place = indices.max(initial=0) - schema.FIRST_ITEM_INDEX
            if place >= len(vocabulary):
                raise InputError(
                    f"the transformed examples have item {place + 1} of a vocabulary of {len(vocabulary)}; run the Transform "
                    "step again"
                )
            return tuple(vocabulary[index - schema.FIRST_ITEM_INDEX] for index in indices)

        return [
            Session(
                self.session_id[row].decode(errors="replace"),
                ids(items[row]),
                tuple(map(bool, flags[row])),
                self.user_id[row].decode(errors="replace"),
                history_item_id=ids(histories[row]),
                unclicked=tuple(zip(ids(unclicked[row]), first[row].tolist(), end[row].tolist())),
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

    def ragged_unclicked(self) -> tuple[tf.RaggedTensor, ...]:
        """<int32>[S, (U)] each, the entries of the sessions: unclicked_index, unclicked_first, unclicked_end.

        Raises:
            InputError: they were not read.
        """
        if self.unclicked_index is None:
            raise InputError("the examples have no unclicked items; run the pipeline again with data.unclicked")
        lengths = tf.constant(self.unclicked_length)
        return tuple(tf.RaggedTensor.from_row_lengths(getattr(self, name), lengths) for name in _UNCLICKED_FIELDS)


def _cut(values: np.ndarray, length: np.ndarray) -> list[np.ndarray]:
    """The values of the first sessions, one array each."""
    return np.split(values[: length.sum()], np.cumsum(length)[:-1]) if len(length) else []


def read_sessions(
    files: Sequence[str],
    has_users: bool = False,
    has_history: bool = False,
    has_satisfaction: bool = False,
    has_unclicked: bool = False,
) -> SessionTable:
    """Reads all sessions of a split; the order of files and records makes no difference.

    Args:
        files: GZIP TFRecords of transformed examples.
        has_users, has_history, has_satisfaction, has_unclicked: read USER_INDEX, HISTORY_INDEX, SATISFACTION, and
            UNCLICKED_INDEX with the events it goes for; what is not read takes no memory.

    Raises:
        InputError: no files, an unreadable file, no sessions, features of unequal length in a session, or examples
            without what is asked for.
    """
    if not files:
        raise InputError("no files of transformed examples; run the Transform step first")
    asked = {schema.USER_INDEX: has_users, schema.HISTORY_INDEX: has_history, schema.SATISFACTION: has_satisfaction}
    features = _FEATURES | {name: feature for name, feature in _MORE_FEATURES.items() if asked[name]}
    if has_unclicked:
        features |= _UNCLICKED_FEATURES
    records = tf.data.TFRecordDataset(sorted(files), compression_type="GZIP").batch(_PARSE_BATCH_SIZE)
    parsed = records.map(lambda record: tf.io.parse_example(record, features), num_parallel_calls=tf.data.AUTOTUNE)
    try:
        if has_unclicked:
            _check_unclicked(next(records.unbatch().as_numpy_iterator(), b""))
        parts = [_flat(batch) for batch in parsed.prefetch(tf.data.AUTOTUNE)]
    except (tf.errors.OpError, DecodeError, UnicodeDecodeError) as error:  # TensorFlow's message may hold any bytes
        reason = " ".join(str(error).split())
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
    if has_unclicked:
        index = _renumber_events(flat)
        entry, fields["unclicked_length"] = _select_known(order, flat["unclicked_length"], index)
        fields |= {name: flat[name][entry] for name in _UNCLICKED_FIELDS}
    return SessionTable(length=length, **fields)


def read_for_model(files: Sequence[str], config: ModelConfig) -> SessionTable:
    """`read_sessions` with what the model learns from; raises as that does."""
    return read_sessions(
        files,
        has_users=config.has_users,
        has_history=config.has_history,
        has_satisfaction=config.uses_satisfaction,
        has_unclicked=config.has_unclicked,
    )


def _check_unclicked(record: bytes) -> None:
    """To the parser a feature that is missing is an empty list, which is what most sessions of some logs have."""
    if record and schema.UNCLICKED_INDEX not in tf.train.Example.FromString(record).features.feature:
        raise InputError(
            f"the examples have no {schema.UNCLICKED_INDEX}; run the Transform step again with data.unclicked"
        )


def _renumber_events(flat: dict[str, np.ndarray]) -> np.ndarray:
    """Makes the entries' events count known ones only; returns <int32>[all entries] their items, OOV_INDEX where no
    event is left."""
    known_before = np.concatenate([[0], np.cumsum(flat["item_index"] != schema.OOV_INDEX)])
    session_first = np.repeat(np.cumsum(flat["length"]) - flat["length"], flat["unclicked_length"])
    n_events = np.repeat(flat["length"], flat["unclicked_length"])
    if np.any(flat[schema.UNCLICKED_FIRST] > n_events) or np.any(flat[schema.UNCLICKED_END] > n_events):
        raise InputError(
            f"{schema.UNCLICKED_FIRST} or {schema.UNCLICKED_END} is beyond its session's events; run the Transform step again"
        )
    for name in (schema.UNCLICKED_FIRST, schema.UNCLICKED_END):
        before = known_before[session_first + flat[name]] - known_before[session_first]
        flat[name] = before.astype(np.int32)
    is_left = flat[schema.UNCLICKED_FIRST] < flat[schema.UNCLICKED_END]
    return np.where(is_left, flat[schema.UNCLICKED_INDEX], schema.OOV_INDEX)


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
    for name, least in _LEAST.items():
        if name in batch:
            _check_range(batch, name, least)
    item_index, times = batch[schema.ITEM_INDEX], batch[schema.TIMESTAMP_S]
    length = _check_lengths(batch, schema.ITEM_INDEX, _EVENT_FEATURES)
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
    if schema.UNCLICKED_INDEX in batch:
        flat["unclicked_length"] = _check_lengths(batch, schema.UNCLICKED_INDEX, _UNCLICKED_FEATURES)
        flat |= {name: batch[name].flat_values.numpy().astype(np.int32) for name in _UNCLICKED_FIELDS}
    return flat


def _check_range(batch: dict[str, tf.Tensor], name: str, least: int) -> None:
    values = batch[name]
    values = (values.flat_values if isinstance(values, tf.RaggedTensor) else values).numpy()
    wrong = values[(values < least) | (values > np.iinfo(np.int32).max)]
    if wrong.size:
        raise InputError(f"{name} has the value {wrong[0]}, which is none; run the Transform step again")


def _check_lengths(batch: dict[str, tf.Tensor], of: str, others: Iterable[str]) -> np.ndarray:
    """<int64>[sessions of the batch] how many values the feature `of` has; those of the others must be as many."""
    length = batch[of].row_lengths().numpy()
    for name in others:
        other = batch.get(name, batch[of]).row_lengths().numpy()
        wrong = np.flatnonzero(other != length)
        if wrong.size:
            session_id = batch[schema.SESSION_ID].numpy()[wrong[0]].decode(errors="replace")
            raise InputError(
                f"session {session_id!r}: {name} has {other[wrong[0]]} values for {length[wrong[0]]} of {of}; run the "
                "Transform step again"
            )
    return length
