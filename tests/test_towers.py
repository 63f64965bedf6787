"""What every session tower must hold, and the item table and dropout that they share."""

import typing

import numpy as np
import pytest
import tensorflow as tf
from tower_checks import assert_close, build

from fp_tfrs.config import TowerConfig
from fp_tfrs.towers import TOWERS, build_tower
from fp_tfrs.towers.dropout import SeededDropout
from fp_tfrs.towers.inputs import TowerInputs
from fp_tfrs.towers.items import ItemTable
from fp_tfrs.towers.layer_norm import LayerNorm
from fp_tfrs.towers.sasrec import gelu

DIM = 8
CONFIGS = {kind().name: kind(embedding_dim=DIM) for kind in typing.get_args(typing.get_args(TowerConfig)[0])}


def _dropouts(config):
    return [field for field in type(config).model_fields if field.startswith("dropout")]


def _draw_sessions():
    """`<int32>[5, 8]` item indices of sessions of 8, 3 and no items, some items twice."""
    item_index = np.random.default_rng(2).integers(2, 10, (5, 8)).astype(np.int32)
    item_index[0, 3:] = 0
    item_index[4] = 0
    return item_index


def test_every_tower_has_its_section():
    assert list(CONFIGS) == list(TOWERS)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_session_embedding_depends_on_its_own_past_alone(name):
    items, tower = ItemTable(20, DIM, seed=0), build_tower(CONFIGS[name], seed=1)

    def embed(item_index):
        return tower(TowerInputs(items(item_index), item_index)).numpy()

    item_index = _draw_sessions()
    plain = embed(item_index)
    assert plain.shape == (5, 8, DIM)
    assert np.isfinite(plain).all()
    np.testing.assert_array_equal(plain.any(-1), item_index > 0)
    other_future = np.array(item_index)
    other_future[:, 5:] = 3
    assert_close(embed(other_future)[:, :5], plain[:, :5])
    assert_close(embed(np.pad(item_index, [(0, 0), (0, 7)]))[:, :8], plain)
    assert_close(embed(item_index[::-1])[::-1], plain)
    assert_close(embed(item_index[1:2]), plain[1:2])
    assert_close(embed(item_index[:, :1]), plain[:, :1])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_and_every_past_item_learns(name):
    tower = build(build_tower(CONFIGS[name], seed=1), DIM)
    item_index = np.array([[2, 3, 4, 2, 5, 0]], np.int32)
    item_embeddings = tf.Variable(np.random.default_rng(0).normal(size=(1, 6, DIM)).astype(np.float32))
    with tf.GradientTape() as tape:
        last = tf.reduce_sum(tower(TowerInputs(item_embeddings, item_index))[:, 4] ** 2)
    gradients = tape.gradient(last, [item_embeddings, *tower.trainable_variables])
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)
    np.testing.assert_array_equal(np.any(gradients[0], axis=-1), item_index > 0)
    assert [v.name for v, g in zip(tower.trainable_variables, gradients[1:], strict=True) if not np.any(g)] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_the_seed_decides_the_weights(name):
    def weights(seed):
        tower = build(build_tower(CONFIGS[name], seed), DIM).get_weights()
        return [w for w in tower if w.ndim > 1 and np.ptp(w) > 0] + ItemTable(5, DIM, seed).get_weights()

    for first, second, other in zip(weights(5), weights(5), weights(6), strict=True):
        np.testing.assert_array_equal(first, second)
        assert (first != other).any()
    drawn = [w.tobytes() for w in weights(5)]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("name", "dropout"), [(name, field) for name in CONFIGS for field in _dropouts(CONFIGS[name])])
def test_a_tower_has_each_dropout_in_training_only(name, dropout):
    item_embeddings, item_index = tf.ones([1, 3, DIM]), tf.constant([[2, 3, 2]])
    inputs = TowerInputs(item_embeddings, item_index)
    rates = dict.fromkeys(_dropouts(CONFIGS[name]), 0.0)
    tower = build_tower(CONFIGS[name].model_copy(update={**rates, dropout: 0.5}), seed=1)
    first, second = (tower(inputs, training=True).numpy() for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(tower(inputs), build_tower(CONFIGS[name], seed=1)(inputs))
    without = build_tower(CONFIGS[name].model_copy(update=rates), seed=1)
    np.testing.assert_array_equal(without(inputs, training=True), without(inputs))


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


def test_dropout_of_a_rate_that_is_no_fraction_of_its_levels_keeps_the_mean():
    dropped = SeededDropout(0.3, seed=3)(tf.ones([999, 999]), training=True).numpy()  # an odd number of values
    assert abs((dropped == 0).mean() - 0.3) < 0.002
    assert abs(dropped.mean() - 1) < 0.003
    nothing_left = SeededDropout(0.9999999, seed=3)(tf.ones([10]), training=True)
    assert np.isfinite(nothing_left).all()


@pytest.mark.parametrize(
    ("ours", "keras"),
    [
        (LayerNorm(epsilon=0.01), tf.keras.layers.LayerNormalization(epsilon=0.01)),
        (tf.keras.layers.Activation(gelu), tf.keras.layers.Activation(tf.nn.gelu)),
    ],
)
def test_a_layer_with_a_closed_derivative_is_keras_layer(ours, keras):
    rng = np.random.default_rng(1)
    x, upstream = (tf.constant(rng.normal(1, 3, [4, 5, 6]), tf.float32) for _ in range(2))
    found = []
    for layer in (ours, keras):
        layer(x)
        for k, weight in enumerate(layer.trainable_variables):
            weight.assign(tf.range(1.0, 7) * (k + 1))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        found.append([y, *tape.gradient(y, [x, *layer.trainable_variables], upstream)])
    for got, expected in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
