"""Batches against a plain-Python re-derivation of the methods' rules, event by event, on random sessions."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import LossConfig, ModelConfig, TrainingConfig
from fp_tfrs.data import dataset, session_table
from fp_tfrs.errors import InputError
from fp_tfrs.methods import METHODS

VANILLA = ModelConfig(method="vanilla")
TRAINING = TrainingConfig(batch_size=8, length_buckets=(2, 4))


@dataclasses.dataclass
class Clicks:
    """A session as written: (item_index, is_false_positive) events."""

    session_id: str
    events: list[tuple[int, bool]]
    user_id: str = ""
    start_s: int = 0
    unclicked: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)  # (item_index, first, end)

    @property
    def known(self):
        return [event for event in self.events if event[0] != schema.OOV_INDEX]


def _example(session):
    def ints(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def text(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))

    features = {
        schema.SESSION_ID: text(session.session_id),
        schema.USER_ID: text(session.user_id),
        schema.ITEM_INDEX: ints([item for item, _ in session.events]),
        schema.IS_FALSE_POSITIVE: ints([int(flag) for _, flag in session.events]),
        schema.TIMESTAMP_S: ints([session.start_s + k for k in range(len(session.events))]),
        schema.UNCLICKED_INDEX: ints([item for item, _, _ in session.unclicked]),
        schema.UNCLICKED_FIRST: ints([first for _, first, _ in session.unclicked]),
        schema.UNCLICKED_END: ints([end for _, _, end in session.unclicked]),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(path, sessions):
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for session in sessions:
            writer.write(_example(session))
    return str(path)


def random_sessions(seed, count=60, items=9, users=5):
    rng = np.random.default_rng(seed)
    return [
        Clicks(
            f"s{k:03d}",
            [(int(rng.integers(1, items)), bool(rng.random() < 0.45)) for _ in range(rng.integers(1, 11))],
            f"u{rng.integers(users)}",
            int(rng.integers(1000)),
        )
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def sessions():
    return random_sessions(3)


@pytest.fixture(scope="module")
def table(sessions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    return session_table.read_sessions([write(folder / "b", sessions[20:]), write(folder / "a", sessions[:20])])


def _training_rows(table, method, loss=None, seed=5, epoch=0):
    """Every session of an epoch, from its batch, by session id; padding cut off."""
    batches = dataset.TrainingBatches(table, ModelConfig(method=method, loss=loss or LossConfig()), TRAINING, seed)
    rows = {}
    for step, batch in enumerate(batches.epoch(epoch).as_numpy_iterator()):
        for k, session_id in enumerate(batches.session_ids(epoch, step)):
            assert session_id not in rows
            rows[session_id] = {name: values[k] for name, values in batch.items()}
    return rows


def _expected_inputs(session, method):
    """[(input item, label or 0, the label's event)] by the definition of the methods."""
    rows = []
    inputs = [p for p, (_, flag) in enumerate(session.known) if method.inputs != "tp" or not flag]
    for here, after in itertools.pairwise(inputs):
        item, flag = session.known[after]
        rows.append((session.known[here][0], item if method.targets == "all" or not flag else 0, after))
    return rows


@pytest.mark.parametrize("name", ["vanilla", "vanilla_tp_target", "fp_simple"])
def test_each_session_with_a_target_is_there_once_with_the_methods_inputs_and_labels(name, sessions, table):
    rows, method = _training_rows(table, name), METHODS[name]
    expected = {s.session_id: _expected_inputs(s, method) for s in sessions}
    expected = {k: v for k, v in expected.items() if any(label for _, label, _ in v)}
    assert rows.keys() == expected.keys()
    for session_id, steps in expected.items():
        got, padding = rows[session_id], len(rows[session_id][schema.LABEL]) - len(steps)
        assert got[schema.ITEM_INDEX].tolist() == [item for item, _, _ in steps] + [0] * padding
        assert got[schema.LABEL].tolist() == [label for _, label, _ in steps] + [0] * padding
        assert schema.FP_INDEX not in got
    batches = dataset.TrainingBatches(table, ModelConfig(method=name), TRAINING, 5)
    assert batches.n_sessions == len(expected)
    assert batches.n_targets == sum(label != 0 for steps in expected.values() for _, label, _ in steps)


def test_user_scope_draws_max_fp_items_anew_each_epoch_and_alike_for_a_seed(tmp_path):
    abandoned = [(item, True) for item in range(10, 40)]
    table = session_table.read_sessions(
        [write(tmp_path / "a", [Clicks("s1", abandoned, "u"), Clicks("s2", [(2, False), (3, False)], "u")])]
    )
    loss = LossConfig(fp_scope="user", max_fp=6)
    first, again, later = (
        _training_rows(table, "fp_metric", loss, epoch=epoch)["s2"][schema.FP_INDEX].tolist() for epoch in (0, 0, 1)
    )
    assert first == again != later
    assert len(set(first)) == 6 and set(first) <= {item for item, _ in abandoned}


def test_sessions_without_a_user_do_not_share_false_positives(tmp_path):
    table = session_table.read_sessions(
        [write(tmp_path / "a", [Clicks("s1", [(9, True)]), Clicks("s2", [(2, False), (3, False), (8, True)])])]
    )
    row = _training_rows(table, "fp_metric", LossConfig(fp_scope="user"))["s2"]
    assert row[schema.FP_INDEX].tolist() == [8] and row[schema.FP_PROBABILITY].tolist() == [[1.0]]


@pytest.mark.parametrize("name", METHODS)
def test_ranking_targets_are_the_same_for_all_methods_and_each_follows_its_inputs(name, sessions, table):
    method, expected = METHODS[name], []
    for session in sorted(sessions, key=lambda s: (len(s.known), s.session_id)):
        targets = []
        for p, (item, flag) in enumerate(session.known):
            if any(not other for _, other in session.known[:p]):
                before = [i for i, other in session.known[:p] if method.inputs != "tp" or not other]
                targets.append((item, flag, before))
        if targets:
            expected.append(targets)
    got = []
    for batch in dataset.ranking_batches(table, ModelConfig(method=name), 7).as_numpy_iterator():
        for inputs, targets, positions, flags in zip(*(batch[key] for key in _RANKING), strict=True):
            n = np.count_nonzero(targets)
            assert not targets[n:].any()
            got.append(
                [
                    (i, f, inputs[: p + 1].tolist())
                    for i, f, p in zip(targets[:n], flags[:n], positions[:n], strict=True)
                ]
            )
    assert got == expected


def test_a_ranking_batch_has_sessions_of_similar_length(table):
    length, sizes = table.length[dataset.ranked_sessions(table)], []
    for batch in dataset.ranking_batches(table, VANILLA, 7).as_numpy_iterator():
        of_batch, length = np.split(length, [len(batch[schema.TARGET_INDEX])])
        assert of_batch[-1] < 2 * of_batch[0]
        sizes.append(len(of_batch))
    assert not len(length) and max(sizes) == 7


_RANKING = (schema.ITEM_INDEX, schema.TARGET_INDEX, schema.TARGET_POSITION, schema.TARGET_IS_FP)


def test_an_epoch_is_the_same_after_a_restart_and_differs_from_the_next(table, sessions, tmp_path):
    def order(source, seed, epoch):
        batches = dataset.TrainingBatches(source, VANILLA, TRAINING, seed)
        return [batch[schema.ITEM_INDEX].tolist() for batch in batches.epoch(epoch).as_numpy_iterator()]

    shuffled = [sessions[k] for k in np.random.default_rng(0).permutation(len(sessions))]
    other_files = session_table.read_sessions([write(tmp_path / "all", shuffled)])
    assert order(table, 5, 3) == order(other_files, 5, 3)
    assert order(table, 5, 3) != order(table, 5, 4)
    assert order(table, 5, 3) != order(table, 6, 3)


def test_batches_hold_sessions_of_one_length_bucket_and_never_more_than_batch_size(table):
    batches = dataset.TrainingBatches(table, VANILLA, TRAINING, 5)
    sizes = []
    for batch in batches.epoch(0).as_numpy_iterator():
        lengths = np.count_nonzero(batch[schema.ITEM_INDEX], axis=1)
        assert len({int(np.searchsorted(TRAINING.length_buckets, n)) for n in lengths}) == 1
        assert batch[schema.ITEM_INDEX].shape[1] == lengths.max()
        sizes.append(len(lengths))
    assert max(sizes) == TRAINING.batch_size and sum(sizes) == batches.n_sessions


@pytest.mark.parametrize("scope", ["session", "user"])
def test_epochs_come_one_after_the_other_as_each_would_alone_in_batches_of_any_shape(scope, table):
    config = ModelConfig(method="fp_metric", loss=LossConfig(fp_scope=scope))
    batches = dataset.TrainingBatches(table, config, TRAINING, 5)
    assert batches.epochs(0).element_spec[schema.ITEM_INDEX].shape.as_list() == [None, None]
    expected = [batch for epoch in (1, 2, 3) for batch in batches.epoch(epoch).as_numpy_iterator()]
    found = batches.epochs(1).take(3 * batches.n_steps).as_numpy_iterator()
    for got, want in zip(found, expected, strict=True):
        assert got.keys() == want.keys()
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])


