"""SASRec tower: RecBole's figures, its equations in NumPy, one session after the other, and its limits."""

import math

import numpy as np
import pydantic
import pytest
import tensorflow as tf
from tower_checks import (
    assert_close,
    assert_positions_are_shortened_sessions,
    assert_recboles_figures,
    build,
    draw_weights,
    golden_items,
    load_golden,
    weights_of,
)

from fp_tfrs.config import RunConfig, SasRecConfig
from fp_tfrs.towers import build_tower
from fp_tfrs.towers.inputs import TowerInputs
from fp_tfrs.towers.items import ItemTable

RECBOLE = {"block": "post_norm", "norm_epsilon": 1e-12, "is_embedding_scaled": False}
CODE = {"block": "code", "activation": "relu", "n_heads": 1, "hidden_dim": 6}
VARIANTS = {
    "ours": {},
    "recbole": RECBOLE,
    "code": CODE,
    "code_with_heads": {**CODE, "n_heads": 3},
    "relu": {"activation": "relu"},
    "not_scaled": {"is_embedding_scaled": False},
    "one_layer": {"n_layers": 1},
    "epsilon": {"norm_epsilon": 0.1},
}


@pytest.fixture(scope="module")
def recbole():
    """RecBole's figures, and item table and tower with its weights (a key's bias has no effect, and is not here)."""
    golden, weight = load_golden("sasrec")
    dim, n_positions = weight["position_embedding.weight"].shape
    config = SasRecConfig(embedding_dim=dim, hidden_dim=4 * dim, max_positions=n_positions, **RECBOLE)
    tower = build(build_tower(config, seed=0), dim)
    tower.positions.assign(weight["position_embedding.weight"].T)
    layers = {"LayerNorm": tower.norm}
    for i, block in enumerate(tower.blocks):
        attention, feed_forward = (f"trm_encoder.layer.{i}.{part}" for part in ("multi_head_attention", "feed_forward"))
        block.attention.key.set_weights([weight[f"{attention}.key.weight"]])
        layers |= {
            f"{attention}.query": block.attention.query,
            f"{attention}.value": block.attention.value,
            f"{attention}.dense": block.attention.output_layer,
            f"{attention}.LayerNorm": block.attention_norm,
            f"{feed_forward}.dense_1": block.inner,
            f"{feed_forward}.dense_2": block.outer,
            f"{feed_forward}.LayerNorm": block.feed_forward_norm,
        }
    for name, layer in layers.items():
        layer.set_weights([weight[f"{name}.weight"], weight[f"{name}.bias"]])
    return golden, golden_items(weight), tower


def test_sasrec_gives_recboles_figures(recbole):
    assert_recboles_figures(*recbole)


def test_sasrec_at_every_position_is_recboles_last_position_of_the_shortened_session(recbole):
    assert_positions_are_shortened_sessions(*recbole)


def _numpy_sasrec(config, tower, item_embeddings):
    """SASRec's equations in float64 for one session [T, D] without padding."""

    def dense(layer, x):
        ((kernel, *bias),) = weights_of(layer)
        return x @ kernel + sum(bias)

    def norm(layer, x):
        ((gamma, beta),) = weights_of(layer)
        mean = x.mean(-1, keepdims=True)
        deviation = np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + config.norm_epsilon)
        return gamma * (x - mean) / deviation + beta

    def activate(x):
        if config.activation == "relu":
            return np.maximum(x, 0)
        return x * np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))))(x)

    def attend(layer, queries, keys):
        size = config.embedding_dim // config.n_heads
        query, key, value = dense(layer.query, queries), dense(layer.key, keys), dense(layer.value, keys)
        mixed = np.zeros_like(query)
        for t in range(len(queries)):
            for head in range(config.n_heads):
                part = slice(head * size, (head + 1) * size)
                alpha = np.exp([query[t, part] @ key[j, part] / math.sqrt(size) for j in range(t + 1)])
                mixed[t, part] = alpha / alpha.sum() @ value[: t + 1, part]
        return mixed if layer.output_layer is None else dense(layer.output_layer, mixed)

    x = item_embeddings * (math.sqrt(config.embedding_dim) if config.is_embedding_scaled else 1)
    x = x + tower.positions.numpy()[: len(x)]
    if config.block == "post_norm":
        x = norm(tower.norm, x)
    for block in tower.blocks:

        def feed_forward(y, block=block):
            return dense(block.outer, activate(dense(block.inner, y)))

        if config.block == "post_norm":
            x = norm(block.attention_norm, x + attend(block.attention, x, x))
            x = norm(block.feed_forward_norm, x + feed_forward(x))
        elif config.block == "pre_norm":
            normed = norm(block.attention_norm, x)
            x = x + attend(block.attention, normed, normed)
            x = x + feed_forward(norm(block.feed_forward_norm, x))
        else:  # the normalised queries are also what the residual adds, in both parts
            queries = norm(block.attention_norm, x)
            inner = norm(block.feed_forward_norm, queries + attend(block.attention, queries, x))
            x = inner + feed_forward(inner)
    return x if config.block == "post_norm" else norm(tower.norm, x)


def _small(variant, **values):
    return SasRecConfig(**{"embedding_dim": 6, "hidden_dim": 9, "max_positions": 16, **VARIANTS[variant], **values})


