"""SDM tower: its equations in NumPy for every option, users and histories as inputs, and its limits."""

import numpy as np
import pydantic
import pytest
import tensorflow as tf
from tower_checks import assert_close, sigmoid, weights_of

from fp_tfrs.config import SdmConfig
from fp_tfrs.towers import build_tower
from fp_tfrs.towers.inputs import TowerInputs

B, T, H, D = 4, 6, 5, 8
USERS, HISTORY, CODE = {"has_users": True}, {"has_users": True, "has_history": True}, {"user_attention": "code"}
VARIANTS = {
    "short_term": {},
    "two_layers": {"n_layers": 2},
    "two_layers_plain": {"n_layers": 2, "is_residual": False},
    "one_head": {"n_heads": 1},
    "users": USERS,
    "users_code": {**USERS, **CODE},
    "history": HISTORY,
    "history_code": {**HISTORY, **CODE, "n_layers": 2},
}


def _config(variant, **values):
    return SdmConfig(**{"embedding_dim": D, **VARIANTS[variant], **values})


def _draw_inputs(seed=0):
    """Sessions of 6, 3, 0 and 6 events; histories of 5, 2, 4 and no items; the last user unknown."""
    random = np.random.default_rng(seed)
    item_index, history_index = np.full((B, T), 2, np.int32), np.full((B, H), 2, np.int32)
    for row, (length, n_history) in enumerate([(6, 5), (3, 2), (0, 4), (6, 0)]):
        item_index[row, length:] = 0
        history_index[row, n_history:] = 0
    items, history = (
        (random.normal(size=(*index.shape, D)) * (index > 0)[..., None]).astype(np.float32)
        for index in (item_index, history_index)
    )
    users = random.normal(size=(B, D)).astype(np.float32)
    users[3] = 0
    return TowerInputs(items, item_index, users, history, history_index)


def _tower(config, seed=1):
    """The tower with all weights drawn, biases too."""
    tower = build_tower(config, seed)
    tower(_draw_inputs())
    random = np.random.default_rng(seed)
    tower.set_weights([random.normal(size=w.shape) for w in tower.get_weights()])
    return tower


def _softmax(energy):
    weight = np.exp(energy - np.max(energy))
    return weight / weight.sum()


def _numpy_lstm(weights, inputs):
    kernel, recurrent, bias = weights
    h, c, states = np.zeros(D), np.zeros(D), []
    for x in inputs:
        i, f, new, o = np.split(x @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states)


