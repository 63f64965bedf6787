"""The whole file: how a model is trained, judged and served, and `RunConfig`, which holds every section."""

from __future__ import annotations

import difflib
import itertools
from typing import Literal

import pydantic

from fp_tfrs.config.beam import BeamConfig
from fp_tfrs.config.data import DataConfig
from fp_tfrs.config.kubeflow import KubeflowConfig
from fp_tfrs.config.model import ModelConfig
from fp_tfrs.config.section import Section, field
from fp_tfrs.config.settings import leaf_paths, with_settings
from fp_tfrs.config.towers import SasRecConfig
from fp_tfrs.config.tuner import RangeConfig, TunerConfig

CUTOFFS = (5, 10, 20, 50, 100)
LATEST = "latest"  # training.warm_start: the last pushed model


class TrainingConfig(Section):
    """How it is trained."""

    batch_size: int = field(128, "sessions per step", "≈ 512 targets, as NARM and STAMP", ge=1)
    learning_rate: float = field(1e-3, "of Adam", "NARM, SR-GNN, SDM", gt=0)
    learning_rate_decay: float = field(
        1.0, "factor of the learning rate after every decay_epochs epochs; 1 = none, SR-GNN has 0.1", gt=0, le=1
    )
    decay_epochs: int = field(3, "epochs between two decays", "SR-GNN", ge=1)
    l2: float = field(
        0.0, "weight decay as PyTorch's Adam has it: l2 times each weight in its gradient; SR-GNN has 1e-5", ge=0
    )
    clip_norm: float = field(5.0, "limit of the gradient's global norm", "SDM", gt=0)
    max_epochs: int = field(30, "epochs at most", "NARM, STAMP, SR-GNN code", ge=1)
    patience: int = field(5, "epochs without a better validation MRR@20 before training stops", "our choice", ge=1)
    length_buckets: tuple[int, ...] = field(
        (4, 8, 16, 32), "sessions of similar length share a batch: upper bounds", "our choice"
    )
    warm_start: str | None = field(
        None,
        "start from an earlier model's weights, embeddings mapped by their ids: latest = the last one that this root has "
        "pushed, if any, or a model's folder; null = from random ones. With split.by: random keep the seed, or what the "
        "earlier model has learnt may be test sessions now",
    )
    distribution: Literal["one_device", "mirrored", "multi_worker"] = field(
        "one_device",
        "what it is trained on; mirrored: all devices of the machine share each batch, multi_worker: those of all processes "
        "that TF_CONFIG names",
    )

    @pydantic.field_validator("length_buckets")
    @classmethod
    def _check_length_buckets(cls, bounds: tuple[int, ...]) -> tuple[int, ...]:
        if any(first >= second for first, second in itertools.pairwise((0, *bounds))):
            raise ValueError("upper bounds are numbers above 0 in rising order, such as [4, 8, 16, 32]")
        return bounds


class DriftConfig(Section):
    """How far the training data may have moved from that of the model that was pushed last."""

    action: Literal["stop", "warn"] = field(
        "stop", "what happens beyond a limit: the run ends before training, or says so and goes on"
    )
    max_item_change: float = field(
        0.05,
        "L-infinity distance of the items' shares of the clicks, of the 1,000 clicked most",
        "our choice: a day moves a week of ebnerd's news by 0.013 at most",
        gt=0,
        le=1,
    )
    max_fp_share_change: float = field(
        0.1,
        "difference of the shares of false positives",
        "our choice: a day moves a week of ebnerd's by 0.03 at most",
        gt=0,
        le=1,
    )
    max_length_divergence: float = field(
        0.1,
        "Jensen-Shannon divergence of the sessions' lengths by their deciles",
        "our choice: lengths twice as long come to 0.12 or more, chance to 0.07 at most",
        gt=0,
        le=1,
    )


class ValidationConfig(Section):
    """What the data must satisfy before anything is trained on it."""

    schema_file: str | None = field(
        None, "a TFDV schema (.pbtxt) to hold the data against; null = infer it from the training split"
    )
    max_unseen_target_share: float = field(
        0.5,
        "share of validation and test targets whose items are out of the catalogue: see data.min_item_support",
        ge=0,
        le=1,
    )
    max_fp_share_change: float = field(
        0.2, "largest difference of the false-positive share between training and another split", ge=0, le=1
    )
    drift: DriftConfig = field(DriftConfig(), "how far the data may have moved since the last pushed model", "TFDV")


class EvaluationConfig(Section):
    """How a model is judged. All figures are over the whole catalogue, on the same targets for every method."""

    resamples: int = field(1_000, "bootstrap resamples of the sessions for 95 % intervals", ge=100)
    floors: dict[str, float] = field({}, "a metric below its floor here is not blessed, e.g. {mrr@20: 0.05}")

    @pydantic.model_validator(mode="after")
    def _check(self) -> EvaluationConfig:
        known = [f"{name}@{k}" for name in ("hr", "mrr", "ndcg") for k in CUTOFFS]
        for name in self.floors:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.0)[0]
                raise ValueError(f"floors has no metric {name!r}; the nearest is {near!r}")
        return self


