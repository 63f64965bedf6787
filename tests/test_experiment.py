"""`fp-tfrs experiment` as a user has it: two processes, a kill, and the figures of an exported model."""

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from fp_tfrs import schema
from fp_tfrs.config import EvaluationConfig
from fp_tfrs.errors import RunError
from fp_tfrs.evaluation import judging
from fp_tfrs.experiments import runner
from fp_tfrs.experiments.figures import SET_METRICS
from fp_tfrs.experiments.outputs import write_outputs
from fp_tfrs.experiments.plan import Plan, run_fingerprint
from fp_tfrs.experiments.prepared import load
from fp_tfrs.experiments.reading import read_results
from fp_tfrs.experiments.runner import Workshop
from fp_tfrs.learning.metrics import metric_matrix
from fp_tfrs.learning.training import train
from fp_tfrs.serving import exporting
from pipeline import local_runner

pytestmark = pytest.mark.e2e
RUN = {
    "name": "log",
    "data": {
        "source": {"format": "simulated", "simulation": {"sessions": 600, "items": 100, "seed": 1}},
        "columns": {"session_id": "session_id", "feedback": {"dwell_s": "float"}},
        "false_positive_when": [{"column": "dwell_s", "op": "<", "value": 10}],
        "satisfaction": {"column": "dwell_s"},
    },
}
EXPERIMENT = {
    "name": "small",
    "title": "A small one",
    "seeds": [1, 2],
    "trials": 2,
    "data_sets": {"log": {"config": "log.yaml", "set": {"training.max_epochs": 2}}},
    "towers": {"stamp": {"set": {"model.tower": {"name": "stamp", "embedding_dim": 8}}}},
    "methods": {
        "fp_simple": {"set": {"model.method": "fp_simple"}},
        "fp_adametric": {"set": {"model.method": "fp_adametric"}},
    },
    "search": {"training.learning_rate": [0.003, 0.01]},
}
N_TRAININGS = 6  # two methods, two trials and one more seed each


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An experiment that one process began, and was killed in, and two finished side by side."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "log.yaml").write_text(yaml.safe_dump(RUN))
    (folder / "small.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    command = [sys.executable, "-m", "pipeline.cli", "experiment", str(folder / "small.yaml"), "--threads", "1"]
    command += ["--root", str(folder / "root"), "--results", str(folder / "results")]
    ledger = folder / "results" / "trainings.jsonl"

    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (ledger.exists() and ledger.read_text().count("\n")):
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = ledger.read_text()
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert ledger.read_text().startswith(before)
    return folder, told


def test_two_processes_share_the_trainings_and_both_report(finished):
    folder, told = finished
    names = [line.split('"')[3] for line in (folder / "results" / "trainings.jsonl").read_text().splitlines()]
    assert len(names) == len(set(names)) == N_TRAININGS
    n_told = [errors.count(" tried: ") + errors.count(" judged: ") for _, errors in told]
    assert sum(n_told) >= N_TRAININGS - 1 and min(n_told) >= 1, told
    assert all("HR@20" in output and "report.html" in output for output, _ in told)


def test_every_seed_of_the_chosen_settings_has_a_row_and_the_best_trial_is_chosen(finished):
    folder, _ = finished
    workshop = Workshop(
        Plan(str(folder / "small.yaml")), local_runner.prepare_data, folder / "root", folder / "results"
    )
    with open(folder / "results" / "small" / "results.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tower"]]
    assert [(row["method"], row["seed"]) for row in rows] == [
        (method, seed) for method in ("fp_simple", "fp_adametric") for seed in "12"
    ]
    for cell in workshop.plan.experiment.cells():
        trials = workshop.trials(cell)
        assert len(trials) == 2
        best = max(training.val_mrr for _, training in trials)
        assert dict(zip((t.val_mrr for _, t in trials), (s for s, _ in trials), strict=True))[best] == workshop.chosen(
            cell
        )


def test_the_ranks_are_those_of_the_exported_model(finished, tmp_path):
    """The same settings and seed, trained, exported and asked through its signatures: every target has the same rank."""
    folder, _ = finished
    plan = Plan(str(folder / "small.yaml"))
    workshop = Workshop(plan, local_runner.prepare_data, folder / "root", folder / "results")
    cell = plan.experiment.cells()[0]
    run = plan.run(cell, workshop.chosen(cell), 2)
    files = local_runner.prepare_data(plan.data_run("log"), str(folder / "root" / "data" / "log"))
    data = load(files, run)
    tables = data.tables[schema.TRAIN], data.tables[schema.VALID]
    trained = train(run, *tables, len(data.catalogue), str(tmp_path / "state"), str(tmp_path), lambda line: None)
    exporting.export(
        str(tmp_path / "model"),
        trained.model,
        files.item_vocabulary,
        data.item_counts,
        run,
        "1",
        tables[1].raw_sessions(data.catalogue, 2),
    )
    report = judging.evaluate_export(
        str(tmp_path / "model"), files.examples_dir, run.data, EvaluationConfig(resamples=100), 1
    )
    judged = workshop.ledger.judged(run_fingerprint(run))
    ranks, is_fp = judged.ranks, data.targets.is_false_positive
    for metric in ("hr@5", "mrr@20", "ndcg@100"):
        assert metric_matrix(ranks[~is_fp])[metric].mean() == pytest.approx(report.metrics["model"][metric].value)
    assert metric_matrix(ranks[is_fp])["hr@20"].mean() == pytest.approx(report.metrics["model"]["fp_hr@20"].value)
    for metric in SET_METRICS:
        assert judged.list_values[metric].mean() == pytest.approx(report.metrics["model"][metric].value, rel=1e-5)


