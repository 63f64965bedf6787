"""The pipeline as a file that Kubeflow runs: `create_pipeline` → KFP's pipeline spec, each node a container.

TFX compiles what the nodes are and what feeds which; added here is what the `kubeflow` section says of their containers.
Nothing is run and no server is asked. The file holds no path of the machine that compiles.
"""

from __future__ import annotations

import difflib
import json
import os
from typing import Any

import yaml
from google.protobuf import json_format

from fp_tfrs import storage
from fp_tfrs.config import LATEST, KubeflowConfig, NodeConfig, RunConfig
from fp_tfrs.errors import InputError
from pipeline import preflight


def compile_pipeline(run: RunConfig, root: str, image: str, out: str) -> int:
    """Writes the compiled pipeline; returns how many nodes it has.

    Args:
        run: the configuration.
        root: folder of everything that the pipeline writes: an object store's URL, or a path that all containers share.
        image: the containers' image, but for nodes with one of their own.
        out: file to write: `.json` a PipelineJob (Vertex AI), `.yaml` a bare PipelineSpec (Kubeflow).

    Raises:
        InputError: what is configured cannot be found or run in a container, nothing depends on what is searched, or KFP's own
            protos are not installed.
    """
    if not out.endswith((".json", ".yaml")):
        raise InputError(f"--out {out}: end the name in .yaml for Kubeflow, or in .json for Vertex AI")
    check_places(run, root)
    preflight.check_search(run)
    if run.serving.infra_validator != "none":
        raise InputError(
            f"serving.infra_validator: {run.serving.infra_validator}: TFX's InfraValidator does not compile; choose none: "
            "ServingProbe judges every export"
        )
    if run.training.distribution == "multi_worker":
        raise InputError(
            "training.distribution: multi_worker needs several containers, and a compiled pipeline's Trainer is one; choose "
            "mirrored and give the Trainer several accelerators, or run fp-tfrs run as the chief of a TFJob"
        )
    try:
        from kfp.pipeline_spec import pipeline_spec_pb2
        from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner as kubeflow
    except ImportError as error:
        raise InputError(
            f"compiling for Kubeflow needs the package kfp ({error}): pip install 'kfp>=2.5,<2.6'"
        ) from None
    from pipeline.pipeline import create_pipeline

    pipeline = create_pipeline(run, root)
    _check_nodes(run.kubeflow, [component.id for component in pipeline.components])
    settings = kubeflow.KubeflowV2DagRunnerConfig(
        display_name=run.name, default_image=image, use_pipeline_spec_2_1=True
    )
    job = kubeflow.KubeflowV2DagRunner(settings).run(pipeline, write_out=False)
    spec = json_format.ParseDict(job["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    spec.default_pipeline_root = pipeline.pipeline_info.pipeline_root
    deployment = json_format.ParseDict(
        json_format.MessageToDict(spec.deployment_spec), pipeline_spec_pb2.PipelineDeploymentConfig()
    )
    for name, task in spec.root.dag.tasks.items():
        node = run.kubeflow.of_node(name)
        _set_retries(task.retry_policy, node)
        executor = deployment.executors[spec.components[task.component_ref.name].executor_label]
        _set_container(executor.container, node, image, run.kubeflow.environment)
    spec.deployment_spec.Clear()
    spec.deployment_spec.update(json_format.MessageToDict(deployment))
    job["pipelineSpec"] = json_format.MessageToDict(spec)
    try:
        storage.write_text(out, _format(job, out))
    except OSError as error:
        raise InputError(
            f"--out {out} cannot be written: {error.strerror}; name a file in a writable folder"
        ) from error
    return len(spec.root.dag.tasks)


def check_places(run: RunConfig, root: str) -> None:
    """Raises InputError for a path that a container would look for in vain."""
    if storage.is_local(root) and not os.path.isabs(root):
        raise InputError(f"--root {root}: give an object store's URL, e.g. gs://bucket/folder, or a volume's full path")
    source = run.data.source
    named: list[tuple[str, str | None]] = [("data.source.files", path) for path in source.files]
    named += [("data.source.manual_dir", source.manual_dir), ("data.source.data_dir", source.data_dir)]
    named += [("validation.schema_file", run.validation.schema_file)]
    if run.training.warm_start != LATEST:
        named.append(("training.warm_start", run.training.warm_start))
    for name, path in named:
        if path and storage.is_local(path) and not run.kubeflow.has_files_in_image:
            raise InputError(
                f"{name} = {path} is a path of this machine: give a URL that containers can read, e.g. gs://bucket/file, "
                "or set kubeflow.has_files_in_image if it is one of the image's"
            )


def _check_nodes(settings: KubeflowConfig, names: list[str]) -> None:
    for name in settings.nodes:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.0)[0]
            raise InputError(f"kubeflow.nodes has no node {name!r}; the nearest is {near!r}")


def _set_retries(policy: Any, node: NodeConfig) -> None:
    policy.max_retry_count = node.retries
    policy.backoff_duration.seconds = node.retry_after_s
    policy.backoff_factor = 2.0


def _set_container(container: Any, node: NodeConfig, image: str, environment: dict[str, str]) -> None:
    container.image = node.image or image
    container.command[:] = node.command
    container.resources.cpu_limit = node.cpu
    container.resources.memory_limit = node.memory_gb
    if node.accelerator:
        container.resources.accelerator.type = node.accelerator
        container.resources.accelerator.count = node.accelerators
    for name, value in sorted(environment.items()):
        container.env.add(name=name, value=value)


def _format(job: dict[str, Any], out: str) -> str:
    if out.endswith(".json"):
        return json.dumps(job, indent=2, sort_keys=True) + "\n"
    return yaml.safe_dump(job["pipelineSpec"], sort_keys=True)
