"""Transformed examples → a trained `SessionModel`: one `fit` over all epochs, a validation after each, early stopping.

What a killed run needs to go on is `training_state.py`'s: the next start finds the last finished epoch, and goes on from it.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from fp_tfrs import schema, storage
from fp_tfrs.config import RunConfig
from fp_tfrs.data.dataset import TrainingBatches
from fp_tfrs.data.session_table import SessionTable
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.learning.distribution import Devices, devices_of
from fp_tfrs.learning.lazy_adam import LazyAdam
from fp_tfrs.learning.metrics import metric_matrix
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.learning.ranking import TargetRanking
from fp_tfrs.learning.training_state import OnLine, Record, TrainingState, identify
from fp_tfrs.learning.warm_start import WarmStart

_OFF_GATE_MEAN = 0.05
_OFF_HINGE_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with the weights of its best epoch.

    best_epoch counts from 1. history has a record for each epoch: epoch, the figures of `FalsePositiveTask`, val_mrr@20,
    val_hr@20, val_fp_hr@20 (None without abandoned targets), targets_per_s and seconds.
    """

    model: SessionModel
    best_epoch: int
    history: list[Record]


def train(
    config: RunConfig,
    train_table: SessionTable,
    valid_table: SessionTable,
    n_items: int,
    state_dir: str,
    log_dir: str,
    on_line: OnLine,
    n_users: int = 0,
    epochs: int | None = None,
    warm_start: WarmStart | None = None,
) -> TrainedModel:
    """Trains until validation MRR@20 has not risen for `patience` epochs; takes up where a killed run has stopped.

    Args:
        config: the run; model, training and seed matter here.
        train_table, valid_table: of `session_table.read_sessions`.
        n_items: V, the items of the vocabulary.
        state_dir: of this run alone, the same for all processes; a finished run's is read and returned at once.
        log_dir: for TensorBoard.
        on_line: takes a line of text for the user after each epoch, and warnings.
        n_users: U, the users of the vocabulary, for a model with users.
        epochs: pauses after this many; a later call goes on, and comes to what it would have without the pause.
        warm_start: the weights to start from; None = those that follow from the seed.

    Raises:
        InputError: the data cannot be read, or has nothing to train on or to validate with; or warm_start's embeddings are
            of another dimension; or the devices of training.distribution are not to be had, or cannot share a batch.
        RunError: the loss is not a number, or state_dir belongs to another run or is unreadable.
    """
    training = config.training
    devices = devices_of(training.distribution)
    devices.check_batch_size(training.batch_size)
    item_counts = np.bincount(train_table.item_index - schema.FIRST_ITEM_INDEX, minlength=n_items)
    abandoned_counts = item_counts - train_table.count_kept_items(n_items)

    def make_model() -> SessionModel:
        return SessionModel(config.model, n_items, config.seed, item_counts, n_users, abandoned_counts)

    with devices.scope():
        model = make_model()
        optimizer = LazyAdam(training.learning_rate, global_clipnorm=training.clip_norm, l2=training.l2)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer=optimizer)
    identity = identify(config.model, training, f"{config.seed} {n_items}")
    if warm_start is not None:
        identity += f" {warm_start.fingerprint}"
        for line in warm_start.apply(model):
            on_line(line)
    state = TrainingState(model, state_dir, identity, devices, on_line)
    last_epoch = epochs or training.max_epochs
    if not state.is_finished(last_epoch, training.patience):
        _run_epochs(config, model, state, train_table, valid_table, n_items, log_dir, devices, on_line, last_epoch)
    if devices.has_strategy:
        model = make_model()  # of ordinary variables, for who evaluates and exports
    state.load_best(model)
    on_line(f"epoch {state.best_epoch} of {state.epoch} is the best: val mrr@20 {state.best_mrr:.4f}")
    return TrainedModel(model, state.best_epoch, state.history)


