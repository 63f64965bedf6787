"""ServerValidator: exported model × test sessions → InfraBlessing, by loading and asking it in TensorFlow Serving's own image.

TFX's InfraValidator, which needs Docker or a pod of Kubeflow Pipelines (`serving.infra_validator`). That one writes down in
silence that a model, or the container, has failed, and the answer is cached; this one ends the run.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from tfx.components.infra_validator import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import infra_validator_pb2
from tfx.types import BaseChannel, artifact_utils, standard_component_specs

from fp_tfrs import schema
from fp_tfrs.errors import RunError

# Of tensorflow/serving: the release for the TensorFlow that the export was made with, or the newest before it.
IMAGE_TAG = metadata.version("tensorflow-serving-api")
REQUESTS = 10
LOADING_S = 300


class Executor(executor.Executor):
    """Raises where TFX's writes INFRA_NOT_BLESSED."""

    def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict[str, Any]) -> None:
        super().Do(input_dict, output_dict, exec_properties)
        blessing = artifact_utils.get_single_instance(output_dict[standard_component_specs.BLESSING_KEY])
        if blessing.get_int_custom_property("blessed") != 1:
            raise RunError(
                f"the exported model was not loaded or did not answer in tensorflow/serving:{IMAGE_TAG}; the run's log "
                "has what the container said"
            )


class ServerValidator(component.InfraValidator):
    """InfraValidator on one platform, with requests of the test split."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, model: BaseChannel, examples: BaseChannel, platform: str) -> None:
        """platform: docker or kubernetes."""
        serving = infra_validator_pb2.TensorFlowServing(tags=[IMAGE_TAG])
        if platform == "docker":
            spec = infra_validator_pb2.ServingSpec(
                tensorflow_serving=serving, local_docker=infra_validator_pb2.LocalDockerConfig()
            )
        else:
            spec = infra_validator_pb2.ServingSpec(
                tensorflow_serving=serving, kubernetes=infra_validator_pb2.KubernetesConfig()
            )
        super().__init__(
            model=model,
            serving_spec=spec,
            examples=examples,
            request_spec=infra_validator_pb2.RequestSpec(
                tensorflow_serving=infra_validator_pb2.TensorFlowServingRequestSpec(),
                split_name=schema.TEST,
                num_examples=REQUESTS,
            ),
            validation_spec=infra_validator_pb2.ValidationSpec(max_loading_time_seconds=LOADING_S, num_tries=2),
        )
