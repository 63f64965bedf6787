"""The ledger's finished runs and their data sets → `Results`."""

from __future__ import annotations

import os
import platform

import tensorflow as tf

import fp_tfrs
from fp_tfrs.experiments.plan import Cell, run_fingerprint
from fp_tfrs.experiments.prepared import judge_baselines
from fp_tfrs.experiments.results import CellResult, DataSet, Results, Run, Trial
from fp_tfrs.experiments.runner import Workshop
from fp_tfrs.experiments.titles import read_titles


def read_results(workshop: Workshop) -> Results:
    """What is finished so far; cells without a finished run are left out."""
    plan = workshop.plan
    found = [result for result in (_read_cell(workshop, cell) for cell in plan.experiment.cells()) if result.runs]
    data_sets = {
        name: _read_data_set(workshop, name) for name in dict.fromkeys(result.cell.data_set for result in found)
    }
    return Results(plan.experiment, data_sets, found, _environment(workshop))


def _read_cell(workshop: Workshop, cell: Cell) -> CellResult:
    chosen = workshop.chosen(cell)
    trials = [Trial(settings, training.val_mrr) for settings, training in workshop.trials(cell)]
    if chosen is None:
        return CellResult(cell, trials, [])
    trained = workshop.ledger.trainings()
    runs = []
    for seed in workshop.plan.experiment.seeds:
        config = workshop.plan.run(cell, chosen, seed)
        name = run_fingerprint(config)
        if name in trained and workshop.ledger.is_judged(name):
            judged, training = workshop.ledger.judged(name), trained[name]
            runs.append(
                Run(
                    seed,
                    config,
                    judged.ranks,
                    training.best_epoch,
                    judged.history,
                    training.seconds,
                    workshop.analysis(name),
                    judged.list_values,
                )
            )
    return CellResult(cell, trials, runs)


def _read_data_set(workshop: Workshop, name: str) -> DataSet:
    data, run = workshop.data(name), workshop.plan.data_run(name)
    cache_path = os.path.join(workshop.root, "data", name, f"rankers-{run_fingerprint(run)}-{data.digest}.npz")
    titles = workshop.plan.experiment.data_sets[name].titles
    return DataSet(
        data.targets,
        data.catalogue,
        data.item_counts,
        judge_baselines(data, run, cache_path),
        read_titles(titles, data.catalogue) if titles else {},
    )


def _environment(workshop: Workshop) -> dict[str, str]:
    """What the figures were made with."""
    trained = workshop.ledger.trainings()
    names = {
        run_fingerprint(workshop.plan.run(cell, settings, seed))
        for cell in workshop.plan.experiment.cells()
        for settings in workshop.plan.candidates(cell)
        for seed in workshop.plan.experiment.seeds
    } & trained.keys()
    hours = sum(trained[name].seconds for name in names) / 3600
    return {
        "trainings": f"{len(names):,}, {hours:.1f} hours on one process each",
        "machine of this report": f"{platform.machine()}, {os.cpu_count()} cores",
        "software": f"fp-tfrs {fp_tfrs.__version__}, TensorFlow {tf.__version__}, Python {platform.python_version()}",
        "code": ", ".join(sorted({trained[name].code for name in names})),
    }
