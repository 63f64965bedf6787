"""Losses and adaptive gate: worked examples, NumPy re-derivations, finite differences, degenerate false-positive sets."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from fp_tfrs.config import LossConfig
from fp_tfrs.gate import AdaptiveGate, hard_gate
from fp_tfrs.losses import metric_hinge, pairwise_similarity, reduce_loss, similarity

SIMILARITIES = ("dot", "scaled_dot", "cosine")
OPTIONS = list(itertools.product(SIMILARITIES, ("of_mean", "per_fp"), ("mean", "sum", "softmax")))
GATES = list(itertools.product(("sigmoid", "softmax", "softplus", "linear"), ("figure", "text")))
B, T, M, D = 3, 4, 5, 6


def _batch(seed=0):
    """Session, label and FP embeddings, p(fp) with gaps and one empty set, and positive weights; float64 variables."""
    random = np.random.default_rng(seed)
    probability = random.uniform(0.2, 3, (B, T, M)) * (random.uniform(size=(B, T, M)) < 0.7)
    probability[0, 0] = 0
    shapes = ((B, T, D), (B, T, D), (B, M, D))
    session, label, fp = (tf.Variable(random.normal(size=shape)) for shape in shapes)
    return session, label, fp, tf.constant(probability), tf.Variable(random.uniform(0.1, 2, (B, T, M)))


def _assert_directional_derivative(function, variables, seed=1):
    """The gradient of `function()` with respect to tf.Variables agrees with a central difference along a random line."""
    random = np.random.default_rng(seed)
    with tf.GradientTape() as tape:
        value = function()
    gradient = [tf.convert_to_tensor(g) for g in tape.gradient(value, variables)]
    start = [v.numpy() for v in variables]
    direction = [random.normal(size=v.shape) for v in variables]
    slope = sum(np.sum(g * d) for g, d in zip(gradient, direction, strict=True))

    def value_at(step):
        for variable, origin, d in zip(variables, start, direction, strict=True):
            variable.assign(origin + step * d)
        return function().numpy()

    np.testing.assert_allclose(slope, (value_at(1e-6) - value_at(-1e-6)) / 2e-6, rtol=1e-5, atol=1e-7)


# --- reduction


def test_reduce_loss_worked_example():
    assert reduce_loss(tf.constant([1.0, 2.0, 3.0]), 4, "mean") == 1.5
    assert reduce_loss(tf.constant([1.0, 2.0, 3.0]), 4, "sum") == 6


# --- similarity


def test_similarity_worked_example():
    a, b = tf.constant([3.0, 4.0]), tf.constant([1.0, 0.0])
    for kind, expected in zip(SIMILARITIES, (3, 3 / np.sqrt(2), 0.6), strict=True):
        np.testing.assert_allclose(similarity(a, b, kind), expected, rtol=1e-6)
        assert similarity(a, 0 * b, kind) == 0


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_pairwise_similarity_is_similarity_of_each_pair(kind):
    session, _, fp, _, _ = _batch()
    np.testing.assert_allclose(
        pairwise_similarity(session, fp, kind), similarity(session[:, :, None], fp[:, None], kind), rtol=1e-9
    )


# --- metric hinge


def _numpy_similarity(a, b, kind):
    scale = {"dot": 1, "scaled_dot": np.sqrt(len(a)), "cosine": np.linalg.norm(a) * np.linalg.norm(b)}[kind]
    return a @ b / scale


def _numpy_hinge(session, label, fp, probability, weight, config):
    """Equations 8–11 in words: one position and one false positive after the other."""
    result = np.zeros((B, T))
    for b, t in np.ndindex(B, T):
        members = [m for m in range(M) if probability[b, t, m] > 0]
        if not members:
            continue
        p = np.array([probability[b, t, m] for m in members])
        p /= p.sum()
        w = np.array([weight[b, t, m] for m in members])
        if config.aggregation == "softmax":
            p, w = p * np.exp(w) / (p * np.exp(w)).sum(), np.ones(len(members))
        if config.aggregation == "sum":
            p = p * len(members)
        gap = config.margin - _numpy_similarity(label[b, t], session[b, t], config.similarity)
        if config.hinge == "of_mean":
            mean = sum(p[k] * w[k] * fp[b, m] for k, m in enumerate(members))
            result[b, t] = max(0, gap + _numpy_similarity(mean, session[b, t], config.similarity))
        else:
            distance = [_numpy_similarity(fp[b, m], session[b, t], config.similarity) for m in members]
            result[b, t] = sum(p[k] * max(0, gap + w[k] * d) for k, d in enumerate(distance))
    return result


def test_metric_hinge_worked_example():
    session, label = tf.constant([[[1.0, 0.0]]]), tf.constant([[[2.0, 0.0]]])
    fp, probability = tf.constant([[[3.0, 0.0], [-1.0, 0.0]]]), tf.ones([1, 1, 2])
    for options, expected in (({}, 0), ({"aggregation": "sum"}, 0.5), ({"hinge": "per_fp"}, 0.75)):
        config = LossConfig(margin=0.5, **options)
        assert metric_hinge(session, label, fp, probability, None, config) == expected


@pytest.mark.parametrize("kind, hinge, aggregation", OPTIONS)
def test_metric_hinge_follows_its_equations(kind, hinge, aggregation):
    config = LossConfig(similarity=kind, hinge=hinge, aggregation=aggregation, margin=0.3)
    session, label, fp, probability, weight = _batch()
    expected = _numpy_hinge(*(x.numpy() for x in (session, label, fp, probability, weight)), config)
    assert 0 < (expected > 0).sum() < B * T - 1, "some hinges active, some not"
    np.testing.assert_allclose(metric_hinge(session, label, fp, probability, weight, config), expected, atol=1e-9)
    equal = metric_hinge(session, label, fp, probability, None, config)
    np.testing.assert_array_equal(metric_hinge(session, label, fp, probability, 0 * weight + 1, config), equal)
    np.testing.assert_allclose(metric_hinge(session, label, fp, 2 * probability, None, config), equal, atol=1e-12)
    _assert_directional_derivative(
        lambda: tf.reduce_sum(metric_hinge(session, label, fp, probability, weight, config)),
        [session, label, fp, weight],
    )


def test_hinge_of_mean_is_at_most_the_mean_of_hinges():
    batch = _batch()
    of_mean, per_fp = (metric_hinge(*batch, LossConfig(hinge=hinge)).numpy() for hinge in ("of_mean", "per_fp"))
    assert (of_mean <= per_fp + 1e-12).all() and (of_mean < per_fp - 0.1).any()


def test_hinge_is_zero_once_the_label_is_ahead_by_the_margin():
    session, _, fp, probability, _ = _batch()
    ahead = 100 * session  # D(label, s) = 100‖s‖²
    for kind, margin in (("dot", 1.0), ("scaled_dot", 1.0), ("cosine", 0.0)):
        config = LossConfig(similarity=kind, margin=margin)
        assert not metric_hinge(session, ahead, fp, probability, None, config).numpy().any()


def test_an_active_term_pushes_false_positives_away_from_the_session():
    session, label, fp, probability, _ = _batch()
    config = LossConfig(margin=100.0)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(metric_hinge(session, label, fp, probability, None, config))
    share = probability / tf.maximum(tf.reduce_sum(probability, -1, keepdims=True), 1e-9)
    step = -tape.gradient(total, fp)  # descent: along −s_t, as often as the FP is in a position's set
    np.testing.assert_allclose(step, -np.einsum("btm,btd->bmd", share, session), atol=1e-9)


# --- gates


def _gate(seed=0, **options):
    gate = AdaptiveGate(D, LossConfig(gate_hidden_dim=8, **options), seed=seed, dtype="float64")
    random = np.random.default_rng(seed)
    gate.set_weights([random.normal(size=w.shape) for w in gate.get_weights()])
    return gate


@pytest.mark.parametrize("kind, inputs", GATES)
def test_gate_is_a_perceptron_on_the_concatenated_vectors(kind, inputs):
    session, label, fp, probability, _ = _batch()
    gate = _gate(gate=kind, gate_inputs=inputs)
    weights = gate(session, label, fp, probability)
    session, label, fp, probability = (x.numpy() for x in (session, label, fp, probability))
    kernel, bias, out = (w.numpy() for w in (gate.hidden_kernel, gate.hidden_bias, gate.output_kernel))
    for b, t in np.ndindex(B, T):
        vectors = [session[b, t], label[b, t]] if inputs == "figure" else [session[b, t]]
        hidden = [np.maximum(np.concatenate([*vectors, fp[b, m]]) @ kernel + bias, 0) for m in range(M)]
        z = np.array([(h @ out)[0] for h in hidden])
        is_fp = probability[b, t] > 0
        if kind == "softmax":
            expected = np.exp(z) * is_fp / max((np.exp(z) * is_fp).sum(), 1e-300) * is_fp.sum()
        else:
            z = z + gate.output_bias.numpy()
            expected = {"sigmoid": 1 / (1 + np.exp(-z)), "softplus": np.log1p(np.exp(z)), "linear": z}[kind]
        np.testing.assert_allclose(weights[b, t], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind, inputs", GATES)
def test_gate_and_hinge_together_have_the_right_gradient(kind, inputs):
    session, label, fp, probability, _ = _batch()
    gate = _gate(gate=kind, gate_inputs=inputs)

    def total():
        weight = gate(session, label, fp, probability)
        return tf.reduce_sum(metric_hinge(session, label, fp, probability, weight, LossConfig()))

    _assert_directional_derivative(total, [session, label, fp, *gate.trainable_weights])


def test_gate_gradients():
    session, label, fp, probability, _ = _batch()
    config, gradient, value = LossConfig(margin=100.0), {}, {}
    for mode in ("joint", "stop", "reverse"):
        gate = _gate(gate_gradient=mode)
        with tf.GradientTape() as tape:
            weight = gate(session, label, fp, probability)
            total = tf.reduce_sum(metric_hinge(session, label, fp, probability, weight, config))
        value[mode] = total.numpy()
        gradient[mode] = tape.gradient(total, [session, *gate.weights])
    assert value["joint"] == value["stop"] == value["reverse"]
    assert all(g is None for g in gradient["stop"][1:]) and not _gate(gate_gradient="stop").trainable_weights
    for joint, reverse in zip(gradient["joint"][1:], gradient["reverse"][1:], strict=True):
        assert np.abs(joint).max() > 0
        np.testing.assert_allclose(reverse, -joint)
    np.testing.assert_allclose(gradient["reverse"][0], gradient["stop"][0])
    assert np.abs(gradient["joint"][0] - gradient["stop"][0]).max() > 1e-3


def test_training_lowers_the_weight_of_a_similar_false_positive_and_reversal_raises_it():
    session, label = tf.constant([[[1.0, 0.0]]]), tf.constant([[[0.0, 1.0]]])
    fp, probability = tf.constant([[[2.0, 0.5], [-2.0, 0.5]]]), tf.ones([1, 1, 2])
    change = {}
    for mode in ("joint", "reverse"):
        config = LossConfig(gate_gradient=mode, margin=5.0)
        gate = AdaptiveGate(2, config, seed=1)
        before = gate(session, label, fp, probability)
        with tf.GradientTape() as tape:
            weight = gate(session, label, fp, probability)
            total = tf.reduce_sum(metric_hinge(session, label, fp, probability, weight, config))
        for variable, g in zip(gate.trainable_weights, tape.gradient(total, gate.trainable_weights), strict=True):
            variable.assign_sub(0.1 * g)
        change[mode] = (gate(session, label, fp, probability) - before).numpy()[0, 0]
    similar_less_distant = {mode: c[0] - c[1] for mode, c in change.items()}
    assert similar_less_distant["joint"] < 0 < similar_less_distant["reverse"]


def test_hard_gate_prefers_the_similar_and_has_mean_one_and_no_gradient():
    session, _, fp, probability, _ = _batch()
    with tf.GradientTape() as tape:
        weight = hard_gate(session, fp, probability, LossConfig(gate="hard", gate_temperature=0.5))
    assert tape.gradient(weight, [session, fp]) == [None, None]
    is_fp = probability.numpy() > 0
    distance = np.einsum("btd,bmd->btm", session, fp)
    expected = np.exp(distance / 0.5) * is_fp
    expected *= is_fp.sum(-1, keepdims=True) / np.maximum(expected.sum(-1, keepdims=True), 1e-300)
    np.testing.assert_allclose(weight, expected, rtol=1e-9)


# --- degenerate sets


@pytest.mark.parametrize("kind", ["none", "sigmoid", "softmax", "softplus", "linear", "hard"])
def test_empty_sets_give_no_term_and_no_nan(kind):
    for similarity_kind, hinge, aggregation in OPTIONS:
        config = LossConfig(similarity=similarity_kind, hinge=hinge, aggregation=aggregation, margin=5.0)
        # Padding: all embeddings are zero as well.
        session, label, fp = (tf.zeros(shape) for shape in ((B, T, D), (B, T, D), (B, M, D)))
        gate = AdaptiveGate(D, LossConfig(gate=kind), seed=0) if kind not in ("none", "hard") else None
        with tf.GradientTape() as tape:
            tape.watch([session, label, fp])
            weight, probability = None, tf.zeros((B, T, M))
            if kind == "hard":
                weight = hard_gate(session, fp, probability, config)
            elif gate:
                weight = gate(session, label, fp, probability)
            total = tf.reduce_sum(metric_hinge(session, label, fp, probability, weight, config))
        assert total == 0
        variables = [session, label, fp, *(gate.weights if gate else [])]
        for gradient in tape.gradient(total, variables, unconnected_gradients="zero"):
            assert not gradient.numpy().any()


def test_no_false_positives_at_all_in_a_batch():
    session, label, _, _, _ = _batch()
    none = metric_hinge(
        session, label, tf.zeros((B, 0, D), tf.float64), tf.zeros((B, T, 0), tf.float64), None, LossConfig()
    )
    assert none.shape == (B, T) and not none.numpy().any()
