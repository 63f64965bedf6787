"""Layer normalization of step vectors, for the towers that have it (SASRec, SDM)."""

from __future__ import annotations

import tensorflow as tf


class LayerNorm(tf.keras.layers.LayerNormalization):
    """γ n + β of the last axis, n = (x − mean) / √(variance + ε): Keras' layer and its weights, faster.

    Its gradient is the closed form, 1/√(variance + ε) · (g − mean(g) − n · mean(g n)) with g = γ · upstream, of what the
    forward pass has anyhow; TensorFlow derives it op by op. Source: Layer Normalization, Ba, Kiros and Hinton, 2016.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """`<float>[..., D]` → `<float>[..., D]`."""
        return _normalize(inputs, self.gamma, self.beta, self.epsilon)


def _normalize(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    def mean(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(values, -1, keepdims=True)

    def total(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(values, range(len(values.shape) - 1))

    @tf.custom_gradient
    def normalize(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor):
        centered = x - mean(x)
        scale = tf.math.rsqrt(mean(centered * centered) + epsilon)
        n = centered * scale

        def gradient(upstream: tf.Tensor):
            g = upstream * gamma
            return scale * (g - mean(g) - n * mean(g * n)), total(upstream * n), total(upstream)

        return n * gamma + beta, gradient

    return normalize(x, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta))
