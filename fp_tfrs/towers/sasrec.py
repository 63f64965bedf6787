"""SASRec session tower: positions and causal self-attention blocks turn a session's item embeddings into session embeddings.

Self-Attentive Sequential Recommendation, Kang and McAuley, ICDM 2018. The variants of its authors' code and of RecBole are
options of `SasRecConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from fp_tfrs.config import SasRecConfig
from fp_tfrs.towers.dropout import SeededDropout
from fp_tfrs.towers.inputs import TowerInputs
from fp_tfrs.towers.layer_norm import LayerNorm
from fp_tfrs.towers.self_attention import CausalSelfAttention


class SasRecTower(tf.keras.layers.Layer):
    """All prefixes of a session in one pass. With e the item embeddings, p the learned positions 0…T−1, N a layer norm:

        x_t = dropout(c e_t + p_t),  c = √D with `is_embedding_scaled`, else 1          (block "post_norm": dropout(N(…)))
        x = block(x), n_layers times
        s_t = N(x_t)                                                                    (block "post_norm": s_t = x_t)

    Positions count from the session's first event, whatever its padding. The authors count from the last one, padded on
    the left: there a prefix by itself and inside a longer session has other positions.
    """

    def __init__(self, config: SasRecConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(config.n_layers + 2) >> 1]
        self._config = config
        self._scale = config.embedding_dim**0.5 if config.is_embedding_scaled else 1.0
        self._dropout = SeededDropout(config.dropout, seeds.pop(), dtype=self.dtype)
        self.positions = self.add_weight(
            name="positions",
            shape=(config.max_positions, config.embedding_dim),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.02, seed=seeds.pop()),  # RecBole's
        )
        self.blocks = [
            SelfAttentionBlock(config, seeds.pop(), dtype=self.dtype, name=f"block_{i}") for i in range(config.n_layers)
        ]
        self.norm = _norm(config, self.dtype, "norm")

    def call(self, inputs: TowerInputs, training: bool = False) -> tf.Tensor:
        """Sessions → `<float>[B, T, D]` session embeddings, zero at padding.

        Raises tf.errors.InvalidArgumentError for T > max_positions.
        """
        n_steps = tf.shape(inputs.item_embeddings)[1]
        is_short = tf.debugging.assert_less_equal(
            n_steps, self._config.max_positions, "sessions are longer than model.tower.max_positions; raise it"
        )
        with tf.control_dependencies([is_short]):  # before the sum, whose own error would name shapes alone
            positions = self.positions[:n_steps]
        x = self._scale * inputs.item_embeddings + positions
        is_post_norm = self._config.block == "post_norm"
        x = self._dropout(self.norm(x) if is_post_norm else x, training=training)
        for block in self.blocks:
            x = block(x, training=training)
        x = x if is_post_norm else self.norm(x)
        return x * tf.cast(inputs.is_item, x.dtype)[..., tf.newaxis]


class SelfAttentionBlock(tf.keras.layers.Layer):
    """Attention A and a feed-forward net F(x) = W₂ f(W₁ x + b₁) + b₂, `<float>[B, T, D]` → `<float>[B, T, D]`:

        "pre_norm"     y = x + A(N₁ x, N₁ x)      z = y + F(N₂ y)
        "post_norm"    y = N₁(x + A(x, x))        z = N₂(y + F(y))                                          RecBole
        "code"         y = N₁ x + A(N₁ x, x)      z = N₂ y + F(N₂ y)                           the authors' code

    A's arguments are queries and keys. Dropout falls on attention weights and on the results of A and F; in "code", where
    A has no output matrix, on the attention weights, inside F (after f) and on its result.
    """

    def __init__(self, config: SasRecConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(6) >> 1]
        is_code = config.block == "code"

        def dense(units: int, activation: str | Callable | None, name: str) -> tf.keras.layers.Dense:
            initializer = tf.keras.initializers.GlorotUniform(seeds.pop())
            return tf.keras.layers.Dense(units, activation, kernel_initializer=initializer, dtype=self.dtype, name=name)

        def dropout(rate: float) -> SeededDropout:
            return SeededDropout(rate, seeds.pop(), dtype=self.dtype)

        self._block = config.block
        self.attention = CausalSelfAttention(
            config.embedding_dim,
            config.n_heads,
            config.dropout,
            seeds.pop(),
            has_output=not is_code,
            dtype=self.dtype,
            name="attention",
        )
        self._dropout_attention = dropout(0 if is_code else config.dropout)
        self._dropout_inner = dropout(config.dropout if is_code else 0)
        self._dropout_outer = dropout(config.dropout)
        self.inner = dense(config.hidden_dim, gelu if config.activation == "gelu" else config.activation, "inner")
        self.outer = dense(config.embedding_dim, None, "outer")
        self.attention_norm = _norm(config, self.dtype, "attention_norm")
        self.feed_forward_norm = _norm(config, self.dtype, "feed_forward_norm")

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`<float>[B, T, D]` → `<float>[B, T, D]`."""

        def attend(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
            return self._dropout_attention(self.attention(queries, keys, training=training), training=training)

        def feed_forward(y: tf.Tensor) -> tf.Tensor:
            hidden = self._dropout_inner(self.inner(y), training=training)
            return self._dropout_outer(self.outer(hidden), training=training)

        if self._block == "post_norm":
            y = self.attention_norm(x + attend(x, x))
            return self.feed_forward_norm(y + feed_forward(y))
        queries = self.attention_norm(x)
        if self._block == "pre_norm":
            y = x + attend(queries, queries)
            return y + feed_forward(self.feed_forward_norm(y))
        y = self.feed_forward_norm(queries + attend(queries, x))
        return y + feed_forward(y)


def _norm(config: SasRecConfig, dtype: str, name: str) -> LayerNorm:
    return LayerNorm(epsilon=config.norm_epsilon, dtype=dtype, name=name)


@tf.custom_gradient
def gelu(x: tf.Tensor):
    """x Φ(x) as of `tf.nn.gelu`, Φ the normal distribution; its derivative Φ(x) + x φ(x) from what the value has computed.

    TensorFlow derives it op by op, which takes longer. Source: GELU, Hendrycks and Gimpel, 2016.
    """
    t = x * math.sqrt(0.5)
    share = 0.5 * tf.math.erf(t) + 0.5

    def gradient(upstream: tf.Tensor):
        return upstream * (share + t * tf.exp(-tf.square(t)) * (1 / math.sqrt(math.pi)))

    return x * share, gradient
