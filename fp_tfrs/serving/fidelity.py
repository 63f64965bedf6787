"""What an export's answers lose against the exact ones of the model in float32, where a loss buys memory or time.

In: an export that is written, and real sessions. Out: recall@20 of its lists, for `metadata.py` and the run's log. Figures of
the evaluation are of the export itself, and so have the loss in them already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fp_tfrs.serving.expectations import Scorer
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import SavedModel

CUTOFF = 20


class Fidelity(NamedTuple):
    """How much of the exact answers an export gives."""

    recall: float  # mean share of the exact first CUTOFF items (top_k, if that is less) that are among its own first
    n_sessions: int  # of which it is the mean; of none it is NaN


def measure(model: SavedModel, requests: Sequence[Request], exact: Scorer) -> Fidelity:
    """Asks an export for sessions; those that it answers by popularity, or that have seen all there is, are left out.

    Args:
        model: the export.
        requests: real sessions, without lists.
        exact: the trained model.
    """
    asked = [request for request in requests if exact.has_input(request)]
    if not asked:
        return Fidelity(float("nan"), 0)
    answers = model.answer(asked).item_id
    shares = []
    for request, answer, scores in zip(asked, answers, exact.scores(asked), strict=True):
        offered = exact.offered(request, scores)
        best = [column for column in np.argsort(-offered, kind="stable")[:CUTOFF] if np.isfinite(offered[column])]
        exact_items = {exact.vocabulary[column] for column in best[: len(answer)]}
        if exact_items:
            shares.append(len(exact_items & set(answer[:CUTOFF])) / len(exact_items))
    return Fidelity(float(np.mean(shares)) if shares else float("nan"), len(shares))
