"""Users: the table's unknown row, its gradient, and each way in which a user joins a session."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tower_checks import assert_close, sigmoid

from fp_tfrs.towers.users import UserConcat, UserTable

KINDS = ("dense", "add", "gate")


def _draw(kind, dim=3, seed=1):
    """The layer with all weights drawn, and inputs of two sessions of 4 and 2 events."""
    random = np.random.default_rng(seed)
    sessions = random.normal(size=(2, 4, dim)).astype(np.float32)
    sessions[1, 2:] = 0
    users = random.normal(size=(2, dim)).astype(np.float32)
    layer = UserConcat(kind, dim, seed)
    layer.set_weights([random.normal(size=w.shape) for w in layer.get_weights()])
    return layer, sessions, users


def test_an_unknown_user_is_the_zero_vector():
    users = UserTable(3, 2, seed=0)
    looked_up = users(tf.constant([0, 1, 3])).numpy()
    assert not looked_up[0].any()
    np.testing.assert_array_equal(looked_up[1:], users.embeddings.numpy()[[0, 2]])
    with pytest.raises(tf.errors.InvalidArgumentError):
        users(tf.constant([4]))


def test_a_users_gradient_is_dense_and_adds_up_repeated_users():
    users = UserTable(3, 2, seed=0)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(users(tf.constant([3, 0, 3, 1])))
    gradient = tape.gradient(total, users.embeddings)
    assert isinstance(gradient, tf.Tensor)
    np.testing.assert_array_equal(gradient, [[1, 1], [0, 0], [2, 2]])


def test_users_follow_the_seed_and_stay_within_their_limits():
    first, second, other = (UserTable(50, 4, seed).embeddings.numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).all() and 0.45 < np.abs(first).max() <= 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_user_concat_follows_its_equations(kind):
    layer, sessions, users = _draw(kind)
    expected = np.zeros_like(sessions, np.float64)
    for b, t in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]:
        s, u = sessions[b, t].astype(np.float64), users[b].astype(np.float64)
        if kind == "add":
            expected[b, t] = s + u
            continue
        kernel, bias = layer.get_weights()
        both = np.concatenate([s, u]) @ kernel + bias
        expected[b, t] = both if kind == "dense" else sigmoid(both) * s + (1 - sigmoid(both)) * u
    assert_close(layer(sessions, users).numpy(), expected)


def test_add_and_gate_of_an_unknown_user():
    for kind, expected in (("add", [2.0, -4.0]), ("gate", [1.0, -2.0])):  # a gate with zero weights is ½
        layer = UserConcat(kind, 2, seed=0)
        layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
        np.testing.assert_array_equal(layer(tf.constant([[[2.0, -4.0]]]), tf.zeros([1, 2])), [[expected]])


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_a_row_depends_on_itself_and_its_user_and_padding_stays_zero(kind, data):
    layer, _, _ = _draw(kind)
    size, steps = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    sessions = random.normal(size=(size, steps, 3)).astype(np.float32)
    is_real = random.random((size, steps)) < 0.7
    sessions[~is_real] = 0
    users = random.normal(size=(size, 3)).astype(np.float32)
    joined = layer(sessions, users).numpy()
    np.testing.assert_array_equal(joined.any(-1), is_real)
    order = random.permutation(size)
    np.testing.assert_allclose(layer(sessions[order], users[order]).numpy(), joined[order], atol=1e-5)
    np.testing.assert_allclose(layer(sessions[:, ::-1], users).numpy(), joined[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(layer(sessions[:1], users[:1]).numpy(), joined[:1], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_session_user_and_weights_learn(kind):
    layer, sessions, users = _draw(kind)
    sessions, users = tf.Variable(sessions), tf.Variable(users)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(sessions, users) ** 2)
    by_session, by_user, *by_weight = tape.gradient(total, [sessions, users, *layer.trainable_variables])
    np.testing.assert_array_equal(by_session.numpy().any(-1), [[1, 1, 1, 1], [1, 1, 0, 0]])
    assert all(np.any(gradient) for gradient in (by_user, *by_weight))
    assert len(by_weight) == (0 if kind == "add" else 2)


def test_the_seed_decides_the_weights():
    first, second, other = (UserConcat("dense", 3, seed).get_weights()[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).all()
