"""A search for better settings: keras-tuner says what to try, `training.train` tries it on the prepared sessions.

In: a `SearchJob`. Out: a keras-tuner `BaseTuner`, which `workers.py` makes one of for TFX's Tuner node.
keras-tuner keeps the search's own state, but is never asked to go on from it: each trial's result is kept in a file named
after its settings, and a search that begins anew asks for the same trials in the same order, which are then answered from
the files. So a killed search repeats no finished epoch, and comes to what it would have come to.

    FOLDER/trials/<fingerprint of the settings>/result-<epochs>.json    {"settings": …, "score": …, "best_epoch": …, …}
    FOLDER/trials/<fingerprint of the settings>/log.txt, state/         lines and state of the training
    FOLDER/oracle/                                                     keras-tuner's files
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import keras_tuner
import pydantic
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.errors import FailedTrialError, FatalError

from fp_tfrs import storage
from fp_tfrs.config import RangeConfig, RunConfig, Settings, TunerConfig, dump, fingerprint, parse, with_settings
from fp_tfrs.data.session_table import SessionTable, read_for_model
from fp_tfrs.errors import RunError
from fp_tfrs.learning.training import Record, train
from fp_tfrs.progress import say
from fp_tfrs.tuning.oracle import make_oracle
from fp_tfrs.tuning.values import EPOCHS, describe_settings, read_settings

_LOG = "log.txt"


@dataclasses.dataclass(frozen=True)
class SearchJob:
    """All that a process needs for a search.

    Attributes:
        run: its model and training are what is varied; its section tuner says how.
        train_files, valid_files: transformed examples.
        n_items, n_users: sizes of the vocabularies; n_users is 0 for a model without users.
        folder: of this search and of all that differ from it in nothing but `run.tuner`.
    """

    run: RunConfig
    train_files: tuple[str, ...]
    valid_files: tuple[str, ...]
    n_items: int
    n_users: int
    folder: str

    @property
    def epochs(self) -> int:
        """Epochs of a trial, at most."""
        return self.run.tuner.epochs or self.run.training.max_epochs

    def run_of(self, settings: Settings) -> RunConfig:
        """A trial's run. Without the search, each of whose values would have to fit the trial's others.

        Raises RunError for settings that don't go together.
        """
        base = self.run.model_copy(update={"tuner": TunerConfig()})
        try:
            return with_settings(base, {**settings, "training.max_epochs": self.epochs})
        except pydantic.ValidationError as error:
            raise RunError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error

    def folder_of(self, settings: Settings) -> str:
        """Where a trial's files are."""
        return os.path.join(self.folder, "trials", fingerprint(json.dumps(settings, sort_keys=True)))

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(dataclasses.asdict(dataclasses.replace(self, run=dump(self.run))))  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, text: str) -> SearchJob:
        """The inverse of `to_json`."""
        values = json.loads(text)
        files = {name: tuple(values[name]) for name in ("train_files", "valid_files")}
        return cls(**{**values, **files, "run": parse(RunConfig, values["run"])})


