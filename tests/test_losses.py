"""The metric hinge, and the loss of every term: worked examples, NumPy re-derivations, finite differences, degenerate sets."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from derivatives import B, D, M, T, assert_directional_derivative, directional_error, random_batch

from fp_tfrs import schema
from fp_tfrs.config import LossConfig, ModelConfig
from fp_tfrs.learning.losses import metric_hinge, pairwise_similarity, reduce_loss, similarity
from fp_tfrs.learning.next_item import NextItemLoss
from fp_tfrs.learning.task import FalsePositiveTask

SIMILARITIES = ("dot", "scaled_dot", "cosine")
V = 15
TERMS = ["fp_metric", "fp_adametric", "fp_softmax", "not_to_recommend", "fp_contrastive", "fp_n_pair", "soft_labels"]
OPTIONS = [
    options
    for options in itertools.product(SIMILARITIES, ("of_mean", "per_fp"), ("mean", "sum", "softmax"))
    if options != ("cosine", "of_mean", "sum")  # which is the mean, and refused
]


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
    session, _, fp, _, _ = random_batch()
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
    session, label, fp, probability, weight = random_batch()
    expected = _numpy_hinge(*(x.numpy() for x in (session, label, fp, probability, weight)), config)
    assert 0 < (expected > 0).sum() < B * T - 1, "some hinges active, some not"
    np.testing.assert_allclose(metric_hinge(session, label, fp, probability, weight, config), expected, atol=1e-9)
    equal = metric_hinge(session, label, fp, probability, None, config)
    np.testing.assert_array_equal(metric_hinge(session, label, fp, probability, 0 * weight + 1, config), equal)
    np.testing.assert_allclose(metric_hinge(session, label, fp, 2 * probability, None, config), equal, atol=1e-12)
    assert_directional_derivative(
        lambda: tf.reduce_sum(metric_hinge(session, label, fp, probability, weight, config)),
        [session, label, fp, weight],
    )


@pytest.mark.parametrize("kind, hinge, aggregation", OPTIONS)
def test_hinge_never_falls_as_the_margin_grows(kind, hinge, aggregation):
    for seed in range(5):
        batch = random_batch(seed)
        margins = sorted(np.random.default_rng(seed).uniform(0, 5, 4))
        configs = [LossConfig(similarity=kind, hinge=hinge, aggregation=aggregation, margin=m) for m in (0, *margins)]
        terms = [metric_hinge(*batch, config).numpy() for config in configs]
        assert (np.diff(terms, axis=0) >= 0).all() and (terms[-1] > terms[0]).any()


def test_hinge_of_mean_is_at_most_the_mean_of_hinges():
    batch = random_batch()
    of_mean, per_fp = (metric_hinge(*batch, LossConfig(hinge=hinge)).numpy() for hinge in ("of_mean", "per_fp"))
    assert (of_mean <= per_fp + 1e-12).all() and (of_mean < per_fp - 0.1).any()


def test_hinge_is_zero_once_the_label_is_ahead_by_the_margin():
    session, _, fp, probability, _ = random_batch()
    ahead = 100 * session  # D(label, s) = 100‖s‖²
    for kind, margin in (("dot", 1.0), ("scaled_dot", 1.0), ("cosine", 0.0)):
        config = LossConfig(similarity=kind, margin=margin)
        assert not metric_hinge(session, ahead, fp, probability, None, config).numpy().any()


def test_an_active_term_pushes_false_positives_away_from_the_session():
    session, label, fp, probability, _ = random_batch()
    config = LossConfig(margin=100.0)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(metric_hinge(session, label, fp, probability, None, config))
    share = probability / tf.maximum(tf.reduce_sum(probability, -1, keepdims=True), 1e-9)
    step = -tape.gradient(total, fp)  # descent: along −s_t, as often as the FP is in a position's set
    np.testing.assert_allclose(step, -np.einsum("btm,btd->bmd", share, session), atol=1e-9)


# --- the whole loss: next item and term


@pytest.fixture
def _double_precision():
    tf.keras.backend.set_floatx("float64")
    yield
    tf.keras.backend.set_floatx("float32")


class WholeLoss:
    """A batch's loss by a method, of session embeddings and of an item table; the last session's last position is padding."""

    def __init__(self, method, seed, n_fp=M, has_fp=True, **options):
        random = np.random.default_rng(seed)
        config = ModelConfig(
            method=method, tower={"embedding_dim": D}, loss=LossConfig(gate_hidden_dim=8, lambda_fp=0.7, **options)
        )
        item = np.stack([random.permutation(V)[: T + n_fp] for _ in range(B)]) + schema.FIRST_ITEM_INDEX
        label, fp = item[:, :T], item[:, T:]
        label[-1, -1] = schema.PAD_INDEX
        probability = random.uniform(0.2, 3, (B, T, n_fp)) * (random.uniform(size=(B, T, n_fp)) < 0.7) * has_fp
        probability[0, 0] = 0
        self._batch = {
            schema.LABEL: tf.constant(label),
            schema.FP_PROBABILITY: tf.constant(probability),
            schema.LABEL_WEIGHT: tf.constant(random.uniform(size=(B, T))),
        }
        self._fp = fp
        self._task = FalsePositiveTask(config, seed, np.ones(V), np.zeros(V))
        self._next_item = NextItemLoss(config.next_item, np.ones(V), seed)
        self._session, self._items = (tf.Variable(random.normal(size=shape)) for shape in ((B, T, D), (V, D)))
        self.variables = [self._session, self._items, *self._task.trainable_variables]
        for variable in self.variables[2:]:
            variable.assign(random.normal(size=variable.shape))

    def __call__(self):
        def look_up(index):
            return tf.gather(self._items, tf.maximum(index - schema.FIRST_ITEM_INDEX, 0))

        def next_item(queries, row, extra):
            return self._next_item(queries, self._items, row, extra)

        return self._task(self._session, self._batch, next_item, look_up(self._batch[schema.LABEL]), look_up(self._fp))


def draw_options(random):
    """Of all that the gradient is the loss's derivative with: hard, reversed and supervised gates are apart."""
    choices = {
        "similarity": SIMILARITIES,
        "hinge": ("of_mean", "per_fp"),
        "aggregation": ("mean", "sum", "softmax"),
        "gate": ("sigmoid", "softmax", "softplus", "linear"),
        "gate_inputs": ("figure", "text"),
        "denominator": ("active_fp", "all"),
        "reduction": ("mean", "sum"),
        "not_to_recommend_form": ("sigmoid", "softmax"),
    }
    numbers = {"margin": (0, 3), "fp_logit_margin": (0.3, 4), "contrastive_temperature": (0.1, 2)}
    drawn = {name: str(random.choice(values)) for name, values in choices.items()}
    if (drawn["similarity"], drawn["aggregation"]) == ("cosine", "sum"):
        drawn["hinge"] = "per_fp"
    return drawn | {name: random.uniform(*bounds) for name, bounds in numbers.items()}


