"""Users: user_index → embedding, and how it joins a session's (f_concat of FP-AdaMetric, eq. 3).

User embeddings go into `TowerInputs`, for a tower that reads them, or join the session embeddings that come out of one.
An unknown user's embedding is the zero vector.
"""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from fp_tfrs.schema import FIRST_USER_INDEX
from fp_tfrs.towers.rows import rows_or_zero


class UserTable(tf.keras.layers.Layer):
    """The embeddings of all users of the training split, drawn from U(−1/√D, 1/√D) like the items'.

    The unknown user's row is zero and cannot be trained because it is not stored: an index below `FIRST_USER_INDEX` reads
    as the zero vector.
    """

    def __init__(self, n_users: int, embedding_dim: int, seed: int, **kwargs):
        super().__init__(**kwargs)
        limit = embedding_dim**-0.5
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(n_users, embedding_dim),
            initializer=tf.keras.initializers.RandomUniform(-limit, limit, seed),
        )

    def call(self, user_index: tf.Tensor) -> tf.Tensor:
        """`<int>[B]` → `<float>[B, D]`; zero for the unknown user.

        Raises tf.errors.InvalidArgumentError (on CPU) for an index beyond the table.
        """
        return rows_or_zero(tf.convert_to_tensor(self.embeddings), user_index - FIRST_USER_INDEX)


class UserConcat(tf.keras.layers.Layer):
    """f_concat: what a session is for a user, of the same dimension. s a session embedding, u its user's:

        "dense"    W_s s + W_u u + b                                 Dense(D) of [s; u]
        "add"      s + u
        "gate"     G ⊙ s + (1 − G) ⊙ u,  G = σ(W_s s + W_u u + b)    as SDM fuses, its eq. 13

    The paper leaves the kind open. A zero row, which is padding, stays zero. The session may also be a set of items: its
    targets or false positives, as in FP-AdaMetric's Figure 2.
    """

    def __init__(self, kind: Literal["dense", "add", "gate"], embedding_dim: int, seed: int, **kwargs):
        super().__init__(**kwargs)
        self._kind = kind
        if kind != "add":
            # One matrix of both inputs, drawn as one; its halves are applied apart, the user's once for all steps.
            self.kernel = self.add_weight(
                name="kernel",
                shape=(2 * embedding_dim, embedding_dim),
                initializer=tf.keras.initializers.GlorotUniform(seed),
            )
            self.bias = self.add_weight(name="bias", shape=(embedding_dim,), initializer="zeros")

    def call(self, session_embeddings: tf.Tensor, user_embeddings: tf.Tensor) -> tf.Tensor:
        """`<float>[B, T, D]` and `<float>[B, D]` → `<float>[B, T, D]`, zero where the session embedding is zero."""
        user = user_embeddings[:, tf.newaxis]
        if self._kind == "add":
            joined = session_embeddings + user
        else:
            session_kernel, user_kernel = tf.split(self.kernel, 2)
            user_part = tf.matmul(user_embeddings, user_kernel)[:, tf.newaxis] + self.bias
            joined = tf.matmul(session_embeddings, session_kernel) + user_part
            if self._kind == "gate":
                gate = tf.sigmoid(joined)
                joined = gate * session_embeddings + (1 - gate) * user
        is_real = tf.reduce_any(session_embeddings != 0, -1, keepdims=True)
        return joined * tf.cast(is_real, joined.dtype)