def _numpy_sdm(config, tower, items, user, history):
    """SDM's equations in float64 for one session [T, D], its user [D] and history [H, D], all without padding."""

    def dense(layer, x):
        ((kernel, *bias),) = weights_of(layer)
        return x @ kernel + sum(bias)

    x = items
    for number, weights in enumerate(weights_of(*tower.lstms)):
        y = _numpy_lstm(weights, x)
        x = x + y if number and config.is_residual else y
    query, key, value = (
        dense(layer, x) for layer in (tower.attention.query, tower.attention.key, tower.attention.value)
    )
    size = D // config.n_heads
    ((gamma, beta),) = weights_of(tower.norm)
    encoded = []
    for t in range(len(x)):
        heads = [
            _softmax(key[: t + 1, h : h + size] @ query[t, h : h + size] / np.sqrt(size)) @ value[: t + 1, h : h + size]
            for h in range(0, D, size)
        ]
        row = x[t] + dense(tower.attention.output_layer, np.concatenate(heads))
        encoded.append(gamma * (row - row.mean()) / np.sqrt(row.var() + 1e-8) + beta)
    is_code, sessions = config.user_attention == "code", []
    for t in range(len(x)):
        past = np.stack(encoded[: t + 1])
        s = past[-1]
        if config.has_users and is_code:
            s = s + _softmax(past @ np.tanh(dense(tower.user_query, user)) / np.sqrt(D)) @ past
        elif config.has_users:
            s = _softmax(past @ user) @ past
        if config.has_history:
            z = np.zeros(D)
            if len(history) and is_code:
                energy = [
                    np.tanh(dense(tower.history_energy, np.concatenate([user, g]))[0]) / np.sqrt(D) for g in history
                ]
                z = _softmax(energy) @ history
            elif len(history):
                z = _softmax(history @ user) @ history
            p = np.tanh(dense(tower.history, z))
            ((kernel, bias),) = weights_of(tower.gate_of_user)
            ((by_session,),) = weights_of(tower.gate_of_session)
            gate = sigmoid(user @ kernel[:D] + p @ kernel[D:] + s @ by_session + bias)
            s = (1 - gate) * p + gate * s
        sessions.append(s)
    return np.stack(sessions)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sdm_follows_its_equations(variant):
    config = _config(variant)
    tower, inputs = _tower(config), _draw_inputs()
    expected = np.zeros((B, T, D))
    for row in range(B):
        n_items, n_history = (np.count_nonzero(index[row]) for index in (inputs.item_index, inputs.history_index))
        if n_items:
            items, history = inputs.item_embeddings[row, :n_items], inputs.history_embeddings[row, :n_history]
            double = (x.astype(np.float64) for x in (items, inputs.user_embeddings[row], history))
            expected[row, :n_items] = _numpy_sdm(config, tower, *double)
    ours = tower(inputs).numpy()
    assert_close(ours, expected)
    np.testing.assert_array_equal(ours.any(-1), inputs.item_index > 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_session_embedding_depends_on_its_own_past_user_and_history_alone(variant):
    tower, inputs = _tower(_config(variant)), _draw_inputs()
    plain = tower(inputs).numpy()
    changed = np.array(inputs.item_embeddings)
    changed[:, 4:] = 9
    assert_close(tower(inputs._replace(item_embeddings=changed)).numpy()[:, :4], plain[:, :4])
    for t in range(T):
        shortened = inputs._replace(
            item_embeddings=inputs.item_embeddings[:, : t + 1], item_index=inputs.item_index[:, : t + 1]
        )
        assert_close(tower(shortened).numpy()[:, t], plain[:, t])

    def widen(x, n_columns):
        return np.pad(x, [(0, 0), (0, n_columns)] + [(0, 0)] * (x.ndim - 2))

    padded = inputs._replace(
        item_embeddings=widen(inputs.item_embeddings, 3),
        item_index=widen(inputs.item_index, 3),
        history_embeddings=widen(inputs.history_embeddings, 4),
        history_index=widen(inputs.history_index, 4),
    )
    assert_close(tower(padded).numpy()[:, :T], plain)
    for rows in ([3, 1, 0, 2], [1], [2, 0]):
        some = TowerInputs(*(x if x is None else x[rows] for x in inputs))
        assert_close(tower(some).numpy(), plain[rows])


def test_users_and_histories_matter_where_the_config_has_them():
    inputs = _draw_inputs()
    other_user = inputs._replace(user_embeddings=inputs.user_embeddings[::-1])
    other_history = inputs._replace(history_embeddings=inputs.history_embeddings * 2)
    for variant, is_user, is_history in (("short_term", 0, 0), ("users", 1, 0), ("history", 1, 1)):
        tower = _tower(_config(variant))
        plain = tower(inputs).numpy()
        assert (tower(other_user).numpy() != plain).any() == bool(is_user)
        assert (tower(other_history).numpy() != plain).any() == bool(is_history)


@pytest.mark.parametrize("attention", ["paper", "code"])
def test_only_real_items_are_history(attention):
    tower, inputs = _tower(_config("history", user_attention=attention)), _draw_inputs()
    none = inputs._replace(history_embeddings=np.zeros((B, 0, D), np.float32), history_index=np.zeros((B, 0), np.int32))
    for index in (0, 1):  # padding, out of vocabulary
        empty = inputs._replace(
            history_embeddings=np.zeros_like(inputs.history_embeddings),
            history_index=np.full_like(inputs.history_index, index),
        )
        assert_close(tower(empty).numpy(), tower(none).numpy())


def test_an_unknown_users_attention_is_the_mean_of_the_past():
    tower, inputs = _tower(_config("users")), _draw_inputs()
    short_term = build_tower(_config("short_term"), seed=1)
    short_term(inputs)
    short_term.set_weights(tower.get_weights())
    steps = short_term(inputs).numpy()[3]
    assert_close(tower(inputs).numpy()[3], np.cumsum(steps, 0) / np.arange(1, T + 1)[:, None])


@pytest.mark.parametrize("variant", VARIANTS)
def test_variables_exist_for_the_parts_in_use_and_learn(variant):
    tower, inputs = _tower(_config(variant)), _draw_inputs()
    sources = [tf.Variable(x) for x in (inputs.item_embeddings, inputs.user_embeddings, inputs.history_embeddings)]
    direction = np.random.default_rng(3).normal(size=(B, T, D)).astype(np.float32)
    with tf.GradientTape() as tape:
        replaced = dict(zip(("item_embeddings", "user_embeddings", "history_embeddings"), sources, strict=True))
        total = tf.reduce_sum(tower(inputs._replace(**replaced)) * direction)
    gradients = tape.gradient(total, [*sources, *tower.trainable_variables])
    by_item, by_user, by_history, *by_weight = gradients
    assert all(gradient is not None and np.isfinite(gradient).all() and np.any(gradient) for gradient in by_weight)
    np.testing.assert_array_equal(np.any(by_item, -1), inputs.item_index > 0)
    config = _config(variant)
    assert np.any(by_user) if config.has_users else by_user is None
    if config.has_history:
        is_read = (inputs.history_index > 0) & (inputs.item_index > 0).any(1, keepdims=True)
        np.testing.assert_array_equal(np.any(by_history, -1), is_read)
    else:
        assert by_history is None


def test_dropout_acts_in_training_only_and_follows_the_seed():
    inputs = _draw_inputs()
    towers = [build_tower(_config("history", dropout=0.5), seed) for seed in (1, 1, 2)]
    first, second, other = (tower(inputs, training=True).numpy() for tower in towers)
    np.testing.assert_array_equal(first, second)
    assert (first != other).any() and (towers[0](inputs, training=True).numpy() != first).any()
    np.testing.assert_array_equal(towers[0](inputs), towers[1](inputs))


def test_no_two_matrices_start_equal():
    tower = build_tower(_config("history_code"), seed=1)
    tower(_draw_inputs())
    kernels = [w.tobytes() for w in tower.get_weights() if w.ndim > 1]
    assert len(kernels) == len(set(kernels)) == 2 * 2 + 4 + 5


def test_inputs_that_lack_what_the_config_has_are_refused():
    inputs = _draw_inputs()
    with pytest.raises(ValueError, match="has_users is true, but the tower's inputs have no user embeddings"):
        build_tower(_config("users"), 1)(inputs._replace(user_embeddings=None))
    with pytest.raises(ValueError, match="has_history is true, but the tower's inputs have no history"):
        build_tower(_config("history"), 1)(inputs._replace(history_embeddings=None))
    alone = TowerInputs(inputs.item_embeddings, inputs.item_index)
    assert build_tower(_config("short_term"), 1)(alone).shape == (B, T, D)


def test_the_config_says_what_does_not_fit():
    with pytest.raises(pydantic.ValidationError, match="has_history needs has_users"):
        SdmConfig(has_history=True)
    with pytest.raises(pydantic.ValidationError, match="embedding_dim 10 is not a multiple of n_heads 4"):
        SdmConfig(embedding_dim=10)