@pytest.mark.long
def test_gradients_of_200_random_batches_are_those_of_finite_differences(_double_precision, record_figure):
    errors = []
    for seed in range(200):
        loss = WholeLoss(TERMS[seed % len(TERMS)], seed, **draw_options(np.random.default_rng(seed)))
        errors.append(directional_error(loss, loss.variables, seed))
    figure = f"{max(errors):.1e} in {len(errors)} batches of {len(TERMS)} methods"
    record_figure("gradient against finite differences", figure, "200 batches, 1e-3")
    assert max(errors) <= 1e-3


@pytest.mark.parametrize("method", TERMS)
def test_each_methods_loss_has_the_gradient_of_finite_differences(_double_precision, method):
    loss = WholeLoss(method, seed=1, margin=3.0)
    assert_directional_derivative(loss, loss.variables)


@pytest.mark.parametrize("n_fp", [0, M])
@pytest.mark.parametrize("method", TERMS)
def test_without_false_positives_the_loss_and_its_gradient_are_those_of_the_next_item_alone(
    _double_precision, method, n_fp
):
    values = []
    for loss in (WholeLoss(method, 3, n_fp, has_fp=False, margin=3.0), WholeLoss("fp_simple", 3, n_fp, has_fp=False)):
        with tf.GradientTape() as tape:
            total = loss()
        gradients = tape.gradient(total, loss.variables, unconnected_gradients="zero")
        values.append([total, *map(tf.convert_to_tensor, gradients)])
    with_term, without = values
    for ours, expected in zip(with_term, without, strict=False):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-15)
    assert all(not gradient.numpy().any() for gradient in with_term[len(without) :]), "of the gate"


# --- degenerate sets


def test_empty_sets_give_no_term_and_no_nan():
    for similarity_kind, hinge, aggregation in OPTIONS:
        config = LossConfig(similarity=similarity_kind, hinge=hinge, aggregation=aggregation, margin=5.0)
        # Padding: all embeddings are zero as well.
        session, label, fp = (tf.zeros(shape) for shape in ((B, T, D), (B, T, D), (B, M, D)))
        with tf.GradientTape() as tape:
            tape.watch([session, label, fp])
            total = tf.reduce_sum(metric_hinge(session, label, fp, tf.zeros((B, T, M)), None, config))
        assert total == 0
        for gradient in tape.gradient(total, [session, label, fp], unconnected_gradients="zero"):
            assert not gradient.numpy().any()


def test_no_false_positives_at_all_in_a_batch():
    session, label, _, _, _ = random_batch()
    fp, probability = tf.zeros((B, 0, D), tf.float64), tf.zeros((B, T, 0), tf.float64)
    for similarity_kind, hinge, aggregation in OPTIONS:
        config = LossConfig(similarity=similarity_kind, hinge=hinge, aggregation=aggregation, margin=5.0)
        with tf.GradientTape() as tape:
            none = metric_hinge(session, label, fp, probability, None, config)
        assert none.shape == (B, T) and not none.numpy().any()
        for gradient in tape.gradient(none, [session, label], unconnected_gradients="zero"):
            assert not gradient.numpy().any()
