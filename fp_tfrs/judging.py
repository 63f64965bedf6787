"""An exported model and a folder of raw examples → report and verdict: what RankingEvaluator and `evaluate` both call.

The model is read through its signatures alone, so a pushed model is judged by what it serves.
"""

from __future__ import annotations

import dataclasses
import functools
import os

from fp_tfrs import blessing, evaluation, examples, ranked_targets, schema
from fp_tfrs.bayes import BayesBaseline
from fp_tfrs.config import DataConfig, EvaluationConfig
from fp_tfrs.errors import InputError
from fp_tfrs.evaluation import OnRanked, Report
from fp_tfrs.saved_model import SavedModel, list_versions, read_catalogue

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
) -> Report:
    """Scores the export on the test sessions of `examples_dir`, beside the baselines that its training sessions give.

    Args:
        model_dir: a SavedModel with a `rank` signature.
        examples_dir: finished raw examples, see `preprocess.py`.
        data: where the log came from; a simulated one adds the Bayes-optimal ranker.
        settings: intervals.
        seed: of the resamples.
        baseline_dir: the pushed version to compare with; "" = none.
        on_ranked: see `evaluation.evaluate`.

    Raises:
        InputError: the model ranks by users or histories, which `data` does not have.
    """
    model = SavedModel(model_dir)
    needs = (
        ("user_id", "data.columns.user_id", data.columns.user_id),
        ("history_item_id", "data.history", data.history),
    )
    for name, needed, found in needs:
        if name in model.takes("rank") and found is None:
            raise InputError(
                f"{model_dir} ranks by {name}, but the configuration has no {needed}; evaluate with its own"
            )
    catalogue = read_catalogue(model_dir)
    simulation = data.source.simulation
    return evaluation.evaluate(
        model,
        examples.read_sessions(examples_dir, schema.TEST),
        examples.read_sessions(examples_dir, schema.TRAIN),
        catalogue,
        settings.resamples,
        seed,
        {"bayes_optimal": BayesBaseline(simulation, catalogue)} if simulation else None,
        SavedModel(baseline_dir) if baseline_dir else None,
        on_ranked,
    )


def judge_export(
    model_dir: str,
    examples_dir: str,
    data: DataConfig,
    settings: EvaluationConfig,
    seed: int,
    serving_dir: str,
    report_path: str,
    ranked_dir: str,
) -> Verdict:
    """Evaluates the export, writes the report and the ranked targets, and decides whether it may be served.

    Args:
        serving_dir: folder of the model's pushed versions; the newest is the last blessed model. It need not exist.
        report_path: where `metrics.json` goes.
        ranked_dir: Examples folder for the test targets with their ranks, see `ranked_targets.py`.
    """
    versions = list_versions(serving_dir)
    baseline_dir = versions[-1] if versions else ""
    write_ranked = functools.partial(ranked_targets.write_ranked_targets, folder=ranked_dir)
    report = evaluate_export(model_dir, examples_dir, data, settings, seed, baseline_dir, write_ranked)
    write_report(report, report_path)
    verdict = blessing.judge(report, settings.floors)
    return Verdict(verdict.is_blessed, verdict.reasons, baseline_dir)


def write_report(report: Report, path: str) -> None:
    """Writes `metrics.json` by rename."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        file.write(report.to_json())
    os.replace(f"{path}.tmp", path)


def read_report(path: str) -> Report:
    """The inverse of `write_report`."""
    with open(path, encoding="utf-8") as file:
        return Report.model_validate_json(file.read())
