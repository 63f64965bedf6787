"""What was shown and not clicked joins the session: XDM's second representation, its fusion with the first, its metric term.

In: session embeddings h of a tower, each with a list of unclicked items. Out: z, which is scored in place of h, and the term
that `model.py` adds to the loss. One item table serves clicked and unclicked items; the weights here are the branch's own.

The list's items x_1 … x_M have no order for it: a user may have seen them all at once. With A self-attention of `n_heads`
heads without biases, LayerNorm with scale and shift,

    encoder self_attention    n = LayerNorm(mean_j (x_j + A(x)_j))
    encoder mean              n = mean_j x_j

(The norm after the mean, not before, so that the mean over j of Σ_k α_jk V x_k is V Σ_k (mean_j α_jk) x_k. The mean weights
of all of a session's lists are two matrix products of the exponentials e_jk = exp(energy_jk), which are made once a session:

    Z_tj = Σ_k L_tk e_jk,   mean_j α_tjk = L_tk Σ_j L_tj e_jk / (Z_tj |L_t|)

with L_tk = 1 where item k is in the list of position t.) And with the user's embedding u, where the model has users, and
n' = tanh(W_n n + b_n),

    fusion gate        z = G ⊙ h + (1 − G) ⊙ n',   G = σ(W_1 u + W_2 h + W_3 n + b)
    fusion scalar      the same, but G is one number for all dimensions
    fusion subtract    z = h − G ⊙ n',             G as of gate
    fusion none        z = h

The gate starts open, b = 2 (subtract: −2), so that training begins with z near h; dropout falls on x.

Where nothing is unclicked z = h, to the bit, and there is no term. With `ModelConfig.cosine_scale` z has length 1, as h has.

Source: XDM (Lv et al., DASFAA 2022), of which the appendix alone is public. It has the triplets (`losses.unclicked_triplet`);
encoder and fusions are our choice, the gate after SDM's (Lv et al., CIKM 2019, eq. 13).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fp_tfrs.config import ModelConfig
from fp_tfrs.learning.losses import reduce_loss, unclicked_triplet
from fp_tfrs.towers.dropout import SeededDropout

_HINGES = ("symmetric", "two_hinge", "asymmetric", "unclicked_label", "unclicked_clicked")
_NORM_EPSILON = 1e-8  # SDM's
_OPEN_GATE = 2.0
_LEAST_ENERGY = -80.0  # below the session's greatest: exp of less is no normal float32


class Fused(NamedTuple):
    """What the branch makes of B sessions at T positions.

    session_embeddings: `<float>[B, T, D]` z
    unclicked_embeddings: `<float>[B, T, D]` n, zero where nothing is unclicked
    has_unclicked: `<bool>[B, T]`
    """

    session_embeddings: tf.Tensor
    unclicked_embeddings: tf.Tensor
    has_unclicked: tf.Tensor


class UnclickedBranch(tf.keras.layers.Layer):
    """Encoder, fusion and metric term, as above. Figures of an epoch, as metrics under these names:

        unclicked_loss: mean of the term over targets that have unclicked items, without λ
        unclicked_position_share: share of targets that have some
    and where the term is a hinge, or two
        unclicked_active_share: share of them at which it is above 0

    With U unclicked items of a session in all, work is B·(U·D² + U²·D + T·U² + T·U·D), memory B·U·(U + T).

    Args:
        config: read are xdm, the tower's D, whether there are users, cosine_scale, and the loss's reduction
        seed: of dropout on the items, and of the weights, which start Glorot uniform
    """

    def __init__(self, config: ModelConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        xdm = config.xdm
        assert xdm is not None
        self._config, self._reduction = xdm, config.loss.reduction
        self._is_cosine = config.cosine_scale is not None
        dim = config.tower.embedding_dim
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(7) >> 1]

        def kernel(name: str, n_inputs: int, units: int) -> tf.Variable:
            return self.add_weight(
                name, (n_inputs, units), initializer=tf.keras.initializers.GlorotUniform(seeds.pop())
            )

        if xdm.encoder == "self_attention":
            self.attention = [kernel(name, dim, dim) for name in ("query", "key", "value", "output")]
            self.norm_scale = self.add_weight("norm_scale", (dim,), initializer="ones")
            self.norm_shift = self.add_weight("norm_shift", (dim,), initializer="zeros")
        if xdm.fusion != "none":
            units = 1 if xdm.fusion == "scalar" else dim
            # Of [h; n; u], drawn as one.
            self.gate_kernel = kernel("gate_kernel", (3 if config.has_users else 2) * dim, units)
            # z starts near h, as a highway network's gates let its input pass (Srivastava et al., 2015).
            open_gate = _OPEN_GATE if xdm.fusion != "subtract" else -_OPEN_GATE
            self.gate_bias = self.add_weight(
                "gate_bias", (units,), initializer=tf.keras.initializers.Constant(open_gate)
            )
            self.fused_kernel = kernel("fused_kernel", dim, dim)
            self.fused_bias = self.add_weight("fused_bias", (dim,), initializer="zeros")
        self._dropout = SeededDropout(xdm.dropout, seeds.pop(), dtype=self.dtype)
        self._loss = tf.keras.metrics.Mean("unclicked_loss")
        self._position_share = tf.keras.metrics.Mean("unclicked_position_share")
        self._active_share = tf.keras.metrics.Mean("unclicked_active_share") if xdm.triplet in _HINGES else None

    def call(
        self,
        session_embeddings: tf.Tensor,
        items: tf.Tensor,
        is_unclicked: tf.Tensor,
        user_embeddings: tf.Tensor | None = None,
        training: bool = False,
    ) -> Fused:
        """Sessions at T positions with what was not clicked before.

        Args:
            session_embeddings: `<float>[B, T, D]` h
            items: `<float>[B, U, D]` embeddings of the sessions' unclicked items, zero at padding
            is_unclicked: `<bool>[B, T, U]` which of them are in the position's list
            user_embeddings: `<float>[B, D]`, for a model with users
        """
        has_unclicked = tf.reduce_any(is_unclicked, -1)
        unclicked = self.encode(self._dropout(items, training=training), is_unclicked)
        user = None
        if user_embeddings is not None:
            user = tf.broadcast_to(user_embeddings[:, tf.newaxis], tf.shape(session_embeddings))
        fused = self.fuse(session_embeddings, unclicked, user)
        return Fused(tf.where(has_unclicked[..., tf.newaxis], fused, session_embeddings), unclicked, has_unclicked)

    def encode(self, items: tf.Tensor, is_unclicked: tf.Tensor) -> tf.Tensor:
        """n of each list, `<float>[B, T, D]`, zero of an empty one; arguments as of `call`."""
        listed = tf.cast(is_unclicked, items.dtype)
        share = tf.math.divide_no_nan(listed, tf.reduce_sum(listed, -1, keepdims=True))
        mean = tf.matmul(share, items)
        if self._config.encoder == "mean":
            return mean
        n_heads, head_dim = self._config.n_heads, items.shape[-1] // self._config.n_heads
        query_kernel, key_kernel, value_kernel, output_kernel = map(tf.convert_to_tensor, self.attention)
        query, key = (self._split(tf.tensordot(items, kernel, 1)) for kernel in (query_kernel, key_kernel))
        energy = tf.matmul(query, key, transpose_b=True) * head_dim**-0.5  # [B, n_heads, U, U]
        energy -= tf.stop_gradient(tf.reduce_max(energy, -1, keepdims=True))
        odds = tf.exp(tf.maximum(energy, _LEAST_ENERGY))
        listed, share = listed[:, tf.newaxis], share[:, tf.newaxis]
        total = tf.matmul(listed, odds, transpose_b=True)  # [B, n_heads, T, U], of each item as the one that attends
        # Not share / total, whose gradient has the total's square, no float32 where the list lacks what attracts most.
        per_total = tf.exp(-tf.math.log(tf.where(total > 0, total, 1)))
        weight = listed * tf.matmul(share * per_total, odds)
        mixed = tf.matmul(weight, items[:, tf.newaxis])  # [B, n_heads, T, D]
        values = tf.einsum("bhtd,dhe->bthe", mixed, tf.reshape(value_kernel, [-1, n_heads, head_dim]))
        attended = mean + tf.tensordot(tf.reshape(values, tf.shape(mean)), output_kernel, 1)
        center, variance = tf.nn.moments(attended, -1, keepdims=True)
        normed = tf.nn.batch_normalization(attended, center, variance, self.norm_shift, self.norm_scale, _NORM_EPSILON)
        return normed * tf.cast(tf.reduce_any(is_unclicked, -1, keepdims=True), normed.dtype)

    def _split(self, x: tf.Tensor) -> tf.Tensor:
        """[B, U, D] → [B, n_heads, U, D/n_heads]."""
        shape, n_heads = tf.shape(x), self._config.n_heads
        return tf.transpose(tf.reshape(x, [shape[0], shape[1], n_heads, x.shape[-1] // n_heads]), [0, 2, 1, 3])

    def fuse(self, clicked: tf.Tensor, unclicked: tf.Tensor, user: tf.Tensor | None) -> tf.Tensor:
        """h, n, and u or None, `<float>[..., D]` each → z `<float>[..., D]`."""
        fusion = self._config.fusion
        if fusion == "none":
            return clicked
        inputs = [clicked, unclicked] if user is None else [clicked, unclicked, user]
        gate = tf.sigmoid(tf.tensordot(tf.concat(inputs, -1), self.gate_kernel, 1) + self.gate_bias)
        candidate = tf.tanh(tf.tensordot(unclicked, self.fused_kernel, 1) + self.fused_bias)
        fused = clicked - gate * candidate if fusion == "subtract" else gate * clicked + (1 - gate) * candidate
        return tf.nn.l2_normalize(fused, -1) if self._is_cosine else fused

    def loss(self, clicked: tf.Tensor, fused: Fused, label_embeddings: tf.Tensor, is_target: tf.Tensor) -> tf.Tensor:
        """λ times the reduced term over targets that have unclicked items, a scalar; updates the figures.

        Args:
            clicked: `<float>[B, T, D]` h
            fused: of `call`
            label_embeddings: `<float>[B, T, D]` c, as they are scored
            is_target: `<bool>[B, T]` which of them sessions are to be near
        """
        is_counted = is_target & fused.has_unclicked
        members = (clicked[is_counted], fused.unclicked_embeddings[is_counted], label_embeddings[is_counted])
        term = unclicked_triplet(*members, self._config)
        self._loss.update_state(term)
        self._position_share.update_state(fused.has_unclicked, is_target)
        if self._active_share is not None:
            self._active_share.update_state(term > 0)
        return self._config.lambda_unclicked * reduce_loss(term, tf.shape(term)[0], self._reduction)
