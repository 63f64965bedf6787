"""Sessions ↔ raw example files: GZIP TFRecords of `tf.train.Example` with the features of `schema.py`.

In: `Session`s. Out: `<folder>/Split-<split>/sessions-NNNNN-of-MMMMM.gz`, and back.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping

from google.protobuf.message import DecodeError

from fp_tfrs import schema, storage
from fp_tfrs.data import manifest
from fp_tfrs.data.sessions import Session
from fp_tfrs.errors import InputError


def shard_path(split: str, shard: int, n_shards: int) -> str:
    """A shard's path inside its folder."""
    return f"Split-{split}/sessions-{shard:05d}-of-{n_shards:05d}.gz"


def encode_session(
    session: Session, feedback_kinds: Mapping[str, str], has_history: bool = False, has_unclicked: bool = False
) -> bytes:
    """The session as a serialized `tf.train.Example`.

    Args:
      feedback_kinds: `data.columns.feedback`. float becomes a float list, int and bool int64, string bytes.
      has_history, has_unclicked: write the history, and the unclicked items, also where they are empty; without, the
        features are not there.
    """
    import tensorflow as tf

    def bytes_feature(values: Iterable[str]) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode() for value in values]))

    def int_feature(values: Iterable[int]) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=map(int, values)))  # booleans too

    features = {
        schema.SESSION_ID: bytes_feature([session.session_id]),
        schema.USER_ID: bytes_feature([session.user_id]),
        schema.ITEM_ID: bytes_feature(session.item_id),
        schema.TIMESTAMP_S: int_feature(session.timestamp_s),
        schema.IS_FALSE_POSITIVE: int_feature(session.is_false_positive),
    }
    if has_history:
        features[schema.HISTORY_ITEM_ID] = bytes_feature(session.history_item_id)
    if has_unclicked:
        features[schema.UNCLICKED_ITEM_ID] = bytes_feature(item for item, _, _ in session.unclicked)
        features[schema.UNCLICKED_FIRST] = int_feature(first for _, first, _ in session.unclicked)
        features[schema.UNCLICKED_END] = int_feature(end for _, _, end in session.unclicked)
    for name, values in session.feedback.items():
        kind = feedback_kinds[name]
        if kind == "float":
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            features[name] = bytes_feature(values) if kind == "string" else int_feature(values)
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def decode_session(record: bytes) -> Session:
    """The inverse of `encode_session`; booleans come back as 0 and 1, floats with float32's precision.

    Raises:
      ValueError: it is no raw example.
    """
    import tensorflow as tf

    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        raise ValueError("a record is no tf.train.Example") from None

    def texts(name: str) -> tuple[str, ...]:
        return tuple(value.decode() for value in features[name].bytes_list.value)

    def ints(name: str) -> tuple[int, ...]:
        return tuple(features[name].int64_list.value)

    session_id, user_id, item_id = texts(schema.SESSION_ID), texts(schema.USER_ID), texts(schema.ITEM_ID)
    timestamp_s, flags = ints(schema.TIMESTAMP_S), ints(schema.IS_FALSE_POSITIVE)
    unclicked = texts(schema.UNCLICKED_ITEM_ID), ints(schema.UNCLICKED_FIRST), ints(schema.UNCLICKED_END)
    n_events = {len(item_id), len(timestamp_s), len(flags)}
    if (len(session_id), len(user_id), len(n_events), len({*map(len, unclicked)})) != (1, 1, 1, 1) or not item_id:
        raise ValueError("a record has no session and user, or not a value for each event")
    feedback = {}
    for name in sorted(set(features) - set(schema.RESERVED_FEATURES)):
        kind = features[name].WhichOneof("kind")
        if kind is None:
            raise ValueError(f"a record's feature {name!r:.100} has no list of values")
        feedback[name] = texts(name) if kind == "bytes_list" else tuple(getattr(features[name], kind).value)
    return Session(
        session_id=session_id[0],
        user_id=user_id[0],
        item_id=item_id,
        timestamp_s=timestamp_s,
        is_false_positive=tuple(map(bool, flags)),
        feedback=feedback,
        history_item_id=texts(schema.HISTORY_ITEM_ID),
        unclicked=tuple(zip(*unclicked)),
    )


def write_shard(output_dir: str, split: str, shard: int, n_shards: int, records: Iterable[bytes]) -> manifest.Shard:
    """Writes one shard by rename, so that a repeated or broken attempt leaves no half of one under its name."""
    import tensorflow as tf

    path = shard_path(split, shard, n_shards)
    full_path = os.path.join(output_dir, path)
    storage.make_folder(os.path.dirname(full_path))
    attempt = f"{full_path}.{uuid.uuid4().hex}.tmp"
    count = 0
    with tf.io.TFRecordWriter(attempt, "GZIP") as writer:
        for record in records:
            writer.write(record)
            count += 1
    entry = manifest.Shard(
        split=split,
        path=path,
        records=count,
        n_bytes=storage.size(attempt),
        sha256=storage.hash_file(attempt),
    )
    storage.move(attempt, full_path)
    return entry


def read_sessions(output_dir: str, split: str) -> list[Session]:
    """All sessions of a split of a finished folder, in the files' order.

    Raises:
      InputError: the folder is not finished, or a file cannot be read.
    """
    import tensorflow as tf

    sessions: list[Session] = []
    for shard in manifest.read(output_dir).shards:
        if shard.split != split:
            continue
        path = os.path.join(output_dir, shard.path)
        try:
            sessions += map(decode_session, tf.data.TFRecordDataset(path, "GZIP").as_numpy_iterator())
        except (tf.errors.OpError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path} cannot be read ({reason}); run the preprocessing again") from error
    return sessions
