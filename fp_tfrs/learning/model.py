"""The model: a session tower, the item table and the training task, joined as a `tfrs.Model`.

Padded batches of `dataset.py` in; a loss to `fit`, queries and candidates to evaluation and serving out. How a query and
a candidate make a score is said in `scoring.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from fp_tfrs import schema
from fp_tfrs.config import ModelConfig
from fp_tfrs.learning.next_item import DrawnItems, NextItemLoss
from fp_tfrs.learning.repeat_offsets import RepeatOffsets
from fp_tfrs.learning.scoring import SeenOffsets, mean_before
from fp_tfrs.learning.task import FalsePositiveTask
from fp_tfrs.learning.unclicked_branch import UnclickedBranch
from fp_tfrs.methods import resolve
from fp_tfrs.towers import build_tower
from fp_tfrs.towers.inputs import TowerInputs
from fp_tfrs.towers.items import ItemRows, ItemTable
from fp_tfrs.towers.marks import FeedbackMarks
from fp_tfrs.towers.users import UserConcat, UserTable

Batch = Mapping[str, tf.Tensor]


class SessionModel(tfrs.Model):
    """Session tower + item table + next-item loss and what false positives and unclicked items add to it.

    All variables exist once the model is built, and follow from the seed, as does dropout: equal seeds give methods that
    differ only in their losses the same start. A `tf.train.Checkpoint` of model and optimizer also holds the state of
    dropout. The figures of the task (`FalsePositiveTask`) and of XDM (`UnclickedBranch`) appear in the logs of `fit`.

    Args:
        config: method, tower and losses
        n_items: V, the items of the vocabulary
        seed: of everything random
        item_counts: <number>[V] clicks of each item in training, for losses that sample items and for two_queries
        n_users: U, the users of the vocabulary, for a model with users
        abandoned_counts: <number>[V] how many of the clicks were abandoned, for two_queries; None = none

    Attributes:
        candidate_dim: P, the width of candidates
        penalty: β of the inference-time penalty
    """

    def __init__(
        self,
        config: ModelConfig,
        n_items: int,
        seed: int,
        item_counts: np.ndarray,
        n_users: int = 0,
        abandoned_counts: np.ndarray | None = None,
    ):
        super().__init__()
        dim = config.tower.embedding_dim
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(8) >> 1]
        self._cosine_scale, self._concat_items = config.cosine_scale, config.concat_items_with_user
        self.penalty = config.penalty
        self.items = ItemTable(n_items, dim, seeds[0], name="items")
        self.tower = build_tower(config.tower, seeds[1])
        abandoned = np.zeros(n_items) if abandoned_counts is None else abandoned_counts
        self.task = FalsePositiveTask(config, seeds[2], item_counts, abandoned, name="task")
        self.users = UserTable(n_users, dim, seeds[3], name="users") if config.has_users else None
        kind = config.user_concat
        self.concat = None if kind == "none" else UserConcat(kind, dim, seeds[4], name="concat")
        is_marked = resolve(config).inputs == "marked"
        self.marks = FeedbackMarks(dim, seeds[5], name="marks") if is_marked else None
        self.repeat_offsets = RepeatOffsets(name="repeat_offsets") if config.repeat_offsets else None
        self.next_item = NextItemLoss(config.next_item, item_counts, seeds[6])
        self.unclicked = UnclickedBranch(config, seeds[7], name="unclicked") if config.has_unclicked else None
        self._has_history = config.has_history
        self.session_embeddings(_one_empty_session())  # builds the tower
        self.candidate_dim = int(self.candidates().shape[-1])

    def session_embeddings(
        self,
        batch: Batch,
        training: bool = False,
        rows: ItemTable | ItemRows | None = None,
    ) -> tf.Tensor:
        """ITEM_INDEX and what else of `schema.py` the model has → `<float32>[B, T, D]`, one for every prefix; zero at padding.

        Of clicks alone: unclicked items join them at targets. With `ModelConfig.cosine_scale` their length is 1.
        rows: where to look up embeddings in place of the item table.
        """
        look_up = self.items if rows is None else rows
        item_index = batch[schema.ITEM_INDEX]
        items = look_up(item_index)
        if self.marks is not None:
            items = self.marks(items, batch[schema.INPUT_IS_FP], item_index != schema.PAD_INDEX)
        user = self._user(batch)
        history_index = batch[schema.HISTORY_INDEX] if self._has_history else None
        history = None if history_index is None else look_up(history_index)
        inputs = TowerInputs(items, item_index, user, history, history_index)
        embeddings = self.tower(inputs, training=training)
        if self.concat is not None:
            embeddings = self.concat(embeddings, user)
        return embeddings if self._cosine_scale is None else tf.nn.l2_normalize(embeddings, -1)

    def target_queries(self, batch: Batch) -> tf.Tensor:
        """A ranking batch → `<float32>[B, E, Q]`, for each target what `scoring.py` ranks the candidates by."""
        sessions = self.session_embeddings(batch)
        queries = tf.gather(sessions, batch[schema.TARGET_POSITION], batch_dims=1)
        if self.unclicked is not None:
            items = self.items(batch[schema.UNCLICKED_INDEX])
            queries = self.unclicked(queries, items, batch[schema.IS_UNCLICKED], self._user(batch)).session_embeddings
        if self.task.satisfaction is not None:
            queries = self.task.satisfaction.queries(queries)
        if self.penalty:
            events = self.items(batch[schema.EVENT_INDEX])
            if self._cosine_scale is not None:
                events = tf.nn.l2_normalize(events, -1)  # candidates have the scale already
            means = mean_before(events, batch[schema.EVENT_IS_FP])
            queries = tf.concat([queries, tf.gather(means, batch[schema.TARGET_EVENT], batch_dims=1)], -1)
        return queries

    def seen_offsets(self, batch: Batch) -> SeenOffsets | None:
        """A ranking batch → of `[B, E, T]`, for each target what is added to scores; None = nothing."""
        if self.repeat_offsets is None:
            return None
        return self.repeat_offsets.before(
            batch[schema.ITEM_INDEX], batch[schema.INPUT_IS_FP], batch[schema.TARGET_POSITION]
        )

    def candidates(self) -> tf.Tensor:
        """`<float32>[V, P]` that queries are scored with: row r is the item with index FIRST_ITEM_INDEX + r."""
        items = self._as_scored(self.items.item_embeddings())
        return items if self.task.satisfaction is None else self.task.satisfaction.candidates(items)

    def train_step(self, inputs: Batch) -> dict[str, tf.Tensor]:
        """One step of the optimiser; the task's figures so far, and the batch's loss.

        Of a replica's share of a batch the loss is its part of the whole batch's; `fit` adds them up.
        """
        # Keras finds the end of a dataset of unknown size by a step without data. Unless everything waits for the data,
        # that step advances Adam's step counter, and only in a process's first epoch: resuming would not be exact.
        with tf.control_dependencies(tf.nest.flatten(inputs)):
            return super().train_step(inputs)

    def compute_loss(self, inputs: Batch, training: bool = False) -> tf.Tensor:
        """The loss of a training batch (see `schema.py`), a scalar; updates the task's figures."""
        label = inputs[schema.LABEL]
        drawn = self.next_item.draw()
        rows: ItemTable | ItemRows = self.items
        if drawn is not None:
            # All lookups of the step from distinct rows: the table's gradient is sparse then.
            names = (schema.ITEM_INDEX, schema.LABEL, schema.FP_INDEX, schema.HISTORY_INDEX, schema.UNCLICKED_INDEX)
            touched = [inputs[name] for name in names if name in inputs]
            rows = self.items.rows([*touched, drawn + schema.FIRST_ITEM_INDEX])

        def candidates_of(embeddings: tf.Tensor, row: tf.Tensor | None) -> tf.Tensor:
            scored, other = self._as_scored(embeddings), self.task.abandoned_query
            return scored if other is None else other.candidates(scored, row)

        def next_item_loss(queries: tf.Tensor, position: tf.Tensor, extra: tf.Tensor | None) -> tf.Tensor:
            if drawn is None:
                cost = self.next_item(queries, candidates_of(self.items.item_embeddings(), None), position, extra)
                if self.repeat_offsets is None:
                    return cost
                columns = (inputs[schema.ITEM_INDEX] - schema.FIRST_ITEM_INDEX, position)
                scored = [candidates_of(self.items(c + schema.FIRST_ITEM_INDEX), c) for c in columns]
                return self.repeat_offsets.add_to_loss(cost, queries, inputs, *scored)
            negatives, positives = (candidates_of(rows(p + schema.FIRST_ITEM_INDEX), p) for p in (drawn, position))
            return self.next_item(queries, DrawnItems(drawn, negatives, positives), position, extra)

        sessions = self.session_embeddings(inputs, training, rows)
        labels = self._as_scored(rows(label))
        unclicked_loss = None
        if self.unclicked is not None:
            shown = rows(inputs[schema.UNCLICKED_INDEX])
            fused = self.unclicked(sessions, shown, inputs[schema.IS_UNCLICKED], self._user(inputs), training)
            unclicked_loss = self.unclicked.loss(sessions, fused, labels, self.task.is_compared(inputs))
            sessions = fused.session_embeddings
        fps = self._as_scored(rows(inputs[schema.FP_INDEX])) if schema.FP_INDEX in inputs else None
        if self._concat_items and self.users is not None and self.concat is not None:
            user = self.users(inputs[schema.USER_INDEX])
            labels, fps = self.concat(labels, user), self.concat(fps, user)
        loss = self.task(sessions, inputs, next_item_loss, labels, fps)
        return loss if unclicked_loss is None else loss + unclicked_loss

    def _user(self, batch: Batch) -> tf.Tensor | None:
        """`<float>[B, D]`; None: the model has no users."""
        return None if self.users is None else self.users(batch[schema.USER_INDEX])

    def _as_scored(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Rows of the item table as what sessions are compared with, in scores and in the false positives' term alike."""
        scale = self._cosine_scale
        return embeddings if scale is None else scale * tf.nn.l2_normalize(embeddings, -1)


def _one_empty_session() -> dict[str, tf.Tensor]:
    """A batch that every model can embed."""
    return {
        schema.ITEM_INDEX: tf.zeros([1, 1], tf.int32),
        schema.INPUT_IS_FP: tf.zeros([1, 1], tf.bool),
        schema.USER_INDEX: tf.zeros([1], tf.int32),
        schema.HISTORY_INDEX: tf.zeros([1, 1], tf.int32),
    }