def _run_epochs(
    config: RunConfig,
    model: SessionModel,
    state: TrainingState,
    train_table: SessionTable,
    valid_table: SessionTable,
    n_items: int,
    log_dir: str,
    devices: Devices,
    on_line: OnLine,
    last_epoch: int,
) -> None:
    training = config.training
    for table in (train_table, valid_table):
        _check_vocabulary(table, n_items)
    batches = TrainingBatches(train_table, config.model, training, config.seed)
    validate = _Validation(model, valid_table, config)
    where = f", on {devices.n_replicas} device{'s' * (devices.n_replicas > 1)}" if devices.has_strategy else ""
    on_line(
        f"training {config.model.method} on {batches.n_targets:,} targets in {batches.n_sessions:,} sessions, "
        f"{n_items:,} items{where}"
    )
    writer = tf.summary.create_file_writer(log_dir) if devices.is_chief else tf.summary.create_noop_writer()
    begin_s = time.monotonic()

    def rate_of(epoch: int) -> float:
        return training.learning_rate * training.learning_rate_decay ** (epoch // training.decay_epochs)

    def finish(epoch: int, logs: object) -> None:
        nonlocal begin_s
        targets_per_s = batches.n_targets / (time.monotonic() - begin_s)
        # Not from the logs of `fit`, which adds them up over processes.
        figures = {metric.name: float(metric.result()) for metric in model.metrics}
        record: Record = {"epoch": epoch + 1, **figures, **validate()}
        record |= {"targets_per_s": targets_per_s, "seconds": time.monotonic() - begin_s}
        record = devices.agree(record)  # when to stop, first of all
        for name, value in record.items():
            if value is not None and name != "epoch":
                tf.summary.scalar(name, value, step=epoch + 1)
        writer.flush()
        state.finish_epoch(record)
        for line in describe_epoch(state.history, training.max_epochs, config.model.loss.ignores_scale):
            on_line(line)
        model.stop_training = state.is_finished(last_epoch, training.patience)
        begin_s = time.monotonic()

    with writer.as_default():
        model.fit(
            devices.share_out(batches.epochs(state.epoch)),
            initial_epoch=state.epoch,
            epochs=last_epoch,
            steps_per_epoch=batches.n_steps,
            verbose=0,
            callbacks=[
                tf.keras.callbacks.LearningRateScheduler(rate_of),
                _StopAtNaN(batches, state.directory if devices.is_chief else None),
                tf.keras.callbacks.LambdaCallback(on_epoch_end=finish),
            ],
        )
    writer.close()


def _check_vocabulary(table: SessionTable, n_items: int) -> None:
    last = schema.FIRST_ITEM_INDEX + n_items - 1
    if table.item_index.max(initial=0) > last:
        raise InputError(
            f"the examples hold item index {table.item_index.max()}, but the vocabulary of {n_items} items ends at {last}; "
            "run the Transform step again"
        )


class _Validation:
    """Ranks every validation target in the whole catalogue."""

    def __init__(self, model: SessionModel, table: SessionTable, config: RunConfig):
        self._ranking = TargetRanking(model, table, config.model, config.training.batch_size)

    def __call__(self) -> Record:
        rank, is_fp = self._ranking.ranks(), self._ranking.is_false_positive
        kept, abandoned = metric_matrix(rank[~is_fp]), metric_matrix(rank[is_fp])
        return {
            "val_mrr@20": float(kept["mrr@20"].mean()),
            "val_hr@20": float(kept["hr@20"].mean()),
            "val_fp_hr@20": float(abandoned["hr@20"].mean()) if is_fp.any() else None,
        }


class _StopAtNaN(tf.keras.callbacks.Callback):
    """Ends the run at the first step whose loss is not finite, before anything of that epoch is saved.

    The batch's sessions are listed in the directory, if one is given.
    """

    def __init__(self, batches: TrainingBatches, directory: str | None):
        super().__init__()
        self._batches, self._directory, self._epoch = batches, directory, 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss = (logs or {})["loss"]
        if np.isfinite(loss):
            return
        session_ids = self._batches.session_ids(self._epoch, batch)
        listed = ""
        if self._directory is not None:
            path = os.path.join(self._directory, "diverged_batch.txt")
            storage.write_text(path, "".join(f"{session_id}\n" for session_id in session_ids))
            listed = f", listed in {path}"
        raise RunError(
            f"the loss is {loss} at epoch {self._epoch + 1}, step {batch + 1}, sessions {', '.join(session_ids[:3])}, … "
            f"({len(session_ids)}{listed}); lower training.learning_rate or training.clip_norm"
        )


def describe_epoch(history: Sequence[Record], max_epochs: int, ignores_scale: bool = False) -> list[str]:
    """The last epoch in words: its figures, what false positives did, and warnings that did not hold an epoch before.

    ignores_scale: of the configured loss; then a small gate switches nothing off.
    """
    record = history[-1]
    epoch, fp_hr = int(record["epoch"] or 0), record["val_fp_hr@20"]
    left = datetime.timedelta(seconds=round((record["seconds"] or 0) * (max_epochs - epoch)))
    names = {
        "next_item_loss": "next item loss",
        "metric_loss": "metric loss" if "hinge_active_share" in record else "false positives' loss",
        "satisfaction_loss": "satisfaction loss",
        "unclicked_loss": "unclicked items' loss",
    }
    losses = ", ".join(f"{name} {record[key]:.4f}" for key, name in names.items() if key in record)
    figures = (
        f"epoch {epoch}/{max_epochs}: {losses}, val mrr@20 {record['val_mrr@20']:.4f}, "
        f"hr@20 {record['val_hr@20']:.4f}, fp_hr@20 {'none' if fp_hr is None else format(fp_hr, '.4f')}, "
        f"{record['targets_per_s']:,.0f} targets/s, at most {left} left"
    )
    lines = [figures]
    if "hinge_active_share" in record:
        gate = ""
        if "gate_mean" in record:
            gate = (
                f"gate mean weight {record['gate_mean']:.3f}, correlation with similarity "
                f"{record['gate_similarity_correlation']:+.2f}; "
            )
        lines.append(
            f"  {gate}hinge active at {record['hinge_active_share']:.1%} of the {record['fp_position_share']:.1%} of "
            "targets with false positives"
        )
    elif "fp_position_share" in record:
        lines.append(f"  {record['fp_position_share']:.1%} of targets have false positives")
    if "unclicked_position_share" in record:
        share = f"{record['unclicked_position_share']:.1%} of"
        is_hinge = "unclicked_active_share" in record
        active = f"hinge active at {record['unclicked_active_share']:.1%} of the " if is_hinge else ""
        lines.append(f"  {active}{share} targets {'with' if is_hinge else 'have'} unclicked items")
    before = _warnings(history[-2], ignores_scale) if len(history) > 1 else []
    return lines + [f"warning: {warning}" for warning in _warnings(record, ignores_scale) if warning not in before]


def _warnings(record: Record, ignores_scale: bool) -> list[str]:
    """What makes a metric term do nothing in this epoch."""
    found = []
    if record.get("unclicked_position_share", 1) == 0:
        found.append("no target has unclicked items, so they add nothing; lower data.unclicked.min_impressions")
    elif (record.get("unclicked_active_share", 1) or 0) < _OFF_HINGE_SHARE:
        found.append("the hinge of unclicked items is almost never active; raise model.xdm.margin")
    if "fp_position_share" not in record:
        return found
    if not record["fp_position_share"]:
        return [*found, "no target has false positives, so they add nothing to the loss; widen model.loss.fp_scope"]
    if not ignores_scale and (record.get("gate_mean", 1) or 0) < _OFF_GATE_MEAN:
        found.append("the gate has switched the metric term off; try model.loss.gate_gradient: stop, or gate: hard")
    if (record.get("hinge_active_share", 1) or 0) < _OFF_HINGE_SHARE:
        found.append("the hinge is almost never active; raise model.loss.margin, or use similarity: cosine")
    return found
