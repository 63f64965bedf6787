"""NARM: RecBole's figures, and its equations in NumPy for every option."""

import numpy as np
import pytest
from tower_checks import (
    assert_close,
    assert_positions_are_shortened_sessions,
    assert_recboles_figures,
    build,
    draw_weights,
    golden_items,
    keras_gates,
    load_golden,
    numpy_gru,
    sigmoid,
    weights_of,
)

from fp_tfrs.config import NarmConfig
from fp_tfrs.towers import build_tower
from fp_tfrs.towers.inputs import TowerInputs

VARIANTS = {
    "paper": {},
    "code": {"attention": "softmax", "is_hard_sigmoid": True, "concat": "local_global"},
    "recbole": {"has_gru_bias": False, "is_reset_after": True, "concat": "local_global"},
    "softmax": {"attention": "softmax"},
    "hard_sigmoid": {"is_hard_sigmoid": True},
    "no_bias": {"has_gru_bias": False},
    "reset_after": {"is_reset_after": True},
}


@pytest.fixture(scope="module")
def recbole():
    """RecBole's figures, and item table and tower with its weights."""
    golden, weight = load_golden("narm")
    hidden, dim = len(weight["gru.weight_hh_l0"]), weight["b.weight"].shape[1]
    tower = build(build_tower(NarmConfig(embedding_dim=dim, hidden_dim=hidden, **VARIANTS["recbole"]), seed=0), dim)
    tower.gru.set_weights([keras_gates(weight["gru.weight_ih_l0"]), keras_gates(weight["gru.weight_hh_l0"])])
    tower.key.set_weights([weight["a_1.weight"]])
    tower.query.set_weights([weight["a_2.weight"]])
    tower.energy.set_weights([weight["v_t.weight"]])
    tower.decoder.set_weights([weight["b.weight"]])
    return golden, golden_items(weight), tower


def test_narm_gives_recboles_figures(recbole):
    assert_recboles_figures(*recbole)


def test_narm_at_every_position_is_recboles_last_position_of_the_shortened_session(recbole):
    assert_positions_are_shortened_sessions(*recbole)


def _numpy_narm(config, weights, item_embeddings):
    """NARM's equations, one position after the other, for one session [T, D]."""
    gate = (lambda x: np.clip(0.2 * x + 0.5, 0, 1)) if config.is_hard_sigmoid else sigmoid
    gru, (query,), (key,), (energy,), (decoder,) = weights
    states = numpy_gru(gru, item_embeddings, config.is_reset_after, gate)
    sessions = []
    for t, h in enumerate(states):
        alpha = np.array([(gate(h @ query + past @ key) @ energy)[0] for past in states[: t + 1]])
        if config.attention == "softmax":
            alpha = np.exp(alpha) / np.exp(alpha).sum()
        local = alpha @ states[: t + 1]
        context = [h, local] if config.concat == "global_local" else [local, h]
        sessions.append(np.concatenate(context) @ decoder)
    return np.stack(sessions)


@pytest.mark.parametrize("variant", VARIANTS)
def test_narm_follows_its_equations(variant):
    config = NarmConfig(embedding_dim=4, hidden_dim=5, **VARIANTS[variant])
    tower = build_tower(config, seed=1)
    random = draw_weights(tower, 4)
    item_embeddings = random.normal(size=(2, 6, 4)).astype(np.float32)
    weights = weights_of(tower.gru, tower.query, tower.key, tower.energy, tower.decoder)
    expected = np.stack([_numpy_narm(config, weights, x.astype(np.float64)) for x in item_embeddings])
    assert_close(tower(TowerInputs(item_embeddings, np.full((2, 6), 2, np.int32))).numpy(), expected)
