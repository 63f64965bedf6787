"""SR-GNN: RecBole's figures, and its graphs and equations in NumPy, one prefix after the other, for every option."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tower_checks import (
    assert_close,
    assert_positions_are_shortened_sessions,
    assert_recboles_figures,
    build,
    draw_weights,
    golden_items,
    keras_gates,
    load_golden,
    sigmoid,
    weights_of,
)

from fp_tfrs.config import SrGnnConfig
from fp_tfrs.towers import build_tower
from fp_tfrs.towers.inputs import TowerInputs
from fp_tfrs.towers.sr_gnn import weigh_last_visits, weigh_nodes


@pytest.fixture(scope="module")
def recbole():
    """RecBole's figures, and item table and tower with its weights."""
    golden, weight = load_golden("sr_gnn")
    dim = weight["linear_one.weight"].shape[0]
    tower = build(build_tower(SrGnnConfig(embedding_dim=dim), seed=0), dim)
    tower.arrivals.set_weights([weight["gnn.linear_edge_in.weight"], weight["gnn.linear_edge_in.bias"]])
    tower.departures.set_weights([weight["gnn.linear_edge_out.weight"], weight["gnn.linear_edge_out.bias"]])
    tower.query.set_weights([weight["linear_one.weight"], weight["linear_one.bias"] + weight["linear_two.bias"]])
    tower.key.set_weights([weight["linear_two.weight"]])
    tower.energy.set_weights([weight["linear_three.weight"]])
    tower.decoder.set_weights([weight["linear_transform.weight"], weight["linear_transform.bias"]])
    beside = np.concatenate([weight["gnn.b_iah"], weight["gnn.b_ioh"]])
    cell = [
        keras_gates(weight["gnn.w_ih"]),
        keras_gates(weight["gnn.w_hh"]),
        np.stack([keras_gates(weight["gnn.b_ih"] + beside @ weight["gnn.w_ih"]), keras_gates(weight["gnn.b_hh"])]),
    ]
    for part in cell:  # RecBole's z is 1 − z here
        part[..., :dim] *= -1
    tower.cell.set_weights(cell)
    return golden, golden_items(weight), tower


def test_sr_gnn_gives_recboles_figures(recbole):
    assert_recboles_figures(*recbole)


def test_sr_gnn_at_every_position_is_recboles_last_position_of_the_shortened_session(recbole):
    assert_positions_are_shortened_sessions(*recbole)


def _connect(prefix, edge_weight):
    """The prefix's nodes, and its connection matrices A^in and A^out."""
    nodes = sorted(set(prefix))
    count = np.zeros([len(nodes), len(nodes)])
    for source, target in itertools.pairwise(prefix):
        count[nodes.index(source), nodes.index(target)] += 1
    if edge_weight == "once":
        count = np.minimum(count, 1)
    incoming, outgoing = (m / np.maximum(m.sum(1, keepdims=True), 1) for m in (count.T, count))
    return nodes, incoming, outgoing


def _numpy_sr_gnn(config, tower, prefix, item_embeddings):
    """SR-GNN's equations for one prefix: item indices [t], and the embedding of each index."""
    parts = (tower.arrivals, tower.departures, tower.cell, tower.query, tower.key, tower.energy, tower.decoder)
    (w_in, b_in), (w_out, b_out), (w_a, u_h, b_ah), (w_1, c), (w_2,), (w,), (w_4, b) = weights_of(*parts)
    nodes, incoming, outgoing = _connect(prefix, config.edge_weight)
    h = item_embeddings[nodes]
    a = np.concatenate([incoming @ (h @ w_in + b_in), outgoing @ (h @ w_out + b_out)], -1)
    z_a, r_a, n_a = np.split(a @ w_a + b_ah[0], 3, -1)
    z_h, r_h, n_h = np.split(h @ u_h + b_ah[1], 3, -1)
    z, r = sigmoid(z_a + z_h), sigmoid(r_a + r_h)
    n = np.tanh(n_a + r * n_h)
    states = (n + z * (h - n))[[nodes.index(item) for item in prefix]]
    q = sigmoid(states[-1] @ w_1 + states @ w_2 + c) @ w
    return np.concatenate([(q * states).sum(0), states[-1]]) @ w_4 + b


@pytest.mark.parametrize("edge_weight", ["once", "count"])
@settings(deadline=None, max_examples=10)
@given(session=st.lists(st.integers(2, 5), min_size=1, max_size=9))
def test_sr_gnn_follows_its_equations(edge_weight, session):
    config = SrGnnConfig(embedding_dim=4, edge_weight=edge_weight)
    tower = build_tower(config, seed=1)
    table = draw_weights(tower, 4).normal(size=(6, 4))
    item_index = np.array([session + [0] * (9 - len(session))], np.int32)
    sessions = tower(TowerInputs(table[item_index].astype(np.float32), item_index)).numpy()[0]
    expected = [_numpy_sr_gnn(config, tower, session[: t + 1], table) for t in range(len(session))]
    assert_close(sessions[: len(session)], np.stack(expected))


def _rows(session, t, edge_weight="once"):
    """For the nodes of events t and t − 1 in the prefix that ends at t: own, arrivals, departures."""
    weights = weigh_nodes(np.array([session], np.int32), edge_weight)
    return [[part.numpy()[0, row].tolist() for part in weights] for row in (t, len(session) - 1 + t)]


def test_the_papers_example_has_its_connections():
    end, before = _rows([1, 2, 3, 2, 4], 4)
    assert before == [[0, 0.5, 0, 0.5, 0], [0.5, 0, 0.5, 0, 0], [0, 0, 0.5, 0, 0.5]]
    assert end == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0] * 5]
    nodes, _, outgoing = _connect([1, 2, 3, 2, 4], "once")
    assert outgoing[nodes.index(2)].tolist() == [0, 0, 0.5, 0.5]


def test_a_repeated_edge_counts_once_or_each_time():
    session = [2, 3, 2, 3, 2, 4]
    assert _rows(session, 5)[1][2] == [0, 0.5, 0, 0, 0, 0.5]
    assert _rows(session, 5, "count")[1][2] == pytest.approx([0, 1 / 3, 0, 1 / 3, 0, 1 / 3])


def test_a_node_joins_the_marks_of_its_events_and_an_edge_keeps_its_own():
    end, _ = _rows([2, 3, 2], 2)
    assert end == [[0.5, 0, 0.5], [0, 1, 0], [0, 1, 0]]


def test_each_item_is_read_once_as_it_was_left_and_as_often_as_it_occurs():
    weight = weigh_last_visits(np.array([[2, 3, 2, 2]], np.int32)).numpy()[0]
    assert weight.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 2, 0], [0, 1, 0, 3]]
