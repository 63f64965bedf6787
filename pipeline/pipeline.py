"""The pipeline: which node feeds which. One definition for every runner.

A runner says where the run writes and where its lineage is kept; nothing here asks what machine it is on.
"""

from __future__ import annotations

import os

from tfx.components.example_validator.component import ExampleValidator
from tfx.components.schema_gen.component import SchemaGen
from tfx.components.statistics_gen.component import StatisticsGen
from tfx.components.trainer.component import Trainer
from tfx.components.transform.component import Transform
from tfx.components.tuner.component import Tuner
from tfx.orchestration.metadata import ConnectionConfigType
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import pusher_pb2, trainer_pb2, transform_pb2

from components.anomaly_gate import AnomalyGate
from components.atomic_pusher import AtomicPusher
from components.ranking_evaluator import RankingEvaluator
from components.schema_import import SchemaImport
from components.serving_probe import ServingProbe
from components.session_example_gen import SessionExampleGen
from components.tfma_evaluator import TfmaEvaluator
from fp_tfrs import schema, storage
from fp_tfrs.config import (
    LATEST,
    BeamConfig,
    CardConfig,
    EvaluationConfig,
    KubeflowConfig,
    RunConfig,
    ServingConfig,
    TunerConfig,
    ValidationConfig,
    dump,
    fingerprint,
)
from fp_tfrs.evaluation import tfma_view
from fp_tfrs.fingerprint import code_fingerprint
from fp_tfrs.serving import push
from pipeline.earlier import find_model


def create_pipeline(
    run: RunConfig, root: str, log_fingerprint: str = "", lineage: ConnectionConfigType | None = None
) -> Pipeline:
    """All nodes of a run.

    A node is re-run when its inputs, its section of the config or the code behind it changes, and only then: each gets
    its section alone, and a fingerprint of its modules.

    Args:
        run: the whole configuration.
        root: folder of everything that the run writes; a path, or the URL of an object store (`fp_tfrs/storage.py`).
        log_fingerprint: changes when the event log's files change; "" where whoever makes the pipeline cannot see them.
        lineage: the MLMD store to look up unchanged nodes in; None: where the pipeline runs has its own, and as the
            log may have changed unseen, every node runs.
    """
    data = dump(run.data)
    example_gen = SessionExampleGen(
        data=data,
        seed=run.seed,
        fingerprint=fingerprint(log_fingerprint, data, code_fingerprint("components.session_example_gen")),
        events_dir=os.path.join(root, "events"),
    )
    examples = example_gen.outputs["examples"]
    statistics_gen = StatisticsGen(examples=examples)
    statistics = statistics_gen.outputs["statistics"]
    schema_file = run.validation.schema_file
    schema_gen = (
        SchemaImport(schema_file=schema_file, fingerprint=storage.hash_file(schema_file) if lineage else "").with_id(
            "SchemaGen"
        )
        if schema_file
        else SchemaGen(statistics=statistics, infer_feature_shape=False, exclude_splits=[schema.VALID, schema.TEST])
    )
    example_validator = ExampleValidator(statistics=statistics, schema=schema_gen.outputs["schema"])
    anomaly_gate = AnomalyGate(
        examples=examples,
        anomalies=example_validator.outputs["anomalies"],
        schema=schema_gen.outputs["schema"],
        statistics=statistics,
        limits=dump(run.validation),
        serving_dir=os.path.join(root, "serving", run.name),
        fingerprint=code_fingerprint("components.anomaly_gate"),
    )
    accepted_schema = anomaly_gate.outputs["accepted_schema"]
    transform = Transform(
        examples=examples,
        schema=accepted_schema,
        preprocessing_fn="pipeline.user_fns.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=[schema.TRAIN], transform=list(schema.SPLITS)),
        disable_statistics=True,
        disable_analyzer_cache=True,
        custom_config={
            "min_item_support": run.data.min_item_support,
            "has_users": run.model.has_users,
            "has_history": run.data.history is not None,
            "has_unclicked": run.data.unclicked is not None,
            "satisfaction": run.data.satisfaction.columns if run.data.satisfaction else (),
            "fingerprint": code_fingerprint("fp_tfrs.data.transform"),
        },
    )
    training_inputs = {
        "examples": transform.outputs["transformed_examples"],
        "transform_graph": transform.outputs["transform_graph"],
        "schema": accepted_schema,
        "train_args": trainer_pb2.TrainArgs(splits=[schema.TRAIN]),
        "eval_args": trainer_pb2.EvalArgs(splits=[schema.VALID]),
    }
    tuners = []
    if run.tuner.enabled:
        tuners.append(
            Tuner(
                tuner_fn="pipeline.tuning.tuner_fn",
                custom_config={
                    "config": dump(_searched_part(run)),
                    "search_root": os.path.join(root, "search"),
                    "fingerprint": code_fingerprint("pipeline.tuning"),
                },
                **training_inputs,
            )
        )
    trainer = Trainer(
        run_fn="pipeline.user_fns.run_fn",
        hyperparameters=tuners[0].outputs["best_hyperparameters"] if tuners else None,
        custom_config={
            "config": dump(_training_part(run)),
            "serving_dir": os.path.join(root, "serving", run.name),
            "state_root": os.path.join(root, "state"),
            "fingerprint": code_fingerprint("pipeline.user_fns"),
            "start": _chosen_start(run) if lineage else None,
        },
        **training_inputs,
    )
    model = trainer.outputs["model"]
    serving_root = os.path.join(root, "serving")
    judge_again = os.path.join(serving_root, run.name, push.JUDGE_AGAIN)
    served = storage.read_text(judge_again) if lineage and storage.exists(judge_again) else ""
    evaluator = RankingEvaluator(
        examples=examples,
        model=model,
        run=dump(_judged_part(run)),
        serving_dir=os.path.join(serving_root, run.name),
        fingerprint=fingerprint(code_fingerprint("components.ranking_evaluator"), served),
    )
    tfma_evaluator = TfmaEvaluator(
        examples=evaluator.outputs["ranked_targets"],
        model=model,
        example_splits=[schema.TEST],
        eval_config=tfma_view.make_eval_config(
            run.evaluation.floors, code_fingerprint("components.tfma_evaluator", "fp_tfrs.evaluation.tfma_view")
        ),
    ).with_id("Evaluator")
    probe = ServingProbe(model=model, fingerprint=code_fingerprint("components.serving_probe"))
    validators = []
    if run.serving.infra_validator != "none":
        from components.server_validator import ServerValidator

        validators.append(ServerValidator(model, examples, run.serving.infra_validator).with_id("InfraValidator"))
        validators[0].add_upstream_node(probe)  # which is quicker, and says more
    pusher = AtomicPusher(
        model=model,
        model_blessing=evaluator.outputs["blessing"],
        statistics=statistics,
        infra_blessing=(validators[0] if validators else probe).outputs["blessing"],
        push_destination=pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=os.path.join(serving_root, run.name))
        ),
        custom_config={"keep": run.serving.keep, "fingerprint": code_fingerprint("components.atomic_pusher")},
    ).with_id("Pusher")
    return Pipeline(
        pipeline_name=run.name.replace("_", "-"),  # Kubeflow takes no other names
        pipeline_root=os.path.join(root, "artifacts"),
        components=[
            example_gen,
            statistics_gen,
            schema_gen,
            example_validator,
            anomaly_gate,
            transform,
            *tuners,
            trainer,
            evaluator,
            tfma_evaluator,
            probe,
            *validators,
            pusher,
        ],
        enable_cache=lineage is not None,
        metadata_connection_config=lineage,
        beam_pipeline_args=run.beam.arguments(),
    )


