"""A split's sessions as arrays: what is read back is what was written, session by session, less the unknown items."""

import numpy as np
import pytest
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.data.session_table import read_sessions
from fp_tfrs.data.sessions import Session
from fp_tfrs.errors import InputError

VOCABULARY = [f"item {k}" for k in range(7)]
ALL = {"has_users": True, "has_history": True, "has_satisfaction": True, "has_unclicked": True}


_UNCLICKED = (schema.UNCLICKED_INDEX, schema.UNCLICKED_FIRST, schema.UNCLICKED_END)


def draw_sessions(seed, count=50):
    """Transformed examples as dicts: 1 to 8 events, a third of them out of the catalogue; histories of 0 to 4 items,
    0 to 5 entries of unclicked items."""
    rng = np.random.default_rng(seed)
    drawn = []
    for k in range(count):
        n = int(rng.integers(1, 9))
        satisfaction = rng.normal(size=n).astype(np.float32)
        satisfaction[rng.random(n) < 0.2] = np.nan
        firsts = rng.integers(0, n, rng.integers(0, 6))
        drawn.append(
            {
                schema.SESSION_ID: [f"s{k:03d}".encode()],
                schema.USER_ID: [f"u{k % 5}".encode()],
                schema.USER_INDEX: [k % 5],
                schema.ITEM_INDEX: rng.choice([1, 1, 1, *range(2, 9)], n).tolist(),
                schema.IS_FALSE_POSITIVE: rng.integers(0, 2, n).tolist(),
                schema.TIMESTAMP_S: (1000 + k + np.arange(n)).tolist(),
                schema.HISTORY_INDEX: rng.choice([1, *range(2, 9)], rng.integers(0, 5)).tolist(),
                schema.SATISFACTION: satisfaction.tolist(),
                schema.UNCLICKED_INDEX: rng.choice([1, *range(2, 9)], len(firsts)).tolist(),
                schema.UNCLICKED_FIRST: firsts.tolist(),
                schema.UNCLICKED_END: [int(rng.integers(first, n)) + 1 for first in firsts],
            }
        )
    return drawn


def write(path, sessions, without=()):
    def feature(name, values):
        if name in (schema.SESSION_ID, schema.USER_ID):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if name == schema.SATISFACTION:
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for session in sessions:
            features = {name: feature(name, values) for name, values in session.items() if name not in without}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return str(path)


@pytest.fixture(scope="module")
def sessions():
    return draw_sessions(5)


@pytest.fixture(scope="module")
def files(sessions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    shuffled = [sessions[k] for k in np.random.default_rng(1).permutation(len(sessions))]
    return [write(folder / "b", shuffled[:20]), write(folder / "a", shuffled[20:])]


def _known(session, name):
    return [value for value, item in zip(session[name], session[schema.ITEM_INDEX]) if item != schema.OOV_INDEX]


def _unclicked_before(session):
    """By definition: the unclicked items of each known event, without those out of the catalogue."""
    entries = list(zip(*(session[name] for name in _UNCLICKED)))
    return [
        [item for item, first, end in entries if first <= event < end and item != schema.OOV_INDEX]
        for event, known in enumerate(session[schema.ITEM_INDEX])
        if known != schema.OOV_INDEX
    ]


def test_users_histories_and_satisfaction_are_those_of_each_session(sessions, files):
    table = read_sessions(files, **ALL)
    assert table.user_index.tolist() == [s[schema.USER_INDEX][0] for s in sessions]
    histories = [[i for i in s[schema.HISTORY_INDEX] if i != schema.OOV_INDEX] for s in sessions]
    assert table.ragged_history().to_list() == histories
    for name in (schema.ITEM_INDEX, schema.SATISFACTION):
        (found,) = table.ragged(getattr(table, name))
        for got, session in zip(found, sessions, strict=True):
            np.testing.assert_array_equal(got, _known(session, name))  # NaN equals NaN here
    assert table.position.tolist() == [k for s in sessions for k in range(len(_known(s, schema.ITEM_INDEX)))]
    dtypes = {name: getattr(table, name).dtype for name in ("user_index", "history_index", "history_length")}
    assert set(dtypes.values()) == {np.dtype(np.int32)} and table.satisfaction.dtype == np.float32


def test_each_known_event_keeps_its_unclicked_items_when_unknown_events_are_dropped(sessions, files):
    table = read_sessions(files, **ALL)
    unclicked, first, end = (values.to_list() for values in table.ragged_unclicked())
    for row, session in enumerate(sessions):
        entries = list(zip(unclicked[row], first[row], end[row]))
        expected = _unclicked_before(session)
        assert [[i for i, a, b in entries if a <= event < b] for event in range(len(expected))] == expected
        assert all(0 <= a < b <= len(expected) for _, a, b in entries)  # none is left that goes for no event
    assert sum(map(len, unclicked)) > 50
    assert {values.dtype for values in (table.unclicked_index, table.unclicked_first, table.unclicked_end)} == {
        np.dtype(np.int32)
    }
    raw = table.raw_sessions(VOCABULARY, 30)
    for session, expected in zip(raw, map(_unclicked_before, sessions)):
        for event, items in enumerate(expected):
            assert session.unclicked_before(event) == tuple(VOCABULARY[item - 2] for item in items)


def test_sessions_come_back_with_ids_user_and_history(sessions, files):
    def ids(indices):
        return tuple(VOCABULARY[index - 2] for index in indices if index != schema.OOV_INDEX)

    expected = [
        Session(
            s[schema.SESSION_ID][0].decode(),
            ids(s[schema.ITEM_INDEX]),
            tuple(map(bool, _known(s, schema.IS_FALSE_POSITIVE))),
            s[schema.USER_ID][0].decode(),
            history_item_id=ids(s[schema.HISTORY_INDEX]),
        )
        for s in sessions
    ]
    table = read_sessions(files, **{**ALL, "has_unclicked": False})
    assert table.raw_sessions(VOCABULARY, 30) == expected[:30]
    assert table.raw_sessions(VOCABULARY, 99) == expected
    assert table.raw_sessions(VOCABULARY, 0) == []
    with pytest.raises(
        InputError, match=f"have item .* of a vocabulary of {len(VOCABULARY) - 5}; run the Transform step again"
    ):
        table.raw_sessions(VOCABULARY[:-5], 99)
    assert {s.history_item_id for s in read_sessions(files).raw_sessions(VOCABULARY, 30)} == {()}


def test_what_is_not_asked_for_takes_no_memory(sessions, files):
    table = read_sessions(files)
    n = sum(len(_known(s, schema.ITEM_INDEX)) for s in sessions)
    assert table.item_index.nbytes + table.is_false_positive.nbytes == 5 * n
    assert table.satisfaction is None and table.history_index is None and table.history_length is None
    assert table.user_index.tolist() == [schema.UNKNOWN_USER_INDEX] * len(sessions)
    with pytest.raises(InputError, match=r"no histories; run the pipeline again with data\.history"):
        table.ragged_history()
    with pytest.raises(InputError, match=r"no unclicked items; run the pipeline again with data\.unclicked"):
        table.ragged_unclicked()


@pytest.mark.parametrize("feature", [schema.USER_INDEX, schema.SATISFACTION, *_UNCLICKED])
def test_examples_without_what_is_asked_for_are_refused_by_its_name(feature, sessions, tmp_path):
    path = write(tmp_path / "old", sessions, without=(feature,))
    with pytest.raises(InputError, match=f"{feature}.*run the Transform step again"):
        read_sessions([path], **ALL)
