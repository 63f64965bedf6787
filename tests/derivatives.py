"""What tests of losses share: a random batch of embeddings and false positives, and the check of a gradient."""

import numpy as np
import tensorflow as tf

B, T, M, D = 3, 4, 5, 6


def random_batch(seed=0):
    """Session, label and FP embeddings, p(fp) with gaps and one empty set, and positive weights; float64 variables."""
    random = np.random.default_rng(seed)
    probability = random.uniform(0.2, 3, (B, T, M)) * (random.uniform(size=(B, T, M)) < 0.7)
    probability[0, 0] = 0
    shapes = ((B, T, D), (B, T, D), (B, M, D))
    session, label, fp = (tf.Variable(random.normal(size=shape)) for shape in shapes)
    return session, label, fp, tf.constant(probability), tf.Variable(random.uniform(0.1, 2, (B, T, M)))


def assert_directional_derivative(function, variables, seed=1):
    """The gradient of `function()` with respect to tf.Variables agrees with a central difference on a random line."""
    np.testing.assert_allclose(*_slopes(function, variables, seed), rtol=1e-5, atol=1e-7)


def directional_error(function, variables, seed):
    """How far the two are apart, of the larger one."""
    slope, difference = _slopes(function, variables, seed)
    return abs(slope - difference) / max(abs(slope), abs(difference), 1e-7)


def _slopes(function, variables, seed):
    """By the gradient, and by a central difference."""
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

    upper, lower = value_at(1e-6), value_at(-1e-6)
    value_at(0)
    return slope, (upper - lower) / 2e-6
