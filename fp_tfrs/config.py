"""The run's configuration as frozen, typed, validated objects; every field is documented here, once.

A config's sections travel alone to the pipeline's nodes (`dump`/`parse`), so that a node is re-run only when its own
section has changed. Reading the file and explaining its fields: `config_file.py`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import Field

from fp_tfrs import schema

CUTOFFS = (5, 10, 20, 50, 100)


def _field(default: Any, meaning: str, source: str = "our choice", **limits: Any) -> Any:
    """A field with its meaning and the source of its default; `...` as default makes it required."""
    return Field(default, description=meaning, json_schema_extra={"source": source}, validate_default=False, **limits)


class Section(pydantic.BaseModel):
    """A frozen part of the configuration; unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class SimulationConfig(Section):
    """The log that `fp-tfrs simulate` draws (see `fp_tfrs/simulate.py` for the generative model)."""

    sessions: int = _field(20_000, "sessions to draw", ge=10)
    items: int = _field(1_000, "catalogue size", ge=100)
    seed: int = _field(17, "seed of the whole log", ge=0)


class SourceConfig(Section):
    """Where the events are and how they are written."""

    format: Literal["csv", "jsonl", "parquet", "simulated"] = _field(..., "csv also reads TSV: see separator")
    files: tuple[str, ...] = _field((), "paths or globs, `$VARIABLES` expanded; names that end in .gz are decompressed")
    separator: str = _field(",", "csv: one or more characters between fields", min_length=1)
    header: bool = _field(True, "csv: the first line names the columns")
    column_names: tuple[str, ...] = _field((), "csv without header: the columns' names in order")
    simulation: SimulationConfig | None = _field(None, "simulated: which log to draw")

    @pydantic.model_validator(mode="after")
    def _check(self) -> SourceConfig:
        if self.format == "simulated":
            if self.files or self.simulation is None:
                raise ValueError("format: simulated needs simulation (what to draw) and no files")
        elif not self.files:
            raise ValueError(f"format: {self.format} needs files: one path or glob at least")
        elif self.simulation is not None:
            raise ValueError("simulation goes with format: simulated only")
        if self.format == "csv" and not self.header and not self.column_names:
            raise ValueError("header: false needs column_names, the columns in order")
        if self.column_names and (self.header or self.format != "csv"):
            raise ValueError("column_names goes with format: csv and header: false only")
        return self