class ServingConfig(Section):
    """What the exported model answers."""

    top_k: int = field(100, "items per answer", ge=1)
    exclude_seen: bool = field(
        False, "never recommend an item of the request's session", "repeats are legal in sessions"
    )
    item_table: Literal["float32", "bfloat16", "int8"] = field(
        "float32",
        "how the export stores what it scores items by; bfloat16 has a half, int8 (a scale for each item) about a quarter of the "
        "bytes. What is lost of the answers is measured at the export",
        "as trained; int8: Krishnamoorthi 2018, symmetric per channel",
    )
    index: Literal["exact", "scann"] = field(
        "exact",
        "how the best items are found; scann: approximately, for large catalogues, by ScaNN (pip install 'fp-tfrs[scann]'). The "
        "export then needs a server with its ops; requests with lists and sessions without an input are answered exactly",
        "TensorFlow Serving has what exact needs; scann: Guo et al. 2020",
    )
    infra_validator: Literal["none", "docker", "kubernetes"] = field(
        "none",
        "where TensorFlow Serving itself loads and is asked the export before it is pushed, by TFX's InfraValidator; none: "
        "ServingProbe alone judges it, which always does, in a process that calls it as a server would",
    )
    keep: int | None = field(
        5,
        "pushed versions that stay: after a push older ones are removed, but for labelled ones; null = all stay",
        "deploy/serving serves two; three more to roll back to",
        ge=2,
    )


class CardConfig(Section):
    """What only its makers can say of a model; the rest of its card follows from the run."""

    intended_use: str = field(
        "Ranking what to offer next within a session, to the kind of people and from the catalogue that the log is of.",
        "what the model is for, and where it should not be used; Markdown",
        min_length=1,
    )


class RunConfig(Section):
    """One run: the whole file."""

    name: str = field(..., "the model's name: its folder under serving/", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    seed: int = field(17, "everything random is derived from it", ge=0, lt=2**63)
    data: DataConfig = field(..., "from an event log to sessions")
    validation: ValidationConfig = field(ValidationConfig(), "what data must satisfy")
    model: ModelConfig = field(ModelConfig(), "what is trained")
    training: TrainingConfig = field(TrainingConfig(), "how it is trained")
    tuner: TunerConfig = field(TunerConfig(), "what is searched before training")
    evaluation: EvaluationConfig = field(EvaluationConfig(), "how it is judged")
    serving: ServingConfig = field(ServingConfig(), "what it answers")
    card: CardConfig = field(CardConfig(), "what its model card says")
    beam: BeamConfig = field(BeamConfig(), "on what machines Beam works")
    kubeflow: KubeflowConfig = field(KubeflowConfig(), "how it runs on Kubeflow")

    @pydantic.model_validator(mode="after")
    def _check(self) -> RunConfig:
        model, data = self.model, self.data
        rule = "data.false_positive_when, which says what an abandoned click is"
        liking = "data.satisfaction, which says how much a click was liked"
        user, past = "data.columns.user_id", "data.history; {} gives it the defaults"
        is_by_rule = model.method not in ("vanilla", "soft_labels")
        needs = (  # what is asked for, whether it is, what it needs, whether that is there
            (
                f"method {model.method}",
                is_by_rule,
                f"{rule}; add a rule, or choose method: vanilla",
                data.false_positive_when,
            ),
            (f"inputs: {model.inputs}", model.inputs in ("tp", "marked"), rule, data.false_positive_when),
            ("penalty", model.penalty > 0, rule, data.false_positive_when),
            ("method soft_labels", model.method == "soft_labels", liking, data.satisfaction),
            ("loss.gate_gradient: supervised", model.uses_satisfaction, liking, data.satisfaction),
            ("loss.fp_scope: user", model.loss.fp_scope == "user", user, data.columns.user_id),
            (f"user_concat: {model.user_concat}", model.user_concat != "none", user, data.columns.user_id),
            ("tower.has_users", model.has_users, user, data.columns.user_id),
            ("tower.has_history", model.has_history, past, data.history),
            ("xdm", model.has_unclicked, "data.unclicked; {} gives it the defaults", data.unclicked),
        )
        for what, is_asked, need, is_there in needs:
            if is_asked and not is_there:
                raise ValueError(f"model.{what} needs {need}")
        if isinstance(model.tower, SasRecConfig) and model.tower.max_positions < data.sessions.max_length:
            raise ValueError(
                f"model.tower.max_positions {model.tower.max_positions} is less than data.sessions.max_length "
                f"{data.sessions.max_length}; make them equal"
            )
        is_renamed = (
            data.since is not None and data.columns.session_id is None
        )  # a cut session starts later, as its name says
        if self.training.warm_start is not None and is_renamed and data.split.by == "random":
            raise ValueError(
                "training.warm_start with data.since and sessions cut per user: a session that begins before since gets another "
                "name, and so another random split; what the earlier model was trained on would be test sessions now. Choose "
                "data.split.by: time"
            )
        if self.tuner.enabled:
            if self.training.distribution == "multi_worker":
                raise ValueError(
                    "tuner.enabled: trials train in one process each, not as multi_worker; search with training.distribution "
                    "one_device or mirrored, then train with what was found"
                )
            self._check_search()
        return self

    def _check_search(self) -> None:
        """Every searched value alone must make a valid run, on the data that this run asks for."""
        off = self.model_copy(update={"tuner": TunerConfig()})
        known = [path for path in leaf_paths(off) if path.startswith(("model.", "training."))]
        for path, choice in self.tuner.search.items():
            if path not in known:
                near = difflib.get_close_matches(path, known, 1, 0.0)[0]
                raise ValueError(f"tuner.search has no field {path!r}; the nearest is {near!r}")
            if path == "training.max_epochs":
                raise ValueError(f"tuner.search: {path} is the same for all trials; set tuner.epochs")
            for value in (choice.min, choice.max) if isinstance(choice, RangeConfig) else choice:
                try:
                    tried = with_settings(off, {path: value}).model
                except pydantic.ValidationError as error:
                    reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(f"tuner.search: {path} = {value!r}: {reason}") from None
                for need in ("has_users", "has_history", "has_unclicked", "uses_satisfaction"):
                    if getattr(tried, need) and not getattr(self.model, need):
                        raise ValueError(
                            f"tuner.search: {path} = {value!r} needs side features that the run's own settings don't; "
                            f"give {path} that value in its own section too"
                        )
