"""The methods side by side on the quickstart's simulated log, with the Bayes-optimal figures: the table in BUILD_NOTES.md.

    python benchmarks/simulated_methods.py --root runs/simulated_methods

Runs the pipeline once per method in one root, so that the data is prepared once; a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import os

from fp_tfrs import config_file, evaluation, judging
from fp_tfrs.config import RunConfig
from pipeline import local_runner

VARIANTS = {
    "fp_simple": {"method": "fp_simple"},
    "fp_metric": {"method": "fp_metric"},
    "fp_adametric, sigmoid gate (published)": {"method": "fp_adametric", "gate": "sigmoid"},
    "fp_adametric, sigmoid gate, gradient stopped": {
        "method": "fp_adametric",
        "gate": "sigmoid",
        "gate_gradient": "stop",
    },
    "fp_adametric, hard gate": {"method": "fp_adametric", "gate": "hard"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--root", required=True)
    parsed = parser.parse_args()
    run = config_file.load(parsed.config)
    rows = []
    for name, changes in VARIANTS.items():
        results = local_runner.run_pipeline(_vary(run, changes), parsed.root)
        evaluator = results["RankingEvaluator"].outputs["evaluation_result"]
        report = judging.read_report(os.path.join(evaluator.uri, judging.REPORT_FILE))
        rows.append((name, report.metrics[evaluation.MODEL]))
    rows += [(name, report.metrics[name]) for name in ("bayes_optimal", "markov", "popularity")]
    print("| | " + " | ".join(evaluation.TABLE_METRICS) + " |\n| --- | " + "--- | " * len(evaluation.TABLE_METRICS))
    for name, metrics in rows:
        figures = (metrics[metric] for metric in evaluation.TABLE_METRICS)
        print(f"| {name} | " + " | ".join(f"{f.value:.4f} [{f.low:.4f}, {f.high:.4f}]" for f in figures) + " |")


def _vary(run: RunConfig, changes: dict[str, str]) -> RunConfig:
    """The run with another method or gate."""
    loss = run.model.loss.model_copy(update={k: v for k, v in changes.items() if k != "method"})
    model = run.model.model_copy(update={"method": changes["method"], "loss": loss})
    return run.model_copy(update={"model": model})


if __name__ == "__main__":
    main()