@pytest.mark.parametrize("variant", VARIANTS)
def test_sasrec_follows_its_equations(variant):
    config = _small(variant)
    tower = build_tower(config, seed=1)
    item_embeddings = draw_weights(tower, 6).normal(size=(2, 5, 6)).astype(np.float32)
    inputs = TowerInputs(item_embeddings, np.full((2, 5), 2, np.int32))
    expected = np.stack([_numpy_sasrec(config, tower, x.astype(np.float64)) for x in item_embeddings])
    assert_close(tower(inputs).numpy(), expected, 2e-5)


@pytest.mark.parametrize("variant", ["ours", "recbole", "code"])
def test_a_session_embedding_depends_on_its_own_past_alone(variant):
    items, tower = ItemTable(20, 6, seed=0), build_tower(_small(variant), seed=1)

    def embed(item_index):
        return tower(TowerInputs(items(item_index), item_index)).numpy()

    item_index = np.random.default_rng(2).integers(2, 22, (5, 8)).astype(np.int32)
    item_index[0, 3:] = 0
    item_index[4] = 0
    plain = embed(item_index)
    assert np.isfinite(plain).all() and not plain[4].any() and not plain[0, 3:].any()
    other_future = np.array(item_index)
    other_future[:, 5:] = 3
    assert_close(embed(other_future)[:, :5], plain[:, :5])
    assert_close(embed(np.pad(item_index, [(0, 0), (0, 7)]))[:, :8], plain)
    assert_close(embed(item_index[::-1])[::-1], plain)
    assert_close(embed(item_index[1:2]), plain[1:2])
    for t in range(8):
        assert_close(embed(item_index[:, : t + 1]), plain[:, : t + 1])


def test_the_order_of_items_counts():
    items, tower = ItemTable(20, 6, seed=0), build_tower(_small("ours"), seed=1)
    item_index = np.array([[2, 3, 4], [3, 2, 4]], np.int32)
    first, second = tower(TowerInputs(items(item_index), item_index)).numpy()[:, -1]
    assert np.abs(first - second).max() > 1e-4


@pytest.mark.parametrize("variant", ["ours", "recbole", "code"])
def test_gradients_are_finite_also_for_unknown_items_and_padding(variant):
    items, tower = ItemTable(20, 6, seed=0), build_tower(_small(variant), seed=1)
    item_index = np.array([[1, 1, 2, 0], [0, 0, 0, 0]], np.int32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tower(TowerInputs(items(item_index), item_index))[..., 0])
    by_item, by_position, *others = tape.gradient(
        total, [items.embeddings, tower.positions, *tower.blocks[0].trainable_variables]
    )
    assert all(np.isfinite(gradient).all() for gradient in (by_item, by_position, *others))
    assert by_item[0].numpy().any() and not by_item[1:].numpy().any()
    by_position = tf.convert_to_tensor(by_position).numpy()
    assert by_position[:3].any(-1).all() and not by_position[3:].any(), "padding trains no position"


def test_dropout_acts_in_training_only_and_follows_the_seed():
    items = ItemTable(20, 6, seed=0)
    item_index = np.random.default_rng(2).integers(2, 22, (4, 6)).astype(np.int32)
    inputs = TowerInputs(items(item_index), item_index)
    for variant in ("ours", "recbole", "code"):
        towers = [build_tower(_small(variant, dropout=0.5), seed) for seed in (1, 1, 2)]
        first, second, other = (tower(inputs, training=True).numpy() for tower in towers)
        np.testing.assert_array_equal(first, second)
        assert (first != other).any() and (towers[0](inputs, training=True).numpy() != first).any()
        np.testing.assert_array_equal(towers[0](inputs), towers[1](inputs))


def test_query_key_and_value_start_apart():
    tower = build(build_tower(_small("ours"), seed=1), 6)
    kernels = [w for w in tower.get_weights() if w.shape == (6, 6)]
    assert len(kernels) == 8 and len({kernel.tobytes() for kernel in kernels}) == 8


@pytest.mark.parametrize("is_graph", [False, True])
def test_a_session_beyond_the_last_position_is_refused(is_graph):
    tower = build_tower(_small("ours", max_positions=4), seed=1)

    def call(item_index):
        batch, n_steps = tf.unstack(tf.shape(item_index))
        return tower(TowerInputs(tf.zeros([batch, n_steps, 6]), item_index))

    if is_graph:
        call = tf.function(call, [tf.TensorSpec([None, None], tf.int32)], autograph=False)
    assert call(tf.fill([1, 4], 2)).shape == (1, 4, 6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_positions"):
        call(tf.fill([1, 5], 2))


def test_the_config_says_what_does_not_fit():
    with pytest.raises(pydantic.ValidationError, match="embedding_dim 100 is not a multiple of n_heads 3"):
        SasRecConfig(n_heads=3)
    run = {
        "name": "run",
        "data": {"source": {"format": "csv", "files": ["log.csv"]}, "columns": {"session_id": "session"}},
        "model": {"method": "vanilla", "tower": {"name": "sasrec"}},
    }
    run["data"]["sessions"] = {"max_length": 60}
    with pytest.raises(pydantic.ValidationError, match="max_positions 50 is less than data.sessions.max_length 60"):
        RunConfig.model_validate(run)
    run["model"]["tower"]["max_positions"] = 60
    assert RunConfig.model_validate(run).model.tower.max_positions == 60
