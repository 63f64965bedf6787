"""All methods on one tower side by side on the quickstart's simulated log, with the Bayes-optimal figures: the table in
BUILD_NOTES.md.

    python benchmarks/simulated_methods.py --root runs/simulated_methods [--tower narm] [--only fp_simple …] [--list]

Runs the pipeline once for each row in one root, so that the data is prepared once. A row that is in the results file with
the same configuration and code is not run again; a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from fp_tfrs import config_file
from fp_tfrs.config import RunConfig, dump, fingerprint
from fp_tfrs.evaluation import evaluate, judging
from fp_tfrs.fingerprint import code_fingerprint
from pipeline import local_runner

RESULTS_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "simulated_methods_results.json")
METRICS = evaluate.TABLE_METRICS
REFERENCES = ("bayes_optimal", "markov", "popularity")
# Row → `model` section. λ, margins and β are those of the quickstart or the defaults, the same for all: nothing is tuned.
_ADAPTIVE = {"method": "fp_adametric"}
ROWS: dict[str, dict[str, Any]] = {
    "vanilla": {"method": "vanilla"},
    "vanilla_tp_target": {"method": "vanilla_tp_target"},
    "fp_simple": {"method": "fp_simple"},
    "fp_metric": {"method": "fp_metric"},
    "fp_metric, hinge per_fp": {"method": "fp_metric", "loss": {"hinge": "per_fp"}},
    "fp_metric, cosine, m = 0.3": {"method": "fp_metric", "loss": {"similarity": "cosine", "margin": 0.3}},
    "fp_adametric, sigmoid gate (published)": {**_ADAPTIVE},
    "fp_adametric, softmax gate": {**_ADAPTIVE, "loss": {"gate": "softmax"}},
    "fp_adametric, softplus gate": {**_ADAPTIVE, "loss": {"gate": "softplus"}},
    "fp_adametric, linear gate": {**_ADAPTIVE, "loss": {"gate": "linear"}},
    "fp_adametric, sigmoid gate, gradient stopped": {**_ADAPTIVE, "loss": {"gate_gradient": "stop"}},
    "fp_adametric, sigmoid gate, gradient reversed": {**_ADAPTIVE, "loss": {"gate_gradient": "reverse"}},
    "fp_adametric, gate supervised by dwell (N4)": {**_ADAPTIVE, "loss": {"gate_gradient": "supervised"}},
    "fp_adametric, hard gate": {**_ADAPTIVE, "loss": {"gate": "hard"}},
    "fp_softmax (N1)": {"method": "fp_softmax"},
    "not_to_recommend, sigmoid (N2)": {"method": "not_to_recommend"},
    "not_to_recommend, softmax (N2)": {"method": "not_to_recommend", "loss": {"not_to_recommend_form": "softmax"}},
    "fp_contrastive": {"method": "fp_contrastive"},
    "fp_n_pair": {"method": "fp_n_pair"},
    "skip_aware (N3)": {"method": "skip_aware"},
    "skip_aware + hard gate": {**_ADAPTIVE, "inputs": "marked", "loss": {"gate": "hard"}},
    "fp_simple + penalty at inference (N5)": {"method": "fp_simple", "penalty": 0.3},
    "entire_space (N9)": {"method": "entire_space"},
    "soft_labels, no rule (N8)": {"method": "soft_labels"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--root", default="runs/simulated_methods")
    parser.add_argument("--tower", default="narm")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--list", action="store_true", help="only print the results")
    parsed = parser.parse_args()
    if not parsed.list:
        run = config_file.load(parsed.config)
        for name in parsed.only:
            run_row(name, vary(run, parsed.tower, ROWS[name]), parsed.root, parsed.tower)
    print(describe(read_results(), parsed.tower))


def vary(run: RunConfig, tower: str, model: dict[str, Any]) -> RunConfig:
    """The run with this tower and `model` section; all rows see the same data, dwell as satisfaction included."""
    values = json.loads(dump(run))
    values["data"]["satisfaction"] = {"column": "dwell_s"}
    loss = {"lambda_fp": run.model.loss.lambda_fp, **model.get("loss", {})}
    values["model"] = {**model, "tower": {"name": tower}, "loss": loss}
    return RunConfig.model_validate(values)


def run_row(name: str, run: RunConfig, root: str, tower: str) -> None:
    """Runs the pipeline unless the results have the row; adds it to them."""
    settings = fingerprint(dump(run), code_fingerprint("pipeline.user_fns", "components.ranking_evaluator"))
    key = f"{tower}/{name}"
    if read_results().get(key, {}).get("settings") == settings:
        print(f"{key}: finished before")
        return
    evaluator = local_runner.run_pipeline(run, root)["RankingEvaluator"].outputs["evaluation_result"]
    report = judging.read_report(os.path.join(evaluator.uri, judging.REPORT_FILE))
    figures = {
        ranker: {metric: report.metrics[ranker][metric].model_dump() for metric in METRICS}
        for ranker in (evaluate.MODEL, *REFERENCES)
    }
    results = {**read_results(), key: {"settings": settings, "figures": figures}}
    with open(f"{RESULTS_FILE}.{os.getpid()}", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    os.replace(file.name, RESULTS_FILE)


def read_results() -> dict[str, Any]:
    if not os.path.exists(RESULTS_FILE):
        return {}
    with open(RESULTS_FILE, encoding="utf-8") as file:
        return dict(json.load(file))


def describe(results: dict[str, Any], tower: str) -> str:
    """The tower's rows as a Markdown table, with 95 % intervals; references last."""
    found = {name: results[f"{tower}/{name}"]["figures"] for name in ROWS if f"{tower}/{name}" in results}
    rows = [(name, figures[evaluate.MODEL]) for name, figures in found.items()]
    rows += [(name, figures[name]) for figures in list(found.values())[:1] for name in REFERENCES]
    lines = ["| | " + " | ".join(METRICS) + " |", "| --- | " + "--- | " * len(METRICS)]
    for name, metrics in rows:
        cells = (f"{f['value']:.4f} [{f['low']:.4f}, {f['high']:.4f}]" for f in (metrics[m] for m in METRICS))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
