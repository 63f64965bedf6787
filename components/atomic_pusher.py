"""AtomicPusher: blessed model → a new version under the serving root, visible whole or not at all; old versions go.

TFX's Pusher with the copying replaced: that one copies in place, and a model server can read half a version. With the
version goes what its training data was like, for the AnomalyGate of later runs.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from tfx.components.evaluator import constants
from tfx.components.pusher import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.types.channel import BaseChannel, Channel
from tfx.utils import io_utils, json_utils, proto_utils

from fp_tfrs import storage
from fp_tfrs.data import drift
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.evaluation import model_card
from fp_tfrs.serving import metadata, pruning, push
from fp_tfrs.serving.saved_model import list_versions

STATISTICS_KEY = "statistics"


class Executor(executor.Executor):
    """Pushes by rename."""

    def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict[str, Any]) -> None:
        pushed = artifact_utils.get_single_instance(output_dict[standard_component_specs.PUSHED_MODEL_KEY])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        destination = proto_utils.json_to_proto(
            exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], pusher_pb2.PushDestination()
        )
        models = destination.filesystem.base_directory
        version_dir = self._push(input_dict, models)
        io_utils.copy_dir(version_dir, pushed.uri)
        self._prune(models, exec_properties)
        self._MarkPushed(pushed, pushed_destination=version_dir, pushed_version=os.path.basename(version_dir))

    def _find_pushed(self, input_dict: dict, models: str) -> str | None:
        """The newest version, if it is this very model: an earlier attempt has pushed it, and then stopped.

        Raises:
            RunError: it is neither this model nor the one that this model was compared with.
        """
        model = artifact_utils.get_single_instance(input_dict[standard_component_specs.MODEL_KEY])
        verdict = artifact_utils.get_single_instance(input_dict[standard_component_specs.MODEL_BLESSING_KEY])
        baseline = verdict.get_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY)
        newest = next(reversed(list_versions(models)), None)
        if newest is None or os.path.basename(newest) == os.path.basename(baseline):
            return None
        if metadata.model_uri(newest) == model.uri:
            return newest
        storage.write_text(os.path.join(models, push.JUDGE_AGAIN), f"{os.path.basename(newest)} {verdict.uri}")
        raise RunError(
            f"the model was compared with {baseline or 'no earlier one'}, but since then {newest} is served; nothing was pushed, "
            "the same command compares it with that one"
        )

    def _push(self, input_dict: dict, models: str) -> str:
        root, name = os.path.split(models)
        statistics = artifact_utils.get_single_instance(input_dict[STATISTICS_KEY])
        additions = {
            metadata.LINEAGE_FILE: self._lineage(input_dict),
            drift.SUMMARY_FILE: drift.summarise(os.path.join(statistics.uri, drift.TRAINING_FILE)),
            **self._card(input_dict),
        }
        return push.push(
            self.GetModelPath(input_dict), root, name, additions, lambda: self._find_pushed(input_dict, models)
        )

    def _prune(self, models: str, exec_properties: dict[str, Any]) -> None:
        """What cannot be removed stays, and is no reason to undo a push."""
        keep = json_utils.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])["keep"]
        if keep is None:
            return
        try:
            removed = pruning.prune(models, keep)
        except (InputError, RunError, OSError) as error:
            print(f"no earlier version was removed: {error}", flush=True)
            return
        if removed:
            print(f"removed from {models}: {', '.join(map(str, removed))} (serving.keep = {keep})", flush=True)

    def _card(self, input_dict: dict) -> dict[str, str]:
        """The evaluator leaves it beside its verdict."""
        verdict = artifact_utils.get_single_instance(input_dict[standard_component_specs.MODEL_BLESSING_KEY])
        return {
            f"{metadata.FOLDER}/{name}": storage.read_text(os.path.join(verdict.uri, name)) for name in model_card.FILES
        }

    def _lineage(self, input_dict: dict) -> str:
        model = artifact_utils.get_single_instance(input_dict[standard_component_specs.MODEL_KEY])
        info, pipeline_run = self._context.pipeline_info, self._context.pipeline_run_id
        # A container of Kubeflow or Vertex AI is not told its run, and makes up ids of artifacts; their names are real.
        return metadata.of_push(
            info.id if info else None, pipeline_run, model.id if pipeline_run else None, model.name, model.uri
        )


class AtomicPusherSpec(standard_component_specs.PusherSpec):
    """Contract of the node: TFX's Pusher's, and statistics."""

    INPUTS: ClassVar = {
        **standard_component_specs.PusherSpec.INPUTS,
        STATISTICS_KEY: component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
    }


class AtomicPusher(component.Pusher):
    """Pusher to a file system by rename. custom_config: `keep`, of `pruning.prune`, or None, which keeps all."""

    SPEC_CLASS = AtomicPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: BaseChannel,
        model_blessing: BaseChannel,
        infra_blessing: BaseChannel,
        statistics: BaseChannel,
        push_destination: pusher_pb2.PushDestination,
        custom_config: dict[str, Any],
    ) -> None:
        spec = AtomicPusherSpec(
            model=model,
            model_blessing=model_blessing,
            infra_blessing=infra_blessing,
            statistics=statistics,
            push_destination=push_destination,
            custom_config=json_utils.dumps(custom_config),
            pushed_model=Channel(type=standard_artifacts.PushedModel),
        )
        super(component.Pusher, self).__init__(spec=spec)  # TFX's own makes a spec that has no statistics
