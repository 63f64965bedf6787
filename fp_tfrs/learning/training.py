"""Transformed examples → a trained `SessionModel`: epochs of `fit`, a validation after each, early stopping, resuming.

All that a killed run needs lies in its state directory: `run.json` (which run it is), `ckpt-*` (model, optimizer, dropout
and progress after each of the last two epochs), `best-*.npz` (the best epoch's weights) and `history.json`. A checkpoint
is the last thing that an epoch writes, so the next start goes on from the last finished epoch, with the same batches and
dropout as if nothing had happened. Where several processes train together (`distribution.py`), all read these files and the
chief writes them.
"""

from __future__ import annotations

import dataclasses
import datetime
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from fp_tfrs import schema, storage
from fp_tfrs.config import ModelConfig, RunConfig, TrainingConfig, dump
from fp_tfrs.data.dataset import TrainingBatches
from fp_tfrs.data.session_table import SessionTable
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.learning.distribution import Devices, devices_of
from fp_tfrs.learning.lazy_adam import LazyAdam
from fp_tfrs.learning.metrics import metric_matrix
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.learning.ranking import TargetRanking
from fp_tfrs.learning.warm_start import WarmStart

_OFF_GATE_MEAN = 0.05
_OFF_HINGE_SHARE = 0.01
_EPOCHS_PER_COLLECTION = 10  # it takes 0.3 s

Record = dict[str, float | None]
OnLine = Callable[[str], None]


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
    identity = _identify(config.model, training, f"{config.seed} {n_items}")
    if warm_start is not None:
        identity += f" {warm_start.fingerprint}"
        for line in warm_start.apply(model):
            on_line(line)
    state = _State(model, state_dir, identity, devices, on_line)
    last_epoch = epochs or training.max_epochs
    if not state.is_finished(last_epoch, training.patience):
        _run_epochs(config, model, state, train_table, valid_table, n_items, log_dir, devices, on_line, last_epoch)
    if devices.has_strategy:
        model = make_model()  # of ordinary variables, for who evaluates and exports
    state.load_best(model)
    on_line(f"epoch {state.best_epoch} of {state.epoch} is the best: val mrr@20 {state.best_mrr:.4f}")
    return TrainedModel(model, state.best_epoch, state.history)


def _identify(model: ModelConfig, training: TrainingConfig, rest: str) -> str:
    how = training.model_dump(mode="json", exclude={"distribution"})  # a run may go on on other devices
    return f"{dump(model)} {json.dumps(how, sort_keys=True)} {rest}"


def _fill_in(identity: str) -> str:
    """What an earlier release has written, with the defaults of the settings that it did not know."""
    read = json.JSONDecoder().raw_decode
    try:
        model, end = read(identity)
        how, end_how = read(identity, end + 1)
        sections = ModelConfig.model_validate(model), TrainingConfig.model_validate(how)
    except ValueError:  # of a setting that this release does not know, or no identity at all
        return identity
    return _identify(*sections, identity[end_how + 1 :])


