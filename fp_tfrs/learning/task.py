"""The training task: session embeddings and a batch's labels and false positives → the loss, and an epoch's figures.

Lies between `model.py`, which owns tower and item table, and the pure functions of `losses.py` and `fp_terms.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from fp_tfrs import schema
from fp_tfrs.config import ModelConfig
from fp_tfrs.learning.abandoned_query import AbandonedQuery, log_odds_offset
from fp_tfrs.learning.correlation import Correlation
from fp_tfrs.learning.fp_terms import log_extra_weight, n_pair_loss, not_to_recommend
from fp_tfrs.learning.gate import AdaptiveGate, degree_loss, hard_gate
from fp_tfrs.learning.losses import metric_hinge, pairwise_similarity, reduce_loss
from fp_tfrs.learning.satisfaction import SatisfactionHead
from fp_tfrs.methods import resolve

# Session embeddings at targets <float>[N, D], the targets' rows of the item table <int>[N], and what their softmax has in
# its denominator beside the items, <float>[N] as a logarithm, or None → <float>[N].
NextItemFn = Callable[[tf.Tensor, tf.Tensor, "tf.Tensor | None"], tf.Tensor]


class FalsePositiveTask(tf.keras.layers.Layer, tfrs.tasks.Task):
    """loss = next-item loss + λ · term of the false positives (+ satisfaction loss), by the methods of `methods.py`.

    Figures of an epoch, as metrics under these names:
        next_item_loss: mean over targets, weighted by LABEL_WEIGHT if the batch has it; for two_queries over kept ones
    and for methods with a term
        fp_position_share: share of targets that have false positives
    and for those whose term is an addend, not part of the softmax
        metric_loss: mean of the term over the positions that LossConfig.denominator counts, without λ
    and for terms that are a hinge
        hinge_active_share: share of the targets with false positives at which it is above 0
    and for fp_adametric, over all pairs of such a position and one of its false positives
        gate_mean: mean weight
        gate_similarity_correlation: Pearson's correlation of the weight with D(false positive, session)
    and for two_queries
        abandoned_loss: mean next-item loss over abandoned targets, without μ
    and for entire_space
        satisfaction_loss: mean over targets

    Args:
        config: method, tower and losses
        seed: of the gate's and the satisfaction head's weights
        item_counts, abandoned_counts: `<number>[V]` clicks of each item in training, and how many of them were abandoned
    """

    def __init__(
        self, config: ModelConfig, seed: int, item_counts: np.ndarray, abandoned_counts: np.ndarray, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self._loss_config = config.loss
        method = resolve(config)
        self._term = method.term
        self.gate: AdaptiveGate | None = None
        self.satisfaction: SatisfactionHead | None = None
        self._next_item_loss = tf.keras.metrics.Mean("next_item_loss")
        if self._term:
            self._fp_position_share = tf.keras.metrics.Mean("fp_position_share")
        if self._term not in (None, "softmax"):
            self._metric_loss = tf.keras.metrics.Mean("metric_loss")
        if self._term in ("metric", "adaptive"):
            self._hinge_active_share = tf.keras.metrics.Mean("hinge_active_share")
        if self._term == "adaptive":
            if config.loss.gate != "hard":
                self.gate = AdaptiveGate(config.tower.embedding_dim, config.loss, seed, name="gate")
            self._gate_mean = tf.keras.metrics.Mean("gate_mean")
            self._gate_similarity_correlation = Correlation("gate_similarity_correlation")
        self.abandoned_query: AbandonedQuery | None = None
        if method.has_abandoned_query:
            offset = log_odds_offset(item_counts, abandoned_counts)
            self.abandoned_query = AbandonedQuery(config.tower.embedding_dim, offset, name="abandoned_query")
            self._abandoned_loss = tf.keras.metrics.Mean("abandoned_loss")
        if method.has_satisfaction_head:
            self.satisfaction = SatisfactionHead(
                len(item_counts), config.tower.embedding_dim, config.loss, seed, name="satisfaction"
            )
            self._satisfaction_loss = tf.keras.metrics.Mean("satisfaction_loss")

    def call(
        self,
        session_embeddings: tf.Tensor,
        batch: Mapping[str, tf.Tensor],
        next_item_fn: NextItemFn,
        label_embeddings: tf.Tensor,
        fp_embeddings: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The batch's loss, a scalar.

        Args:
            session_embeddings: `<float>[B, T, D]`
            batch: a training batch of `schema.py`.
            next_item_fn: the next-item loss of targets.
            label_embeddings: `<float>[B, T, D]` of the targets as the false positives' term compares them.
            fp_embeddings: `<float>[B, M, D]` of the false positives, for methods with a term.
        """
        label = batch[schema.LABEL]
        is_target = label >= schema.FIRST_ITEM_INDEX
        fp_probability = None
        is_compared = self.is_compared(batch)
        label_weight = tf.cast(is_compared, session_embeddings.dtype)
        if schema.LABEL_WEIGHT in batch:
            label_weight *= batch[schema.LABEL_WEIGHT]
        if self._term is not None:
            # Positions without a target have no false positives either.
            fp_probability = tf.where(is_compared[..., tf.newaxis], batch[schema.FP_PROBABILITY], 0)
            self._fp_position_share.update_state(tf.reduce_any(fp_probability > 0, -1), is_compared)
        extra = None
        if self._term == "softmax":
            margin = self._loss_config.fp_logit_margin
            extra = log_extra_weight(session_embeddings, fp_embeddings, fp_probability, margin)[is_target]
        queries = session_embeddings[is_target]
        if self.abandoned_query is not None:
            is_abandoned = batch[schema.LABEL_IS_FP][is_target]
            queries = self.abandoned_query.queries(queries, is_abandoned)
        cross_entropy = next_item_fn(queries, label[is_target] - schema.FIRST_ITEM_INDEX, extra)
        weight = batch[schema.LABEL_WEIGHT][is_target] if schema.LABEL_WEIGHT in batch else tf.ones_like(cross_entropy)
        if self.abandoned_query is None:
            self._next_item_loss.update_state(cross_entropy, weight)
        else:
            self._next_item_loss.update_state(cross_entropy, ~is_abandoned)
            self._abandoned_loss.update_state(cross_entropy, is_abandoned)
            weight *= tf.where(is_abandoned, tf.cast(self._loss_config.abandoned_weight, weight.dtype), 1)
        loss = reduce_loss(weight * cross_entropy, tf.reduce_sum(weight), self._loss_config.reduction)
        if self._term in ("metric", "adaptive"):
            loss += self._hinge_term(
                session_embeddings, label_embeddings, fp_embeddings, fp_probability, label_weight, batch
            )
        elif self._term in ("not_to_recommend", "contrastive", "n_pair"):
            scores = tf.reduce_sum(session_embeddings * label_embeddings, -1)
            log_partition = scores + _spread(cross_entropy, is_target)  # of the full softmax: −log p = log Σ − score
            term = self._pair_term(session_embeddings, label_embeddings, fp_embeddings, fp_probability, log_partition)
            loss += self._reduce_term(term, label_weight, fp_probability)
        if self.satisfaction is not None:
            is_kept = ~batch[schema.LABEL_IS_FP][is_target]
            row = label[is_target] - schema.FIRST_ITEM_INDEX
            cost = self.satisfaction.loss(session_embeddings[is_target], label_embeddings[is_target], row, is_kept)
            self._satisfaction_loss.update_state(cost)
            n_targets = tf.shape(cost)[0]
            loss += self._loss_config.satisfaction_weight * reduce_loss(cost, n_targets, self._loss_config.reduction)
        return loss

    def is_compared(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """`<bool>[B, T]` the targets that sessions are pulled to: not abandoned ones where those have a query of their own."""
        is_target = batch[schema.LABEL] >= schema.FIRST_ITEM_INDEX
        return is_target if self.abandoned_query is None else is_target & ~batch[schema.LABEL_IS_FP]

    def _pair_term(self, sessions, labels, fps, fp_probability, log_partition) -> tf.Tensor:
        """`<float>[B, T]` the term of one of the methods that compare each false positive by itself."""
        config = self._loss_config
        if self._term == "contrastive":
            return n_pair_loss(sessions, labels, fps, fp_probability, "cosine", config.contrastive_temperature)
        if self._term == "n_pair":
            return n_pair_loss(sessions, labels, fps, fp_probability, config.similarity, 1.0)
        is_sigmoid = config.not_to_recommend_form == "sigmoid"
        return not_to_recommend(sessions, fps, fp_probability, None if is_sigmoid else log_partition)

    def _hinge_term(self, sessions, labels, fps, fp_probability, label_weight, batch) -> tf.Tensor:
        """λ times the mean hinge, a scalar; and what trains a supervised gate."""
        config, weight, supervision = self._loss_config, None, 0.0
        if self._term == "adaptive" and self.gate is None:
            weight = hard_gate(sessions, fps, fp_probability, config)
        elif self.gate is not None:
            logits = self.gate.logits(sessions, labels, fps)
            weight = self.gate.weight(logits, fp_probability)
            if config.gate_gradient == "supervised":
                cost = degree_loss(logits, fp_probability, batch[schema.FP_DEGREE])
                supervision = reduce_loss(cost, self._count(label_weight, fp_probability), config.reduction)
        hinge = metric_hinge(sessions, labels, fps, fp_probability, weight, config)
        is_fp = fp_probability > 0
        self._hinge_active_share.update_state(hinge > 0, tf.reduce_any(is_fp, -1))
        if weight is not None:
            similarity = pairwise_similarity(sessions, fps, config.similarity)
            self._gate_mean.update_state(weight, is_fp)
            self._gate_similarity_correlation.update_state(weight, similarity, is_fp)
        return self._reduce_term(hinge, label_weight, fp_probability) + supervision

    def _reduce_term(self, term: tf.Tensor, label_weight: tf.Tensor, fp_probability: tf.Tensor) -> tf.Tensor:
        """λ times the term's mean over the positions that count, each by its target's weight, a scalar."""
        term *= label_weight
        n_counted = self._count(label_weight, fp_probability)
        self._metric_loss.update_state(tf.math.divide_no_nan(tf.reduce_sum(term), n_counted), n_counted)
        return self._loss_config.lambda_fp * reduce_loss(term, n_counted, self._loss_config.reduction)

    def _count(self, label_weight: tf.Tensor, fp_probability: tf.Tensor) -> tf.Tensor:
        """The number of positions that count, a scalar; a fraction where targets have weights."""
        if self._loss_config.denominator == "active_fp":
            label_weight = tf.where(tf.reduce_any(fp_probability > 0, -1), label_weight, 0)
        return tf.reduce_sum(label_weight)


def _spread(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`<float>[N]` values under the mask `<bool>[B, T]` → `<float>[B, T]`, zero elsewhere."""
    return tf.scatter_nd(tf.where(mask), values, tf.shape(mask, tf.int64))
