"""Causal multi-head self-attention: the part that SASRec and SDM share. Step vectors in, mixtures of each one's past out.

Attention Is All You Need, Vaswani et al., NeurIPS 2017. `tf.keras.layers.MultiHeadAttention` is not used: with a seeded
initializer it starts query, key and value equal, and a checkpoint does not keep the random state of its dropout.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fp_tfrs.towers.dropout import SeededDropout


class CausalSelfAttention(tf.keras.layers.Layer):
    """For position t, head h, queries x and keys y, both `<float>[B, T, D]`, with W_q, W_k, W_v of D → D/n_heads units:

        α_tj = softmax over j ≤ t of (W_q x_t + b_q) · (W_k y_j) / √(D/n_heads)
        a_th = Σ_{j≤t} dropout(α_tj) (W_v y_j + b_v)
        out_t = W_o [a_t1; …; a_t,n_heads] + b_o                        without `has_output` the concatenation itself

    Keys have no bias: it would add the same to every α_tj of a t, which the softmax takes off again. Cost B·T·D² + B·T²·D.
    Weights start Glorot uniform, as in SASRec's code.

    Args:
        embedding_dim: D, a multiple of `n_heads`
        n_heads: into how many parts D is split
        dropout: share of the attention weights that is dropped in training
        seed: of weights and dropout
        has_output: whether heads are mixed by W_o
    """

    def __init__(self, embedding_dim: int, n_heads: int, dropout: float, seed: int, has_output: bool = True, **kwargs):
        super().__init__(**kwargs)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(5) >> 1]

        def dense(name: str, has_bias: bool = True) -> tf.keras.layers.Dense:
            initializer = tf.keras.initializers.GlorotUniform(seeds.pop())
            return tf.keras.layers.Dense(
                embedding_dim, use_bias=has_bias, kernel_initializer=initializer, dtype=self.dtype, name=name
            )

        self._n_heads = n_heads
        self._dropout = SeededDropout(dropout, seeds.pop(), dtype=self.dtype)
        self.query = dense("query")
        self.key = dense("key", has_bias=False)
        self.value = dense("value")
        self.output_layer = dense("output") if has_output else None

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights that the first call may not need."""
        for layer in (self.query, self.key):
            with tf.name_scope(layer.name):
                layer.build(input_shape)
        super().build(input_shape)

    def call(self, queries: tf.Tensor, keys: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Queries and keys, both `<float>[B, T, D]` → `<float>[B, T, D]`."""
        value = self._split(self.value(keys))

        def attend() -> tf.Tensor:
            query, key = self._split(self.query(queries)), self._split(self.key(keys))
            energy = tf.matmul(query, key, transpose_b=True) * query.shape[-1] ** -0.5  # [B, n_heads, T, T]
            return tf.matmul(self._dropout(softmax_over_past(energy), training=training), value)

        def take_only() -> tf.Tensor:
            return self._dropout(tf.ones_like(value[..., :1]), training=training) * value

        # A session's only event has a weight of 1. Many sessions are that short, and come together.
        mixed = tf.cond(tf.shape(queries)[1] == 1, take_only, attend)
        mixed = tf.transpose(mixed, [0, 2, 1, 3])
        mixed = tf.reshape(mixed, tf.shape(queries))
        return mixed if self.output_layer is None else self.output_layer(mixed)

    def _split(self, x: tf.Tensor) -> tf.Tensor:
        """[B, T, D] → [B, n_heads, T, D/n_heads]."""
        batch, n_steps = tf.unstack(tf.shape(x)[:2])
        x = tf.reshape(x, [batch, n_steps, self._n_heads, x.shape[-1] // self._n_heads])
        return tf.transpose(x, [0, 2, 1, 3])


def softmax_over_past(energy: tf.Tensor) -> tf.Tensor:
    """`<float>[..., T, T]` → weights of the same shape: row t sums to 1 over columns j ≤ t, and is zero beyond.

    Example: [[5, 9], [1, 1]] → [[1, 0], [½, ½]].
    """
    n_steps = tf.shape(energy)[-1]
    is_past = tf.linalg.band_part(tf.ones([n_steps, n_steps], tf.bool), -1, 0)
    return tf.nn.softmax(tf.where(is_past, energy, energy.dtype.min))
