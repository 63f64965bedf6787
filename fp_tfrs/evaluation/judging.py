"""An exported model and a folder of raw examples → report and verdict: what RankingEvaluator and `evaluate` both call.

The model is read through its signatures alone, so a pushed model is judged by what it serves.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from fp_tfrs import schema, storage
from fp_tfrs.config import DataConfig, EvaluationConfig, RunConfig
from fp_tfrs.data import examples, manifest
from fp_tfrs.errors import InputError
from fp_tfrs.evaluation import blessing, evaluate, model_card, ranked_targets
from fp_tfrs.evaluation.evaluate import OnRanked, Report
from fp_tfrs.serving import metadata
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import Recommendations, SavedModel, list_versions, read_catalogue
from fp_tfrs.simulation import bayes

REPORT_FILE = "metrics.json"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """May the model be served, and why."""

    is_blessed: bool
    reasons: list[str]  # a sentence each: what it passed, or what speaks against it
    baseline_dir: str  # the pushed version that it was compared with; "" = none


def evaluate_export(
    model_dir: str,
    examples_dir: str,
    data: DataConfig,
    settings: EvaluationConfig,
    seed: int,
    baseline_dir: str = "",
    on_ranked: OnRanked | None = None,
    has_unclicked: bool = True,
) -> Report:
    """Scores the export on the test sessions of `examples_dir`, beside the baselines that its training sessions give.

    Args:
        model_dir: a SavedModel with a `rank` signature.
        examples_dir: finished raw examples, see `preprocess.py`.
        data: where the log came from; a simulated one without slates adds the Bayes-optimal ranker.
        settings: intervals.
        seed: of the resamples.
        baseline_dir: the pushed version to compare with; "" = none.
        on_ranked: see `evaluate.evaluate`.
        has_unclicked: the model is told what was shown and not clicked; False shows what it makes of that.

    Raises:
        InputError: the model ranks by users, histories or unclicked items, which `data` does not have; or it should do
            without unclicked items and takes none.
    """
    model = SavedModel(model_dir)
    taken = model.takes("rank")
    needs = (
        ("user_id", "data.columns.user_id", data.columns.user_id),
        ("history_item_id", "data.history", data.history),
        ("unclicked_item_id", "data.unclicked", data.unclicked),
    )
    for name, needed, found in needs:
        if name in taken and found is None:
            raise InputError(
                f"{model_dir} ranks by {name}, but the configuration has no {needed}; evaluate with its own"
            )
    if not has_unclicked and "unclicked_item_id" not in taken:
        raise InputError(f"{model_dir} takes no unclicked_item_id; leave --without-unclicked out")
    catalogue = read_catalogue(model_dir)
    return evaluate.evaluate(
        model if has_unclicked else _WithoutUnclicked(model),
        examples.read_sessions(examples_dir, schema.TEST),
        examples.read_sessions(examples_dir, schema.TRAIN),
        catalogue,
        settings.resamples,
        seed,
        bayes.rankers(data, catalogue),
        SavedModel(baseline_dir) if baseline_dir else None,
        on_ranked,
    )


class _WithoutUnclicked:
    """The model when it is not told what was shown and not clicked; the targets and their slices stay as they are."""

    def __init__(self, model: SavedModel) -> None:
        self._model = model

    def rank_targets(self, requests: Sequence[Request]) -> np.ndarray:
        return self._model.rank_targets(_without_unclicked(requests))

    def answer(self, requests: Sequence[Request]) -> Recommendations:
        return self._model.answer(_without_unclicked(requests))


def _without_unclicked(requests: Sequence[Request]) -> list[Request]:
    return [request._replace(unclicked_item_id=()) for request in requests]


def judge_export(
    model_dir: str,
    examples_dir: str,
    run: RunConfig,
    serving_dir: str,
    report_path: str,
    ranked_dir: str,
    card_dir: str,
) -> Verdict:
    """Evaluates the export, decides whether it may be served, and writes the report, the ranked targets and the card.

    Args:
        run: the configuration that it was trained by.
        serving_dir: folder of the model's pushed versions; the newest is the last blessed model. It need not exist.
        report_path: where `metrics.json` goes.
        ranked_dir: Examples folder for the test targets with their ranks, see `ranked_targets.py`.
        card_dir: folder of the model's card, see `model_card.py`.
    """
    versions = list_versions(serving_dir)
    baseline_dir = versions[-1] if versions else ""
    write_ranked = functools.partial(ranked_targets.write_ranked_targets, folder=ranked_dir)
    report = evaluate_export(model_dir, examples_dir, run.data, run.evaluation, run.seed, baseline_dir, write_ranked)
    write_report(report, report_path)
    verdict = blessing.judge(report, run.evaluation.floors)
    about = metadata.read_export(model_dir)
    model_card.write_card(card_dir, run, about, manifest.read(examples_dir), report, verdict)
    return Verdict(verdict.is_blessed, verdict.reasons, baseline_dir)


def write_report(report: Report, path: str) -> None:
    """Writes `metrics.json` by rename."""
    storage.make_folder(storage.parent(path))
    storage.write_text(path, report.to_json())


def read_report(path: str) -> Report:
    """The inverse of `write_report`."""
    return Report.model_validate_json(storage.read_text(path))