class SessionTuner(BaseTuner):
    """Runs trials one after the other in this process. A diverged trial is a failed one, and the search goes on.

    Args:
        job: what to search, on what.
        is_worker: another process has the oracle, and the environment says where; this one only asks it.

    Attributes:
        has_trained: whether a trial was more than the reading of its result.
    """

    def __init__(self, job: SearchJob, is_worker: bool = False) -> None:
        self.has_trained = False
        self._job = job
        self._tables: tuple[SessionTable, SessionTable] | None = None
        super().__init__(
            make_oracle(job.run.tuner, job.epochs, job.run.seed),
            directory=job.folder,
            project_name="oracle",
            overwrite=not is_worker,
        )

    def search(self) -> None:
        """Tries all that the oracle asks for.

        Raises:
            InputError, RunError: of the training; or no trial came to an end.
        """
        self.run_trials()
        best = self.oracle.get_best_trials(1)
        if not best or best[0].status != TrialStatus.COMPLETED:
            raise RunError(f"all {len(self.oracle.trials)} trials of the search have failed; narrow tuner.search")
        for folder in storage.list_folder(os.path.join(self._job.folder, "trials")):
            storage.remove_tree(os.path.join(self._job.folder, "trials", folder, "state"))

    def run_trials(self) -> None:
        """Asks for trials until there are no more."""
        try:
            super().search()
        except FatalError as error:
            raise error.__cause__ or error from None

    def run_trial(self, trial: Trial) -> dict[str, float]:
        """Trains with the trial's settings; returns the objective by its name."""
        epochs = trial.hyperparameters.values.get(EPOCHS, self._job.epochs)
        try:
            score = self._try(read_settings(trial.hyperparameters.values), epochs)
        except RunError as error:
            raise FailedTrialError(str(error)) from error
        except Exception as error:
            raise FatalError from error  # anything else would be swallowed
        return {self._job.run.tuner.objective: score}

    def on_trial_begin(self, trial: Trial) -> None:
        """Instead of keras-tuner's table."""

    def on_trial_end(self, trial: Trial) -> None:
        """Tells the oracle, and the user."""
        self.oracle.end_trial(trial)
        say(describe_trial(self.oracle, trial.trial_id, self._job))

    def search_space_summary(self, extended: bool = False) -> None:
        """One line instead of keras-tuner's page."""
        tuner = self._job.run.tuner
        searched = ", ".join(f"{path} {_describe_choice(choice)}" for path, choice in tuner.search.items())
        say(f"{tuner.oracle} search of {self.oracle.max_trials} trials, {self._job.epochs} epochs at most: {searched}")

    def results_summary(self, num_trials: int = 10) -> None:
        """One line instead of keras-tuner's page."""
        best = self.oracle.get_best_trials(1)[0]
        say(f"best of {len(self.oracle.trials)} trials: {_describe(best, self.oracle.objective.name)}")

    def _try(self, settings: Settings, epochs: int) -> float:
        """The objective after so many epochs at most; read if it is known."""
        job = self._job
        folder = job.folder_of(settings)
        result_path, state_dir = os.path.join(folder, f"result-{epochs}.json"), os.path.join(folder, "state")
        if storage.exists(result_path):
            return float(json.loads(storage.read_text(result_path))["score"])
        train_table, valid_table = self._read_tables()
        lines: list[str] = []
        storage.make_folder(folder)
        try:
            run = job.run_of(settings)
            self.has_trained = True
            trained = train(
                run,
                train_table,
                valid_table,
                job.n_items,
                state_dir,
                os.path.join(folder, "logs"),
                lines.append,
                job.n_users,
                epochs,
            )
        except RunError as error:
            lines.append(f"failed: {' '.join(str(error).split())}")
            raise
        finally:
            storage.write_text(os.path.join(folder, _LOG), "".join(f"{line}\n" for line in lines))
        score = _score_of(trained.history[trained.best_epoch - 1], job.run.tuner.objective)
        seconds = sum(record["seconds"] or 0 for record in trained.history)
        result = {"settings": settings, "score": score, "best_epoch": trained.best_epoch, "seconds": seconds}
        storage.write_text(result_path, json.dumps(result, indent=1))
        if job.run.tuner.oracle != "hyperband":  # which goes on with its best ones
            storage.remove_tree(state_dir)
        return score

    def _read_tables(self) -> tuple[SessionTable, SessionTable]:
        if self._tables is None:
            job = self._job
            train_table, valid_table = (read_for_model(f, job.run.model) for f in (job.train_files, job.valid_files))
            self._tables = train_table, valid_table
        return self._tables


def describe_trial(oracle: keras_tuner.Oracle, trial_id: str, job: SearchJob) -> str:
    """A finished trial and the best so far, or why it failed, in a line."""
    trial, best = oracle.get_trial(trial_id), oracle.get_best_trials(1)[0]
    name = oracle.objective.name
    heading = f"[{len(oracle.end_order)}/{oracle.max_trials}]"
    if trial.status != TrialStatus.COMPLETED:
        # keras-tuner's workers do not send their chief the reason.
        log = storage.read_text(os.path.join(job.folder_of(read_settings(trial.hyperparameters.values)), _LOG))
        return f"{heading} {_describe_values(trial)}: {log.splitlines()[-1]}"
    return f"{heading} {_describe(trial, name)}; best so far {_describe(best, name)}"


def _describe(trial: Trial, objective: str) -> str:
    return f"{_describe_values(trial)}: {objective} {trial.score:.4f}".replace("val_", "val ")


def _describe_values(trial: Trial) -> str:
    values = trial.hyperparameters.values
    text, epochs = describe_settings(values), values.get(EPOCHS)
    return text if epochs is None else f"{text}, {epochs} epochs"


def _describe_choice(choice: Any) -> str:
    if isinstance(choice, RangeConfig):
        return f"{choice.min} … {choice.max}"
    return " | ".join(map(str, choice))


def _score_of(record: Record, objective: str) -> float:
    """The objective in an epoch's record."""
    value = record[objective]
    assert value is not None  # only figures of abandoned targets can be
    return value
