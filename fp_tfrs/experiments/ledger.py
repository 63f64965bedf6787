"""What is finished of an experiment, on disk: a line for each training, a file with the ranks of each judged run.

    trainings.jsonl     {"run": fingerprint, "val_mrr": …, "best_epoch": …, "seconds": …, "code": …}, one line a training
    ranks/<run>.npz     ranks <int32>[n] of the test targets, the epochs' history as JSON text, and `figures.SET_METRICS`
                        <float32>[S] of the sessions' lists, which files of before there were any lack, and `PreparedData.digest`,
                        which older ones lack too

Runs are named by `plan.run_fingerprint`, so that experiments in one folder share what they have in common. Both are small
enough to be kept with the project; processes that work side by side append under a lock, and a line that a power cut has
torn is not read. As files that come with a project, they may hold anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fp_tfrs.errors import RunError
from fp_tfrs.experiments.prepared import load_arrays, save_arrays
from fp_tfrs.learning.training import Record


@dataclasses.dataclass(frozen=True)
class Training:
    """What a finished training came to. val_mrr: of the best epoch; code: fingerprint of the code that trained."""

    val_mrr: float
    best_epoch: int
    seconds: float
    code: str


@dataclasses.dataclass(frozen=True)
class Judged:
    """ranks: <int64>[n] of the test targets; history: the epochs' records; list_values: as `results.Run` has them; data:
    `PreparedData.digest`, "" in older files."""

    ranks: np.ndarray
    history: list[Record]
    list_values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    data: str = ""


class Ledger:
    """The folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = os.path.join(folder, "trainings.jsonl")
        os.makedirs(folder, exist_ok=True)

    def trainings(self) -> dict[str, Training]:
        """Run → what it came to.

        Raises:
            RunError: a line is whole, but is no training.
        """
        found = {}
        if os.path.exists(self._path):
            with open(self._path, "rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        name, training = _to_training(json.loads(line))
                    except (json.JSONDecodeError, UnicodeDecodeError):
                        continue  # torn
                    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                        raise RunError(f"{self._path}: line {number} is no training; delete the line") from error
                    found[name] = training
        return found

    def add(self, run: str, training: Training) -> None:
        """Notes a finished training; a second time changes nothing."""
        with open(self._path, "a+", encoding="utf-8", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if run in self.trainings():
                return
            text = json.dumps({"run": run, **dataclasses.asdict(training)})
            file.seek(0)
            ends = file.read()[-1:]
            file.write(text + "\n" if ends in ("", "\n") else f"\n{text}\n")
            file.flush()
            os.fsync(file.fileno())

    def is_judged(self, run: str) -> bool:
        return os.path.exists(self._ranks_path(run))

    def judge(self, run: str, judged: Judged) -> None:
        """Keeps what a run came to on the test targets."""
        history = [
            {name: value if value is None else float(f"{value:.6g}") for name, value in record.items()}
            for record in judged.history
        ]
        lists = {name: values.astype(np.float32) for name, values in judged.list_values.items()}
        texts = {"history": np.array(json.dumps(history)), "data": np.array(judged.data)}
        arrays = {"ranks": judged.ranks.astype(np.int32), **texts, **lists}
        save_arrays(self._ranks_path(run), arrays)

    def judged(self, run: str) -> Judged:
        """What `judge` kept.

        Raises:
            RunError: the file is damaged, or holds something else.
        """
        path = self._ranks_path(run)
        arrays = load_arrays(path)
        try:
            ranks, history = arrays.pop("ranks"), json.loads(str(arrays.pop("history")))
            data = str(arrays.pop("data", ""))
        except (KeyError, ValueError, RecursionError):
            ranks, history = np.array(None), None
        is_whole = ranks.ndim == 1 and ranks.dtype.kind == "i" and all(of.dtype.kind == "f" for of in arrays.values())
        if not is_whole or not isinstance(history, list) or not all(isinstance(record, dict) for record in history):
            raise RunError(f"{path} holds no judged run; delete it and start again")
        return Judged(ranks.astype(np.int64), history, arrays, data)

    def _ranks_path(self, run: str) -> str:
        return os.path.join(self._folder, "ranks", f"{run}.npz")


def _to_training(values: dict[str, Any]) -> tuple[str, Training]:
    """Run and training of a line; raises TypeError and others for what is none."""
    name, training = values.pop("run"), Training(**values)
    texts, numbers = (name, training.code), (training.val_mrr, training.best_epoch, training.seconds)
    if not all(isinstance(text, str) and text.isprintable() for text in texts):  # a report must be able to write them
        raise TypeError("no text")
    if not all(type(number) in (int, float) for number in numbers):
        raise TypeError("no number")
    return name, training


@contextlib.contextmanager
def lock(path: str, is_waiting: bool = False) -> Iterator[bool]:
    """Whether this process holds the lock of that file; the system frees it when the process ends, however it ends."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
