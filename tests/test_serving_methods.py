"""Validation and serving are two ways to the same ranks: of every method, and of every model that needs more than items."""

import gc

import numpy as np
import pytest
import tensorflow as tf
from test_serving_context import ITEMS, MODELS, POPULARITY, USERS, U, V, draw, run_config

from fp_tfrs import schema
from fp_tfrs.data.session_table import SessionTable
from fp_tfrs.data.sessions import Session
from fp_tfrs.evaluation.targets import list_targets
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.learning.ranking import TargetRanking
from fp_tfrs.methods import METHODS
from fp_tfrs.serving.item_table import pack
from fp_tfrs.serving.recommender import Recommender

GRU4REC = {"name": "gru4rec", "embedding_dim": 8, "hidden_dim": 8}
CONFIGS = {
    **{name: {"method": name, "tower": GRU4REC} for name in METHODS},
    **MODELS,
    "xdm": {"method": "vanilla", "xdm": {}, "tower": MODELS["users_and_histories"]["tower"]},
}


@pytest.fixture(scope="module")
def sessions():
    """Sessions as data preparation cuts them: 6 events and 3 earlier items at most, each of these once; what was shown and
    not clicked before some of the events, or before none."""
    random = np.random.default_rng(12)

    def draw_unclicked(n_events):
        shown = random.choice([*ITEMS, "unknown"], 4, replace=False)
        return tuple((str(item), *sorted(random.integers(0, n_events + 1, 2).tolist())) for item in shown)

    return [
        Session(
            f"s{number:02d}",
            tuple(asked.items[:6]),
            tuple(map(bool, asked.flags[:6])),
            asked.user,
            history_item_id=tuple(dict.fromkeys(asked.history))[:3],
            unclicked=draw_unclicked(len(asked.items[:6])),
        )
        for number, asked in enumerate(draw(60, seed=11))
    ]


def index_of(values, known, first, unknown):
    return [known.index(value) + first if value in known else unknown for value in values]


def table_of(sessions):
    """As `session_table.read_sessions` leaves them: without unknown items."""
    known = [[i in ITEMS for i in s.item_id] for s in sessions]
    items = [[i for i in s.item_id if i in ITEMS] for s in sessions]
    histories = [[i for i in s.history_item_id if i in ITEMS] for s in sessions]
    # Events are numbered anew: what began before an unknown item begins before the next known one.
    entries = [
        [(item, sum(k[:first]), sum(k[:end])) for item, first, end in s.unclicked if item in ITEMS]
        for s, k in zip(sessions, known)
    ]

    def flat(rows):
        return np.array(index_of([i for row in rows for i in row], ITEMS, schema.FIRST_ITEM_INDEX, 1), np.int32)

    return SessionTable(
        session_id=np.array([s.session_id.encode() for s in sessions], object),
        user_id=np.array([s.user_id.encode() for s in sessions], object),
        start_s=np.zeros(len(sessions), np.int64),
        length=np.array([len(row) for row in items], np.int32),
        item_index=flat(items),
        is_false_positive=np.array(
            [fp for s, k in zip(sessions, known) for fp, is_in in zip(s.is_false_positive, k) if is_in]
        ),
        user_index=np.array(index_of([s.user_id for s in sessions], USERS, schema.FIRST_USER_INDEX, 0), np.int32),
        history_index=flat(histories),
        history_length=np.array([len(row) for row in histories], np.int32),
        unclicked_index=flat([[item for item, _, _ in row] for row in entries]),
        unclicked_first=np.array([first for row in entries for _, first, _ in row], np.int32),
        unclicked_end=np.array([end for row in entries for _, _, end in row], np.int32),
        unclicked_length=np.array([len(row) for row in entries], np.int32),
    )


@pytest.mark.matrix
@pytest.mark.parametrize("name", CONFIGS)
def test_validation_and_serving_rank_alike(name, sessions, tmp_path):
    run = run_config(CONFIGS[name])
    has_users = run.model.has_users
    model = SessionModel(run.model, V, 5, POPULARITY, U if has_users else 0)
    random = np.random.default_rng(2)
    model.set_weights([random.normal(0, 0.5, w.shape) if w.dtype == np.float32 else w for w in model.get_weights()])

    ranking = TargetRanking(model, table_of(sessions), run.model, batch_size=16)
    validated = sorted(zip(ranking.column, ranking.is_false_positive, ranking.ranks()))

    for file, ids in (("items", ITEMS), ("users", USERS)):
        (tmp_path / file).write_text("".join(f"{one}\n" for one in ids))
    paths = str(tmp_path / "items"), str(tmp_path / "users") if has_users else None
    table = pack(model.candidates().numpy(), run.serving.item_table)
    recommender = Recommender(model.target_queries, model.seen_offsets, table, POPULARITY, *paths, run, "1")
    targets = list_targets(sessions, ITEMS)
    before = [(targets.sessions[s], n) for s, n in zip(targets.session, targets.position)]
    inputs = {
        "item_id": tf.ragged.constant([s.item_id[:n] for s, n in before]).to_tensor(""),
        "is_false_positive": tf.ragged.constant([[*map(int, s.is_false_positive[:n])] for s, n in before]).to_tensor(),
        "user_id": tf.constant([s.user_id for s, _ in before]),
        "history_item_id": tf.ragged.constant([s.history_item_id for s, _ in before], dtype=tf.string).to_tensor(""),
        "unclicked_item_id": tf.ragged.constant(
            [s.unclicked_before(n) for s, n in before], dtype=tf.string, ragged_rank=1
        ).to_tensor(""),
    }
    inputs["is_false_positive"] = tf.cast(inputs["is_false_positive"], tf.int64)
    taken = {spec: inputs[spec] for spec in recommender.event_specs()}
    served = recommender.rank(target=tf.constant([s.item_id[n] for s, n in before]), **taken)["rank"].numpy()

    assert len(served) > 100 and len(set(served)) > V / 2
    expected = sorted(zip(targets.column, targets.is_false_positive, served))
    assert [row[:2] for row in validated] == [row[:2] for row in expected]
    # A batch's shape decides the last bits of its embeddings, and they an order of near-equals.
    difference = np.abs(np.array([row[2] for row in validated]) - [row[2] for row in expected])
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_each_export_of_a_process_has_its_own_vocabulary(tmp_path):
    """TensorFlow names tables after their files' addresses, and addresses come again."""
    run = run_config(CONFIGS["vanilla"])
    model = SessionModel(run.model, V, 5, POPULARITY, 0)
    table = pack(model.candidates().numpy(), run.serving.item_table)
    for number in range(6):
        items = [f"{item} of {number}" for item in ITEMS]
        (tmp_path / str(number)).write_text("".join(f"{item}\n" for item in items))
        path = str(tmp_path / str(number))
        made = Recommender(model.target_queries, model.seen_offsets, table, POPULARITY, path, None, run, "1")
        answers = made.recommend(tf.constant([items[:2]]), tf.zeros([1, 2], tf.int64))["item_id"].numpy()
        assert {item.decode() for item in answers[0]} <= set(items)
        assert list(made.column_of_item.lookup(tf.constant(items)).numpy()) == list(range(V))
        del made
        gc.collect()
