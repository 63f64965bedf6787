"""Next-item losses: worked examples, the plain formula in NumPy, finite differences, how much memory they take."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_tfrs.next_item import next_item_loss, softmax_loss

FITS, ONE_ROW = 2**20, 1  # bytes: everything at once; chunks of a single target


def _log_sum_exp(values):
    values = np.asarray(values)
    return values.max() + np.log(np.exp(values - values.max()).sum())


def _numpy_softmax_loss(sessions, items, position, extra):
    scores = sessions @ items.T
    return np.array([_log_sum_exp([*r, x]) - r[p] for r, p, x in zip(scores, position, extra, strict=True)])


def _batch(n_targets=5, n_items=7, dim=3, seed=0):
    random = np.random.default_rng(seed)
    shapes = ((n_targets, dim), (n_items, dim))
    return *(random.normal(size=shape) for shape in shapes), random.integers(0, n_items, n_targets)


@pytest.mark.parametrize("max_bytes", [FITS, ONE_ROW])
def test_softmax_loss_worked_example(max_bytes):
    session, items = tf.constant([[np.log(2)]], tf.float32), tf.constant([[1.0], [0.0], [-1.0]])
    for extra, expected in ((None, 3.5 / 2), (tf.math.log([0.5]), 4 / 2), (tf.math.log([0.0]), 3.5 / 2)):
        np.testing.assert_allclose(softmax_loss(session, items, [0], extra, max_bytes), [np.log(expected)], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9), st.integers(1, 8), st.integers(0, 3), st.floats(-5, 5), st.integers(0, 99))
def test_softmax_loss_and_its_gradient_do_not_depend_on_the_chunks(n_targets, n_items, n_rows, extra, seed):
    sessions, items, position = _batch(n_targets, n_items, seed=seed)
    upstream = np.random.default_rng(seed).uniform(1, 2, n_targets)
    inputs = [tf.constant(x) for x in (sessions, items, np.full(n_targets, extra))]
    found = []
    for max_bytes in (FITS, n_rows * 2 * 8 * n_items):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = softmax_loss(*inputs[:2], position, inputs[2], max_bytes)
        found.append([loss, *map(tf.convert_to_tensor, tape.gradient(loss, inputs, upstream))])
    expected = _numpy_softmax_loss(sessions, items, position, inputs[2].numpy()) if n_targets else []
    np.testing.assert_allclose(found[0][0], expected, atol=1e-12)
    for whole, chunked in zip(*found, strict=True):
        np.testing.assert_allclose(whole, chunked, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("max_bytes", [FITS, 2 * 2 * 8 * 7])
def test_softmax_loss_has_the_gradient_of_its_values(max_bytes):
    sessions, items, position = _batch()
    weight = np.random.default_rng(1).normal(size=5)

    def weighted(sessions, items, extra):
        return tf.reduce_sum(weight * softmax_loss(sessions, items, position, extra, max_bytes))

    theirs, ours = tf.test.compute_gradient(weighted, [sessions, items, np.linspace(-2, 3, 5)], delta=1e-5)
    for numeric, analytic in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(analytic, numeric, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("max_bytes", [FITS, ONE_ROW])
def test_softmax_loss_survives_extreme_scores(max_bytes):
    sessions, items, position = _batch()
    extra = tf.constant([-np.inf, 1e4, -1e4, 0, 3], tf.float32)
    inputs = [tf.constant(200 * sessions, tf.float32), tf.constant(items, tf.float32)]
    with tf.GradientTape() as tape:
        tape.watch([*inputs, extra])
        loss = softmax_loss(*inputs, position, extra, max_bytes)
    assert loss.numpy().max() > 100, "the probabilities must be below float32's smallest"
    expected = _numpy_softmax_loss(*(x.numpy().astype(float) for x in inputs), position, extra.numpy().astype(float))
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-4)
    for gradient in tape.gradient(loss, [*inputs, extra]):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all()


MEMORY = """
import resource, fp_tfrs
import tensorflow as tf
from fp_tfrs.next_item import softmax_loss

@tf.function(input_signature=[tf.TensorSpec([None, 8]), tf.TensorSpec([None, 8])])
def gradients(sessions, items):
    with tf.GradientTape() as tape:
        tape.watch([sessions, items])
        loss = softmax_loss(sessions, items, tf.zeros([tf.shape(sessions)[0]], tf.int32), None, 16 * 2**20)
    return tape.gradient(loss, [sessions, items])

def peak_mib(n_targets):
    gradients(tf.ones([n_targets, 8]), tf.ones([20_000, 8]))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

print(-peak_mib(100) + peak_mib(4_000))
"""


def test_softmax_loss_takes_no_more_memory_than_it_may():
    # 16 MiB may be taken; all scores of 4,000 targets are 305 MiB, and their softmax as much.
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 64


def test_next_item_loss_is_the_catalogues_cross_entropy_at_targets_only():
    sessions, items, _ = _batch(n_targets=12)
    label = np.array([[2, 0, 8, 1], [0, 0, 0, 0], [5, 5, 0, 3]])
    is_target = label.ravel() >= 2
    expected = _numpy_softmax_loss(sessions[is_target], items, label.ravel()[is_target] - 2, np.full(5, -np.inf))
    loss = next_item_loss(tf.constant(sessions.reshape(3, 4, 3)), tf.constant(items), tf.constant(label))
    np.testing.assert_allclose(loss, expected)


def test_a_batch_without_targets_has_loss_and_gradient_zero():
    session, items = tf.Variable(tf.ones([2, 3, 4])), tf.Variable(tf.ones([4, 4]))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(next_item_loss(session, items, tf.zeros([2, 3], tf.int32)))
    assert total == 0
    for gradient in tape.gradient(total, [session, items]):
        assert not tf.convert_to_tensor(gradient).numpy().any()
