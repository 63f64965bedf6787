"""The ranks of a run → its figures, as the means over targets that they are.

In: <int64>[n] ranks and their `Targets`. Out: the metrics of `evaluation.py` that follow from ranks. Everything that an
experiment reports, its tables, its comparisons and its pictures, takes them from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from fp_tfrs.config import CUTOFFS
from fp_tfrs.metrics import METRIC_NAMES, metric_matrix
from fp_tfrs.targets import Targets, next_kept

GAP = "rank_gap"
FIGURES = (*METRIC_NAMES, *(f"fp_hr@{k}" for k in CUTOFFS), "delta_hr@20", "delta_ndcg@20", GAP)

Selection = Literal["kept", "abandoned", "gap"]


class Mean(NamedTuple):
    """Adds sign · (mean of `value`, a key of `target_values`, over the targets of the selection) to a metric."""

    value: str
    selection: Selection
    sign: int = 1


def means_of(metric: str) -> tuple[Mean, ...]:
    """The means that a metric is the sum of: `fp_m` is m of abandoned targets, `delta_m` m of kept minus of abandoned."""
    if metric == GAP:
        return (Mean(GAP, "gap"),)
    kind, _, name = metric.partition("_")
    if kind == "fp":
        return (Mean(name, "abandoned"),)
    if kind == "delta":
        return (Mean(name, "kept"), Mean(name, "abandoned", -1))
    return (Mean(metric, "kept"),)


def target_values(ranks: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
    """`metric_matrix` and rank_gap, the target's rank minus that of the next kept target: name → <float64>[n]."""
    return {**metric_matrix(ranks), GAP: (ranks - ranks[next_kept(targets)]).astype(float)}


def selections(targets: Targets) -> dict[Selection, np.ndarray]:
    """<bool>[n] each; "gap": abandoned targets with a kept one after them in their session."""
    is_fp = targets.is_false_positive
    return {"kept": ~is_fp, "abandoned": is_fp, "gap": is_fp & (next_kept(targets) >= 0)}


def figures(ranks: np.ndarray, targets: Targets, metrics: Iterable[str] = FIGURES) -> dict[str, float]:
    """Metric → value; NaN where there is no target to take a mean of."""
    values, chosen = target_values(ranks, targets), selections(targets)

    def mean(term: Mean) -> float:
        found = values[term.value][chosen[term.selection]]
        return float(found.mean()) if len(found) else np.nan

    return {metric: sum(term.sign * mean(term) for term in means_of(metric)) for metric in metrics}
