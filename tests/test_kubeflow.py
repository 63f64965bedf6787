"""What `fp-tfrs compile` writes: valid by KFP's own protos, free of this machine, and with each node's container as configured."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format

from fp_tfrs.config import RunConfig
from fp_tfrs.errors import InputError
from fp_tfrs.fingerprint import FIRST_PARTY
from pipeline import kubeflow_runner

PROJECT = Path(__file__).parents[1]
GOLDEN = PROJECT / "tests" / "golden" / "kubeflow.yaml"
ROOT = "gs://bucket/tiny"
VALUES = {
    "name": "tiny_log",
    "data": {
        "source": {"format": "csv", "files": ["gs://bucket/logs/*.csv.gz"]},
        "columns": {"session_id": "session_id", "feedback": {"dwell_s": "float"}},
        "false_positive_when": [{"column": "dwell_s", "op": "<", "value": 10}],
    },
    "kubeflow": {
        "all_nodes": {"memory_gb": 4},
        "nodes": {
            "Trainer": {"cpu": 8, "memory_gb": 32, "accelerator": "nvidia.com/gpu", "retries": 5},
            "ServingProbe": {"image": "registry/serving:7", "command": ["/usr/bin/python3", "-m", "entry"]},
        },
        "environment": {"S3_ENDPOINT": "minio:9000"},
    },
}


def compile_values(out, values=VALUES, root=ROOT):
    return kubeflow_runner.compile_pipeline(RunConfig.model_validate(values), root, "registry/fp-tfrs:1", str(out))


def changed(section, **values):
    return VALUES | {section: {**VALUES.get(section, {}), **values}}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The bare spec and the job, as written."""
    folder = tmp_path_factory.mktemp("compiled")
    assert compile_values(folder / "p.yaml") == compile_values(folder / "p.json") == 11
    return folder / "p.yaml", folder / "p.json"


@pytest.fixture(scope="module")
def spec(compiled):
    return yaml.safe_load(compiled[0].read_text())


def container(spec, node):
    return spec["deploymentSpec"]["executors"][spec["components"][node]["executorLabel"]]["container"]


class OneLine(dict):
    """Is written as a YAML flow: a configuration in the golden file stays short."""


class Dumper(yaml.SafeDumper):
    pass


Dumper.add_representer(OneLine, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value, True))


