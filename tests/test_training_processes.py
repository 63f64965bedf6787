"""Training on several devices, in processes of their own: two logical devices in one, and two workers on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from test_dataset import Clicks, write

from fp_tfrs import schema
from fp_tfrs.config import RunConfig
from fp_tfrs.data.session_table import read_sessions
from fp_tfrs.learning import training
from pipeline.training_job import TrainingJob

pytestmark = pytest.mark.e2e
N_ITEMS = 24
PRINT_LOSSES = """
import json, os, signal, sys
from fp_tfrs.learning import training

check = training._StopAtNaN.on_train_batch_end
losses = []

def note(self, batch, logs=None):
    losses.append(float(logs["loss"]))
    check(self, batch, logs)
    if os.environ.get("DIE_AT") == f"{self._epoch} {batch}":
        os.kill(os.getpid(), signal.SIGKILL)

training._StopAtNaN.on_train_batch_end = note
"""
ON_TWO_DEVICES = (
    PRINT_LOSSES
    + """
import dataclasses
import tensorflow as tf
from pipeline.training_job import TrainingJob, run_job

half = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [half, half])
job = TrainingJob.from_json(open(sys.argv[1]).read())

def train(name):
    losses.clear()
    named = dataclasses.replace(job, state_dir=f"{job.state_dir}-{name}")
    history = run_job(named, lambda line: print(line, file=sys.stderr))[0].history
    print(json.dumps([list(losses), history]))

train("whole")
if "pause" in sys.argv:
    finish_epoch = training.TrainingState.finish_epoch

    def stop(self, record):
        finish_epoch(self, record)
        raise KeyboardInterrupt

    training.TrainingState.finish_epoch = stop
    try:
        train("paused")
    except KeyboardInterrupt:
        training.TrainingState.finish_epoch = finish_epoch
    train("paused")
