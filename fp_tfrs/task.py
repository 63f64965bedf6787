"""The training task: session embeddings and a batch's labels and false positives → the loss, and an epoch's figures.

Lies between `model.py`, which owns tower and item table, and the pure functions of `losses.py`.
"""

from __future__ import annotations

import tensorflow as tf
import tensorflow_recommenders as tfrs

from fp_tfrs.config import ModelConfig
from fp_tfrs.gate import AdaptiveGate, hard_gate
from fp_tfrs.losses import metric_hinge, pairwise_similarity, reduce_loss
from fp_tfrs.methods import METHODS
from fp_tfrs.next_item import next_item_loss
from fp_tfrs.schema import FIRST_ITEM_INDEX


class Correlation(tf.keras.metrics.Metric):
    """Pearson's correlation of two weighted streams of numbers, from sums in float64; 0 when one does not vary."""

    def __init__(self, name: str):
        super().__init__(name=name, dtype=tf.float64)
        self._sums = self.add_weight(name="sums", shape=(6,), initializer="zeros", dtype=tf.float64)

    def update_state(self, x: tf.Tensor, y: tf.Tensor, sample_weight: tf.Tensor) -> None:
        """Takes in pairs (x, y), all of one shape; sample_weight 0 leaves a pair out."""
        x, y, n = (tf.reshape(tf.cast(v, tf.float64), [-1]) for v in (x, y, sample_weight))
        self._sums.assign_add(tf.linalg.matvec(tf.stack([tf.ones_like(x), x, y, x * x, y * y, x * y]), n))

    def reset_state(self) -> None:
        self._sums.assign(tf.zeros_like(self._sums))  # Keras' own can reset scalars only

    def result(self) -> tf.Tensor:
        n, x, y, xx, yy, xy = tf.unstack(self._sums)
        spread = tf.maximum(n * xx - x * x, 0) * tf.maximum(n * yy - y * y, 0)
        return tf.math.divide_no_nan(n * xy - x * y, tf.sqrt(spread))


class FalsePositiveTask(tf.keras.layers.Layer, tfrs.tasks.Task):
    """loss = next-item loss + λ · metric term, for the methods of `methods.py`.

    Figures of an epoch, as metrics under these names:
        next_item_loss: mean over targets
    and for methods with a metric term
        metric_loss: mean hinge over the positions that LossConfig.denominator counts, without λ
        fp_position_share: share of targets that have false positives
        hinge_active_share: share of these at which the hinge is above 0
    and for fp_adametric, over all pairs of such a position and one of its false positives
        gate_mean: mean weight
        gate_similarity_correlation: Pearson's correlation of the weight with D(false positive, session)
    """

    def __init__(self, config: ModelConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        self._loss_config = config.loss
        self._metric = METHODS[config.method].metric
        self.gate: AdaptiveGate | None = None
        self._next_item_loss = tf.keras.metrics.Mean("next_item_loss")
        if self._metric:
            self._metric_loss = tf.keras.metrics.Mean("metric_loss")
            self._fp_position_share = tf.keras.metrics.Mean("fp_position_share")
            self._hinge_active_share = tf.keras.metrics.Mean("hinge_active_share")
        if self._metric == "adaptive":
            if config.loss.gate != "hard":
                self.gate = AdaptiveGate(config.tower.embedding_dim, config.loss, seed, name="gate")
            self._gate_mean = tf.keras.metrics.Mean("gate_mean")
            self._gate_similarity_correlation = Correlation("gate_similarity_correlation")

    @property
    def has_metric_term(self) -> bool:
        """Whether `call` uses label_embeddings, fp_embeddings and fp_probability."""
        return self._metric is not None

    def call(
        self,
        session_embeddings: tf.Tensor,
        item_embeddings: tf.Tensor,
        label: tf.Tensor,
        label_embeddings: tf.Tensor | None = None,
        fp_embeddings: tf.Tensor | None = None,
        fp_probability: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The batch's loss, a scalar.

        session_embeddings `<float>[B, T, D]`, item_embeddings `<float>[V, D]`, label `<int>[B, T]`, and for a metric term
        label_embeddings `<float>[B, T, D]`, fp_embeddings `<float>[B, M, D]`, fp_probability `<float>[B, T, M]`.
        """
        reduction = self._loss_config.reduction
        is_target = label >= FIRST_ITEM_INDEX
        n_targets = tf.reduce_sum(tf.cast(is_target, session_embeddings.dtype))
        cross_entropy = next_item_loss(session_embeddings, item_embeddings, label)
        self._next_item_loss.update_state(cross_entropy)
        loss = reduce_loss(cross_entropy, n_targets, reduction)
        if not self.has_metric_term:
            return loss
        # Positions without a target have no false positives either.
        fp_probability = tf.where(is_target[..., tf.newaxis], fp_probability, 0)
        gate_weight = self._weigh(session_embeddings, label_embeddings, fp_embeddings, fp_probability)
        hinge = metric_hinge(
            session_embeddings, label_embeddings, fp_embeddings, fp_probability, gate_weight, self._loss_config
        )
        has_fp = tf.reduce_any(fp_probability > 0, -1)
        is_counted = has_fp if self._loss_config.denominator == "active_fp" else is_target
        self._metric_loss.update_state(hinge, is_counted)
        self._fp_position_share.update_state(has_fp, is_target)
        self._hinge_active_share.update_state(hinge > 0, has_fp)
        n_counted = tf.reduce_sum(tf.cast(is_counted, hinge.dtype))
        return loss + self._loss_config.lambda_fp * reduce_loss(hinge, n_counted, reduction)

    def _weigh(self, session_embeddings, label_embeddings, fp_embeddings, fp_probability) -> tf.Tensor | None:
        if self._metric != "adaptive":
            return None
        if self.gate is None:
            weight = hard_gate(session_embeddings, fp_embeddings, fp_probability, self._loss_config)
        else:
            weight = self.gate(session_embeddings, label_embeddings, fp_embeddings, fp_probability)
        is_fp = fp_probability > 0
        similarity = pairwise_similarity(session_embeddings, fp_embeddings, self._loss_config.similarity)
        self._gate_mean.update_state(weight, is_fp)
        self._gate_similarity_correlation.update_state(weight, similarity, is_fp)
        return weight
