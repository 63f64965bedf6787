"""Sections `model.*`: method, losses, and what the model is made of."""

from __future__ import annotations

from typing import Literal

import pydantic

from fp_tfrs.config.next_item import NextItemConfig
from fp_tfrs.config.section import Section, field
from fp_tfrs.config.towers import NarmConfig, TowerConfig
from fp_tfrs.config.xdm import XdmConfig


class LossConfig(Section):
    """What false positives add to the loss: the metric term of FP-Metric and FP-AdaMetric (AAAI 2022, eqs. 8–11), and
    those of the other methods of `methods.py`."""

    lambda_fp: float = field(
        0.1, "weight λ of the false positives' term", "unknown in the paper; to be tuned in .001 … 10", ge=0
    )
    margin: float = field(
        1.0, "margin m of the hinge; choose ≈ 0.3 with cosine", "unknown in the paper; to be tuned in .1 … 10", ge=0
    )
    similarity: Literal["dot", "scaled_dot", "cosine"] = field(
        "dot", "D(a, b): dot, dot/√D, cosine", "FP-AdaMetric eq. 4"
    )
    hinge: Literal["of_mean", "per_fp"] = field(
        "of_mean", "hinge of the mean false positive, or mean of a hinge for each", "FP-AdaMetric eqs. 9, 11"
    )
    aggregation: Literal["mean", "sum", "softmax"] = field(
        "mean",
        "how weighted false positives become one: expectation, sum, or weights that a softmax makes sum to 1",
        "FP-AdaMetric eq. 9",
    )
    gate: Literal["sigmoid", "softmax", "softplus", "linear", "hard"] = field(
        "sigmoid",
        "fp_adametric: output of the adaptive module; hard = M·softmax(D/temperature) of the similarity itself",
        "FP-AdaMetric Fig. 2(b)",
    )
    gate_gradient: Literal["joint", "stop", "reverse", "supervised"] = field(
        "joint",
        "fp_adametric: train the gate on the loss, not at all, against it, or on the measured degree of dislike",
        "FP-AdaMetric; the others: our choice",
    )
    gate_inputs: Literal["figure", "text"] = field(
        "figure",
        "fp_adametric: the module sees (session, positive, FP) as in Figure 2(b), or (FP, session) as in the text without users",
        "FP-AdaMetric Fig. 2(b)",
    )
    gate_hidden_dim: int | None = field(
        None, "fp_adametric: units of the module's hidden layer; null = D", "our choice", ge=1
    )
    gate_temperature: float = field(1.0, "gate hard: temperature of the softmax", gt=0)
    fp_scope: Literal["session", "session_prefix", "user"] = field(
        "session",
        "false positives of a position: of its session, of its session before the target, or of its user's training sessions",
        "FP-AdaMetric: session where there are no users",
    )
    fp_conflict: Literal["drop", "keep"] = field(
        "drop",
        "an item that is abandoned and kept in the same scope: leave out of the false positives, or keep",
        "FP-AdaMetric Prop. 1",
    )
    fp_weight: Literal["uniform", "count", "recency"] = field(
        "uniform", "p(fp): equal, by number of times abandoned, or 1/(1 + age in events)", "our choice"
    )
    max_fp: int = field(
        20, "M: the latest distinct false positives that are kept (user scope: a sample of them)", "our choice", ge=1
    )
    denominator: Literal["active_fp", "all"] = field(
        "active_fp", "mean over positions that have false positives, or over all positions", "our choice"
    )
    reduction: Literal["mean", "sum"] = field(
        "mean", "mean over the batch's positions of both terms, or their sum as printed in the paper", "our choice"
    )
    fp_logit_margin: float = field(
        1.0, "fp_softmax: μ, added to the scores of false positives in training; to be tuned in .3 … 4", gt=0, le=50
    )
    not_to_recommend_form: Literal["sigmoid", "softmax"] = field(
        "sigmoid",
        "not_to_recommend: P(fp) = σ(score), or the softmax of next_item full_softmax, whose gradient is about 1/V",
        "our choice; softmax: Wang et al., RecSys 2023",
    )
    contrastive_temperature: float = field(
        0.1, "fp_contrastive: τ, which the cosines are divided by", "Seshadri & Knees, 2023, as PNFRec has it", gt=0
    )
    satisfaction_weight: float = field(
        1.0, "entire_space: weight of the loss of the satisfaction head", "our choice", ge=0
    )
    satisfaction_beta: float = field(
        0.5, "entire_space: β, weight of the satisfaction logit in the score; about the share of abandoned clicks", ge=0
    )
    abandoned_weight: float = field(
        0.3, "two_queries: μ, weight of an abandoned target in the next-item loss; to be tuned in .1 … 1", ge=0
    )
    satisfaction_dim: int = field(16, "entire_space: dimension that sessions and items are compared in", ge=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.gate_gradient == "supervised" and self.gate != "sigmoid":
            raise ValueError(
                "gate_gradient: supervised compares the gate's output with a degree between 0 and 1, "
                f"which gate: {self.gate} does not keep to; use gate: sigmoid"
            )
        if self.aggregation == "sum" and self.ignores_scale:
            raise ValueError(
                "aggregation: sum is the mean where similarity: cosine is taken of one mean false positive, which has no length; "
                "use hinge: per_fp, or aggregation: mean"
            )
        return self

    @property
    def ignores_scale(self) -> bool:
        """Whether false positives' weights count by their ratios alone: the cosine with their mean has no length."""
        return self.similarity == "cosine" and self.hinge == "of_mean"


class ModelConfig(Section):
    """What is trained."""

    method: Literal[
        "vanilla",
        "vanilla_tp_target",
        "fp_simple",
        "fp_metric",
        "fp_adametric",
        "fp_softmax",
        "not_to_recommend",
        "fp_contrastive",
        "fp_n_pair",
        "skip_aware",
        "entire_space",
        "two_queries",
        "soft_labels",
    ] = field("fp_adametric", "see fp_tfrs/methods.py", "FP-AdaMetric")
    inputs: Literal["tp", "all", "marked"] | None = field(
        None,
        "what the session tower sees: tp = kept clicks, all = all clicks, marked = all, with a learned mark on kept and on "
        "abandoned ones; null = as the method has it",
    )
    tower: TowerConfig = field(NarmConfig(), "session tower")
    user_concat: Literal["none", "dense", "add", "gate"] = field(
        "none",
        "how the user's embedding joins the session's: not at all, Dense(D) of both, their sum, or a gate between them; "
        "an unknown user counts as zero",
        "FP-AdaMetric eq. 3; gate: SDM",
    )
    concat_items_with_user: bool = field(
        False,
        "metric term: targets and false positives pass through the same user concatenation, as in the figure, or enter "
        "raw, as in the equations",
        "FP-AdaMetric eqs. 8–11; Fig. 2",
    )
    penalty: float = field(
        0.0,
        "β of a penalty at inference, nothing trained: score − β·max(0, D(mean of the session's abandoned items, item))",
        "our choice",
        ge=0,
    )
    cosine_scale: float | None = field(
        None,
        "null: the score is the dot product (FP-AdaMetric eq. 4); a number, about 12 to 16: that times the cosine, so that "
        "popular items don't win by their norm; helps where data is scarce",
        "NISER (Gupta et al., 2019) has 16",
        gt=0,
    )
    repeat_offsets: bool = field(
        False,
        "what was kept, and what was abandoned in the session before, gets a learned offset of its score each",
        "our choice; RepeatNet (Ren et al., AAAI 2019) learns to repeat",
    )
    xdm: XdmConfig | None = field(
        None,
        "what was shown and not clicked joins the session, and the loss; needs data.unclicked; null = neither",
        "XDM",
    )
    next_item: NextItemConfig = field(NextItemConfig(), "next-item loss")
    loss: LossConfig = field(LossConfig(), "what false positives add to the loss")

    @property
    def uses_satisfaction(self) -> bool:
        """Whether training reads how much each click was liked."""
        is_supervised = self.method == "fp_adametric" and self.loss.gate_gradient == "supervised"
        return self.method == "soft_labels" or is_supervised

    @property
    def has_users(self) -> bool:
        """Whether the model has user embeddings."""
        return self.user_concat != "none" or getattr(self.tower, "has_users", False)

    @property
    def has_unclicked(self) -> bool:
        """Whether the model sees what was shown and not clicked."""
        return self.xdm is not None

    @property
    def has_history(self) -> bool:
        """Whether the session tower sees items of the user's earlier sessions."""
        return getattr(self.tower, "has_history", False)

    @pydantic.model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.xdm is not None and self.tower.embedding_dim % self.xdm.n_heads:
            raise ValueError(
                f"xdm.n_heads {self.xdm.n_heads} does not divide tower.embedding_dim {self.tower.embedding_dim}"
            )
        if self.xdm is not None and self.cosine_scale is not None and self.xdm.distance != "normalised":
            raise ValueError(
                f"xdm.distance: {self.xdm.distance} compares lengths, which cosine_scale takes away; use normalised"
            )
        if self.concat_items_with_user and self.user_concat == "none":
            raise ValueError("concat_items_with_user needs a user_concat: dense, add or gate")
        if self.concat_items_with_user and self.method not in ("fp_metric", "fp_adametric", "soft_labels"):
            raise ValueError(
                f"concat_items_with_user goes with the metric term, which method {self.method} does not have"
            )
        if self.method in ("entire_space", "two_queries") and self.inputs == "tp":
            raise ValueError(f"method {self.method} learns from what was abandoned; choose inputs: marked or all")
        kind = self.next_item.kind
        if self.method == "fp_softmax" and kind == "gbce":
            raise ValueError(
                "method fp_softmax needs a softmax; choose next_item.kind: full_softmax or sampled_softmax"
            )
        is_softmax_form = self.method == "not_to_recommend" and self.loss.not_to_recommend_form == "softmax"
        if is_softmax_form and kind != "full_softmax":
            raise ValueError(f"not_to_recommend_form: softmax needs next_item.kind: full_softmax, not {kind}")
        if self.repeat_offsets:
            if self.inputs is None and self.method not in ("skip_aware", "entire_space", "two_queries"):
                raise ValueError(f"repeat_offsets with method {self.method} needs inputs: marked")
            if self.inputs not in (None, "marked"):
                raise ValueError(f"repeat_offsets needs inputs: marked, not {self.inputs}")
            if kind != "full_softmax":
                raise ValueError(f"repeat_offsets needs next_item.kind: full_softmax, not {kind}")
            if self.penalty or is_softmax_form:
                other = "a penalty" if self.penalty else "not_to_recommend_form: softmax"
                raise ValueError(f"repeat_offsets does not go with {other}; leave one of them out")
        return self
