"""NARM session tower: a GRU and causal attention turn the item embeddings of a session into session embeddings.

Neural Attentive Session-based Recommendation, Li et al., CIKM 2017. The variants of its authors' code and of RecBole are
options of `NarmConfig`.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fp_tfrs.config import NarmConfig
from fp_tfrs.towers.additive_attention import past_energies
from fp_tfrs.towers.dropout import SeededDropout
from fp_tfrs.towers.inputs import TowerInputs


class NarmTower(tf.keras.layers.Layer):
    """All prefixes of a session in one pass. For position t, with e the item embeddings after dropout:

        h_t = GRU(e_t, h_{t−1})                     the global vector is h_t
        α_tj = v · σ(A₁ h_t + A₂ h_j),  j ≤ t       (attention "softmax": normalised over j ≤ t)
        l_t = Σ_{j≤t} α_tj h_j                      the local vector
        s_t = B · dropout([h_t; l_t])               score of item i = s_t · E_i (the paper's bilinear decoder)

    Sessions are padded on the right; as nothing looks ahead, padding needs no mask inside. Cost B·T²·H. Weights start as
    in RecBole (Xavier normal), the recurrent ones orthogonal as in the authors' code.
    """

    def __init__(self, config: NarmConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(8) >> 1]

        def dense(units: int, name: str) -> tf.keras.layers.Dense:
            initializer = tf.keras.initializers.GlorotNormal(seeds.pop())
            return tf.keras.layers.Dense(
                units, use_bias=False, kernel_initializer=initializer, dtype=self.dtype, name=name
            )

        self._config = config
        activation = "hard_sigmoid" if config.is_hard_sigmoid else "sigmoid"
        self._activation = tf.keras.activations.get(activation)
        self._dropout_embedding = SeededDropout(config.dropout_embedding, seeds.pop(), dtype=self.dtype)
        self._dropout_context = SeededDropout(config.dropout_context, seeds.pop(), dtype=self.dtype)
        self.gru = tf.keras.layers.GRU(
            config.hidden_dim,
            return_sequences=True,
            recurrent_activation=activation,
            use_bias=config.has_gru_bias,
            reset_after=config.is_reset_after,
            kernel_initializer=tf.keras.initializers.GlorotNormal(seeds.pop()),
            recurrent_initializer=tf.keras.initializers.Orthogonal(seed=seeds.pop()),
            dtype=self.dtype,
            name="gru",
        )
        self.query = dense(config.hidden_dim, "query")  # A₁
        self.key = dense(config.hidden_dim, "key")  # A₂
        self.energy = dense(1, "energy")  # v
        self.decoder = dense(config.embedding_dim, "decoder")  # B

    def call(self, inputs: TowerInputs, training: bool = False) -> tf.Tensor:
        """Sessions → `<float>[B, T, D]` session embeddings, zero at padding."""
        hidden = self.gru(self._dropout_embedding(inputs.item_embeddings, training=training))
        energy = past_energies(self.query(hidden), self.key(hidden), self.energy, self._activation)  # [B, T, T]
        n_steps = tf.shape(energy)[1]
        is_past = tf.linalg.band_part(tf.ones([n_steps, n_steps], tf.bool), -1, 0)
        if self._config.attention == "softmax":
            weight = tf.nn.softmax(tf.where(is_past, energy, energy.dtype.min))
        else:
            weight = tf.where(is_past, energy, 0)
        local = tf.matmul(weight, hidden)
        parts = [hidden, local] if self._config.concat == "global_local" else [local, hidden]
        context = self._dropout_context(tf.concat(parts, -1), training=training)
        return self.decoder(context) * tf.cast(inputs.is_item, context.dtype)[..., tf.newaxis]
