"""The files in deploy/serving: held against the server's formats, and where the stand-in model server can, run."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

PROJECT = Path(__file__).parents[1]
FOLDER = PROJECT / "deploy" / "serving"

# Of public protos that tensorflow-serving-api leaves out: session_bundle_config.proto and monitoring_config.proto.
MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": (1, ".google.protobuf.Int64Value"),
        "batch_timeout_micros": (2, ".google.protobuf.Int64Value"),
        "max_enqueued_batches": (3, ".google.protobuf.Int64Value"),
        "num_batch_threads": (4, ".google.protobuf.Int64Value"),
        "thread_pool_name": (5, ".google.protobuf.StringValue"),
        "pad_variable_length_inputs": (7, "bool"),
    },
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, ".s.PrometheusConfig")},
}


def message(name):
    """An empty message of that name in MESSAGES."""
    file = descriptor_pb2.FileDescriptorProto(
        name="s.proto", package="s", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    for message_name, fields in MESSAGES.items():
        made = file.message_type.add(name=message_name)
        for field_name, (number, kind) in fields.items():
            field = made.field.add(
                name=field_name, number=number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            )
            if kind.startswith("."):
                field.type, field.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, kind
            else:
                field.type = getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind.upper()}")
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    return message_factory.GetMessages([wrappers, file])[f"s.{name}"]()


def read(name, kind):
    return text_format.Parse((FOLDER / name).read_text(), kind)


def model_of(name):
    (model,) = read(name, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    return model


def service(name):
    (found,) = yaml.safe_load((FOLDER / name).read_text())["services"].values()
    return found


def test_models_are_served_from_the_volume_and_the_newest_stay_longest():
    model = model_of("models.config")
    assert model.base_path == f"/models/{model.name}" and model.model_platform == "tensorflow"
    assert model.model_version_policy.latest.num_versions == 2
    assert f"/v1/models/{model.name} " in service("compose.yaml")["healthcheck"]["test"][-1]


def test_labels_are_of_versions_that_are_served():
    model = model_of("canary.config")
    assert set(model.version_labels) == {"stable", "canary"}
    assert set(model.version_labels.values()) == set(model.model_version_policy.specific.versions)


def test_batching_and_monitoring_parameters_are_the_servers():
    batching = read("batching.config", message("BatchingParameters"))
    assert not batching.pad_variable_length_inputs  # a session would be filled up with its first item
    assert 0 < batching.batch_timeout_micros.value <= 5_000 and batching.max_batch_size.value > 1
    monitoring = read("monitoring.config", message("MonitoringConfig")).prometheus_config
    assert monitoring.enable and monitoring.path in (FOLDER / "README.md").read_text()
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch_sise { value: 2 }", message("BatchingParameters"))


def test_the_services_files_are_there_and_the_image_is_of_the_locked_release():
    base, batched = service("compose.yaml"), service("compose.batching.yaml")
    api = re.search(r"^tensorflow-serving-api==(.+)$", (PROJECT / "requirements.lock").read_text(), re.MULTILINE)[1]
    assert base["image"] == f"tensorflow/serving:{api}"
    assert batched["command"][: len(base["command"])] == base["command"]
    assert "FP_TFRS_SERVING" in base["volumes"][0] and base["volumes"][1] == ".:/config:ro"
    names = re.findall(r"=/config/(\S+)", " ".join(batched["command"]))
    assert len(names) == 3 and names[0] == "${FP_TFRS_MODELS:-models.config}"
    assert all((FOLDER / name).is_file() for name in ["models.config", *names[1:]])


@pytest.mark.e2e
def test_canary_and_health_check_as_a_server_takes_them(tmp_path):
    from running_server import running_server
    from test_model_server import FLAGS, SESSION, ask_json
    from test_serving import Export, run_config

    model = model_of("canary.config")
    stable, canary = (Export(tmp_path / name, run_config(name)) for name in ("fp_simple", "vanilla"))
    for label, export in (("stable", stable), ("canary", canary)):
        shutil.copytree(export.directory, tmp_path / model.name / str(model.version_labels[label]))
    shutil.copytree(stable.directory, tmp_path / model.name / "99999999999")  # newer, and not asked for
    text = (FOLDER / "canary.config").read_text().replace('"/models/', f'"{tmp_path}/')
    body = {"signature_name": "recommend", "inputs": {"item_id": [SESSION], "is_false_positive": [FLAGS]}}
    check = service("compose.yaml")["healthcheck"]["test"][-1]
    with running_server(tmp_path, text) as server:
        here = check.replace("localhost/8501", server.url.removeprefix("http://").replace(":", "/"))
        assert here != check
        for version in model.version_labels.values():
            server.wait_for_version(version)
        for label, export in (("stable", stable), ("canary", canary)):
            answer = ask_json(f"{server.url}/v1/models/{model.name}/labels/{label}:predict", body)
            assert answer["outputs"]["item_id"] == export.saved.recommend([SESSION], [FLAGS]).item_id
        assert not any(event.get("version") == 99999999999 for event in server.events)
        for command, is_healthy in ((here, True), (here.replace(model.name, "nobody"), False)):
            assert (
                subprocess.run(["bash", "-c", command], check=False, stderr=subprocess.DEVNULL).returncode == 0
            ) is is_healthy


def test_the_readmes_files_and_commands_are_there():
    text = (FOLDER / "README.md").read_text()
    for name in re.findall(r"`([\w.]+\.(?:config|yaml))`", text):
        assert (FOLDER / name).is_file(), name
    for line in re.findall(r"^fp-tfrs recommend .*$", text, re.MULTILINE):
        assert "--name" in shlex.split(line)
