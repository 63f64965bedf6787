"""Labels: names such as stable and canary for pushed versions, in the file that TensorFlow Serving itself reads them from.

In: a model's folder, and the numbers of some of its versions. Out: `<serving root>/models.config`, a ModelServerConfig. A
server that is started with it serves the labelled versions of that model and no others, so that a push changes nothing
until it has a label; `pruning.py` spares what has one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from fp_tfrs import storage
from fp_tfrs.errors import InputError
from fp_tfrs.serving import push

FILE_NAME = "models.config"
MOUNT = "/models"  # where containers of TensorFlow Serving have the serving root


def label(models: str, labels: Mapping[str, int]) -> str:
    """Makes these the labels of a model, instead of those it had; returns the path of the file.

    Args:
        models: folder of the model's versions.
        labels: name → version.

    Raises:
        InputError: there is no such version, or the file there is cannot be read, or written.
        RunError: a push does not end.
    """
    models = models.rstrip("/")
    _check_there(models, labels)
    if not storage.is_local(models):
        return _write(models, labels)
    # No version goes meanwhile; and the file is that of all models of the serving root, whose lock comes second always.
    with push.lock(Path(models)), push.lock(Path(storage.parent(models))):
        _check_there(models, labels)
        return _write(models, labels)


def _check_there(models: str, labels: Mapping[str, int]) -> None:
    there = push.list_complete(models)
    for name, version in labels.items():
        if version not in there:
            raise InputError(f"{name}={version}: {push.describe_versions(models)}")


def _write(models: str, labels: Mapping[str, int]) -> str:
    config = _read(models)
    entry = _entry_of(models, config)
    if entry is None:
        base_path = f"{MOUNT}/{os.path.basename(models)}" if storage.is_local(models) else models
        entry = config.model_config_list.config.add(
            name=os.path.basename(models), base_path=base_path, model_platform="tensorflow"
        )
    entry.version_labels.clear()
    entry.version_labels.update(labels)
    entry.model_version_policy.specific.versions[:] = sorted(set(labels.values()))
    storage.write_text(_path(models), text_format.MessageToString(config))
    return _path(models)


def read(models: str) -> dict[str, int]:
    """The labels of the model in this folder, by name; none without the file. Raises InputError: it cannot be read."""
    entry = _entry_of(models.rstrip("/"), _read(models.rstrip("/")))
    return {} if entry is None else dict(entry.version_labels)


def _path(models: str) -> str:
    return os.path.join(storage.parent(models), FILE_NAME)


def _read(models: str) -> model_server_config_pb2.ModelServerConfig:
    path = _path(models)
    config = model_server_config_pb2.ModelServerConfig()
    try:
        return text_format.Parse(storage.read_text(path), config)
    except FileNotFoundError:
        return config
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no ModelServerConfig: {' '.join(str(error).split())}; mend or remove it") from None


def _entry_of(
    models: str, config: model_server_config_pb2.ModelServerConfig
) -> model_server_config_pb2.ModelConfig | None:
    name = os.path.basename(models)
    return next((entry for entry in config.model_config_list.config if entry.name == name), None)