def parsed(value):
    """The value with texts that are JSON taken apart, and without what changes with versions of TFX and our code."""
    if isinstance(value, dict):
        if set(value) in ({"artifactType"}, {"instanceSchema"}, {"parameterType"}):
            return parsed(*value.values())
        return {key: parsed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [parsed(inner) for inner in value]
    if not isinstance(value, str) or value == "{{$}}":
        return value
    if value.startswith("title: "):  # an artifact's type; the rest of it is TFX's description
        return yaml.safe_load(value)["title"]
    if value.startswith(("{", "[")):
        found = parsed(json.loads(value))
        return OneLine(found) if isinstance(found, dict) else found
    return re.sub("^[0-9a-f]{16}$", "fingerprint of the code", value)


def summarise(spec):
    """Every node with all that it is given: image, command, each argument and value, resources, and what feeds it."""
    nodes = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        assert set(task) <= {"componentRef", "taskInfo", "inputs", "retryPolicy", "dependentTasks", "cachingOptions"}
        assert task["componentRef"] == task["taskInfo"] == {"name": name}
        of, inputs = container(spec, name), task["inputs"]
        said = of["args"].index("--json_serialized_inputs_spec_args") + 1
        assert json.loads(of["args"][said]) == spec["components"][name]["inputDefinitions"]
        nodes[name] = {
            **{key: value for key, value in of.items() if key not in ("args", "env", "command")},
            "arguments": parsed(of["args"]),
            "command": " ".join(of["command"]),
            "env": {variable["name"]: variable["value"] for variable in of.get("env", [])},
            "retries": task["retryPolicy"],
            "cached": task.get("cachingOptions", {}).get("enableCache", False),
            "after": task.get("dependentTasks", []),
            "inputs": {
                key: "{producerTask}.{outputArtifactKey}".format(**source["taskOutputArtifact"])
                for key, source in inputs.get("artifacts", {}).items()
            },
            "outputs": parsed(spec["components"][name]["outputDefinitions"]["artifacts"]),
            "parameters": {key: parsed(of["runtimeValue"]["constant"]) for key, of in inputs["parameters"].items()},
        }
    return {"name": spec["pipelineInfo"]["name"], "root": spec["defaultPipelineRoot"], "nodes": nodes}


def test_the_compiled_pipeline_is_the_golden_one(spec, tmp_path, record_figure):
    """A change that is meant: look at the difference, and copy the file that the message names over tests/golden/."""
    found = yaml.dump(summarise(spec), Dumper=Dumper, width=120, default_flow_style=None)
    (tmp_path / GOLDEN.name).write_text(found)
    record_figure(
        "compiled for Kubeflow", f"{len(summarise(spec)['nodes'])} nodes with images and arguments", "the golden file"
    )
    assert found == GOLDEN.read_text(), f"differs from {tmp_path / GOLDEN.name}"


def test_kfps_protos_and_its_loader_take_it(compiled, spec):
    from kfp import components
    from kfp.pipeline_spec import pipeline_spec_pb2

    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())  # refuses fields that it doesn't know
    json_format.ParseDict(spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    job = json.loads(compiled[1].read_text())
    json_format.ParseDict(job, pipeline_spec_pb2.PipelineJob())
    assert job["pipelineSpec"] == spec
    assert (job["displayName"], job["runtimeConfig"]["gcsOutputDirectory"]) == ("tiny_log", f"{ROOT}/artifacts")
    assert components.load_component_from_file(str(compiled[0])).name == "tiny-log"


def test_nothing_of_the_machine_that_compiles_is_in_it(compiled):
    for path in compiled:
        text = path.read_text()
        for trace in (str(PROJECT), str(Path.home()), str(path.parent), os.getcwd(), sys.prefix, "sqlite", "localhost"):
            assert trace not in text, (path, trace)
        found = {local for value in texts_in(yaml.safe_load(text)) for local in local_paths(value)}
        assert found == {"/usr/bin/python3"}  # of the test's own configuration


def texts_in(value):
    """All keys and texts in a structure; those of a text that is JSON in place of it, so that nothing is escaped."""
    if isinstance(value, str) and value.startswith(("{", "[")) and value != "{{$}}":
        value = json.loads(value)
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [text for inner in value for text in texts_in(inner)] if isinstance(value, list) else [str(value)]


def local_paths(text):
    """Each absolute path of a machine that a text names, but for those in URLs of other schemes than file."""
    without_urls = re.sub(r"\b(?!file:)[a-z][a-z0-9+.-]*://[\w.*/:@-]*", "", text)
    return re.findall(r"(?<![\w.*)}-])(?:[A-Z]:\\|~?/)[\w.~/\\-]*", without_urls)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("/tmp", ["/tmp"]),
        ("/srv", ["/srv"]),
        ("--temp_location=/tmp", ["/tmp"]),
        ("written to '/srv' or (/home/me/x.csv)", ["/srv", "/home/me/x.csv"]),
        ("PATH=/opt:/usr/bin", ["/opt", "/usr/bin"]),
        ("file:///tmp/a", ["///tmp/a"]),
        ("~/logs", ["~/logs"]),
        ("C:\\logs", ["C:\\logs"]),
        (" gs://bucket/a/*.csv,/mnt", ["/mnt"]),
        ("gs://bucket/a/b nvidia.com/gpu registry/fp-tfrs:1 minio:9000", []),
    ],
)
def test_a_local_path_is_found_whatever_is_around_it(text, paths):
    assert local_paths(text) == paths
    assert texts_in({"a": json.dumps([{text: 1.5}])}) == ["a", text, "1.5"]


def test_everything_is_written_under_the_root(spec):
    said = json.dumps(spec["root"])
    for folder in ("events", "state", "serving/tiny_log"):
        assert f"{ROOT}/{folder}" in said
    urls = set(re.findall(r"gs://[\w./*-]+", json.dumps(spec)))
    assert all(url.startswith((f"{ROOT}/", "gs://bucket/logs/")) for url in urls)


def test_the_classes_that_containers_run_are_importable_by_name(spec):
    from tfx.utils import import_utils

    for node in spec["root"]["dag"]["tasks"]:
        arguments = container(spec, node)["args"]
        name = arguments[arguments.index("--executor_class_path") + 1]
        assert callable(import_utils.import_class_by_path(name).Do)


