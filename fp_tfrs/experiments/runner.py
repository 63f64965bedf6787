"""Works an experiment off: prepares its data sets, tunes and trains every cell, ranks the test targets once a run.

In: a `Plan`, a root for what is large (prepared data, weights) and a folder for what is kept (`ledger.py`). Out: nothing
but the files; `read_results` then reads them. Any number of processes may work on the same folders: whoever holds a
training's lock does it, and a killed one goes on after its last epoch when it is taken up again.

A cell is tuned on the validation split with the first seed; of its trials the one with the highest MRR@20 is chosen, the
earlier of equals. The chosen settings are trained with every seed, and only then are the test targets ranked.
"""

from __future__ import annotations

import datetime
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import RunConfig, dump, fingerprint
from fp_tfrs.data.dataset import is_ranked
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.evaluation import top_lists
from fp_tfrs.experiments.analysis import analyse
from fp_tfrs.experiments.figures import SET_METRICS
from fp_tfrs.experiments.ledger import Judged, Ledger, Training, lock
from fp_tfrs.experiments.moments import best_items
from fp_tfrs.experiments.plan import Cell, Plan, Settings, run_fingerprint
from fp_tfrs.experiments.prepared import PreparedData, PreparedFiles, load, load_arrays, save_arrays
from fp_tfrs.fingerprint import code_fingerprint
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.learning.ranking import TargetRanking
from fp_tfrs.learning.training import train

Prepare = Callable[[RunConfig, str], PreparedFiles]  # (run, root) → its data set's files
_WAIT_S = 5.0


class Task(NamedTuple):
    """One training. is_judged: its test targets are to be ranked, since its settings are the chosen ones."""

    cell: Cell
    settings: Settings
    run: RunConfig
    is_judged: bool

    @property
    def name(self) -> str:
        return run_fingerprint(self.run)