def test_a_finished_experiment_trains_nothing_and_leaves_no_weights(finished):
    folder, _ = finished
    plan = Plan(str(folder / "small.yaml"))

    def refuse(*_):
        raise AssertionError("nothing is to be prepared")

    Workshop(plan, refuse, folder / "root", folder / "results").work(pytest.fail)
    assert not list((folder / "root" / "training").glob("*/state"))
    analysed = [np.load(path) for path in (folder / "root" / "training").glob("*/analysis.npz")]
    assert len(analysed) == 2 and any(len(found["gate_weight"]) for found in analysed if "gate_weight" in found)


def test_where_only_the_results_are_left_the_first_seeds_are_trained_again_for_their_pictures(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "results", tmp_path / "results")
    ranks = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "ranks").iterdir()}
    plan = Plan(str(folder / "small.yaml"))
    workshop = Workshop(plan, local_runner.prepare_data, tmp_path / "root", tmp_path / "results")
    assert "without pictures of the model: 2 of 2 cells" in write_outputs(workshop, tmp_path / "report")[-1]
    told = []
    workshop.work(told.append)
    assert len(told) == 2 and all(" seed 1 judged: " in line for line in told)
    assert ranks == {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "ranks").iterdir()}
    assert "without" not in write_outputs(workshop, tmp_path / "report")[-1]


@pytest.mark.parametrize("changed", ["targets", schema.TRAIN, schema.VALID])
def test_what_was_judged_on_an_earlier_log_is_not_compared_with_the_later_one(finished, monkeypatch, changed):
    """As many targets of as many sessions, but two events of another item."""
    folder, _ = finished
    workshop = Workshop(
        Plan(str(folder / "small.yaml")), local_runner.prepare_data, folder / "root", folder / "results"
    )
    data = workshop.data("log")
    column = (data.targets.column if changed == "targets" else data.tables[changed].item_index).copy()
    other = np.flatnonzero(column != column[0])[-1]
    column[[0, other]] = column[[other, 0]]
    if changed == "targets":
        later = dataclasses.replace(data, targets=dataclasses.replace(data.targets, column=column))
    else:
        table = dataclasses.replace(data.tables[changed], item_index=column)
        later = dataclasses.replace(data, tables={**data.tables, changed: table})
    assert dataclasses.replace(data).digest == data.digest != later.digest
    monkeypatch.setattr(runner, "load", lambda *_: later)
    workshop = Workshop(
        Plan(str(folder / "small.yaml")), local_runner.prepare_data, folder / "root", folder / "results"
    )
    with pytest.raises(RunError, match=r"fp_simple seed 1 was trained or judged on other data than log has now"):
        write_outputs(workshop, folder / "report of other")


def test_a_cell_that_its_data_refuse_is_left_out_and_said_to_be(tmp_path):
    """Every click takes as long as the next, so that `soft_labels` cannot tell what was abandoned; `vanilla` can be trained."""
    items = np.random.default_rng(1).integers(0, 30, 2000)
    rows = [f"s{n // 5},i{item},{60 * n},20,{n % 3 == 0}" for n, item in enumerate(items)]
    (tmp_path / "log.csv").write_text("\n".join(["session_id,item_id,timestamp,dwell_s,skip", *rows]))
    data = {
        **RUN["data"],
        "source": {"format": "csv", "files": [str(tmp_path / "log.csv")]},
        "columns": {"session_id": "session_id", "feedback": {"dwell_s": "float", "skip": "bool"}},
        "false_positive_when": [{"column": "skip", "op": "==", "value": True}],
    }
    (tmp_path / "log.yaml").write_text(yaml.safe_dump({"name": "log", "data": data}))
    methods = {"soft_labels": {"set": {"model.method": "soft_labels"}}, "vanilla": {"set": {"model.method": "vanilla"}}}
    experiment = {**EXPERIMENT, "seeds": [1], "trials": 1, "search": {}, "methods": methods}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    command = [sys.executable, "-m", "pipeline.cli", "experiment", tmp_path / "small.yaml", "--root", tmp_path / "root"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "fp-tfrs: 1 of 2 cells left out: log/stamp/soft_labels: the satisfaction"
    )
    assert "vanilla" in (tmp_path / "root" / "results" / "small" / "results.csv").read_text()
    assert "Not run: log/stamp/soft_labels." in (tmp_path / "root" / "results" / "small" / "tables.md").read_text()


def test_a_run_whose_line_was_deleted_from_the_ledger_is_trained_and_judged_again(finished, tmp_path):
    folder, _ = finished
    for name in ("root", "results"):
        shutil.copytree(folder / name, tmp_path / name)
    plan = Plan(str(folder / "small.yaml"))
    workshop = Workshop(plan, local_runner.prepare_data, tmp_path / "root", tmp_path / "results")
    cell = plan.experiment.cells()[0]
    name = run_fingerprint(plan.run(cell, workshop.chosen(cell), 2))
    ledger, ranks = tmp_path / "results" / "trainings.jsonl", tmp_path / "results" / "ranks" / f"{name}.npz"
    ledger.write_text("".join(line for line in ledger.read_text().splitlines(True) if name not in line))
    ranks_before = ranks.stat().st_mtime_ns
    assert [run.seed for run in read_results(workshop).cells[0].runs] == [1]
    told = []
    workshop.work(told.append)
    assert len(told) == 1 and " seed 2 judged: " in told[0] and ranks.stat().st_mtime_ns > ranks_before
    assert [run.seed for run in read_results(workshop).cells[0].runs] == [1, 2]


def test_report_alone_says_when_nothing_is_finished(finished, tmp_path):
    folder, _ = finished
    arguments = ["experiment", str(folder / "small.yaml"), "--root", str(tmp_path), "--report"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert "no run of" in done.stderr and "start it without --report first" in done.stderr