def _run_epochs(
    config: RunConfig,
    model: SessionModel,
    state: _State,
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
    with writer.as_default():
        while not state.is_finished(last_epoch, training.patience):
            epoch = state.epoch
            begin_s = time.monotonic()
            decay = training.learning_rate_decay ** (epoch // training.decay_epochs)
            model.optimizer.learning_rate.assign(training.learning_rate * decay)
            guard = _StopAtNaN(batches, epoch, state.directory if devices.is_chief else None)
            shares = devices.share_out(batches.epoch(epoch))
            model.fit(shares, steps_per_epoch=batches.n_steps, verbose=0, callbacks=[guard])
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
            for line in describe_epoch(state.history, training.max_epochs):
                on_line(line)
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

    def __init__(self, batches: TrainingBatches, epoch: int, directory: str | None):
        super().__init__()
        self._batches, self._epoch, self._directory = batches, epoch, directory

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


class _State:
    """A run's progress and its files, which all processes of a training read and the chief writes."""

    def __init__(self, model: SessionModel, directory: str, identity: str, devices: Devices, on_line: OnLine):
        self.directory = directory
        self.history: list[Record] = []
        self._model, self._devices, self._on_line = model, devices, on_line
        self._progress = {
            "epoch": tf.Variable(0, dtype=tf.int64),
            "best_epoch": tf.Variable(0, dtype=tf.int64),
            "best_mrr": tf.Variable(-1.0, dtype=tf.float64),
        }
        self._claim(identity)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, **self._progress), directory, max_to_keep=2
        )
        self._restore()
        chief_epoch = devices.agree(self.epoch)
        if chief_epoch != self.epoch:
            raise RunError(
                f"the chief goes on after epoch {chief_epoch}, this process after {self.epoch}: all processes must see the same "
                f"files in {directory}"
            )

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return int(self._progress["epoch"])

    @property
    def best_epoch(self) -> int:
        return int(self._progress["best_epoch"])

    @property
    def best_mrr(self) -> float:
        return float(self._progress["best_mrr"])

    def is_finished(self, max_epochs: int, patience: int) -> bool:
        return self.epoch >= max_epochs or self.epoch - self.best_epoch >= patience

    def finish_epoch(self, record: Record) -> None:
        """Saves the model after an epoch; the checkpoint comes last. No process goes on before it is written."""
        best_epoch_before, mrr = self.best_epoch, float(record["val_mrr@20"] or 0)
        self._progress["epoch"].assign_add(1)
        self.history.append(record)
        is_best = mrr > self.best_mrr
        if is_best:
            self._progress["best_epoch"].assign(self.epoch)
            self._progress["best_mrr"].assign(mrr)
        if self._devices.is_chief:
            self._write(is_best, best_epoch_before)
        else:
            with tempfile.TemporaryDirectory() as folder:  # metrics are summed while they are saved: all must save
                self._manager.checkpoint.write(os.path.join(folder, "unused"))
        self._devices.agree(None)
        if self.epoch % _EPOCHS_PER_COLLECTION == 0:
            gc.collect()  # an epoch leaves 2.5 MB in cycles of TensorFlow's objects, which Python finds after dozens of epochs

    def _write(self, is_best: bool, best_epoch_before: int) -> None:
        if is_best:
            with storage.replacing(self._best_path(self.epoch)) as file:
                np.savez(file, *self._model.get_weights())
        storage.write_text(self._history_path, json.dumps(self.history, indent=1))
        self._manager.save(checkpoint_number=self.epoch)
        # The checkpoint before this one may still be needed, and with it the weights that were the best then.
        kept = {self._best_path(epoch) for epoch in (best_epoch_before, self.best_epoch)}
        for name in storage.list_folder(self.directory):
            path = os.path.join(self.directory, name)
            if name.startswith("best-") and path not in kept:
                storage.remove(path)

    def load_best(self, model: SessionModel) -> None:
        """Puts the best epoch's weights into a model like that of the state."""
        try:
            model.set_weights(list(storage.read_arrays(self._best_path(self.best_epoch)).values()))
        except (OSError, ValueError) as error:
            raise RunError(f"the best weights in {self.directory} are unreadable; delete it and train again") from error

    def _claim(self, identity: str) -> None:
        """Notes whose directory this is, or checks it."""
        storage.make_folder(self.directory)
        path = os.path.join(self.directory, "run.json")
        if self._devices.is_chief and not storage.exists(path):
            storage.write_text(path, identity)
        self._devices.agree(None)
        if _fill_in(storage.read_text(path)) != identity:
            raise RunError(f"{self.directory} holds a run with another configuration; delete it or use another")

    def _restore(self) -> None:
        """The newest checkpoint that can be read."""
        newest_first = self._manager.checkpoints[::-1]
        for path in newest_first:
            try:
                self._manager.checkpoint.restore(path).assert_existing_objects_matched()
            except (tf.errors.OpError, ValueError, RuntimeError, LookupError, AssertionError):
                self._on_line(f"warning: checkpoint {path} is unreadable; going back to the one before")
                continue
            self.history = json.loads(storage.read_text(self._history_path))[: self.epoch]
            self._on_line(f"going on after epoch {self.epoch}, from {path}")
            return
        if newest_first:
            raise RunError(f"no checkpoint in {self.directory} is readable; delete it to train from the start")

    @property
    def _history_path(self) -> str:
        return os.path.join(self.directory, "history.json")

    def _best_path(self, epoch: int) -> str:
        return os.path.join(self.directory, f"best-{epoch}.npz")


def describe_epoch(history: Sequence[Record], max_epochs: int) -> list[str]:
    """The last epoch in words: its figures, what false positives did, and warnings that did not hold an epoch before."""
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
    before = _warnings(history[-2]) if len(history) > 1 else []
    return lines + [f"warning: {warning}" for warning in _warnings(record) if warning not in before]


def _warnings(record: Record) -> list[str]:
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
    if (record.get("gate_mean", 1) or 0) < _OFF_GATE_MEAN:
        found.append("the gate has switched the metric term off; try model.loss.gate_gradient: stop, or gate: hard")
    if (record.get("hinge_active_share", 1) or 0) < _OFF_HINGE_SHARE:
        found.append("the hinge is almost never active; raise model.loss.margin, or use similarity: cosine")
    return found