def test_a_table_gives_back_its_sessions_with_item_ids_and_counts_what_was_kept(sessions, table):
    vocabulary = [f"item {k}" for k in range(9)]
    expected = [
        (s.session_id, tuple(vocabulary[item - 2] for item, _ in s.known), tuple(flag for _, flag in s.known))
        for s in sessions[:30]
    ]
    assert [(s.session_id, s.item_id, s.is_false_positive) for s in table.raw_sessions(vocabulary, 30)] == expected
    kept = [item for s in sessions for item, flag in s.known if not flag]
    assert table.count_kept_items(9).tolist() == [kept.count(k + 2) for k in range(9)]


def test_a_batch_without_any_false_positive_keeps_one_empty_column(tmp_path):
    table = session_table.read_sessions([write(tmp_path / "a", [Clicks("s", [(2, False), (3, False)])])])
    for scope in ("session", "session_prefix", "user"):
        row = _training_rows(table, "fp_metric", LossConfig(fp_scope=scope))["s"]
        assert row[schema.FP_INDEX].tolist() == [0] and row[schema.FP_PROBABILITY].tolist() == [[0.0]]


def test_unusable_files_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="no files"):
        session_table.read_sessions([])
    (tmp_path / "broken").write_bytes(b"\x1f\x8b no gzip at all")
    with pytest.raises(InputError, match="cannot be read"):
        session_table.read_sessions([str(tmp_path / "broken")])
    with pytest.raises(InputError, match="no sessions"):
        session_table.read_sessions([write(tmp_path / "empty", [])])
    table = session_table.read_sessions(
        [write(tmp_path / "short", [Clicks("s", [(2, False), (schema.OOV_INDEX, False)])])]
    )
    with pytest.raises(InputError, match="anything to predict"):
        dataset.TrainingBatches(table, VANILLA, TRAINING, 5)
    with pytest.raises(InputError, match="nothing to rank"):
        dataset.ranking_batches(table, VANILLA, 8)