"""
)
CHIEF = PRINT_LOSSES + "from pipeline import training_job\ntraining_job._main(sys.argv[1])\nprint(json.dumps(losses))\n"
WORKER = PRINT_LOSSES + "from pipeline import cli\nsys.exit(cli.main(['train-worker']))\n"


def walks(prefix, count):
    """Sessions around a circle of items, each third click abandoned."""
    rng = np.random.default_rng(count)

    def walk(first, steps):
        return [((first + k) % N_ITEMS + schema.FIRST_ITEM_INDEX, k % 3 == 1) for k in range(steps)]

    return [Clicks(f"{prefix}{k:03d}", walk(5 * k, int(rng.integers(2, 8)))) for k in range(count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Transformed sessions and their vocabulary."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "items").write_text("".join(f"item{k:02d}\n" for k in range(N_ITEMS)))
    # 236 sessions leave a batch of a single one, of which the second device has none
    return [write(folder / split, walks(split, count)) for split, count in (("train", 236), ("valid", 40))], folder


def make_job(files, folder, distribution, model=None, **training_values):
    """A job with a state of its own; without dropout, unless the model has it."""
    (train_file, valid_file), data = files
    values = {
        "name": "walk",
        "data": {
            "source": {"format": "csv", "files": ["x.csv"]},
            "columns": {"session_id": "s", "feedback": {"skip": "bool"}},
            "false_positive_when": [{"column": "skip", "op": "==", "value": True}],
        },
        "model": {"tower": {"name": "stamp", "embedding_dim": 8}, **(model or {})},
        "training": {
            "distribution": distribution,
            "batch_size": 32,
            "max_epochs": 3,
            "length_buckets": [3],
            "learning_rate": 0.02,
            **training_values,
        },
    }
    folder.mkdir()
    run = RunConfig.model_validate(values)
    places = (str(folder / name) for name in ("state", "logs"))
    return TrainingJob(run, (train_file,), (valid_file,), str(data / "items"), None, *places)


def train_alone(job):
    """Losses of all steps and history, on one device."""
    losses = []

    def note(self, batch, logs=None):
        losses.append(float(logs["loss"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._StopAtNaN, "on_train_batch_end", note)
        tables = [read_sessions(list(paths)) for paths in (job.train_files, job.valid_files)]
        trained = training.train(job.run, *tables, N_ITEMS, job.state_dir, job.log_dir, lambda line: None)
    return losses, trained.history


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory):
    return train_alone(make_job(files, tmp_path_factory.mktemp("alone") / "run", "one_device"))


def start(code, *arguments, stdin=None, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def on_two_devices(job, folder, *options):
    """Losses and history of each training."""
    (folder / "job.json").write_text(job.to_json())
    process = start(ON_TWO_DEVICES, str(folder / "job.json"), *options)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "on 2 devices" in errors
    return [json.loads(line) for line in output.splitlines()]


def train_in_two(job, folder, worker_dies_at=""):
    """Exit codes, outputs and errors of chief and worker."""
    (folder / "job.json").write_text(job.to_json())
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    cluster = {"chief": addresses[:1], "worker": addresses[1:]}
    as_chief, as_worker = (
        json.dumps({"cluster": cluster, "task": {"type": kind, "index": 0}}) for kind in ("chief", "worker")
    )
    # The chief's process ends with the one that has started it, whose end of this pipe would be closed then.
    chiefs_end, our_end = os.pipe()
    processes = [
        start(CHIEF, str(folder / "job.json"), stdin=chiefs_end, TF_CONFIG=as_chief),
        start(WORKER, TF_CONFIG=as_worker, DIE_AT=worker_dies_at),
    ]
    try:
        outputs = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
        os.close(chiefs_end)
        os.close(our_end)
    return [process.returncode for process in processes], *zip(*outputs, strict=True)


def assert_same(found, expected):
    """Losses of all steps and figures of all epochs, to a relative 1e-5."""
    losses, history = found
    assert len(losses) >= 20
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    assert_same_history(history, expected[1])


def assert_same_history(history, expected, rtol=1e-5):
    for got, want in zip(history, expected, strict=True):
        for name in want.keys() - {"seconds", "targets_per_s"}:
            assert got[name] == pytest.approx(want[name], rel=rtol, abs=1e-6), name


def test_two_devices_train_as_one(files, alone, tmp_path):
    (found,) = on_two_devices(make_job(files, tmp_path / "two", "mirrored"), tmp_path)
    assert_same(found, alone)


def test_two_devices_with_sparse_gradients_that_are_clipped_train_as_one(files, tmp_path):
    """Both have touched some rows of the item table; the norm is that of their sum."""
    sampled = {
        "model": {"next_item": {"kind": "sampled_softmax", "negatives": 5}},
        "clip_norm": 0.1,
        "l2": 0.01,
    }
    expected = train_alone(make_job(files, tmp_path / "one", "one_device", **sampled))
    (found,) = on_two_devices(make_job(files, tmp_path / "two", "mirrored", **sampled), tmp_path)
    assert_same(found, expected)


def test_two_devices_go_on_with_their_own_dropout_after_a_stop(files, tmp_path):
    """Shares of a batch differ in size, and so does what each device draws; what they go on from must not."""
    tower = {"name": "stamp", "embedding_dim": 8, "dropout_embedding": 0.5}
    job = make_job(files, tmp_path / "two", "mirrored", model={"tower": tower}, max_epochs=2)
    (_, whole), (_, paused) = on_two_devices(job, tmp_path, "pause")
    assert_same_history(paused, whole, 1e-6)


def test_two_workers_train_as_one_process_and_go_on_after_one_was_killed(files, alone, tmp_path):
    whole = make_job(files, tmp_path / "whole", "multi_worker")
    codes, outputs, errors = train_in_two(whole, tmp_path)
    assert codes == [0, 0], errors
    history = json.loads((tmp_path / "whole" / "state" / "history.json").read_text())
    assert_same((json.loads(outputs[0].splitlines()[-1]), history), alone)

    killed = make_job(files, tmp_path / "killed", "multi_worker")
    codes, outputs, errors = train_in_two(killed, tmp_path, worker_dies_at="1 3")
    assert codes == [3, -signal.SIGKILL], errors
    assert "a process of the training is gone" in outputs[0].splitlines()[-1]
    codes, outputs, errors = train_in_two(killed, tmp_path)
    assert codes == [0, 0], errors
    assert "going on after epoch 1" in outputs[0] and "going on after epoch 1" in errors[1]
    for name in ("history.json", "best-3.npz"):
        assert (tmp_path / "killed" / "state" / name).exists()
    assert_same_history(json.loads((tmp_path / "killed" / "state" / "history.json").read_text()), history, 1e-6)
