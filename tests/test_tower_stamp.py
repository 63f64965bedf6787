"""STAMP: RecBole's figures, and its equations in NumPy for every option."""

import numpy as np
import pytest
from tower_checks import (
    assert_close,
    assert_positions_are_shortened_sessions,
    assert_recboles_figures,
    build,
    draw_weights,
    golden_items,
    load_golden,
    sigmoid,
    weights_of,
)

from fp_tfrs.config import StampConfig
from fp_tfrs.towers import build_tower
from fp_tfrs.towers.inputs import TowerInputs

VARIANTS = {
    "recbole": {},
    "paper": {"has_added_memory": False},
    "code": {"has_bias": False, "max_norm": 1.5},
}


@pytest.fixture(scope="module")
def recbole():
    """RecBole's figures, and item table and tower with its weights."""
    golden, weight = load_golden("stamp")
    dim = len(weight["b_a"])
    tower = build(build_tower(StampConfig(embedding_dim=dim), seed=0), dim)
    tower.key.set_weights([weight["w1.weight"]])
    tower.query.set_weights([weight["w2.weight"]])
    tower.memory.set_weights([weight["w3.weight"], weight["b_a"]])
    tower.energy.set_weights([weight["w0.weight"]])
    tower.session.set_weights([weight["mlp_a.weight"], weight["mlp_a.bias"]])
    tower.last.set_weights([weight["mlp_b.weight"], weight["mlp_b.bias"]])
    return golden, golden_items(weight), tower


def test_stamp_gives_recboles_figures(recbole):
    assert_recboles_figures(*recbole)


def test_stamp_at_every_position_is_recboles_last_position_of_the_shortened_session(recbole):
    assert_positions_are_shortened_sessions(*recbole)


def _numpy_stamp(config, tower, prefix):
    """STAMP's equations for one prefix [t, D]."""
    parts = weights_of(tower.memory, tower.session, tower.last)
    (w_3, b_a), (w_s, b_s), (w_t, b_t) = parts if config.has_bias else [(kernel, 0) for (kernel,) in parts]
    if config.max_norm:
        prefix = prefix * np.minimum(1, config.max_norm / np.linalg.norm(prefix, axis=-1, keepdims=True))
    (w_1,), (w_2,), (w_0,) = weights_of(tower.key, tower.query, tower.energy)
    last, mean = prefix[-1], prefix.mean(0)
    alpha = [(sigmoid(e @ w_1 + last @ w_2 + mean @ w_3 + b_a) @ w_0)[0] for e in prefix]
    attended = sum(a * e for a, e in zip(alpha, prefix, strict=True))
    if config.has_added_memory:
        attended = attended + mean
    return np.tanh(attended @ w_s + b_s) * np.tanh(last @ w_t + b_t)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stamp_follows_its_equations(variant):
    config = StampConfig(embedding_dim=4, **VARIANTS[variant])
    tower = build_tower(config, seed=1)
    random = draw_weights(tower, 4)
    item_embeddings = random.normal(size=(2, 6, 4)).astype(np.float32)
    expected = [
        [_numpy_stamp(config, tower, session[: t + 1]) for t in range(6)] for session in item_embeddings.astype(float)
    ]
    assert_close(tower(TowerInputs(item_embeddings, np.full((2, 6), 2, np.int32))).numpy(), np.array(expected))
