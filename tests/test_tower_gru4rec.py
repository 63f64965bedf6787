"""GRU4Rec: RecBole's figures, and its equations in NumPy for every option."""

import numpy as np
import pydantic
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
    weights_of,
)

from fp_tfrs.config import Gru4RecConfig
from fp_tfrs.towers import build_tower
from fp_tfrs.towers.inputs import TowerInputs

VARIANTS = {
    "default": {},
    "code": {"has_projection": False, "hidden_dim": 4},
    "two_layers": {"n_layers": 2},
    "no_bias": {"has_gru_bias": False},
    "reset_before": {"is_reset_after": False},
}


@pytest.fixture(scope="module")
def recbole():
    """RecBole's figures, and item table and tower with its weights."""
    golden, weight = load_golden("gru4rec")
    hidden, dim = weight["dense.weight"].shape
    config = Gru4RecConfig(embedding_dim=dim, hidden_dim=hidden, has_gru_bias=False)
    tower = build(build_tower(config, seed=0), dim)
    matrices = weight["gru_layers.weight_ih_l0"], weight["gru_layers.weight_hh_l0"]
    tower.grus[0].set_weights([keras_gates(matrix) for matrix in matrices])
    tower.projection.set_weights([weight["dense.weight"], weight["dense.bias"]])
    return golden, golden_items(weight), tower


def test_gru4rec_gives_recboles_figures(recbole):
    assert_recboles_figures(*recbole)


def test_gru4rec_at_every_position_is_recboles_last_position_of_the_shortened_session(recbole):
    assert_positions_are_shortened_sessions(*recbole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gru4rec_follows_its_equations(variant):
    config = Gru4RecConfig(**{"embedding_dim": 4, "hidden_dim": 5, **VARIANTS[variant]})
    tower = build_tower(config, seed=1)
    random = draw_weights(tower, 4)
    item_embeddings = random.normal(size=(2, 6, 4)).astype(np.float32)
    expected = []
    for states in item_embeddings.astype(np.float64):
        for weights in weights_of(*tower.grus):
            states = numpy_gru(weights, states, config.is_reset_after)
        if config.has_projection:
            ((kernel, bias),) = weights_of(tower.projection)
            states = states @ kernel + bias
        expected.append(states)
    assert_close(tower(TowerInputs(item_embeddings, np.full((2, 6), 2, np.int32))).numpy(), np.stack(expected))


def test_a_state_that_is_the_session_embedding_has_its_dimension():
    with pytest.raises(pydantic.ValidationError, match="needs hidden_dim = embedding_dim, not 5 and 4"):
        Gru4RecConfig(has_projection=False, hidden_dim=5, embedding_dim=4)
