"""What a training keeps on disk, so that a killed one goes on: progress, checkpoints, the best epoch's weights.

In a run's state directory lie `run.json` (which run it is), `ckpt-*` (model, optimizer, dropout and progress after each of
the last two epochs), `best-*.npz` (the best epoch's weights) and `history.json`. A checkpoint is the last thing that an epoch
writes, so the next start goes on from the last finished epoch, with the same batches and dropout as if nothing had happened.
Where several processes train together (`distribution.py`), all read these files and the chief writes them.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from fp_tfrs import storage
from fp_tfrs.config import ModelConfig, TrainingConfig, dump
from fp_tfrs.errors import RunError
from fp_tfrs.learning.distribution import Devices
from fp_tfrs.learning.model import SessionModel

Record = dict[str, float | None]
OnLine = Callable[[str], None]


class TrainingState:
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
        # Made now, since the chief's first `save` would make it inside `fit`, where all processes have to make a variable.
        _ = self._manager.checkpoint.save_counter
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


def identify(model: ModelConfig, training: TrainingConfig, rest: str) -> str:
    """What a run's directory is told by: the settings that decide what comes of it, and `rest`."""
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
    return identify(*sections, identity[end_how + 1 :])
