"""AnomalyGate: stops the run when the data is not what training may rely on; hands on the schema when it is.

That is: what ExampleValidator found, shares that preprocessing counted, and drift since the model that was pushed last.
Transform and Trainer take their schema from this node, so nothing is trained on data that it refused.
"""

import os

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils

from fp_tfrs import config, storage
from fp_tfrs.data import data_gate, drift, manifest
from fp_tfrs.errors import InputError
from fp_tfrs.progress import say
from fp_tfrs.serving.saved_model import list_versions

SCHEMA_FILE = "schema.pbtxt"


@component
def AnomalyGate(
    examples: InputArtifact[standard_artifacts.Examples],
    anomalies: InputArtifact[standard_artifacts.ExampleAnomalies],
    schema: InputArtifact[standard_artifacts.Schema],
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    accepted_schema: OutputArtifact[standard_artifacts.Schema],
    limits: Parameter[str],  # config.ValidationConfig as JSON
    serving_dir: Parameter[str],  # where pushed versions of this model are
    fingerprint: Parameter[str],  # of the code: it is part of the cache key
) -> None:
    found = {}
    for split in artifact_utils.decode_split_names(anomalies.split_names):
        with fileio.open(os.path.join(anomalies.uri, f"Split-{split}", "SchemaDiff.pb"), "rb") as file:
            found[split] = anomalies_pb2.Anomalies.FromString(file.read())
    validation = config.parse(config.ValidationConfig, limits)
    schema_path = os.path.join(schema.uri, SCHEMA_FILE)
    inferred = None if validation.schema_file else schema_path
    objections = data_gate.list_objections(found, manifest.verify(examples.uri), validation, inferred)
    drifted = list_drift(statistics.uri, serving_dir, validation.drift)
    if validation.drift.action == "stop":
        objections += [f"{sentence}; if that is meant, run once with action: warn" for sentence in drifted]
    else:
        for sentence in drifted:
            say(f"warning: {sentence}")
    if objections:
        raise InputError("the data is not fit to train on: " + "; ".join(objections))
    io_utils.copy_file(schema_path, os.path.join(accepted_schema.uri, SCHEMA_FILE))


def list_drift(statistics_uri: str, serving_dir: str, limits: config.DriftConfig) -> list[str]:
    """What has moved since the last pushed model, a sentence each; nothing before the first push."""
    versions = list_versions(serving_dir)
    if not versions:
        return []
    kept = os.path.join(versions[-1], drift.SUMMARY_FILE)
    if not storage.exists(kept):
        say(f"drift is not looked for: {versions[-1]} carries no statistics of its training data")
        return []
    now = drift.summarise(os.path.join(statistics_uri, drift.TRAINING_FILE))
    return drift.describe_drift(now, storage.read_text(kept), limits)