def _with_unclicked(sessions, seed):
    """The sessions with up to 6 entries each, in a third of them none."""
    rng = np.random.default_rng(seed)
    drawn = []
    for session in sessions:
        n = len(session.events)
        firsts = rng.integers(0, n, rng.choice([0, 3, 6]))
        entries = [(int(rng.integers(1, 30)), int(first), int(rng.integers(first, n)) + 1) for first in firsts]
        drawn.append(dataclasses.replace(session, unclicked=entries))
    return drawn


def _listed(session, place):
    """By definition: the unclicked items of the session's known event in that place."""
    event = [k for k, (item, _) in enumerate(session.events) if item != schema.OOV_INDEX][place]
    return [item for item, first, end in session.unclicked if first <= event < end and item != schema.OOV_INDEX]


def _lists(batch):
    """Session → position → its unclicked items; padding is in no list."""
    index, is_listed = batch[schema.UNCLICKED_INDEX], batch[schema.IS_UNCLICKED]
    assert not is_listed[np.broadcast_to((index == schema.PAD_INDEX)[:, None], is_listed.shape)].any()
    return [[items[mask].tolist() for mask in masks] for items, masks in zip(index, is_listed, strict=True)]


@pytest.mark.parametrize("name", ["vanilla", "vanilla_tp_target", "fp_simple"])
def test_each_label_and_each_target_has_the_unclicked_items_before_it(name, sessions, tmp_path):
    sessions = {s.session_id: s for s in _with_unclicked(sessions, 4)}
    table = session_table.read_sessions([write(tmp_path / "a", sessions.values())], has_unclicked=True)
    config, method = ModelConfig(method=name, xdm={}), METHODS[name]
    batches = dataset.TrainingBatches(table, config, TRAINING, 5)
    for step, batch in enumerate(batches.epoch(0).as_numpy_iterator()):
        found, label = _lists(batch), batch[schema.LABEL]
        assert batch[schema.UNCLICKED_INDEX].dtype == np.int32 and batch[schema.IS_UNCLICKED].shape[:2] == label.shape
        for row, session_id in enumerate(batches.session_ids(0, step)):
            steps = _expected_inputs(sessions[session_id], method)
            expected = [_listed(sessions[session_id], after) if item else [] for _, item, after in steps]
            assert found[row] == expected + [[]] * (label.shape[1] - len(steps))
    rows = [sessions[table.session_id[row].decode()] for row in dataset.ranked_sessions(table)]
    for batch in dataset.ranking_batches(table, config, 8).as_numpy_iterator():
        for found, targets in zip(_lists(batch), batch[schema.TARGET_INDEX], strict=True):
            session = rows.pop(0)
            first = next(place for place, (_, is_fp) in enumerate(session.known) if not is_fp) + 1
            expected = [_listed(session, place) for place in range(first, len(session.known))]
            assert found == expected + [[]] * (len(targets) - len(expected))
    assert not rows


def test_a_batch_without_unclicked_items_has_one_column_of_padding_and_one_without_xdm_none(sessions, table, tmp_path):
    with_none = session_table.read_sessions([write(tmp_path / "a", sessions)], has_unclicked=True)
    (batch, *_) = dataset.ranking_batches(with_none, ModelConfig(xdm={}), 8).as_numpy_iterator()
    assert batch[schema.IS_UNCLICKED].shape == (*batch[schema.TARGET_INDEX].shape, 1)
    assert not batch[schema.UNCLICKED_INDEX].any() and not batch[schema.IS_UNCLICKED].any()
    (batch, *_) = dataset.ranking_batches(table, VANILLA, 8).as_numpy_iterator()
    assert schema.UNCLICKED_INDEX not in batch
