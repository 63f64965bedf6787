"""Section `model.next_item`: the loss of the next item."""

from __future__ import annotations

from typing import Literal

from fp_tfrs.config.section import Section, field


class NextItemConfig(Section):
    """Which items a target is told apart from: all of them, or a sample that all targets of a step share."""

    kind: Literal["full_softmax", "sampled_softmax", "gbce"] = field(
        "full_softmax",
        "softmax over all items (up to some 50,000), over the target and a sample, or gSASRec's binary cross-entropy",
        "FP-AdaMetric eq. 5",
    )
    max_logit_mib: int = field(
        256,
        "full_softmax: MiB that the logits and their softmax may take together; more targets are done in chunks",
        ge=1,
    )
    negatives: int = field(
        2048,
        "sampled_softmax, gbce: sampled items of a step; choose 256 with gbce, as gSASRec has",
        "GRU4Rec's code",
        ge=1,
    )
    sampling_exponent: float = field(
        0.75, "sampled_softmax: an item is drawn in proportion to its clicks raised to this; 0 = uniformly", ge=0, le=1
    )
    logq: Literal["none", "standard", "refined"] = field(
        "standard",
        "sampled_softmax: correct scores for how often an item is drawn: not, all of them, or those of negatives alone",
        "Bengio & Senécal, 2008; refined: Khrylchenko et al., RecSys 2025",
    )
    gbce_t: float = field(0.75, "gbce: calibration t; 0 = plain binary cross-entropy, 1 = most", "gSASRec", ge=0, le=1)
