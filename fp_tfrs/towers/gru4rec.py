"""GRU4Rec session tower: recurrent layers turn the item embeddings of a session into session embeddings.

Session-based Recommendations with Recurrent Neural Networks, Hidasi et al., ICLR 2016. Where the paper, its authors' code
and RecBole differ, `Gru4RecConfig` has an option.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fp_tfrs.config import Gru4RecConfig
from fp_tfrs.towers.dropout import SeededDropout
from fp_tfrs.towers.inputs import TowerInputs


class Gru4RecTower(tf.keras.layers.Layer):
    """All prefixes of a session in one pass. For position t, with e the item embeddings after dropout:

        h⁽⁰⁾_t = e_t,   h⁽ˡ⁾_t = dropout(GRU⁽ˡ⁾(h⁽ˡ⁻¹⁾_t, h⁽ˡ⁾_{t−1}))
        s_t = W h_t + b                             (has_projection; else s_t = h_t)

    The score of item i is s_t · E_i. Two things of the paper and its code are not here: the score has no bias b_i and no
    activation of its own, as every tower's score is one dot product; and sessions are trained over their whole length,
    where the code carries the state from step to step without its gradient. Cost B·T·H². Weights start from U(±√(6/(fan in
    + fan out))) as in the code and RecBole, the recurrent ones orthogonal, Keras' choice.
    """

    def __init__(self, config: Gru4RecConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(2 + 3 * config.n_layers) >> 1]
        self._dropout_embedding = SeededDropout(config.dropout_embedding, seeds.pop(), dtype=self.dtype)
        self.projection = None
        if config.has_projection:
            initializer = tf.keras.initializers.GlorotUniform(seeds.pop())
            self.projection = tf.keras.layers.Dense(
                config.embedding_dim, kernel_initializer=initializer, dtype=self.dtype, name="projection"
            )
        self.grus, self._dropouts = [], []
        for layer in range(config.n_layers):
            self.grus.append(
                tf.keras.layers.GRU(
                    config.hidden_dim,
                    return_sequences=True,
                    use_bias=config.has_gru_bias,
                    reset_after=config.is_reset_after,
                    kernel_initializer=tf.keras.initializers.GlorotUniform(seeds.pop()),
                    recurrent_initializer=tf.keras.initializers.Orthogonal(seed=seeds.pop()),
                    dtype=self.dtype,
                    name=f"gru_{layer}",
                )
            )
            self._dropouts.append(SeededDropout(config.dropout_hidden, seeds.pop(), dtype=self.dtype))

    def call(self, inputs: TowerInputs, training: bool = False) -> tf.Tensor:
        """Sessions → `<float>[B, T, D]` session embeddings, zero at padding."""
        hidden = self._dropout_embedding(inputs.item_embeddings, training=training)
        for gru, dropout in zip(self.grus, self._dropouts, strict=True):
            hidden = dropout(gru(hidden), training=training)
        sessions = hidden if self.projection is None else self.projection(hidden)
        return sessions * tf.cast(inputs.is_item, sessions.dtype)[..., tf.newaxis]
