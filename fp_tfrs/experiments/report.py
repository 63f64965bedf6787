"""The report of an experiment: one HTML file that says what was asked, what came out, and shows it.

In: `Results`, and tables as HTML. Out: the file. It needs nothing else to be opened: pictures are in it, and it loads no
script, font or style. The last step of an experiment, after `tables.py`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from fp_tfrs import storage
from fp_tfrs.experiments.analysis_pictures import embedding_section, gate_section
from fp_tfrs.experiments.bars import slice_section
from fp_tfrs.experiments.cases import list_cases
from fp_tfrs.experiments.curves import sweep_section, training_section
from fp_tfrs.experiments.drawing import cell_name, percent
from fp_tfrs.experiments.plan import Experiment
from fp_tfrs.experiments.results import CellResult, DataSet, Results
from fp_tfrs.experiments.unclicked_pictures import unclicked_section

SECTIONS = (sweep_section, slice_section, embedding_section, unclicked_section, gate_section, training_section)


def write_report(results: Results, tables: Sequence[tuple[str, str]], path: str) -> None:
    """Writes the report; the same results give the same bytes.

    Args:
        results: all that is finished; sections without results are left out.
        tables: (title, HTML fragment) in order; the fragments go in as they are.
        path: the file; there is either the whole new one or what was there before.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(
        experiment=results.experiment,
        facts=_facts(results),
        tables=[(title, Markup(table)) for title, table in tables],
        sections=[section for make in SECTIONS if (section := make(results))],
        cases=list_cases(results),
        settings=[
            ("What the names stand for", _named(results.experiment)),
            ("What tuning chose", [_chosen(found) for found in results.cells]),
        ],
    )
    storage.write_text(path, text)


def _facts(results: Results) -> dict[str, list[str]]:
    """What was asked and done, name → lines."""
    experiment = results.experiment
    n_swept = sum(map(len, experiment.sweep.values())) or 1
    n_cells = n_swept * math.prod(map(len, (experiment.data_sets, experiment.towers, experiment.methods)))
    runs = [run for found in results.cells for run in found.runs]
    searched = [
        path
        for of in (experiment, *(plan for _, plans in _plans(experiment) for plan in plans.values()))
        for path in of.search
    ]
    facts = {
        "Data sets": [_describe(name, data_set) for name, data_set in results.data_sets.items()],
        "Towers": [", ".join(experiment.towers)],
        "Methods": [", ".join(experiment.methods)],
        "Tested against": [", ".join(experiment.references)],
        "Seeds": [f"{len(experiment.seeds)}: {', '.join(map(str, experiment.seeds))}"],
        "Budget": [f"{experiment.trials} settings at most for each cell, chosen by validation MRR@20"],
    }
    facts["Searched"] = [", ".join(dict.fromkeys(searched))]
    facts["Swept"] = [f"{swept}: {', '.join(map(str, values))}" for swept, values in experiment.sweep.items()]
    facts["Finished"] = [
        f"{len(results.cells)} of {n_cells} cells, {len(runs)} of {n_cells * len(experiment.seeds)} trainings",
        f"{sum(run.seconds for run in runs) / 3600:.2f} hours of training with the chosen settings",
    ]
    facts["Environment"] = [f"{name}: {value}" for name, value in results.environment.items()]
    return {name: [line for line in lines if line] for name, lines in facts.items() if any(lines)}


def _describe(name: str, data_set: DataSet) -> str:
    n_kept = int((~data_set.targets.is_false_positive).sum())
    n_abandoned = len(data_set.targets.session) - n_kept
    return (
        f"{name} ({len(data_set.catalogue):,} items; test targets in {len(data_set.targets.sessions):,} sessions: "
        f"{n_kept:,} kept, {n_abandoned:,} abandoned)"
    )


def _named(experiment: Experiment) -> list[dict[str, str]]:
    """A row for all cells, and for each data set, tower and method: what the plan sets, and what tuning searches."""
    rows = [{"Kind": "all", "Name": "", "Set": _settings_text({}), "Searched": _settings_text(experiment.search)}]
    return rows + [
        {"Kind": kind, "Name": name, "Set": _settings_text(plan.set), "Searched": _settings_text(plan.search)}
        for kind, plans in _plans(experiment)
        for name, plan in plans.items()
    ]


def _plans(experiment: Experiment) -> list[tuple[str, Mapping[str, Any]]]:
    return [("data set", experiment.data_sets), ("tower", experiment.towers), ("method", experiment.methods)]


def _chosen(found: CellResult) -> dict[str, str]:
    """A cell's row: the settings that tuning chose, and how training with them went."""
    best = max(found.trials, key=lambda trial: trial.val_mrr, default=None)
    return {
        "Data set": found.cell.data_set,
        "Tower": found.cell.tower,
        "Method": cell_name(found.cell),
        "Tried": str(len(found.trials)),
        "Chosen settings": "–" if best is None else _settings_text(best.settings),
        "Validation MRR@20": "–" if best is None else percent(best.val_mrr),
        "Best epochs": ", ".join(str(run.best_epoch) for run in found.runs),
        "Minutes a training": f"{sum(run.seconds for run in found.runs) / 60 / len(found.runs):.1f}",
    }


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{path.rsplit('.', 1)[-1]} {json.dumps(value)}" for path, value in settings.items()) or "–"
