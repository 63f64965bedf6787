"""A training from files, in this process or in several that share the work: what Trainer does between Transform and export.

In: a `TrainingJob`. Out: its state directory, finished, and the model. With `training.distribution: multi_worker` the training
is a process of its own, since TensorFlow can be told of its peers only before it does anything else:

    fp-tfrs run           TF_CONFIG says that it is the chief; its Trainer starts `python -m pipeline.training_job JOB`
    fp-tfrs train-worker  on each of the other machines; waits for the chief, which tells it the job

All of them read the same files and the same state directory: a shared volume or an object store.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import threading

import tensorflow as tf

from fp_tfrs import storage
from fp_tfrs.config import RunConfig, dump, parse, with_settings
from fp_tfrs.data.session_table import SessionTable, read_for_model
from fp_tfrs.data.vocabulary import read_vocabulary
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.learning import distribution
from fp_tfrs.learning.training import OnLine, TrainedModel, train
from fp_tfrs.processes import command_of
from fp_tfrs.progress import say
from pipeline.earlier import read_warm_start

_INPUT_ERROR, _RUN_ERROR = 2, 3  # exit codes of the chief's process; what it has to say is its last line
_LOG_TAIL = 2000  # characters
# What TensorFlow raises when a peer does not answer any more.
_PEER_IS_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """All that a process needs for a training.

    Attributes:
        run: its model, training and seed matter.
        train_files, valid_files: transformed examples.
        item_vocabulary, user_vocabulary: files; the latter None for a model without users.
        state_dir, log_dir: see `training.train`.
    """

    run: RunConfig
    train_files: tuple[str, ...]
    valid_files: tuple[str, ...]
    item_vocabulary: str
    user_vocabulary: str | None
    state_dir: str
    log_dir: str

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(dataclasses.asdict(dataclasses.replace(self, run=dump(self.run))))  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, text: str) -> TrainingJob:
        """The inverse of `to_json`."""
        values = json.loads(text)
        files = {name: tuple(values[name]) for name in ("train_files", "valid_files")}
        return cls(**{**values, **files, "run": parse(RunConfig, values["run"])})


def run_job(job: TrainingJob, on_line: OnLine) -> tuple[TrainedModel, SessionTable, SessionTable]:
    """The trained model, and the sessions that it was trained and validated on; raises as `training.train`."""
    if job.run.training.distribution == "multi_worker":
        _lead(job, on_line)
        # What has been trained is only to be read.
        job = dataclasses.replace(job, run=with_settings(job.run, {"training.distribution": "one_device"}))
    return _train(job, on_line)


def check_chief() -> None:
    """Raises InputError unless TF_CONFIG says that this process is the chief of several."""
    if not distribution.read_membership().is_chief:
        raise InputError(
            "TF_CONFIG says that this process is a worker, not the chief, and a pipeline runs on the chief alone; start "
            "fp-tfrs train-worker here"
        )


def work() -> None:
    """Takes part in the chief's training, as one of its workers; waits for it first.

    Raises:
        InputError: TF_CONFIG names no worker, or the data cannot be read.
        RunError: of the training, or the chief or another worker is gone.
    """
    if distribution.read_membership().is_chief:
        raise InputError("TF_CONFIG says that this process is the chief: start fp-tfrs run here")
    say("waiting for the chief")
    _take_part(None, say)


def _train(job: TrainingJob, on_line: OnLine) -> tuple[TrainedModel, SessionTable, SessionTable]:
    run = job.run
    train_table, valid_table = (read_for_model(files, run.model) for files in (job.train_files, job.valid_files))
    items = read_vocabulary(job.item_vocabulary)
    users = read_vocabulary(job.user_vocabulary) if job.user_vocabulary else []
    trained = train(
        run,
        train_table,
        valid_table,
        len(items),
        job.state_dir,
        job.log_dir,
        on_line,
        len(users),
        warm_start=read_warm_start(run.training.warm_start, items, users),
    )
    return trained, train_table, valid_table


def _lead(job: TrainingJob, on_line: OnLine) -> None:
    """Runs the chief's process; returns when the training has come to its end."""
    check_chief()
    with tempfile.TemporaryDirectory(prefix="fp-tfrs-") as folder:
        job_path, log_path = (os.path.join(folder, name) for name in ("job.json", "chief.log"))
        storage.write_text(job_path, job.to_json())
        on_line("waiting for the workers: start fp-tfrs train-worker in each of the processes that TF_CONFIG names")
        command = command_of(__name__, job_path)
        with (
            open(log_path, "wb") as log,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as chief,
        ):
            assert chief.stdout is not None
            last = ""
            try:
                for line in chief.stdout:
                    last = line.rstrip("\n")
                    on_line(last)
            finally:
                if sys.exc_info()[0]:
                    chief.kill()
        if chief.returncode:
            kind = InputError if chief.returncode == _INPUT_ERROR else RunError
            if chief.returncode in (_INPUT_ERROR, _RUN_ERROR):
                raise kind(last)
            said = storage.read_text(log_path)[-_LOG_TAIL:]
            raise RunError(f"the chief's training ended with code {chief.returncode}: {said}")


def _take_part(job_text: str | None, on_line: OnLine) -> None:
    """What each process of a training does; only the chief knows the job."""
    try:
        devices = distribution.devices_of("multi_worker")
        job = TrainingJob.from_json(devices.agree(job_text) or "")
        _train(job, on_line)
    except _PEER_IS_GONE as error:
        who = re.search(r"Error reported from (\S+?):? ", str(error))
        raise RunError(
            f"a process of the training is gone or has not come{f', {who[1]}' if who else ''}, and the others cannot go on "
            "without it; start all of them again: the training goes on after its last epoch"
        ) from error


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _main(job_path: str) -> None:
    """The chief's process: lines on stdout, the last one says what went wrong."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _take_part(storage.read_text(job_path), lambda line: print(line, flush=True))
    except (InputError, RunError) as error:
        print(" ".join(str(error).split()), flush=True)
        sys.exit(_INPUT_ERROR if isinstance(error, InputError) else _RUN_ERROR)


if __name__ == "__main__":
    _main(sys.argv[1])
