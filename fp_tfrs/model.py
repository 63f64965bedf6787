"""The model: a session tower, the item table and the training task, joined as a `tfrs.Model`.

Padded batches of `dataset.py` in; a loss to `fit`, session and item embeddings to evaluation and serving out. The score of
an item for a session is the dot product of their embeddings.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from fp_tfrs import schema
from fp_tfrs.config import ModelConfig
from fp_tfrs.task import FalsePositiveTask
from fp_tfrs.towers import build_tower
from fp_tfrs.towers.inputs import TowerInputs
from fp_tfrs.towers.items import ItemTable


class SessionModel(tfrs.Model):
    """Session tower + item table + next-item and metric loss.

    All variables exist once the model is built, and follow from the seed, as does dropout: equal seeds give methods that
    differ only in their losses the same start. A `tf.train.Checkpoint` of model and optimizer also holds the state of
    dropout. The task's figures (`FalsePositiveTask`) appear in the logs of `fit`.

    Args:
        config: method, tower and losses
        n_items: V, the items of the vocabulary
        seed: of everything random
    """

    def __init__(self, config: ModelConfig, n_items: int, seed: int):
        super().__init__()
        item_seed, tower_seed, task_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(3) >> 1)
        self._cosine_scale = config.cosine_scale
        self.items = ItemTable(n_items, config.tower.embedding_dim, item_seed, name="items")
        self.tower = build_tower(config.tower, tower_seed)
        self.task = FalsePositiveTask(config, task_seed, name="task")
        self.session_embeddings(tf.zeros([1, 1], tf.int32))  # builds the tower

    def session_embeddings(self, item_index: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`<int32>[B, T]` inputs, padded on the right → `<float32>[B, T, D]`, one for every prefix; zero at padding.

        With `ModelConfig.cosine_scale` their length is 1.
        """
        embeddings = self.tower(TowerInputs(self.items(item_index), item_index), training=training)
        return embeddings if self._cosine_scale is None else tf.nn.l2_normalize(embeddings, -1)

    def item_embeddings(self) -> tf.Tensor:
        """`<float32>[V, D]` that sessions are scored with: row r is the item with index FIRST_ITEM_INDEX + r."""
        return self._to_candidates(self.items.item_embeddings())

    def train_step(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of the optimiser; the task's figures so far, and the batch's loss."""
        # Keras finds the end of a dataset of unknown size by a step without data. Unless everything waits for the data,
        # that step advances Adam's step counter, and only in a process's first epoch: resuming would not be exact.
        with tf.control_dependencies(tf.nest.flatten(inputs)):
            return super().train_step(inputs)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The loss of a training batch (see `schema.py`), a scalar; updates the task's figures."""
        item_index, label = inputs[schema.ITEM_INDEX], inputs[schema.LABEL]
        sessions = self.session_embeddings(item_index, training)
        if not self.task.has_metric_term:
            return self.task(sessions, self.item_embeddings(), label)
        return self.task(
            sessions,
            self.item_embeddings(),
            label,
            self._to_candidates(self.items(label)),
            self._to_candidates(self.items(inputs[schema.FP_INDEX])),
            inputs[schema.FP_PROBABILITY],
        )

    def _to_candidates(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Rows of the item table as what sessions are compared with, in scores and in the metric term alike."""
        scale = self._cosine_scale
        return embeddings if scale is None else scale * tf.nn.l2_normalize(embeddings, -1)
