"""kill -9 of a training at ten random steps and around a checkpoint: it ends as if nobody had, and repeats an epoch at most."""

import itertools
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_dataset import write
from test_training_processes import N_ITEMS, make_job, walks

pytestmark = pytest.mark.long

N_KILLS, N_EPOCHS, N_STEPS = 10, 6, 8  # steps of an epoch: 236 sessions in batches of 32

# For each point given: a training that notes its steps and dies there, by name of the step ("epoch step") or of the side
# of an epoch's checkpoint; "" is the end. Forks, since a new Python for each would take minutes; TensorFlow is imported
# before, and has no threads yet. Prints exit code and steps of each.
TRAIN = """
import json, os, signal, sys
import tensorflow as tf
from fp_tfrs.learning import training
from pipeline.training_job import TrainingJob, run_job

job_path, steps_path, *points = sys.argv[1:]
check, save = training._StopAtNaN.on_train_batch_end, tf.train.CheckpointManager.save

def train(dies_at):
    def reach(point):
        if point == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, batch, logs=None):
        check(self, batch, logs)
        with open(steps_path, "a") as file:
            file.write(f"[{self._epoch}, {batch}]\\n")
        reach(f"{self._epoch} {batch}")

    def save_and_reach(self, checkpoint_number):
        reach(f"before {checkpoint_number}")
        save(self, checkpoint_number=checkpoint_number)
        reach(f"after {checkpoint_number}")

    training._StopAtNaN.on_train_batch_end = note
    tf.train.CheckpointManager.save = save_and_reach
    run_job(TrainingJob.from_json(open(job_path).read()), lambda line: None)

for point in points:
    open(steps_path, "w").close()
    child = os.fork()
    if not child:
        train(point)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, list(map(json.loads, open(steps_path)))]), flush=True)
"""


def train(job, folder, *points):
    """Exit code and steps of the training up to each point."""
    (folder / "job.json").write_text(job.to_json())
    command = [sys.executable, "-c", TRAIN, str(folder / "job.json"), str(folder / "steps"), *points]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-3_000:]
    outcomes = map(json.loads, done.stdout.splitlines())
    return [(code, {(epoch, step) for epoch, step in steps}) for code, steps in outcomes]


def read_outcome(job):
    """Figures of all epochs, and the best epoch's weights."""
    state = Path(job.state_dir)
    history = json.loads((state / "history.json").read_text())
    figures = [{key: row[key] for key in row.keys() - {"seconds", "targets_per_s"}} for row in history]
    best = max(figures, key=lambda row: row["val_mrr@20"])["epoch"]
    with np.load(state / f"best-{best}.npz") as arrays:
        return figures, [arrays[name] for name in arrays.files]


def when(kill):
    """Checkpoint n is written after the last step of epoch n - 1."""
    side, number = kill.split()
    if side.isdigit():
        return int(side), int(number)
    return int(number) - 1, N_STEPS + (side == "after")


def test_a_training_that_is_killed_twelve_times_ends_as_one_that_is_not(tmp_path, record_figure):
    (tmp_path / "items").write_text("".join(f"item{k:02d}\n" for k in range(N_ITEMS)))
    paths = [write(tmp_path / split, walks(split, count)) for split, count in (("train", 236), ("valid", 40))]
    model = {  # whose dropout and negatives a start must not draw anew
        "tower": {"name": "stamp", "embedding_dim": 8, "dropout_embedding": 0.2},
        "next_item": {"kind": "sampled_softmax", "negatives": 5},
    }
    whole, killed = (
        make_job((paths, tmp_path), tmp_path / name, "one_device", model, max_epochs=N_EPOCHS, patience=99)
        for name in ("whole", "killed")
    )
    steps = {(epoch, step) for epoch in range(N_EPOCHS) for step in range(N_STEPS)}
    assert train(whole, tmp_path / "whole", "") == [(0, steps)]

    kills = [f"{epoch} {step}" for epoch, step in random.Random(4).sample(sorted(steps), N_KILLS)]
    kills = sorted([*kills, "before 2", "after 4"], key=when)
    outcomes = train(killed, tmp_path / "killed", *kills, "")
    assert [code for code, _ in outcomes] == [-signal.SIGKILL] * len(kills) + [0]
    n_repeated = max(len(before & after) for (_, before), (_, after) in itertools.pairwise(outcomes))

    (figures, weights), (expected_figures, expected_weights) = read_outcome(killed), read_outcome(whole)
    difference = max(
        abs(row[key] - expected[key])
        for row, expected in zip(figures, expected_figures, strict=True)
        for key in expected
    )
    moved = max(np.abs(a - b).max() for a, b in zip(weights, expected_weights, strict=True))
    figure = f"{len(kills)} kills: {difference:.1e} of figures, {moved:.1e} of weights, {n_repeated} of {N_STEPS} steps repeated"
    record_figure("kill -9 of training", figure, f"10 kills: 1e-6, {N_STEPS} steps (an epoch)")
    assert difference <= 1e-6 and moved <= 1e-6 and n_repeated <= N_STEPS
