"""What an export says of itself, and what is known of it when it is pushed: two JSON files that stay with the version.

`metadata.json` is written with the export. The ids of MLMD are not known there: the artifact that the Trainer is just
making gets its id when the Trainer has ended. The Pusher, which reads that artifact, adds `lineage.json` to the version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import MappingProxyType

import pydantic

import fp_tfrs
from fp_tfrs import storage
from fp_tfrs.config import RunConfig, dump, fingerprint
from fp_tfrs.serving import scann_index

FOLDER = "assets.extra"  # below the SavedModel's; of its files model servers read the warm-up requests alone
EXPORT_FILE = f"{FOLDER}/metadata.json"
LINEAGE_FILE = f"{FOLDER}/lineage.json"  # in pushed versions only


class _Rollback(pydantic.BaseModel):
    version: int
    instead_of: int


class _ModelArtifact(pydantic.BaseModel):
    uri: str


class _Lineage(pydantic.BaseModel):
    """What is read of LINEAGE_FILE; the rest is for people."""

    model_artifact: _ModelArtifact | None = None
    rollback: _Rollback | None = None


def of_export(
    run: RunConfig, model_version: str, n_items: int, losses: Mapping[str, object] = MappingProxyType({})
) -> str:
    """The text of EXPORT_FILE.

    Args:
        run: the configuration that was trained, values of the Tuner included; its fingerprint tells two of them apart.
        model_version: what every answer carries.
        n_items: of the catalogue.
        losses: what was measured of an export that saves memory or time by a loss.
    """
    import tensorflow as tf  # here only: who rolls back need not wait for it

    values = {
        "name": run.name,
        "model_version": model_version,
        "config_fingerprint": fingerprint(dump(run)),
        "config": run.model_dump(mode="json", include={"seed", "data", "model", "training"}),
        "method": run.model.method,
        "tower": run.model.tower.name,
        "n_items": n_items,
        "item_table": run.serving.item_table,
        "index": run.serving.index,
        "needs_ops_of": [scann_index.NAMESPACE] if run.serving.index == "scann" else [],
        **losses,
        "fp_tfrs_version": fp_tfrs.__version__,
        "tensorflow_version": tf.__version__,
    }
    return json.dumps(values, indent=1) + "\n"


def read_export(directory: str) -> dict[str, object]:
    """What `of_export` wrote for an exported model; FileNotFoundError: it is older than that."""
    return json.loads(storage.read_text(os.path.join(directory, EXPORT_FILE)))


def of_push(
    pipeline: str | None, pipeline_run: str | None, model_id: int | None, model_name: str, model_uri: str
) -> str:
    """The text of LINEAGE_FILE: whose model it is, by the ids of the MLMD store that has the run; None = not known."""
    values = {
        "pipeline": pipeline,
        "pipeline_run": pipeline_run,
        "model_artifact": {"id": model_id, "name": model_name, "uri": model_uri},
    }
    return json.dumps(values, indent=1) + "\n"


def of_rollback(lineage: str, version: int, instead_of: int) -> str:
    """The text of LINEAGE_FILE of a version that is an earlier one again.

    Args:
        lineage: the earlier one's LINEAGE_FILE; whose model it is does not change.
        version: the earlier one's number.
        instead_of: what was served until then.
    """
    return (
        json.dumps({**json.loads(lineage), "rollback": {"version": version, "instead_of": instead_of}}, indent=1) + "\n"
    )


def rolled_back_to(lineage: str) -> int | None:
    """Which version's files a version has, by its LINEAGE_FILE; None: its own. Raises ValueError: it is none of ours."""
    rollback = _Lineage.model_validate_json(lineage).rollback
    return None if rollback is None else rollback.version


def model_uri(version_dir: str) -> str | None:
    """Where the artifact is that a pushed version was copied from; None: it does not say."""
    path = os.path.join(version_dir, LINEAGE_FILE)
    try:
        artifact = _Lineage.model_validate_json(storage.read_text(path)).model_artifact
    except (FileNotFoundError, ValueError):
        return None
    return None if artifact is None else artifact.uri
