"""The adaptive module of FP-AdaMetric: how much each false positive counts at each position of a session.

Session, label and false-positive embeddings in, weights `<float>[B, T, M]` out, for `losses.metric_hinge`. Training only.
"""

from __future__ import annotations

import tensorflow as tf

from fp_tfrs.config import LossConfig
from fp_tfrs.losses import pairwise_similarity, softmax_over_set


class AdaptiveGate(tf.keras.layers.Layer):
    """w = a(v · relu(W [s; e_label; e_fp] + b) + c), a two-layer perceptron (FP-AdaMetric eq. 10 and Figure 2(b)).

    a: sigmoid, softplus, linear, or softmax over the position's false positives times their number (mean weight 1).
    gate_inputs "text" leaves the label out. The first layer is applied to each input by itself and added up, which gives
    the same as on the concatenation at cost B·(T + M)·D·H + B·T·M·H.

    gate_gradient: "joint" trains the gate, and through it the embeddings, on the loss. On an active hinge this lowers
    the weight of just those false positives that are similar to the session. "stop" leaves the gate as it was drawn;
    "reverse" trains the gate, and nothing through it, to raise the loss.
    """

    def __init__(self, embedding_dim: int, config: LossConfig, seed: int, **kwargs):
        # Without training the weights are constants, also for the optimiser.
        super().__init__(trainable=config.gate_gradient != "stop", **kwargs)
        self._config = config
        n_inputs = 3 if config.gate_inputs == "figure" else 2
        units = config.gate_hidden_dim or embedding_dim
        self.hidden_kernel = self.add_weight(
            name="hidden_kernel",
            shape=(n_inputs * embedding_dim, units),
            initializer=tf.keras.initializers.GlorotUniform(seed),
        )
        self.hidden_bias = self.add_weight(name="hidden_bias", shape=(units,), initializer="zeros")
        self.output_kernel = self.add_weight(
            name="output_kernel", shape=(units, 1), initializer=tf.keras.initializers.GlorotUniform(seed + 1)
        )
        if config.gate != "softmax":  # which is blind to a constant
            self.output_bias = self.add_weight(name="output_bias", shape=(), initializer="zeros")

    def call(
        self,
        session_embeddings: tf.Tensor,
        label_embeddings: tf.Tensor,
        fp_embeddings: tf.Tensor,
        fp_probability: tf.Tensor,
    ) -> tf.Tensor:
        """[B, T, D], [B, T, D], [B, M, D], [B, T, M] (0 = not in the position's set) → `<float>[B, T, M]` weights."""
        config = self._config
        inputs = [session_embeddings, label_embeddings, fp_embeddings]
        if config.gate_gradient == "reverse":
            inputs = [tf.stop_gradient(x) for x in inputs]
        by_position, by_label, by_fp = inputs
        if config.gate_inputs == "figure":
            session_kernel, label_kernel, fp_kernel = tf.split(self.hidden_kernel, 3)
            position_part = tf.matmul(by_position, session_kernel) + tf.matmul(by_label, label_kernel)
        else:
            session_kernel, fp_kernel = tf.split(self.hidden_kernel, 2)
            position_part = tf.matmul(by_position, session_kernel)
        fp_part = tf.matmul(by_fp, fp_kernel) + self.hidden_bias
        hidden = tf.nn.relu(position_part[:, :, tf.newaxis] + fp_part[:, tf.newaxis])  # [B, T, M, H]
        weight = self._activate(tf.squeeze(tf.matmul(hidden, self.output_kernel), -1), fp_probability)
        if config.gate_gradient == "stop":
            return tf.stop_gradient(weight)
        if config.gate_gradient == "reverse":
            return 2 * tf.stop_gradient(weight) - weight  # the same value, its gradient negated
        return weight

    def _activate(self, logits: tf.Tensor, fp_probability: tf.Tensor) -> tf.Tensor:
        if self._config.gate == "softmax":
            return _softmax_weight(logits, fp_probability)
        return tf.keras.activations.get(self._config.gate)(logits + self.output_bias)


def hard_gate(
    session_embeddings: tf.Tensor, fp_embeddings: tf.Tensor, fp_probability: tf.Tensor, config: LossConfig
) -> tf.Tensor:
    """w = |F| · softmax over F of D(e_fp, s)/temperature: the most similar count most. Nothing is learned, no gradient.

    [B, T, D], [B, M, D], [B, T, M] → `<float>[B, T, M]`, mean 1 over each position's set F.
    """
    similarity = pairwise_similarity(session_embeddings, fp_embeddings, config.similarity)
    return tf.stop_gradient(_softmax_weight(similarity / config.gate_temperature, fp_probability))


def _softmax_weight(logits: tf.Tensor, fp_probability: tf.Tensor) -> tf.Tensor:
    is_fp = tf.cast(fp_probability > 0, logits.dtype)
    return tf.reduce_sum(is_fp, -1, keepdims=True) * softmax_over_set(logits, is_fp)