def _chosen_start(run: RunConfig) -> str | None:
    """The version that a folder named in `training.warm_start` has now: with a newer one the Trainer runs again."""
    chosen = run.training.warm_start
    return None if chosen in (None, LATEST) else find_model(chosen, "")


def _training_part(run: RunConfig) -> RunConfig:
    """The configuration as the Trainer sees it: without the sections that only others use."""
    return run.model_copy(
        update={
            "evaluation": EvaluationConfig(),
            "validation": ValidationConfig(),
            "card": CardConfig(),
            "beam": BeamConfig(),
            "kubeflow": KubeflowConfig(),
            "tuner": TunerConfig(),
            "serving": _exported_part(run.serving),
        }
    )


def _judged_part(run: RunConfig) -> RunConfig:
    """The configuration as the evaluator and the model's card see it."""
    elsewhere = {
        "validation": ValidationConfig(),
        "beam": BeamConfig(),
        "kubeflow": KubeflowConfig(),
        "tuner": TunerConfig(),
        "serving": _exported_part(run.serving),
    }
    return run.model_copy(update=elsewhere)


def _exported_part(serving: ServingConfig) -> ServingConfig:
    """What changes the export."""
    return serving.model_copy(update={"infra_validator": "none", "keep": None})


def _searched_part(run: RunConfig) -> RunConfig:
    """The configuration as the Tuner sees it; its trials start cold, or each push would make others of them."""
    training = run.training.model_copy(update={"warm_start": None})
    return _training_part(run).model_copy(update={"tuner": run.tuner, "serving": ServingConfig(), "training": training})
