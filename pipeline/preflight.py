"""What can be said of a run before anything slow is imported: are its inputs there and readable, is there a use for them?"""

from __future__ import annotations

import os
import shlex
import sys

from fp_tfrs import methods, storage
from fp_tfrs.config import LATEST, BeamConfig, RunConfig
from fp_tfrs.data import sources
from fp_tfrs.errors import InputError


def check_inputs(run: RunConfig) -> list[str]:
    """The event log's files; none for a simulated one.

    Raises:
        InputError: a file or a column that the configuration names is not there, the schema is none, nothing depends on what is
            searched, Beam's workers cannot start, or cannot see a folder of this machine, or the InfraValidator has no
            containers here.
    """
    if run.validation.schema_file:
        _check_schema(run.validation.schema_file)
    start = run.training.warm_start
    if start not in (None, LATEST) and not storage.exists(start):
        raise InputError(f"training.warm_start = {start}: no such folder; give a pushed model's, {LATEST}, or null")
    check_search(run)
    check_workers(run.beam)
    _check_platform(run.serving.infra_validator)
    if run.training.distribution == "multi_worker":
        from pipeline import training_job

        training_job.check_chief()
    return [] if run.data.source.simulation else sources.check_source(run.data)


def check_search(run: RunConfig) -> None:
    """Raises InputError: the tuner is to search what the method does not use, so that its trials would all be the same."""
    method = methods.resolve(run.model)
    is_addend, has_hinge = method.term not in (None, "softmax"), method.term in ("metric", "adaptive")
    is_used = {
        "lambda_fp": is_addend,
        "denominator": is_addend,
        "similarity": has_hinge or method.term in ("contrastive", "n_pair"),
        "margin": has_hinge,
        "hinge": has_hinge,
        "aggregation": has_hinge,
        "gate": method.term == "adaptive",
        "fp_logit_margin": method.term == "softmax",
        "not_to_recommend_form": method.term == "not_to_recommend",
        "contrastive_temperature": method.term == "contrastive",
        "satisfaction": method.has_satisfaction_head,
        "abandoned_weight": method.has_abandoned_query,
    }
    for path in run.tuner.search if run.tuner.enabled else ():
        name = path.removeprefix("model.loss.")
        family = name if name in is_used else name.split("_")[0]  # gate_hidden_dim, satisfaction_beta
        if not is_used.get(family, True):
            raise InputError(
                f"tuner.search has {path}, but method {run.model.method} has no use for it; say in tuner.search what else to try"
            )


def _check_schema(path: str) -> None:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    try:
        text_format.Parse(storage.read_text(path), schema_pb2.Schema())
    except (OSError, text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(
            f"validation.schema_file = {path} is no schema: {' '.join(str(error).split())}; give a TFDV schema, or null to "
            "infer it"
        ) from None


def check_workers(beam: BeamConfig) -> None:
    """Raises InputError: Beam's workers cannot start, or cannot see a folder of this machine."""
    if beam.runner == "DataflowRunner":
        raise InputError(
            "beam.runner DataflowRunner: its machines cannot see a folder of this one; compile the pipeline with a root in an "
            "object store, and let Kubeflow or Vertex AI run it"
        )
    if beam.workers > 1 and shlex.quote(sys.executable) != sys.executable:
        raise InputError(
            f"beam.workers = {beam.workers}: Beam starts processes by a shell command that does not quote Python's path, and "
            f"{sys.executable} has a space or a sign of the shell in it; install in another folder, or set beam.workers: 1"
        )


def _check_platform(platform: str) -> None:
    """InfraValidator itself would try again and again, for minutes, at the run's end."""
    if platform == "docker":
        import docker

        try:
            docker.DockerClient().ping()
        except docker.errors.DockerException as error:
            raise InputError(
                f"serving.infra_validator: docker, but no Docker answers here ({str(error).splitlines()[0]}); start it, or "
                "choose none: ServingProbe judges every export"
            ) from None
    if platform == "kubernetes" and not {"KUBERNETES_SERVICE_HOST", "KFP_POD_NAME", "KFP_NAMESPACE"} <= set(os.environ):
        raise InputError(
            "serving.infra_validator: kubernetes works in a pod of Kubeflow Pipelines alone, and this is none; choose none: "
            "ServingProbe judges every export"
        )
