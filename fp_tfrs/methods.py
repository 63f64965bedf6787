"""The training methods as data: which events of a session are inputs, which are targets, and which metric term is added.

`dataset.py` reads inputs and targets, `model.py` the metric term, `serving.py` the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """A training method.

    inputs: the session tower sees all clicks ("all") or true positives only ("tp").
    targets: every next click ("all") or true positives only ("tp") are predicted.
    metric: no metric term (None), one with equal weights ("metric"), or one with learned weights ("adaptive").
    """

    name: str
    inputs: Literal["all", "tp"]
    targets: Literal["all", "tp"]
    metric: Literal["metric", "adaptive"] | None


METHODS = {
    method.name: method
    for method in (
        Method("vanilla", "all", "all", None),  # FP-AdaMetric's baseline: feedback is ignored
        Method("vanilla_tp_target", "all", "tp", None),  # control: false positives as context, never as targets
        Method("fp_simple", "tp", "tp", None),  # FP-AdaMetric: false positives are removed
        Method("fp_metric", "tp", "tp", "metric"),  # FP-AdaMetric eqs. 8, 9
        Method("fp_adametric", "tp", "tp", "adaptive"),  # FP-AdaMetric eqs. 10, 11
    )
}