class ColumnsConfig(Section):
    """Which column of the log is what."""

    item_id: str = _field("item_id", "the clicked item")
    timestamp: str = _field("timestamp", "when it was clicked, in time_unit")
    session_id: str | None = _field(None, "the session; without it sessions are cut per user_id by sessions.gap_s")
    user_id: str | None = _field(None, "the user")
    feedback: dict[str, Literal["float", "int", "bool", "string"]] = _field(
        {}, "feedback columns and their types: rules may use them, and they travel with each event"
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> ColumnsConfig:
        if self.session_id is None and self.user_id is None:
            raise ValueError("neither session_id nor user_id is mapped; sessions need one of them")
        reserved = sorted(set(self.feedback) & set(schema.RESERVED_FEATURES))
        if reserved:
            raise ValueError(f"feedback column {reserved[0]!r} has a reserved name; rename it in the log")
        return self


class RuleConfig(Section):
    """A comparison on one feedback column, or on the ratio of two: `{column: rating, op: "<=", value: 5}` or
    `{ratio: [play_time_ms, duration_ms], op: "<", value: 0.3}` (a ratio with denominator 0 is never true)."""

    column: str | None = _field(None, "a feedback column")
    ratio: tuple[str, str] | None = _field(None, "numerator and denominator, both numeric feedback columns")
    op: Literal["<", "<=", ">", ">=", "==", "!="] = _field(..., "comparison")
    value: bool | int | float | str = _field(..., "what to compare with")

    @pydantic.model_validator(mode="after")
    def _check(self) -> RuleConfig:
        if (self.column is None) == (self.ratio is None):
            raise ValueError("a rule has either column or ratio")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return self.ratio or (self.column,)  # type: ignore[return-value]


class SessionsConfig(Section):
    """How events become sessions."""

    gap_s: float | None = _field(
        None, "without session_id: a pause longer than this starts a new session; null = one per user", gt=0
    )
    min_length: int = _field(2, "shorter sessions are dropped, and counted", "SR-GNN's preprocessing", ge=2)
    max_length: int = _field(50, "of longer sessions the last events are kept", "SDM; RecBole", ge=2)


class SplitConfig(Section):
    """How sessions are divided into train, valid and test."""

    by: Literal["time", "random"] = _field(
        "time", "time: by session start, latest are test; random: by a hash of the session id and the seed"
    )
    valid: float = _field(0.1, "share of the sessions for validation", "FP-AdaMetric, 80/10/10", gt=0, lt=1)
    test: float = _field(0.1, "share of the sessions for test", "FP-AdaMetric, 80/10/10", gt=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> SplitConfig:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test = {self.valid + self.test:g} leaves nothing to train on; keep it below 1")
        return self


class DataConfig(Section):
    """From an event log to sessions."""

    source: SourceConfig = _field(..., "the event log")
    columns: ColumnsConfig = _field(..., "which column is what")
    time_unit: Literal["s", "ms", "iso8601"] = _field("s", "of the timestamp column; iso8601 without offset is UTC")
    click_when: tuple[RuleConfig, ...] = _field(
        (), "all must hold for a row to be a click; other rows are impressions, counted and left out"
    )
    false_positive_when: tuple[RuleConfig, ...] = _field((), "a click for which any of these holds is a false positive")
    sessions: SessionsConfig = _field(SessionsConfig(), "sessions")
    split: SplitConfig = _field(SplitConfig(), "splits")
    min_item_support: int = _field(
        5, "clicks in the training split below which an item is out of the catalogue", "SR-GNN's preprocessing", ge=1
    )
    max_bad_share: float = _field(0.05, "share of unreadable rows above which the run stops", ge=0, le=1)
    shards: int = _field(2, "TFRecord files per split", ge=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> DataConfig:
        for where, rules in (("click_when", self.click_when), ("false_positive_when", self.false_positive_when)):
            for rule in rules:
                for column in rule.columns:
                    _check_rule_column(where, rule, column, self.columns.feedback)
        return self


def _check_rule_column(where: str, rule: RuleConfig, column: str, feedback: Mapping[str, str]) -> None:
    kind = feedback.get(column)
    if kind is None:
        known = ", ".join(sorted(feedback)) or "none"
        raise ValueError(f"{where} uses column {column!r}, which columns.feedback does not list (it has: {known})")
    numeric = isinstance(rule.value, (int, float)) and not isinstance(rule.value, bool)
    fits = {
        "float": numeric,
        "int": numeric,
        "bool": rule.ratio is None and (isinstance(rule.value, bool) or rule.value in (0, 1)),
        "string": rule.ratio is None and isinstance(rule.value, str),
    }[kind]
    if not fits:
        raise ValueError(f"{where} compares {column!r}, declared {kind}, with {rule.value!r}; give a {kind} value")


class NarmConfig(Section):
    """NARM (Li et al., CIKM 2017). Defaults follow the paper; variants: code = authors' code, RecBole = RecBole 1.2.1."""

    name: Literal["narm"] = _field("narm", "session tower")
    embedding_dim: int = _field(100, "item embedding D", "SR-GNN's and STAMP's size; NARM's own is 50", ge=1)
    hidden_dim: int = _field(100, "GRU state", "NARM", ge=1)
    attention: Literal["none", "softmax"] = _field(
        "none", "normalisation of the attention weights: none (paper, RecBole), softmax (code)", "NARM"
    )
    is_hard_sigmoid: bool = _field(False, "hard sigmoid in GRU gates and attention (code)", "NARM")
    has_gru_bias: bool = _field(True, "bias in the GRU (paper, code); RecBole has none", "NARM")
    is_reset_after: bool = _field(
        False, "GRU's reset gate after the recurrent product (RecBole, i.e. PyTorch) or before (code)", "NARM's code"
    )
    concat: Literal["global_local", "local_global"] = _field(
        "global_local", "order of the two session vectors: global_local (paper, RecBole), local_global (code)", "NARM"
    )
    dropout_embedding: float = _field(0.25, "dropout on item embeddings", "NARM", ge=0, lt=1)
    dropout_context: float = _field(0.5, "dropout on the two session vectors", "NARM", ge=0, lt=1)


class LossConfig(Section):
    """The metric term of FP-Metric and FP-AdaMetric (AAAI 2022, eqs. 8–11); used by those methods only."""

    lambda_fp: float = _field(
        0.1, "weight λ of the metric term", "unknown in the paper; to be tuned in .001 … 10", ge=0
    )
    margin: float = _field(
        1.0, "margin m of the hinge; choose ≈ 0.3 with cosine", "unknown in the paper; to be tuned in .1 … 10", ge=0
    )
    similarity: Literal["dot", "scaled_dot", "cosine"] = _field(
        "dot", "D(a, b): dot, dot/√D, cosine", "FP-AdaMetric eq. 4"
    )
    hinge: Literal["of_mean", "per_fp"] = _field(
        "of_mean", "hinge of the mean false positive, or mean of a hinge for each", "FP-AdaMetric eqs. 9, 11"
    )
    aggregation: Literal["mean", "sum", "softmax"] = _field(
        "mean",
        "how weighted false positives become one: expectation, sum, or weights that a softmax makes sum to 1",
        "FP-AdaMetric eq. 9",
    )
    gate: Literal["sigmoid", "softmax", "softplus", "linear", "hard"] = _field(
        "sigmoid",
        "fp_adametric: output of the adaptive module; hard = M·softmax(D/temperature) of the similarity itself",
        "FP-AdaMetric Fig. 2(b)",
    )
    gate_gradient: Literal["joint", "stop", "reverse"] = _field(
        "joint",
        "fp_adametric: train the gate on the loss, not at all, or against it",
        "FP-AdaMetric; stop, reverse: our choice",
    )
    gate_inputs: Literal["figure", "text"] = _field(
        "figure",
        "fp_adametric: the module sees (session, positive, FP) as in Figure 2(b), or (FP, session) as in the text without users",
        "FP-AdaMetric Fig. 2(b)",
    )
    gate_hidden_dim: int | None = _field(
        None, "fp_adametric: units of the module's hidden layer; null = D", "our choice", ge=1
    )
    gate_temperature: float = _field(1.0, "gate hard: temperature of the softmax", gt=0)
    fp_scope: Literal["session", "session_prefix", "user"] = _field(
        "session",
        "false positives of a position: of its session, of its session before the target, or of its user's training sessions",
        "FP-AdaMetric: session where there are no users",
    )
    fp_conflict: Literal["drop", "keep"] = _field(
        "drop",
        "an item that is abandoned and kept in the same scope: leave out of the false positives, or keep",
        "FP-AdaMetric Prop. 1",
    )
    fp_weight: Literal["uniform", "count", "recency"] = _field(
        "uniform", "p(fp): equal, by number of times abandoned, or 1/(1 + age in events)", "our choice"
    )
    max_fp: int = _field(
        20, "M: the latest distinct false positives that are kept (user scope: a sample of them)", "our choice", ge=1
    )
    denominator: Literal["active_fp", "all"] = _field(
        "active_fp", "mean over positions that have false positives, or over all positions", "our choice"
    )
    reduction: Literal["mean", "sum"] = _field(
        "mean", "mean over the batch's positions of both terms, or their sum as printed in the paper", "our choice"
    )


class ModelConfig(Section):
    """What is trained."""

    method: Literal["vanilla", "vanilla_tp_target", "fp_simple", "fp_metric", "fp_adametric"] = _field(
        "fp_adametric", "see fp_tfrs/methods.py", "FP-AdaMetric"
    )
    tower: NarmConfig = _field(NarmConfig(), "session tower")
    cosine_scale: float | None = _field(
        None,
        "null: the score is the dot product (FP-AdaMetric eq. 4); a number, about 12 to 16: that times the cosine, so that "
        "popular items don't win by their norm; helps where data is scarce",
        "NISER (Gupta et al., 2019) has 16",
        gt=0,
    )
    loss: LossConfig = _field(LossConfig(), "metric term")


class TrainingConfig(Section):
    """How it is trained."""

    batch_size: int = _field(128, "sessions per step", "≈ 512 targets, as NARM and STAMP", ge=1)
    learning_rate: float = _field(1e-3, "of Adam", "NARM, SR-GNN, SDM", gt=0)
    clip_norm: float = _field(5.0, "limit of the gradient's global norm", "SDM", gt=0)
    max_epochs: int = _field(30, "epochs at most", "NARM, STAMP, SR-GNN code", ge=1)
    patience: int = _field(5, "epochs without a better validation MRR@20 before training stops", "our choice", ge=1)
    length_buckets: tuple[int, ...] = _field(
        (4, 8, 16, 32), "sessions of similar length share a batch: upper bounds", "our choice"
    )


class ValidationConfig(Section):
    """What the data must satisfy before anything is trained on it."""

    schema_file: str | None = _field(
        None, "a TFDV schema (.pbtxt) to hold the data against; null = infer it from the training split"
    )
    max_unseen_target_share: float = _field(
        0.5, "share of validation and test targets that training never saw", ge=0, le=1
    )
    max_fp_share_change: float = _field(
        0.2, "largest difference of the false-positive share between training and another split", ge=0, le=1
    )


class EvaluationConfig(Section):
    """How a model is judged. All figures are over the whole catalogue, on the same targets for every method."""

    resamples: int = _field(1_000, "bootstrap resamples of the sessions for 95 % intervals", ge=100)
    floors: dict[str, float] = _field({}, "a metric below its floor here is not blessed, e.g. {mrr@20: 0.05}")

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

    top_k: int = _field(100, "items per answer", ge=1)
    exclude_seen: bool = _field(
        False, "never recommend an item of the request's session", "repeats are legal in sessions"
    )


class RunConfig(Section):
    """One run: the whole file."""

    name: str = _field(..., "the model's name: its folder under serving/", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    seed: int = _field(17, "everything random is derived from it", ge=0)
    data: DataConfig = _field(..., "from an event log to sessions")
    validation: ValidationConfig = _field(ValidationConfig(), "what data must satisfy")
    model: ModelConfig = _field(ModelConfig(), "what is trained")
    training: TrainingConfig = _field(TrainingConfig(), "how it is trained")
    evaluation: EvaluationConfig = _field(EvaluationConfig(), "how it is judged")
    serving: ServingConfig = _field(ServingConfig(), "what it answers")

    @pydantic.model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.model.method != "vanilla" and not self.data.false_positive_when:
            raise ValueError(
                f"model.method {self.model.method} learns from false positives, but data.false_positive_when is empty; "
                "add a rule, or choose method: vanilla"
            )
        if self.model.loss.fp_scope == "user" and self.data.columns.user_id is None:
            raise ValueError("model.loss.fp_scope: user needs data.columns.user_id")
        return self


SectionT = TypeVar("SectionT", bound=Section)


def dump(section: Section) -> str:
    """The section as canonical JSON: what travels to a pipeline node and what fingerprints are made of."""
    return json.dumps(section.model_dump(mode="json"), sort_keys=True)


def parse(kind: type[SectionT], text: str) -> SectionT:
    """The inverse of `dump`."""
    return kind.model_validate_json(text)


def fingerprint(*parts: str) -> str:
    """A short hexadecimal name for these texts (the first 16 digits of SHA-256)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:16]
