"""STAMP session tower: attention over a session's items, led by its mean and its last item, and no recurrence.

STAMP: Short-Term Attention/Memory Priority Model for Session-based Recommendation, Liu et al., KDD 2018. Where the paper,
its authors' code and RecBole differ, `StampConfig` has an option.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fp_tfrs.config import StampConfig
from fp_tfrs.towers.additive_attention import past_energies
from fp_tfrs.towers.dropout import SeededDropout
from fp_tfrs.towers.inputs import TowerInputs


class StampTower(tf.keras.layers.Layer):
    """All prefixes of a session in one pass. For position t, with e the item embeddings:

        m_t = mean of e_1 … e_t                              the general interest; e_t itself is the current one
        α_tj = w₀ · σ(W₁ e_j + W₂ e_t + W₃ m_t + b_a),  j ≤ t    (not normalised)
        l_t = Σ_{j≤t} α_tj e_j                               (has_added_memory: + m_t)
        s_t = tanh(W_s l_t + b_s) ⊙ tanh(W_t e_t + b_t)      score of item i = s_t · E_i (the trilinear product)

    The paper passes the score through σ before the softmax; its authors' code and RecBole do not, and neither do we: with
    scores in (0, 1) no item could get a probability above e/(e + V − 1). Cost B·T²·D. Weights start from N(0, 0.05²), as in
    the paper, biases from 0.
    """

    def __init__(self, config: StampConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(7) >> 1]

        def dense(units: int, name: str, use_bias: bool = False) -> tf.keras.layers.Dense:
            initializer = tf.keras.initializers.RandomNormal(stddev=0.05, seed=seeds.pop())
            return tf.keras.layers.Dense(
                units, use_bias=use_bias, kernel_initializer=initializer, dtype=self.dtype, name=name
            )

        dim = config.embedding_dim
        self._has_added_memory, self._max_norm = config.has_added_memory, config.max_norm
        self._dropout = SeededDropout(config.dropout_embedding, seeds.pop(), dtype=self.dtype)
        self.key = dense(dim, "key")  # W₁
        self.query = dense(dim, "query")  # W₂
        self.memory = dense(dim, "memory", config.has_bias)  # W₃, b_a
        self.energy = dense(1, "energy")  # w₀
        self.session = dense(dim, "session", config.has_bias)  # W_s, b_s
        self.last = dense(dim, "last", config.has_bias)  # W_t, b_t

    def call(self, inputs: TowerInputs, training: bool = False) -> tf.Tensor:
        """Sessions → `<float>[B, T, D]` session embeddings, zero at padding."""
        embeddings = inputs.item_embeddings
        if self._max_norm is not None:
            embeddings = tf.clip_by_norm(embeddings, self._max_norm, -1)
        embeddings = self._dropout(embeddings, training=training)
        n_steps = tf.shape(embeddings)[1]
        n_seen = tf.range(1, tf.cast(n_steps, embeddings.dtype) + 1)
        memory = tf.cumsum(embeddings, 1) / n_seen[:, tf.newaxis]
        led = self.query(embeddings) + self.memory(memory)
        energy = past_energies(led, self.key(embeddings), self.energy, tf.sigmoid)  # [B, T, T]
        attended = tf.matmul(tf.linalg.band_part(energy, -1, 0), embeddings)
        if self._has_added_memory:
            attended += memory
        sessions = tf.tanh(self.session(attended)) * tf.tanh(self.last(embeddings))
        return sessions * tf.cast(inputs.is_item, sessions.dtype)[..., tf.newaxis]
