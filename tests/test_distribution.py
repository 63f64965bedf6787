"""Training on several devices, as far as one process with one device shows it: who takes part, what is refused, equal draws."""

import json

import numpy as np
import pytest
import tensorflow as tf
from test_dataset import random_sessions, write

from fp_tfrs.config import ModelConfig, RunConfig, TrainingConfig
from fp_tfrs.data.dataset import TrainingBatches
from fp_tfrs.data.session_table import read_sessions
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.learning import distribution
from fp_tfrs.learning.negative_sampling import NegativeSampler
from pipeline import kubeflow_runner, preflight, training_job

WITH_CHIEF = {"chief": ["h0:1"], "worker": ["h1:1", "h2:1"]}
WITHOUT = {"worker": ["h1:1", "h2:1"]}
VALUES = {
    "name": "walk",
    "data": {
        "source": {"format": "csv", "files": ["gs://bucket/x.csv"]},
        "columns": {"session_id": "s", "feedback": {"skip": "bool"}},
        "false_positive_when": [{"column": "skip", "op": "==", "value": True}],
    },
    "training": {"distribution": "multi_worker"},
}


def set_tf_config(monkeypatch, cluster, kind, index, **others):
    value = {"cluster": cluster, "task": {"type": kind, "index": index}, **others}
    monkeypatch.setenv("TF_CONFIG", json.dumps(value))


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "is_chief", "n_processes"),
    [(WITH_CHIEF, "chief", 0, True, 3), (WITH_CHIEF, "worker", 0, False, 3), (WITHOUT, "worker", 0, True, 2)],
)
def test_the_chief_is_the_one_named_so_or_the_first_worker(monkeypatch, cluster, kind, index, is_chief, n_processes):
    set_tf_config(monkeypatch, cluster, kind, index, environment="cloud")  # as Kubeflow adds it
    member = distribution.read_membership()
    assert (member.is_chief, member.n_processes) == (is_chief, n_processes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the environment variable TF_CONFIG"),
        ("{'cluster'", "TF_CONFIG: Invalid JSON"),
        ('{"task": {"type": "worker", "index": 0}}', "TF_CONFIG, cluster: Field required"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "task.type: .* 'chief' or 'worker'"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "worker", "index": 0}}', "cluster.ps: Extra inputs"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "worker 1 is not in the cluster"),
    ],
)
def test_a_tf_config_that_names_no_cluster_is_refused_with_an_example(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match=message) as caught:
        distribution.read_membership()
    assert '"task": {"type": "chief", "index": 0}' in str(caught.value)


def test_each_process_is_told_which_command_is_for_it(monkeypatch):
    run = RunConfig.model_validate(VALUES)
    set_tf_config(monkeypatch, WITH_CHIEF, "worker", 1)
    with pytest.raises(InputError, match="start fp-tfrs train-worker here"):
        preflight.check_inputs(run)
    set_tf_config(monkeypatch, WITH_CHIEF, "chief", 0)
    with pytest.raises(InputError, match="start fp-tfrs run here"):
        training_job.work()


def test_where_several_processes_cannot_be_had_it_is_said(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="trials train in one process each"):
        RunConfig.model_validate({**VALUES, "tuner": {"enabled": True}})
    with pytest.raises(InputError, match="a compiled pipeline's Trainer is one"):
        kubeflow_runner.compile_pipeline(RunConfig.model_validate(VALUES), "gs://b/r", "i:1", str(tmp_path / "p.yaml"))
    set_tf_config(monkeypatch, WITHOUT, "worker", 0)
    tf.constant(1)  # TensorFlow is in use already
    with pytest.raises(RunError, match="choose mirrored or one_device here"):
        distribution.devices_of("multi_worker")


def test_parameter_servers_are_refused_by_name():
    with pytest.raises(ValueError, match="'one_device', 'mirrored' or 'multi_worker'"):
        TrainingConfig(distribution="parameter_server")


def test_a_batch_that_devices_cannot_share_equally_is_refused():
    class ThreeDevices(tf.distribute.MirroredStrategy):
        num_replicas_in_sync = 3

    devices = distribution.Devices(ThreeDevices())
    devices.check_batch_size(126)
    with pytest.raises(InputError, match="128 cannot be shared out equally among 3 devices; 129 can"):
        devices.check_batch_size(128)


def test_one_device_shares_nothing_and_agrees_with_itself():
    devices, batches = distribution.devices_of("one_device"), tf.data.Dataset.range(3)
    assert [int(batch) for batch in devices.share_out(batches)] == [0, 1, 2]
    assert devices.agree({"mrr": 0.1}) == {"mrr": 0.1}
    assert not devices.has_strategy and devices.is_chief


def test_negatives_are_drawn_as_by_the_generator_itself():
    """Replicas draw alike because the generator's own mixing-in of the replica is left out; nothing else is."""
    counts = np.arange(1, 50)
    sampler, generator = NegativeSampler(counts, 1.0, 5), tf.random.Generator.from_seed(5, alg="philox")
    bounds = np.cumsum(counts) / counts.sum()
    for _ in range(2):
        expected = np.searchsorted(bounds, generator.uniform([300], dtype=tf.float64), side="right")
        np.testing.assert_array_equal(sampler.draw(300), expected)


@pytest.mark.parametrize("buckets", [(), (2, 4)])
def test_the_number_of_steps_is_known_before_they_are_taken(tmp_path, buckets):
    table = read_sessions([write(tmp_path / "train", random_sessions(3))])
    batches = TrainingBatches(table, ModelConfig(), TrainingConfig(batch_size=7, length_buckets=buckets), 1)
    assert batches.n_steps == sum(1 for _ in batches.epoch(0))
