"""Session towers: figures of an independent implementation, NumPy re-derivations, and what every tower must hold."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from fp_tfrs.config import NarmConfig
from fp_tfrs.losses import next_item_loss
from fp_tfrs.towers import build_tower
from fp_tfrs.towers.dropout import SeededDropout
from fp_tfrs.towers.inputs import TowerInputs
from fp_tfrs.towers.items import ItemTable

GOLDEN = pathlib.Path(__file__).parent / "golden"
RECBOLE = {"has_gru_bias": False, "is_reset_after": True, "concat": "local_global"}
CODE = {"attention": "softmax", "is_hard_sigmoid": True, "concat": "local_global"}
VARIANTS = {
    "paper": {},
    "code": CODE,
    "recbole": RECBOLE,
    "softmax": {"attention": "softmax"},
    "hard_sigmoid": {"is_hard_sigmoid": True},
    "no_bias": {"has_gru_bias": False},
    "reset_after": {"is_reset_after": True},
}


def _assert_close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def _golden_narm():
    """RecBole's figures, and item table and tower with its weights; its item i has item index i + 1 here."""
    golden = np.load(GOLDEN / "narm.npz")
    weight = {name[2:]: golden[name] for name in golden if name.startswith("w/")}
    hidden, dim = weight["gru.weight_hh_l0"].shape[1], weight["b.weight"].shape[0]
    items = ItemTable(30, dim, seed=0)
    items.embeddings.assign(weight["item_embedding.weight"][1:])
    tower = build_tower(NarmConfig(embedding_dim=dim, hidden_dim=hidden, **RECBOLE), seed=0)
    tower(TowerInputs(tf.zeros([1, 1, dim]), tf.zeros([1, 1], tf.int32)))

    def gates(matrix):  # PyTorch stacks reset, update, new; Keras has update, reset, new
        reset, update, new = np.split(matrix, 3)
        return np.concatenate([update, reset, new]).T

    tower.gru.set_weights([gates(weight["gru.weight_ih_l0"]), gates(weight["gru.weight_hh_l0"])])
    tower.key.set_weights([weight["a_1.weight"].T])
    tower.query.set_weights([weight["a_2.weight"].T])
    tower.energy.set_weights([weight["v_t.weight"].T])
    tower.decoder.set_weights([weight["b.weight"].T])
    return golden, items, tower


def _item_index(item_seq):
    return np.where(item_seq > 0, item_seq + 1, 0).astype(np.int32)


def test_narm_gives_recboles_figures():
    golden, items, tower = _golden_narm()
    item_index, length = _item_index(golden["item_seq"]), golden["item_seq_len"]
    label = np.zeros_like(item_index)
    label[np.arange(len(length)), length - 1] = golden["target"] + 1
    with tf.GradientTape() as tape:
        sessions = tower(TowerInputs(items(item_index), item_index))
        loss = tf.reduce_mean(next_item_loss(sessions, items.item_embeddings(), label))
    last = sessions.numpy()[np.arange(len(length)), length - 1]
    _assert_close(last, golden["session_embedding"])
    _assert_close(last @ items.item_embeddings().numpy().T, golden["scores"][:, 1:])
    _assert_close(loss.numpy(), golden["loss"])
    _assert_close(tape.gradient(loss, items.embeddings).numpy(), golden["grad_item_embedding"][1:])


def test_narm_at_every_position_is_recboles_last_position_of_the_shortened_session():
    golden, items, tower = _golden_narm()
    item_index = _item_index(golden["item_seq"])
    every = tower(TowerInputs(items(item_index), item_index)).numpy()
    for t in range(item_index.shape[1]):
        shortened = np.array(item_index)
        shortened[:, t + 1 :] = 0
        alone = tower(TowerInputs(items(shortened[:, : t + 1]), shortened[:, : t + 1])).numpy()[:, -1]
        _assert_close(every[:, t], alone)
        padded = tower(TowerInputs(items(shortened), shortened)).numpy()
        _assert_close(padded[:, t], alone)
        assert not padded[:, t + 1 :].any(), "padding has no session embedding"


def _numpy_narm(config, weights, item_embeddings):
    """NARM's equations, one position after the other, for one session [T, D]."""

    def sigmoid(x):
        return np.clip(0.2 * x + 0.5, 0, 1) if config.is_hard_sigmoid else 1 / (1 + np.exp(-x))

    gru, (query,), (key,), (energy,), (decoder,) = weights
    kernel, recurrent = (np.split(m, 3, axis=1) for m in gru[:2])
    none = np.zeros((2, 3 * config.hidden_dim))
    bias = (none if len(gru) == 2 else np.stack([gru[2], none[0]]) if gru[2].ndim == 1 else gru[2]).reshape(2, 3, -1)
    h, states, sessions = np.zeros(config.hidden_dim), [], []
    for x in item_embeddings:
        z, r = (sigmoid(x @ kernel[g] + h @ recurrent[g] + bias[0, g] + bias[1, g]) for g in (0, 1))
        if config.is_reset_after:
            new = np.tanh(x @ kernel[2] + bias[0, 2] + r * (h @ recurrent[2] + bias[1, 2]))
        else:
            new = np.tanh(x @ kernel[2] + bias[0, 2] + (r * h) @ recurrent[2])
        h = z * h + (1 - z) * new
        states.append(h)
        alpha = np.array([(sigmoid(h @ query + past @ key) @ energy)[0] for past in states])
        if config.attention == "softmax":
            alpha = np.exp(alpha) / np.exp(alpha).sum()
        local = alpha @ np.stack(states)
        context = [h, local] if config.concat == "global_local" else [local, h]
        sessions.append(np.concatenate(context) @ decoder)
    return np.stack(sessions)