def test_a_search_is_one_more_node_whose_best_values_the_trainer_gets(tmp_path):
    """The search's results lie under the root, so that a pod that is started again goes on."""
    assert compile_values(tmp_path / "p.yaml", VALUES | {"tuner": {"enabled": True, "workers": 2}}) == 12
    spec = yaml.safe_load((tmp_path / "p.yaml").read_text())
    from kfp.pipeline_spec import pipeline_spec_pb2
    from tfx.utils import import_utils

    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    nodes = summarise(spec)["nodes"]
    assert nodes["Trainer"]["inputs"]["hyperparameters"] == "Tuner.best_hyperparameters"
    assert nodes["Tuner"]["inputs"] == {
        key: source for key, source in nodes["Trainer"]["inputs"].items() if key != "hyperparameters"
    }
    assert (nodes["Tuner"]["command"], nodes["Tuner"]["resources"]["memoryLimit"]) == (
        "python -m pipeline.container",
        4,
    )
    assert callable(import_utils.import_class_by_path(nodes["Tuner"]["arguments"][1]).Do)
    assert f"{ROOT}/search" in json.dumps(spec["root"]["dag"]["tasks"]["Tuner"])


def test_every_node_hands_its_work_to_the_runner_of_section_beam(tmp_path):
    section = {"runner": "DataflowRunner", "options": {"project": "p", "sdk_container_image": "registry/fp-tfrs:1"}}
    compile_values(tmp_path / "p.yaml", VALUES | {"beam": section})
    spec = yaml.safe_load((tmp_path / "p.yaml").read_text())
    for node in spec["root"]["dag"]["tasks"]:
        arguments = container(spec, node)["args"]
        assert arguments[-3:] == ["--runner=DataflowRunner", "--project=p", "--sdk_container_image=registry/fp-tfrs:1"]
        assert not any("FnApiRunner" in argument for argument in arguments)


@pytest.mark.parametrize(
    ("values", "root", "words"),
    [
        (changed("data", source={"format": "csv", "files": ["logs/a.csv"]}), ROOT, ["data.source.files", "logs/a.csv"]),
        (changed("data", source={"format": "csv", "files": ["$LOGS/a.csv"]}), ROOT, ["$LOGS/a.csv", "files_in_image"]),
        (changed("validation", schema_file="/home/s.pbtxt"), ROOT, ["validation.schema_file", "/home/s.pbtxt"]),
        (VALUES, "runs/here", ["--root runs/here", "gs://"]),
        (changed("kubeflow", nodes={"Trainr": {}}), ROOT, ["'Trainr'", "'Trainer'"]),
    ],
)
def test_what_no_container_could_use_is_refused(values, root, words, tmp_path):
    with pytest.raises(InputError) as refused:
        compile_values(tmp_path / "p.yaml", values, root)
    assert all(word in str(refused.value) for word in words), refused.value
    assert list(tmp_path.iterdir()) == []


def test_local_files_are_taken_when_they_are_said_to_be_in_the_image(tmp_path):
    values = changed("data", source={"format": "csv", "files": ["/data/a.csv"]}) | {
        "kubeflow": {"has_files_in_image": True}
    }
    compile_values(tmp_path / "p.yaml", values, "/mnt/shared/root")
    assert "/data/a.csv" in (tmp_path / "p.yaml").read_text()


def test_a_name_that_says_no_format_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.yaml for Kubeflow"):
        compile_values(tmp_path / "pipeline")


def test_without_kfp_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kfp.pipeline_spec", None)
    with pytest.raises(InputError, match="pip install 'kfp"):
        compile_values(tmp_path / "p.yaml")


def test_the_image_gets_every_package_and_runs_as_nobody_special():
    dockerfile = (PROJECT / "deploy" / "Dockerfile").read_text()
    sent = {line[1:] for line in (PROJECT / "deploy" / "Dockerfile.dockerignore").read_text().split() if line[0] == "!"}
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE) for name in line.split()
    }
    assert {*FIRST_PARTY, "setup.py", "requirements.lock"} <= copied == sent
    assert all((PROJECT / name).exists() for name in copied)
    last_stage = dockerfile.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*$", last_stage, re.MULTILINE) and "g++" not in last_stage


def test_the_configuration_that_deploy_shows_compiles(tmp_path):
    fragments = re.findall(r"```yaml\n(.*?)```", (PROJECT / "deploy" / "README.md").read_text(), re.DOTALL)
    (shown,) = [values for values in map(yaml.safe_load, fragments) if "kubeflow" in values]
    values = changed("data", **shown["data"]) | {"kubeflow": shown["kubeflow"]}
    assert compile_values(tmp_path / "p.json", values) == 11