class Workshop:
    """An experiment's plan with its folders.

    Args:
        plan: what to do.
        prepare: makes a data set's files, or finds them made.
        root: folder for data and weights; experiments may share it.
        results_dir: folder of the ledger; experiments may share it.
    """

    def __init__(self, plan: Plan, prepare: Prepare, root: str, results_dir: str) -> None:
        self.plan, self.root = plan, os.path.abspath(root)
        self.ledger = Ledger(results_dir)
        self._prepare = prepare
        self._loaded: tuple[str, PreparedData] | None = None

    def work(self, on_line: Callable[[str], None]) -> list[str]:
        """Does all that is left and that no other process has in hand; waits for what others have.

        Args:
            on_line: takes a line of text after each training.

        Returns:
            A sentence for each cell that its data or its training refused; it was left out, and the others went on.
        """
        cells = self.plan.experiment.cells()
        n_all = sum(self._count(cell) for cell in cells)
        seconds: list[float] = []
        refused: dict[str, str] = {}
        while True:
            n_busy = n_done = 0
            for cell in cells:
                if str(cell) in refused:
                    continue
                for task in self._pending(cell):
                    with lock(os.path.join(self._folder(task.name), "lock")) as is_held:
                        if not is_held:
                            n_busy += 1
                            continue
                        if self._is_finished(task):  # by another, since we looked
                            continue
                        begin_s = time.monotonic()
                        self.data(cell.data_set)  # one that can't be read stops the experiment
                        try:
                            training = self._do(task)
                        except (InputError, RunError) as error:
                            refused[str(cell)] = f"{cell}: {error}"
                            on_line(f"left out: {cell}: {error}")
                            break
                    n_done += 1
                    seconds.append(time.monotonic() - begin_s)
                    n_left = sum(self._left(other) for other in cells)
                    left = datetime.timedelta(seconds=round(n_left * float(np.mean(seconds))))
                    what = "judged" if task.is_judged else "tried"
                    settings = ", ".join(f"{path.rsplit('.', 1)[-1]} {v}" for path, v in task.settings.items())
                    on_line(
                        f"[{n_all - n_left}/{n_all}] {cell} seed {task.run.seed} {what}: {settings or 'as it is'}: val "
                        f"mrr@20 {training.val_mrr:.4f}, {training.seconds:.0f} s; about {left} left for one process"
                    )
            if n_busy == n_done == 0:
                return list(refused.values())
            if n_done == 0:
                time.sleep(_WAIT_S)

    def chosen(self, cell: Cell) -> Settings | None:
        """The best of the cell's trials on the validation split; None while some are not finished."""
        candidates = self.plan.candidates(cell)
        if len(candidates) == 1:
            return candidates[0]
        trials = self.trials(cell)
        if len(trials) < len(candidates):
            return None
        return max(trials, key=lambda trial: trial[1].val_mrr)[0]

    def trials(self, cell: Cell) -> list[tuple[Settings, Training]]:
        """The cell's finished trials, in order."""
        trained, first = self.ledger.trainings(), self.plan.experiment.seeds[0]
        found = [(s, run_fingerprint(self.plan.run(cell, s, first))) for s in self.plan.candidates(cell)]
        return [(settings, trained[name]) for settings, name in found if name in trained]

    def data(self, data_set: str) -> PreparedData:
        """A data set, prepared if it is not; the last one stays in memory."""
        if self._loaded is None or self._loaded[0] != data_set:
            run, root = self.plan.data_run(data_set), os.path.join(self.root, "data", data_set)
            with lock(os.path.join(root, "lock"), is_waiting=True):
                files = self._prepare(run, root)
            self._loaded = data_set, load(files, run)
            self._check_judged(*self._loaded)
        return self._loaded[1]

    def _check_judged(self, data_set: str, data: PreparedData) -> None:
        """Raises RunError: a finished run was trained or judged on other data; nothing can be compared with it."""
        for cell in self.plan.experiment.cells():
            chosen = self.chosen(cell) if cell.data_set == data_set else None
            if chosen is None:
                continue
            for seed in self.plan.experiment.seeds:
                name = run_fingerprint(self.plan.run(cell, chosen, seed))
                if not self.ledger.is_judged(name):
                    continue
                judged = self.ledger.judged(name)
                if judged.data not in ("", data.digest) or len(judged.ranks) != len(data.targets.session):
                    raise RunError(
                        f"{cell} seed {seed} was trained or judged on other data than {data_set} has now, as its log, or how "
                        "it is prepared, has changed; give other --root and --results folders, or the earlier log"
                    )

    def analysis(self, run: str) -> dict[str, np.ndarray]:
        """What `analysis.py` made of a run; {} if it is not there."""
        path = self._analysis_path(run)
        return load_arrays(path) if os.path.exists(path) else {}

    def _pending(self, cell: Cell) -> Iterator[Task]:
        """The cell's trainings that can be done now, fresh from the ledger each time."""
        experiment = self.plan.experiment
        candidates = self.plan.candidates(cell)
        if len(candidates) > 1:
            for settings in candidates:
                task = Task(cell, settings, self.plan.run(cell, settings, experiment.seeds[0]), False)
                if not self._is_finished(task):
                    yield task
        chosen = self.chosen(cell)
        if chosen is None:
            return
        for seed in experiment.seeds:
            task = Task(cell, chosen, self.plan.run(cell, chosen, seed), True)
            if not self._is_finished(task):
                yield task

    def _is_finished(self, task: Task) -> bool:
        if task.is_judged and (not self.ledger.is_judged(task.name) or self._lacks_analysis(task)):
            return False
        return task.name in self.ledger.trainings()

    def _lacks_analysis(self, task: Task) -> bool:
        """Whether its pictures are to be had from this root, and are not: results may have come from another one."""
        is_first = task.run.seed == self.plan.experiment.seeds[0]
        return is_first and not os.path.exists(self._analysis_path(task.name))

    def _do(self, task: Task) -> Training:
        """Trains, unless that is done, and ranks the test targets if they are asked for."""
        data, folder, run = self.data(task.cell.data_set), self._folder(task.name), task.run
        # With all values: a version that has further fields starts anew what an older one has left unfinished.
        state_dir = os.path.join(folder, "state", fingerprint(dump(run)))
        n_items = len(data.catalogue)
        with open(os.path.join(folder, "log.txt"), "a", encoding="utf-8") as log:

            def write(line: str) -> None:
                print(line, file=log, flush=True)

            tables = data.tables
            trained = train(
                run, tables[schema.TRAIN], tables[schema.VALID], n_items, state_dir, folder, write, data.n_users
            )
        best = trained.history[trained.best_epoch - 1]
        seconds = sum(record["seconds"] or 0 for record in trained.history)
        training = Training(
            best["val_mrr@20"] or 0.0, trained.best_epoch, seconds, code_fingerprint("fp_tfrs.learning.training")
        )
        is_known = task.name in self.ledger.trainings()  # ranks of one that is not are another training's
        self.ledger.add(task.name, training)
        if task.is_judged:
            if self._lacks_analysis(task):
                found = analyse(
                    trained.model,
                    run,
                    tables[schema.TRAIN],
                    tables[schema.TEST],
                    data.targets,
                    data.catalogue,
                    run.seed,
                )
                save_arrays(self._analysis_path(task.name), found)
            if not (is_known and self.ledger.is_judged(task.name)):
                ranks, lists = _rank(trained.model, data, run), _judge_lists(trained.model, data, run)
                self.ledger.judge(task.name, Judged(ranks, trained.history, lists, data.digest))
            self._tidy(task.cell)
        tf.keras.backend.clear_session()
        return training

    def _tidy(self, cell: Cell) -> None:
        """Removes the weights of a cell that is finished: they are large, and its figures are in the ledger."""
        if self._left(cell):
            return
        experiment, chosen = self.plan.experiment, self.chosen(cell) or {}
        tried = [(settings, experiment.seeds[0]) for settings in self.plan.candidates(cell)]
        for settings, seed in (*tried, *((chosen, seed) for seed in experiment.seeds)):
            name = run_fingerprint(self.plan.run(cell, settings, seed))
            shutil.rmtree(os.path.join(self._folder(name), "state"), ignore_errors=True)

    def _count(self, cell: Cell) -> int:
        """The cell's trainings: its trials, and as many more as there are other seeds."""
        return len(self.plan.candidates(cell)) + len(self.plan.experiment.seeds) - 1

    def _left(self, cell: Cell) -> int:
        chosen = self.chosen(cell)
        if chosen is None:
            return self._count(cell) - len(self.trials(cell))
        tasks = (Task(cell, chosen, self.plan.run(cell, chosen, seed), True) for seed in self.plan.experiment.seeds)
        return sum(not self._is_finished(task) for task in tasks)

    def _folder(self, run: str) -> str:
        return os.path.join(self.root, "training", run)

    def _analysis_path(self, run: str) -> str:
        return os.path.join(self._folder(run), "analysis.npz")


def _rank(model: SessionModel, data: PreparedData, run: RunConfig) -> np.ndarray:
    ranking = TargetRanking(model, data.tables[schema.TEST], run.model, run.training.batch_size)
    np.testing.assert_array_equal(ranking.column, data.targets.column)
    return ranking.ranks()


def _judge_lists(model: SessionModel, data: PreparedData, run: RunConfig) -> dict[str, np.ndarray]:
    """SET_METRICS of the lists at the sessions' cuts; no item is left out of a list, whatever serving would do."""
    table, cuts = data.tables[schema.TEST], top_lists.part_sessions(data.targets)
    top = best_items(model, run.model, table, np.flatnonzero(is_ranked(table))[cuts.row], top_lists.WIDTH)
    found = top_lists.list_values(top, cuts, data.item_counts)
    assert found is not None  # the lists are of full width
    return {name: found.of_list[name] for name in SET_METRICS}