@pytest.mark.parametrize("variant", VARIANTS)
def test_narm_follows_its_equations(variant):
    config = NarmConfig(embedding_dim=4, hidden_dim=5, **VARIANTS[variant])
    tower = build_tower(config, seed=1)
    random = np.random.default_rng(0)
    item_embeddings = random.normal(size=(2, 6, 4)).astype(np.float32)
    item_index = np.full((2, 6), 2, np.int32)
    tower(TowerInputs(item_embeddings, item_index))
    tower.set_weights([random.normal(size=w.shape) for w in tower.get_weights()])
    parts = [tower.gru, tower.query, tower.key, tower.energy, tower.decoder]
    weights = [[w.astype(np.float64) for w in part.get_weights()] for part in parts]
    expected = np.stack([_numpy_narm(config, weights, x.astype(np.float64)) for x in item_embeddings])
    _assert_close(tower(TowerInputs(item_embeddings, item_index)).numpy(), expected)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_a_session_embedding_depends_on_its_own_past_alone(variant):
    config = NarmConfig(embedding_dim=6, hidden_dim=7, **VARIANTS[variant])
    items, tower = ItemTable(20, 6, seed=0), build_tower(config, seed=1)

    def embed(item_index):
        return tower(TowerInputs(items(item_index), item_index)).numpy()

    item_index = np.random.default_rng(2).integers(2, 22, (5, 8)).astype(np.int32)
    item_index[0, 3:] = 0
    item_index[4] = 0
    plain = embed(item_index)
    assert np.isfinite(plain).all() and not plain[4].any()
    other_future = np.array(item_index)
    other_future[:, 5:] = 3
    _assert_close(embed(other_future)[:, :5], plain[:, :5])
    _assert_close(embed(np.pad(item_index, [(0, 0), (0, 7)]))[:, :8], plain)
    _assert_close(embed(item_index[::-1])[::-1], plain)
    _assert_close(embed(item_index[1:2]), plain[1:2])
    _assert_close(embed(item_index[:, :1]), plain[:, :1])


def test_dropout_acts_in_training_only_and_scales_up():
    dropout = SeededDropout(0.25, seed=3)
    ones = tf.ones([400, 100])
    assert dropout(ones) is ones
    dropped = dropout(ones, training=True).numpy()
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert abs((dropped == 0).mean() - 0.25) < 0.01
    assert (dropout(ones, training=True).numpy() != dropped).any()
    np.testing.assert_array_equal(SeededDropout(0.25, seed=3)(ones, training=True), dropped)
    assert not dropout.weights


def test_narm_has_dropout_on_embeddings_and_on_context():
    item_embeddings, item_index = tf.ones([1, 3, 4]), tf.fill([1, 3], 2)
    for name in ("dropout_embedding", "dropout_context"):
        rates = {"dropout_embedding": 0.0, "dropout_context": 0.0, name: 0.5}
        tower = build_tower(NarmConfig(embedding_dim=4, hidden_dim=5, **rates), seed=1)
        first, second = (tower(TowerInputs(item_embeddings, item_index), training=True).numpy() for _ in range(2))
        assert (first != second).any()


def test_item_table_reads_zero_below_the_first_item():
    items = ItemTable(3, 2, seed=0)
    looked_up = items(tf.constant([[0, 1, 2, 4]])).numpy()
    assert not looked_up[0, :2].any()
    np.testing.assert_array_equal(looked_up[0, 2:], items.embeddings.numpy()[[0, 2]])


def test_item_tables_gradient_is_dense_and_adds_up_repeated_items():
    items = ItemTable(3, 2, seed=0)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(items(tf.constant([[4, 0, 4], [1, 3, 4]])))
    gradient = tape.gradient(total, items.embeddings)
    assert isinstance(gradient, tf.Tensor)
    np.testing.assert_array_equal(gradient, [[0, 0], [1, 1], [3, 3]])


def test_the_seed_decides_the_weights():
    def weights(seed):
        tower = build_tower(NarmConfig(embedding_dim=4, hidden_dim=4), seed)
        tower(TowerInputs(tf.zeros([1, 1, 4]), tf.zeros([1, 1], tf.int32)))
        return [w for w in tower.get_weights() if w.any()] + ItemTable(5, 4, seed).get_weights()

    for first, second, other in zip(weights(5), weights(5), weights(6), strict=True):
        np.testing.assert_array_equal(first, second)
        assert (first != other).any()
    query, key = weights(5)[2:4]
    assert (query != key).any()
