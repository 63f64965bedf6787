"""The compiled pipeline as Kubeflow runs it, without Kubeflow: each node's command line, in a process of its own.

Kubeflow is played by this file alone: it takes the nodes from the compiled file in the order of their dependencies, starts
each with the executor input that KFP's driver would make (the constants of the task, and the artifacts that earlier nodes'
output files describe), and hands on nothing else: no MLMD, no environment, no working directory. The root is a folder,
since Beam knows no URL that would do without a network; our own code's way with URLs is in test_object_store.py.
"""

import graphlib
import json
import os
import subprocess
import sys

import pytest
import yaml

from fp_tfrs import storage
from fp_tfrs.config import SimulationConfig
from fp_tfrs.simulation.simulate import simulate_log

pytestmark = pytest.mark.e2e


class Kubeflow:
    """One run of a compiled pipeline."""

    def __init__(self, spec, folder):
        self.components, self.tasks = spec["components"], spec["root"]["dag"]["tasks"]
        self.executors = spec["deploymentSpec"]["executors"]
        self.root, self.folder = spec["defaultPipelineRoot"], folder
        self.outputs = {}  # task → output key → the artifact as its next reader gets it

    def run(self):
        order = {name: task.get("dependentTasks", []) for name, task in self.tasks.items()}
        for name in graphlib.TopologicalSorter(order).static_order():
            self.outputs[name] = self._run_task(name)
        return self.outputs

    def _run_task(self, name):
        component = self.components[name]
        task_dir = f"{self.root}/a-run/{name}"
        inputs = self.tasks[name]["inputs"]
        artifacts = {}
        for key, source in inputs.get("artifacts", {}).items():
            found = self.outputs[source["taskOutputArtifact"]["producerTask"]]
            artifacts[key] = found[source["taskOutputArtifact"]["outputArtifactKey"]]
            assert artifacts[key]["type"] == component["inputDefinitions"]["artifacts"][key]["artifactType"]
        outputs = {
            key: {"name": f"artifacts/{name}-{key}", "type": definition["artifactType"], "uri": f"{task_dir}/{key}"}
            for key, definition in component["outputDefinitions"]["artifacts"].items()
        }
        executor_input = {
            "inputs": {
                "parameterValues": {key: of["runtimeValue"]["constant"] for key, of in inputs["parameters"].items()},
                "artifacts": {key: {"artifacts": [artifact]} for key, artifact in artifacts.items()},
            },
            "outputs": {
                "artifacts": {key: {"artifacts": [artifact]} for key, artifact in outputs.items()},
                "outputFile": f"{task_dir}/executor_output.json",
            },
        }
        self._run_container(self.executors[component["executorLabel"]]["container"], executor_input, name)
        written = json.loads(storage.read_text(f"{task_dir}/executor_output.json"))["artifacts"]
        return {key: {**artifact, **written[key]["artifacts"][0]} for key, artifact in outputs.items()}

    def _run_container(self, container, executor_input, name):
        command = [
            part.replace("{{$}}", json.dumps(executor_input)) for part in container["command"] + container["args"]
        ]
        environment = {
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
            "HOME": str(self.folder),
            **{variable["name"]: variable["value"] for variable in container.get("env", [])},
        }
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=empty, env=environment)
        assert run.returncode == 0, f"{name}: {run.stderr[-4000:]}"
        assert list(empty.iterdir()) == [], name


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kubeflow")
    simulate_log(SimulationConfig(sessions=1500, items=100), str(folder / "events.csv"))
    config = {
        "name": "tiny_kfp",
        "data": {
            "source": {"format": "csv", "files": [str(folder / "events.csv")]},
            "columns": {"session_id": "session_id", "feedback": {"dwell_s": "float"}},
            "false_positive_when": [{"column": "dwell_s", "op": "<", "value": 10}],
        },
        "model": {"method": "fp_metric", "tower": {"embedding_dim": 16, "hidden_dim": 16}},
        "training": {"max_epochs": 6, "learning_rate": 0.02},
        "evaluation": {"resamples": 100},
        "kubeflow": {"has_files_in_image": True},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [
        "compile",
        "--config",
        "config.yaml",
        "--root",
        folder / "root",
        "--image",
        "image:1",
        "--out",
        "p.yaml",
    ]
    subprocess.run([sys.executable, "-m", "pipeline.cli", *map(str, command)], check=True, cwd=folder)
    return Kubeflow(yaml.safe_load((folder / "p.yaml").read_text()), folder).run()


def test_the_last_container_leaves_a_pushed_model_that_answers(outputs):
    metadata = outputs["Pusher"]["pushed_model"]["metadata"]
    assert metadata["pushed"] == 1
    folder, version = metadata["pushed_destination"].rsplit("/", 1)
    assert folder.rsplit("/", 2)[1:] == ["serving", "tiny_kfp"] and metadata["pushed_version"] == version
    command = ["recommend", "--model", folder, "--items", "item_00001,item_00002", "-k", "3"]
    run = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *command], check=True, capture_output=True, text=True, cwd="/"
    )
    assert run.stdout.count("item_") == 3


def test_each_view_of_the_evaluation_is_there_and_they_agree(outputs):
    import tensorflow_model_analysis as tfma

    report = json.loads(storage.read_text(outputs["RankingEvaluator"]["evaluation_result"]["uri"] + "/metrics.json"))
    result = tfma.load_eval_result(outputs["Evaluator"]["evaluation"]["uri"])
    whole = dict(result.slicing_metrics)[()][""][""]
    value = report["metrics"]["model"]["mrr@20"]["value"]
    assert whole["mrr@20"]["doubleValue"] == pytest.approx(value, abs=1e-6)
    assert storage.exists(outputs["Evaluator"]["evaluation"]["uri"] + "/tfma.html")
