"""The project's side of the comparison: its batches, model, `fit` and ranking, as `training.train` uses them.

In: the data set itself, and the description that `worker.serve` reads.
"""

from __future__ import annotations

import bisect
import sys
import time
from collections.abc import Mapping
from typing import Any

import fp_tfrs  # noqa: F401  settles Keras 2 before TensorFlow is imported

# isort: split
import numpy as np
import tensorflow as tf

from benchmarks.peers import data, settings, worker
from fp_tfrs import schema
from fp_tfrs.config import ModelConfig, TrainingConfig
from fp_tfrs.data.dataset import TrainingBatches
from fp_tfrs.data.session_table import SessionTable
from fp_tfrs.learning.lazy_adam import LazyAdam
from fp_tfrs.learning.metrics import metric_matrix
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.learning.ranking import TargetRanking
from fp_tfrs.towers.inputs import TowerInputs


class Ours:
    """A tower of the project's on a data set.

    Args:
        description: dataset, tower; next_item, the loss's kind; data_dir, with the data sets' folders; threads; negatives,
            if not the default.
    """

    def __init__(self, description: Mapping[str, Any]):
        tf.config.threading.set_intra_op_parallelism_threads(description["threads"])
        tf.config.threading.set_inter_op_parallelism_threads(description["threads"])
        tables = data.read(description["dataset"], description["data_dir"])
        sampling = {key: description[key] for key in ("negatives",) if key in description}
        config = model_config(description["tower"], {"kind": description["next_item"], **sampling})
        training = training_config(tables.train, config, settings.TARGETS_PER_STEP)
        self._batches = TrainingBatches(tables.train, config, training, settings.SEED)
        counts = np.bincount(tables.train.item_index - schema.FIRST_ITEM_INDEX, minlength=tables.n_items)
        self._model = SessionModel(config, tables.n_items, settings.SEED, counts)
        optimizer = LazyAdam(training.learning_rate, global_clipnorm=training.clip_norm)
        optimizer.build(self._model.trainable_variables)
        self._model.compile(optimizer=optimizer)
        self._ranking = TargetRanking(self._model, tables.valid, config, training.batch_size)
        self._n_items, self._n_valid_sessions = tables.n_items, len(tables.valid.length)
        self._batch_size = training.batch_size
        self._epoch = 0
        self._products = _Products(tables.n_items)
        self._gradients = _Gradients(self._model)

    def facts(self) -> dict[str, Any]:
        return {
            "n_targets": self._batches.n_targets,
            "n_steps": self._batches.n_steps,
            "n_valid_targets": len(self._ranking.column),
            "n_valid_sessions": self._n_valid_sessions,
            "n_items": self._n_items,
            "n_parameters": int(sum(np.prod(weight.shape) for weight in self._model.trainable_variables)),
            "batch_size": self._batch_size,
        }

    def train(self, n_steps: int, least_s: float) -> dict[str, Any]:
        first, n_trained = self._epoch, 0
        begin_s = time.perf_counter()

        def end_round(_: int, logs: object) -> None:
            nonlocal n_trained
            n_trained += n_steps
            self._model.stop_training = time.perf_counter() - begin_s >= least_s

        self._model.fit(  # as `train` calls it, with its guard
            self._batches.epochs(first),
            epochs=sys.maxsize,
            steps_per_epoch=n_steps,
            verbose=0,
            callbacks=[tf.keras.callbacks.LambdaCallback(on_train_batch_end=_refuse_nan, on_epoch_end=end_round)],
        )
        seconds = time.perf_counter() - begin_s
        self._epoch += -(-n_trained // self._batches.n_steps)
        return {"seconds": seconds, "n_targets": self._count_targets(first, n_trained)}

    def load(self, n_steps: int, least_s: float) -> dict[str, Any]:
        n_loaded = 0
        begin_s = time.perf_counter()
        for _ in self._batches.epochs(self._epoch):
            n_loaded += 1
            seconds = time.perf_counter() - begin_s
            if n_loaded % n_steps == 0 and seconds >= least_s:
                break
        return {"seconds": seconds, "n_targets": self._count_targets(self._epoch, n_loaded)}

    def evaluate(self) -> dict[str, Any]:
        begin_s = time.perf_counter()
        mrr = metric_matrix(self._ranking.ranks())[f"mrr@{settings.TOP_K}"].mean()
        seconds = time.perf_counter() - begin_s
        return {"seconds": seconds, "n_targets": len(self._ranking.column), "mrr": float(mrr)}

    def multiply(self, n_rows: int) -> dict[str, Any]:
        return self._products.time(n_rows)

    def differentiate(self) -> dict[str, Any]:
        """Tower and full softmax with their gradients, each by itself, over batches of the sizes that an epoch has.

        No lookups, no optimizer, no loader, no `fit`: what is left of a step if all of these took no time.
        """
        tower_s = loss_s = 0.0
        n_targets = 0
        for batch in list(self._batches.epoch(self._epoch)):  # made before the clock runs
            item_index = batch[schema.ITEM_INDEX]
            position = batch[schema.LABEL][batch[schema.LABEL] != schema.PAD_INDEX] - schema.FIRST_ITEM_INDEX
            events = tf.random.normal([*item_index.shape, settings.DIM])
            sessions = tf.random.normal([len(position), settings.DIM])
            begin_s = time.perf_counter()
            self._gradients.of_tower(events, item_index)
            between_s = time.perf_counter()
            self._gradients.of_loss(sessions, position)
            tower_s += between_s - begin_s
            loss_s += time.perf_counter() - between_s
            n_targets += len(position)
        return {"seconds": tower_s + loss_s, "tower_s": tower_s, "loss_s": loss_s, "n_targets": n_targets}

    def _count_targets(self, epoch: int, n_steps: int) -> int:
        batches = self._batches.epochs(epoch).take(n_steps)
        return sum(int(tf.math.count_nonzero(batch[schema.LABEL])) for batch in batches)


def model_config(tower: str, next_item: Mapping[str, Any]) -> ModelConfig:
    """The project's model of a tower of `settings.TOWERS`, by the section of the loss."""
    options, _ = settings.TOWERS[tower]
    section = {"name": tower, "embedding_dim": settings.DIM, **options}
    return ModelConfig.model_validate({"method": "vanilla", "tower": section, "next_item": next_item})


def training_config(table: SessionTable, model: ModelConfig, targets_per_step: int) -> TrainingConfig:
    """Settings with as many sessions a batch as make the mean of an epoch's targets a step what is asked for."""

    def config(batch_size: int) -> TrainingConfig:
        return TrainingConfig(
            batch_size=batch_size,
            learning_rate=settings.LEARNING_RATE,
            clip_norm=settings.CLIP_NORM,
            length_buckets=settings.LENGTH_BUCKETS,
        )

    def mean(batch_size: int) -> float:
        batches = TrainingBatches(table, model, config(batch_size), settings.SEED)
        return batches.n_targets / batches.n_steps

    sizes = range(1, targets_per_step + 1)  # a session has one target at least
    larger = sizes[min(bisect.bisect_left(sizes, targets_per_step, key=mean), len(sizes) - 1)]
    return config(min(larger, max(larger - 1, 1), key=lambda size: abs(mean(size) - targets_per_step)))


def _refuse_nan(step: int, logs: Mapping[str, float]) -> None:
    if not np.isfinite(logs["loss"]):
        raise RuntimeError(f"the loss is {logs['loss']} at step {step}")


class _Gradients:
    """The model's tower, and its next-item loss, with all gradients: each a graph of its own."""

    def __init__(self, model: SessionModel):
        weights = model.tower.trainable_variables
        events, sessions = (tf.TensorSpec([*shape, settings.DIM]) for shape in ([None, None], [None]))

        @tf.function(autograph=False, input_signature=[events, tf.TensorSpec([None, None], tf.int32)])
        def of_tower(embeddings: tf.Tensor, item_index: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(embeddings)
                found = model.tower(TowerInputs(embeddings, item_index, None, None, None), training=True)
            return tape.gradient(found, [embeddings, *weights])

        @tf.function(autograph=False, input_signature=[sessions, tf.TensorSpec([None], tf.int32)])
        def of_loss(sessions: tf.Tensor, position: tf.Tensor) -> list[tf.Tensor]:
            items = model.candidates()
            with tf.GradientTape() as tape:
                tape.watch([sessions, items])
                loss = tf.reduce_mean(model.next_item(sessions, items, position))
            return [loss, *tape.gradient(loss, [sessions, items])]

        self.of_tower, self.of_loss = of_tower, of_loss


class _Products:
    """The products of a step's logits and their gradients alone, which no way of training by full softmax can do without."""

    def __init__(self, n_items: int):
        self._items = tf.random.uniform([n_items, settings.DIM])

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, settings.DIM])])
        def multiply(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = tf.matmul(rows, self._items, transpose_b=True)
            return tf.matmul(logits, self._items), tf.transpose(tf.matmul(rows, logits, transpose_a=True))

        self._multiply = multiply

    def time(self, n_rows: int) -> dict[str, Any]:
        rows = tf.random.uniform([n_rows, settings.DIM])
        begin_s = time.perf_counter()
        self._multiply(rows)
        return {"seconds": time.perf_counter() - begin_s, "flop": 6 * n_rows * len(self._items) * settings.DIM}


if __name__ == "__main__":
    worker.serve(Ours)
