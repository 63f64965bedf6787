"""InfraValidator by configuration: asked for only where it can work, told apart from ServingProbe, and never silent."""

import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf
from google.protobuf import json_format
from running_server import config_text, running_server
from test_kubeflow import VALUES, changed, compile_values
from test_serving import Export, draw_sessions, example, run_config
from tfx.components.infra_validator import executor as infra_validator
from tfx.components.infra_validator.model_server_runners import base_runner
from tfx.proto import infra_validator_pb2
from tfx.types import standard_artifacts

from components import example_files
from components.server_validator import Executor
from fp_tfrs import schema
from fp_tfrs.config import RunConfig
from fp_tfrs.errors import InputError, RunError
from pipeline import preflight, summary
from pipeline.pipeline import create_pipeline


def run_with(platform):
    return RunConfig.model_validate(changed("serving", infra_validator=platform))


def nodes(run):
    return {component.id: component for component in create_pipeline(run, "/root").components}


def test_the_pusher_waits_for_the_server_and_nothing_is_trained_again():
    plain, docker = nodes(RunConfig.model_validate(VALUES)), nodes(run_with("docker"))
    assert set(docker) - set(plain) == {"InfraValidator"}
    assert plain["Pusher"].inputs["infra_blessing"].producer_component_id == "ServingProbe"
    assert docker["Pusher"].inputs["infra_blessing"].producer_component_id == "InfraValidator"
    assert docker["ServingProbe"] in docker["InfraValidator"].upstream_nodes
    for name in ("Trainer", "RankingEvaluator"):
        assert plain[name].exec_properties == docker[name].exec_properties


@pytest.mark.parametrize("platform", ["docker", "kubernetes"])
def test_the_node_asks_the_image_of_the_locked_release(platform):
    properties = nodes(run_with(platform))["InfraValidator"].exec_properties
    serving = json_format.Parse(properties["serving_spec"], infra_validator_pb2.ServingSpec())
    locks = (
        (Path(__file__).parents[1] / name).read_text() for name in ("requirements.lock", "requirements-forward.lock")
    )
    (ours,) = (lock.split() for lock in locks if f"tensorflow=={tf.__version__}\n" in lock)
    (tag,) = serving.tensorflow_serving.tags
    assert f"tensorflow-serving-api=={tag}" in ours
    assert serving.WhichOneof("serving_platform") == {"docker": "local_docker"}.get(platform, platform)
    request = json_format.Parse(properties["request_spec"], infra_validator_pb2.RequestSpec())
    assert request.split_name == schema.TEST and request.num_examples > 1


def test_what_cannot_run_here_is_refused_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("docker.DockerClient", lambda: SimpleNamespace(ping=lambda: True))
    preflight._check_platform("docker")

    def nobody():
        import docker

        raise docker.errors.DockerException("no such\nsocket")

    monkeypatch.setattr("docker.DockerClient", nobody)
    with pytest.raises(InputError, match=r"no Docker answers here \(no such\)"):
        preflight._check_platform("docker")
    with pytest.raises(InputError, match="in a pod of Kubeflow Pipelines alone"):
        preflight._check_platform("kubernetes")
    with pytest.raises(InputError, match="does not compile; choose none"):
        compile_values(tmp_path / "p.yaml", changed("serving", infra_validator="docker"))


@pytest.mark.parametrize("has_server", [False, True])
def test_a_run_says_who_judged(tmp_path, has_server):
    (tmp_path / "INFRA_BLESSED").write_text(json.dumps({"requests": 107}))
    result = SimpleNamespace(outputs={"blessing": SimpleNamespace(uri=str(tmp_path))})
    said = summary._say_who_asked(dict.fromkeys(["ServingProbe", *["InfraValidator"] * has_server], result))
    assert "ServingProbe sent 107 requests" in said
    assert ("InfraValidator" in said) is has_server


class StandIn(base_runner.BaseModelServerRunner):
    """TFX's way to a server, with the stand-in where a container would be."""

    def __init__(self, model_path, **_):
        self._folder = Path(model_path).parent
        self._stack = contextlib.ExitStack()

    def __repr__(self):
        return "StandIn"

    def Start(self):
        config = config_text(**{self._folder.name: self._folder})
        self._server = self._stack.enter_context(running_server(self._folder.parent, config))

    def GetEndpoint(self):
        return self._server.target

    def WaitUntilRunning(self, deadline):
        """It has told its ports."""

    def Stop(self):
        self._stack.close()

    def GetLogs(self):
        return None


@pytest.fixture(scope="module")
def execution(tmp_path_factory):
    """What TFX hands to the executor: the model, the examples, and where the blessing goes."""
    folder = tmp_path_factory.mktemp("validated")
    model, examples = standard_artifacts.Model(), standard_artifacts.Examples()
    model.uri, examples.uri = str(folder / "model"), str(folder / "examples")
    made = Export(folder / "made", run_config("fp_simple")).directory
    shutil.copytree(made, folder / "model" / "Format-Serving")
    (folder / "examples" / "Split-test").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "examples" / "Split-test" / "sessions.gz"), "GZIP") as writer:
        for session in draw_sessions(12, seed=3):
            writer.write(example(session.item_id, [int(flag) for flag in session.is_false_positive]))
    example_files.describe(examples, [schema.TEST])
    return folder, model, examples


def validate(execution, name):
    folder, model, examples = execution
    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = str(folder / name)
    node = nodes(run_with("docker"))["InfraValidator"]
    context = Executor.Context(tmp_dir=str(folder / "temporary"), unique_id=name)
    Executor(context).Do(
        {"model": [model], "examples": [examples]}, {"blessing": [blessing]}, dict(node.exec_properties)
    )
    return blessing


@pytest.mark.e2e
def test_a_server_that_loads_and_answers_blesses(execution, monkeypatch):
    """TFX's own client and requests, the stand-in server, our export."""
    monkeypatch.setattr(infra_validator, "_create_model_server_runner", lambda **given: StandIn(given["model_path"]))
    blessing = validate(execution, "good")
    assert blessing.get_int_custom_property("blessed") == 1


@pytest.mark.e2e
def test_a_server_that_does_not_come_ends_the_run(execution, monkeypatch):
    def fail(**_):
        raise RuntimeError("no container")

    monkeypatch.setattr(infra_validator, "_create_model_server_runner", fail)
    with pytest.raises(RunError, match=r"did not answer in tensorflow/serving:2\.16\.1"):
        validate(execution, "bad")
