"""Losses as pure functions of tensors: the triplet of session, target and false positives.

Session embeddings come from a tower, item embeddings from the item table; `task.py` adds the terms up:

    loss = reduce(next-item loss, of `next_item.py`) + λ · reduce(metric_hinge)

Source: FP-AdaMetric (Jeong et al., AAAI 2022), equations 4 and 8–11. Where the paper leaves a choice, `LossConfig`
holds it.
"""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from fp_tfrs.config import LossConfig


def similarity(a: tf.Tensor, b: tf.Tensor, kind: Literal["dot", "scaled_dot", "cosine"]) -> tf.Tensor:
    """D(a, b) of vectors on the last axis (eq. 4 is the dot product): `<float>[..., D]` twice → `<float>[...]`.

    scaled_dot is dot/√D; the cosine of a zero vector is 0. Example: D([3, 4], [1, 0]) = 3, 3/√2, 0.6.
    """
    if kind == "cosine":
        a, b = tf.nn.l2_normalize(a, -1), tf.nn.l2_normalize(b, -1)
    return _scale(tf.reduce_sum(a * b, -1), a, kind)


def pairwise_similarity(
    session_embeddings: tf.Tensor, fp_embeddings: tf.Tensor, kind: Literal["dot", "scaled_dot", "cosine"]
) -> tf.Tensor:
    """`similarity` of each position and each false positive of its session: [B, T, D], [B, M, D] → `<float>[B, T, M]`."""
    if kind == "cosine":
        session_embeddings = tf.nn.l2_normalize(session_embeddings, -1)
        fp_embeddings = tf.nn.l2_normalize(fp_embeddings, -1)
    return _scale(tf.matmul(session_embeddings, fp_embeddings, transpose_b=True), fp_embeddings, kind)


def _scale(product: tf.Tensor, vector: tf.Tensor, kind: str) -> tf.Tensor:
    return product / tf.sqrt(tf.cast(tf.shape(vector)[-1], product.dtype)) if kind == "scaled_dot" else product


def metric_hinge(
    session_embeddings: tf.Tensor,
    label_embeddings: tf.Tensor,
    fp_embeddings: tf.Tensor,
    fp_probability: tf.Tensor,
    gate_weight: tf.Tensor | None,
    config: LossConfig,
) -> tf.Tensor:
    """The hinge of each position (eqs. 8–11): `max(0, m − D(label, s) + D(ē, s))` with ē the false positives' mean.

    p is fp_probability divided by its sum over the position's set F, w the gate's weight (1 without one). ē is

        aggregation mean:     Σ p w e            eq. 9, and with the gate eq. 11
        aggregation sum:      |F| · Σ p w e
        aggregation softmax:  Σ a e,  a = p exp(w) / Σ p exp(w)

    and hinge "per_fp" takes the same sum outside: Σ p · max(0, m − D(label, s) + w D(e, s)), |F| times that, and
    Σ a · max(0, m − D(label, s) + D(e, s)).

    Args:
        session_embeddings: `<float>[B, T, D]` s
        label_embeddings: `<float>[B, T, D]` of the targets
        fp_embeddings: `<float>[B, M, D]` e; the label of a position is never among the false positives of the position
        fp_probability: `<float>[B, T, M]` unnormalised p ≥ 0; 0 = not in the position's set F
        gate_weight: `<float>[B, T, M]` w, or None
        config: similarity D, margin m, hinge, aggregation

    Returns:
        `<float>[B, T]`, 0 where F is empty.

    Example: s = [1, 0], label [2, 0], two false positives [3, 0] and [−1, 0], p equal, m = 0.5: D(label, s) = 2. Mean:
    ē = [1, 0], hinge max(0, 0.5 − 2 + 1) = 0. Sum: ē = [2, 0], hinge 0.5. Per FP: (max(0, 1.5) + max(0, −2.5))/2 = 0.75.
    """
    is_fp = tf.cast(fp_probability > 0, fp_probability.dtype)
    n_fp = tf.reduce_sum(is_fp, -1, keepdims=True)  # [B, T, 1]
    share = tf.math.divide_no_nan(fp_probability, tf.reduce_sum(fp_probability, -1, keepdims=True))
    weight = tf.ones_like(share) if gate_weight is None else gate_weight
    if config.aggregation == "softmax":
        share = softmax_over_set(weight + tf.math.log(tf.where(is_fp > 0, fp_probability, 1)), is_fp)
        weight = tf.ones_like(share)
    elif config.aggregation == "sum":
        share = share * n_fp
    gap = config.margin - similarity(label_embeddings, session_embeddings, config.similarity)  # [B, T]
    if config.hinge == "per_fp":
        fp_similarity = pairwise_similarity(session_embeddings, fp_embeddings, config.similarity)
        return tf.reduce_sum(share * tf.nn.relu(gap[..., tf.newaxis] + weight * fp_similarity), -1)
    mean_fp = tf.matmul(share * weight, fp_embeddings)  # [B, T, D]
    hinge = tf.nn.relu(gap + similarity(mean_fp, session_embeddings, config.similarity))
    return hinge * tf.cast(n_fp[..., 0] > 0, hinge.dtype)


def softmax_over_set(logits: tf.Tensor, is_member: tf.Tensor) -> tf.Tensor:
    """Softmax over the members (1.0; others 0.0) on the last axis; all zero for an empty set."""
    logits = tf.where(is_member > 0, logits, logits.dtype.min)
    # The graph's optimiser does not see through variables, and warns of a softmax whose input may have any rank.
    return tf.nn.softmax(tf.ensure_shape(logits, [None] * logits.shape.rank)) * is_member


def reduce_loss(loss: tf.Tensor, count: tf.Tensor, reduction: Literal["mean", "sum"]) -> tf.Tensor:
    """The sum of all values, for "mean" divided by `count` positions (0 when there are none).

    Example: [1, 2, 3] over 4 positions: mean 1.5, sum 6.
    """
    total = tf.reduce_sum(loss)
    return total if reduction == "sum" else total / tf.maximum(tf.cast(count, total.dtype), 1)
