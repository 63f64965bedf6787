"""SDM session tower: LSTM, self-attention and the user's attention for the session, fused with the user's earlier items.

SDM: Sequential Deep Matching Model, Lv et al., CIKM 2019, for items without side features. XDM is built on it. What its
authors' code does otherwise is an option of `SdmConfig`. SDM scores with a second item table; here there is one.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fp_tfrs.config import SdmConfig
from fp_tfrs.schema import FIRST_ITEM_INDEX
from fp_tfrs.towers.dropout import SeededDropout
from fp_tfrs.towers.inputs import TowerInputs
from fp_tfrs.towers.layer_norm import LayerNorm
from fp_tfrs.towers.self_attention import CausalSelfAttention, softmax_over_past


class SdmTower(tf.keras.layers.Layer):
    """All prefixes of a session in one pass. With e the item embeddings, u the user's, g the items of the user's history,
    A causal multi-head self-attention, N a layer norm and ⊙ the element-wise product:

        x = LSTM(e), n_layers of them; from the second on their input is added to their output
        ĥ = N(x + A(x))
        s_t = Σ_{k≤t} α_tk ĥ_k,  α_t = softmax over k ≤ t of a(u, ĥ_k)        with `has_users`; without them s_t = ĥ_t
        z = Σ_k β_k g_k,  β = softmax of a(u, g_k)                           the history; empty: z = 0
        p = tanh(W_p z + b_p)
        G_t = σ(W_1 u + W_2 s_t + W_3 p + b)
        o_t = (1 − G_t) ⊙ p + G_t ⊙ s_t                                      with `has_history`; without it o_t = s_t

    user_attention "paper": a(u, y) = u · y. "code": in the session a(u, y) = tanh(W_u u + b_u) · y/√D, and ĥ_t is added to
    s_t; in the history a(u, y) = tanh(w · [u; y] + c)/√D.

    Dropout falls on the inputs of every LSTM, on self-attention's weights and on its result. LSTMs and W_p start orthogonal,
    as in the authors' code, the rest Glorot uniform. For an unknown user, u = 0, "paper" gives all items equal weight.
    """

    def __init__(self, config: SdmConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(8 + 3 * config.n_layers) >> 1]
        dim = config.embedding_dim

        def dense(units: int, name: str, activation: str | None = None, has_bias: bool = True) -> tf.keras.layers.Dense:
            initializer = tf.keras.initializers.GlorotUniform(seeds.pop())
            return tf.keras.layers.Dense(
                units, activation, has_bias, kernel_initializer=initializer, dtype=self.dtype, name=name
            )

        def lstm(name: str) -> tf.keras.layers.LSTM:
            return tf.keras.layers.LSTM(
                dim,
                return_sequences=True,
                kernel_initializer=tf.keras.initializers.Orthogonal(seed=seeds.pop()),
                recurrent_initializer=tf.keras.initializers.Orthogonal(seed=seeds.pop()),
                dtype=self.dtype,
                name=name,
            )

        def dropout() -> SeededDropout:
            return SeededDropout(config.dropout, seeds.pop(), dtype=self.dtype)

        self._config = config
        self._dropouts = [dropout() for _ in range(config.n_layers)]
        self._dropout_attention = dropout()
        self.lstms = [lstm(f"lstm_{i}") for i in range(config.n_layers)]
        self.attention = CausalSelfAttention(
            dim, config.n_heads, config.dropout, seeds.pop(), dtype=self.dtype, name="attention"
        )
        self.norm = LayerNorm(epsilon=1e-8, dtype=self.dtype, name="norm")  # the code's
        is_code = config.user_attention == "code"
        if config.has_users and is_code:
            self.user_query = dense(dim, "user_query", "tanh")  # W_u
        if config.has_history:
            if is_code:
                self.history_energy = dense(1, "history_energy", "tanh")  # w
            self.history = tf.keras.layers.Dense(  # W_p
                dim,
                "tanh",
                kernel_initializer=tf.keras.initializers.Orthogonal(seed=seeds.pop()),
                dtype=self.dtype,
                name="history",
            )
            self.gate_of_user = dense(dim, "gate_of_user")  # [W_1, W_3], b
            self.gate_of_session = dense(dim, "gate_of_session", has_bias=False)  # W_2

    def call(self, inputs: TowerInputs, training: bool = False) -> tf.Tensor:
        """Sessions → `<float>[B, T, D]` session embeddings, zero at padding.

        Raises ValueError if the inputs lack the users or the history that the config has.
        """
        config = self._config
        user, history, history_index = inputs.user_embeddings, inputs.history_embeddings, inputs.history_index
        session = self._encode(inputs.item_embeddings, training)
        if config.has_users:
            if user is None:
                raise ValueError("model.tower.has_users is true, but the tower's inputs have no user embeddings")
            session = self._attend_to_session(user, session)
        if config.has_history:
            if history is None or history_index is None:
                raise ValueError("model.tower.has_history is true, but the tower's inputs have no history")
            long_term = self._attend_to_history(user, history, history_index >= FIRST_ITEM_INDEX)
            gate_of_user = self.gate_of_user(tf.concat([user, long_term], -1))[:, tf.newaxis]
            gate = tf.sigmoid(self.gate_of_session(session) + gate_of_user)
            session = (1 - gate) * long_term[:, tf.newaxis] + gate * session
        return session * tf.cast(inputs.is_item, session.dtype)[..., tf.newaxis]

    def _encode(self, item_embeddings: tf.Tensor, training: bool) -> tf.Tensor:
        """ĥ `<float>[B, T, D]`."""
        x = item_embeddings
        for i, (lstm, dropout) in enumerate(zip(self.lstms, self._dropouts, strict=True)):
            y = lstm(dropout(x, training=training))
            x = x + y if self._config.is_residual and i > 0 else y
        attended = self.attention(x, x, training=training)
        return self.norm(x + self._dropout_attention(attended, training=training))

    def _attend_to_session(self, user: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
        """s `<float>[B, T, D]`: for each t the user's mixture of ĥ_1 … ĥ_t."""
        is_code = self._config.user_attention == "code"
        query = self.user_query(user) * self._config.embedding_dim**-0.5 if is_code else user
        energy = tf.matmul(query[:, tf.newaxis], encoded, transpose_b=True)  # [B, 1, T], the same for every t
        energy = tf.ensure_shape(energy, [None, 1, None])  # see `_attend_to_history`
        weight = softmax_over_past(tf.repeat(energy, tf.shape(encoded)[1], axis=1))
        mixed = tf.matmul(weight, encoded)
        return encoded + mixed if is_code else mixed

    def _attend_to_history(self, user: tf.Tensor, items: tf.Tensor, is_item: tf.Tensor) -> tf.Tensor:
        """p `<float>[B, D]` from user [B, D], items [B, H, D] and `<bool>[B, H]` which of them are real."""
        if self._config.user_attention == "code":
            users = tf.repeat(user[:, tf.newaxis], tf.shape(items)[1], axis=1)
            energy = tf.squeeze(self.history_energy(tf.concat([users, items], -1)), -1)
            energy *= self._config.embedding_dim**-0.5
        else:
            energy = tf.linalg.matvec(items, user)  # [B, H]
        # The graph's optimiser does not see through variables, and warns of a softmax whose input may have any rank.
        energy = tf.ensure_shape(energy, [None, None])
        weight = tf.nn.softmax(tf.where(is_item, energy, energy.dtype.min))
        weight = tf.where(is_item, weight, 0)  # an empty history has the softmax of nothing
        return self.history(tf.linalg.matvec(items, weight, transpose_a=True))
