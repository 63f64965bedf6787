"""The results of an experiment as tables: `results.csv`, and what the papers print.

In: `Results`, as far as they go, and the differences of their cells (`comparison.py`). Out: a CSV file with a row for
each training; `Table`s of means over seeds, of differences, and of whether the papers' order holds, for Markdown and the
report. All figures of tables are in %, percentage points where they are differences.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fp_tfrs import storage
from fp_tfrs.evaluation.significance import holm
from fp_tfrs.experiments.comparison import PAPER_ORDER, Difference, Differences, Pair, compare_all
from fp_tfrs.experiments.figures import FIGURES, SET_METRICS, figures, heading, sign
from fp_tfrs.experiments.layout import Entry, Table
from fp_tfrs.experiments.plan import Cell
from fp_tfrs.experiments.results import CellResult, Results
from fp_tfrs.learning.metrics import METRIC_NAMES

VERDICT_METRICS = ("mrr@20", "hr@20")
ALPHA = 0.05
BASELINE = "baseline"  # stands for the tower in a table


def write_csv(results: Results, path: str) -> None:
    """Writes a row for each cell and seed, then, of each data set, for each baseline; by rename.

    Figures are of 6 significant digits and not in %; of a baseline, what is of a training is empty. `settings` are the
    chosen ones, as JSON, and so is a swept value that is a list or a section.
    """
    columns = ("data_set", "tower", "method", "swept", "value", "seed", "settings", "best_epoch", "seconds")
    names = (*columns, "val_mrr@20", *FIGURES, "targets", "fp_targets")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with storage.replacing(path, "w") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        for row in _csv_rows(results):
            writer.writerow({name: _csv_text(value) for name, value in row.items()})


def _csv_rows(results: Results) -> Iterator[dict[str, Any]]:
    for name, data_set in results.data_sets.items():
        is_fp = data_set.targets.is_false_positive
        counts = {"targets": np.count_nonzero(~is_fp), "fp_targets": np.count_nonzero(is_fp)}
        for result in results.cells:
            if result.cell.data_set != name:
                continue
            chosen = max(result.trials, key=lambda trial: trial.val_mrr, default=None)
            for run in result.runs:
                yield {
                    **result.cell._asdict(),
                    "seed": run.seed,
                    "settings": json.dumps(chosen.settings if chosen else {}, ensure_ascii=False),
                    "best_epoch": run.best_epoch,
                    "seconds": run.seconds,
                    "val_mrr@20": next(r["val_mrr@20"] for r in run.history if r["epoch"] == run.best_epoch),
                    **figures(run.ranks, data_set.targets, list_values=run.list_values),
                    **counts,
                }
        for baseline, found in data_set.baselines.items():
            values = figures(found.ranks, data_set.targets, list_values=found.list_values)
            yield {"data_set": name, "method": baseline, **values, **counts}


def _csv_text(value: Any) -> Any:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.6g}"
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def make_tables(results: Results) -> list[Table]:
    """All tables, in the order in which a reader wants them; those that have nothing to say are left out."""
    differences = compare_all(results)
    data_sets = [name for name in results.data_sets if any(result.cell.data_set == name for result in results.cells)]
    tables = [
        compact_table(results, differences),
        verdict_table(results, differences),
        *(wide_table(results, differences, name) for name in data_sets),
        *(difference_table(results, differences, name) for name in data_sets),
    ]
    return [table for table in tables if table.rows]


def compact_table(results: Results, differences: Differences) -> Table:
    """Towers × methods, then baselines; columns are `Experiment.columns` of each data set."""
    return _method_table(results, differences, "Main figures", tuple(results.data_sets), results.experiment.columns)


def wide_table(results: Results, differences: Differences, data_set: str) -> Table:
    """Towers × methods, then baselines; columns are HR, MRR and NDCG @5 to @100 of one data set."""
    return _method_table(results, differences, f"{data_set}: all cutoffs", (data_set,), METRIC_NAMES)


def difference_table(results: Results, differences: Differences, data_set: str) -> Table:
    """Each method minus each reference that has run, in each metric of `Experiment.columns`."""
    experiment = results.experiment
    pairs = [
        Pair(cell, cell._replace(method=reference))
        for cell in results.experiment.cells()
        for reference in experiment.references
        if cell.data_set == data_set and cell.method not in experiment.references
    ]
    listed = [(pair, metric) for pair in pairs if pair in differences for metric in experiment.columns]
    found = [differences[pair][metric] for pair, metric in listed]
    corrected = holm(np.array([difference.p for difference in found]))
    rows = tuple(
        (
            (pair.cell.tower, pair.cell.method + _sweep(pair.cell), pair.reference.method, heading(metric)),
            (
                _difference_entry(difference),
                Entry("" if np.isnan(difference.relative) else f"{_signed(difference.relative, 1)} %"),
                Entry(_p_text(difference.p)),
                Entry(_p_text(p)),
            ),
        )
        for (pair, metric), difference, p in zip(listed, found, corrected, strict=True)
    )
    notes = (
        "Method minus reference, in percentage points with the 95 % interval; then in % of the reference.",
        *(["Of FP-HR less is better."] if _has_abandoned(experiment.columns) else []),
        *_lists_note(experiment.columns),
        _intervals_note(results),
        f"Holm p is corrected for the {len(found)} differences of this table.",
        *_power_note(results, len(found)),
        *_seeds_note(results, (data_set,)),
        *_missing_note(results, (data_set,)),
    )
    heads = ("tower", "method", "reference", "metric")
    return Table(
        f"{data_set}: differences", heads, (("", ("difference [95 %]", "relative", "p", "Holm p")),), rows, notes
    )


def verdict_table(results: Results, differences: Differences) -> Table:
    """Whether FP-AdaMetric > FP-Metric > FP-Simple > Vanilla, or what XDM's paper claims, pair by pair, for each data set,
    tower and metric.

    A pair holds where the interval of its difference is above 0 (where less is better, below 0), is reversed where it is on the
    other side, and is undecided otherwise. The whole order holds where all pairs do, and is reversed where one is.
    """
    methods = results.experiment.methods
    claims = [(better, worse) for better, worse in PAPER_ORDER if better in methods and worse in methods]
    rows = []
    wholes: list[str] = []
    have_run = [result.cell for result in results.cells if result.runs and claims]
    places = dict.fromkeys(cell._replace(method="") for cell in have_run)
    for place, metric in itertools.product(places, results.experiment.metrics[:2] or VERDICT_METRICS):
        pairs = [Pair(place._replace(method=better), place._replace(method=worse)) for better, worse in claims]
        found = [differences[pair][metric] if pair in differences else None for pair in pairs]
        verdicts = [_verdict(difference, metric) if difference else "" for difference in found]
        whole = _whole_verdict(verdicts)
        wholes.append(whole)
        entries = [
            Entry(verdict, _difference_text(difference)) if difference else Entry()
            for verdict, difference in zip(verdicts, found, strict=True)
        ]
        rows.append(((place.data_set, place.tower + _sweep(place), heading(metric)), (*entries, Entry(whole))))
    count = ", ".join(f"{verdict or 'not run'} in {wholes.count(verdict)}" for verdict in dict.fromkeys(wholes))
    notes = (
        f"The papers' order: {count} of {len(wholes)} rows.",
        "A pair holds or is reversed where the 95 % interval of the difference (percentage points) is without 0.",
        "The whole order holds where all pairs do, and is reversed where one is.",
        _intervals_note(results),
        "The intervals are not corrected for their number.",
        *_seeds_note(results, tuple(results.data_sets)),
        *_missing_note(results, tuple(results.data_sets)),
    )
    columns = (*(f"{better} > {worse}" for better, worse in claims), "whole order")
    return Table("Does the papers' order hold?", ("data set", "tower", "metric"), (("", columns),), tuple(rows), notes)


def _verdict(difference: Difference, metric: str) -> str:
    low, high = sorted((sign(metric) * difference.low, sign(metric) * difference.high))
    return "holds" if low > 0 else "reversed" if high < 0 else "undecided"


def _whole_verdict(verdicts: Sequence[str]) -> str:
    """Of a pair that has not run, the verdict is empty."""
    if "reversed" in verdicts:
        return "reversed"
    if "" in verdicts:
        return ""
    return "holds" if {*verdicts} == {"holds"} else "undecided"


def _method_table(
    results: Results, differences: Differences, title: str, data_sets: tuple[str, ...], metrics: tuple[str, ...]
) -> Table:
    finished = {result.cell: result for result in results.cells if result.runs}
    rows_of: dict[Cell, None] = dict.fromkeys(
        cell._replace(data_set="")
        for cell in results.experiment.cells()
        if cell.data_set in data_sets and cell in finished
    )
    entries: dict[tuple[Cell, str], Entry] = {}  # (cell, metric)
    means: dict[tuple[Cell, str], float] = {}
    for cell, result in finished.items():
        if cell.data_set in data_sets:
            by_seed = _by_seed(result, results, metrics)
            means |= {(cell, metric): float(values.mean()) for metric, values in by_seed.items()}
            entries |= {(cell, metric): _mean_entry(values) for metric, values in by_seed.items()}
    marks, n_tests = _marks(results, differences, means)
    for data_set, tower, metric in itertools.product(data_sets, results.experiment.towers, metrics):
        rivals = [key for key in entries if (key[0].data_set, key[0].tower, key[1]) == (data_set, tower, metric)]
        places = _places([means[key] for key in rivals], metric)
        for key, place in zip(rivals, places, strict=True):
            entry = entries[key]
            entries[key] = Entry(entry.text, entry.small, place, marks.get(key, ""))
    columns = [(name, metric) for name in data_sets for metric in metrics]
    rows = [
        (
            (row.tower, row.method + _sweep(row)),
            tuple(entries.get((row._replace(data_set=name), metric), Entry()) for name, metric in columns),
        )
        for row in rows_of
    ]
    return Table(
        title,
        ("tower", "method"),
        tuple((name if len(data_sets) > 1 else "", tuple(map(heading, metrics))) for name in data_sets),
        (*rows, *(_baseline_rows(results, data_sets, metrics) if rows else ())),
        _method_notes(results, data_sets, metrics, n_tests),
    )


def _baseline_rows(
    results: Results, data_sets: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], tuple[Entry, ...]]]:
    found = {
        (name, baseline): figures(judged.ranks, results.data_sets[name].targets, metrics, judged.list_values)
        for name in data_sets
        for baseline, judged in results.data_sets[name].baselines.items()
    }
    for baseline in dict.fromkeys(baseline for _, baseline in found):
        values = [found.get((name, baseline), {}).get(metric, np.nan) for name in data_sets for metric in metrics]
        yield (BASELINE, baseline), tuple(_mean_entry(np.array([value])) for value in values)


def _marks(
    results: Results, differences: Differences, means: Mapping[tuple[Cell, str], float]
) -> tuple[dict[tuple[Cell, str], str], int]:
    """(cell, metric) → † or ‡ against the best reference; and how many were tested."""
    found: dict[tuple[Cell, str], Difference] = {}
    for cell, metric in means:
        references = [cell._replace(method=reference) for reference in results.experiment.references]
        known = [reference for reference in references if not np.isnan(means.get((reference, metric), np.nan))]
        if cell not in references and known:
            best = max(known, key=lambda reference: sign(metric) * means[reference, metric])
            found[cell, metric] = differences[Pair(cell, best)][metric]
    corrected = holm(np.array([difference.p for difference in found.values()]))
    marks = {
        key: "†" if sign(key[1]) * difference.difference > 0 else "‡"
        for (key, difference), p in zip(found.items(), corrected, strict=True)
        if p < ALPHA
    }
    return marks, int(np.count_nonzero(~np.isnan(corrected)))


def _places(values: Sequence[float], metric: str) -> list[Any]:
    """ "best", "second" or "" of each value, as printed: what reads the same has the same place."""
    printed = [np.nan if np.isnan(value) else sign(metric) * round(100 * value, 2) for value in values]
    order = sorted({value for value in printed if not np.isnan(value)}, reverse=True)
    place = dict(zip(order, ("best", "second"), strict=False)) if len(printed) > 1 else {}
    return [place.get(value, "") for value in printed]


def _by_seed(result: CellResult, results: Results, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Metric → <float64>[n_seeds]."""
    targets = results.data_sets[result.cell.data_set].targets
    found = [figures(run.ranks, targets, metrics, run.list_values) for run in result.runs]
    return {metric: np.array([of_seed[metric] for of_seed in found]) for metric in metrics}


def _method_notes(results: Results, data_sets: Sequence[str], metrics: Sequence[str], n_tests: int) -> tuple[str, ...]:
    references = results.experiment.references
    abandoned = " Of FP-HR less is better; ΔHR is HR minus FP-HR." if _has_abandoned(metrics) else ""
    rival = f"{'the best of ' if len(references) > 1 else ''}{', '.join(references)}"
    marks = f"† better, ‡ worse than {rival} in the same column: Holm-corrected p < 5 % of {n_tests} comparisons in this table."
    return (
        "Means over seeds in %, ± the standard deviation over seeds; baselines have no seeds.",
        f"Of each tower's methods the best is bold, the second underlined.{abandoned}",
        *_lists_note(metrics),
        *((marks, _intervals_note(results)) if n_tests else ()),
        *_power_note(results, n_tests),
        *_seeds_note(results, data_sets),
        *_missing_note(results, data_sets),
    )


def _has_abandoned(metrics: Sequence[str]) -> bool:
    return any(metric.startswith(("fp_", "delta_")) for metric in metrics)


def _lists_note(metrics: Sequence[str]) -> list[str]:
    if not {*metrics} & {*SET_METRICS}:
        return []
    return [
        "Set figures are of one list a session, given its first quarter, and all that is kept in the rest: whether the list "
        + "has any of it (HR), the share that it has (R), and F1 of this and the list's share of hits."
    ]


def _intervals_note(results: Results) -> str:
    return f"Intervals and p: paired bootstrap over sessions ({results.experiment.resamples:,} resamples) and seeds."


def _power_note(results: Results, n_tests: int) -> list[str]:
    """No p is below 2 / (R + 1), see `significance.py`."""
    resamples = results.experiment.resamples
    if 2 * n_tests < ALPHA * (resamples + 1):
        return []
    enough = f"set resamples to {100 * n_tests:,} in the experiment's file"
    return [f"With {resamples:,} resamples none of {n_tests} comparisons can be significant: {enough}."]


def _seeds_note(results: Results, data_sets: Sequence[str]) -> list[str]:
    single = [str(r.cell) for r in results.cells if len(r.runs) == 1 and r.cell.data_set in data_sets]
    if not single:
        return []
    return [f"A single seed, so that intervals cover sessions only and there is no deviation: {', '.join(single)}."]


def _missing_note(results: Results, data_sets: Sequence[str]) -> list[str]:
    n_runs = {result.cell: len(result.runs) for result in results.cells}
    n_seeds = len(results.experiment.seeds)
    cells = [cell for cell in results.experiment.cells() if cell.data_set in data_sets]
    missing = [str(cell) for cell in cells if not n_runs.get(cell)]
    partly = [f"{cell} ({n_runs[cell]} of {n_seeds})" for cell in cells if 0 < n_runs.get(cell, 0) < n_seeds]
    return [
        *([f"Not run: {', '.join(missing)}."] if missing else []),
        *([f"Some seeds only: {', '.join(partly)}."] if partly else []),
    ]


def _sweep(cell: Cell) -> str:
    """ " margin=0.5" of a cell of a sweep."""
    return f" {cell.swept.rsplit('.', 1)[-1]}={cell.value}" if cell.swept else ""


def _mean_entry(by_seed: np.ndarray) -> Entry:
    if np.isnan(by_seed).any():
        return Entry()
    small = f"± {_percent(by_seed.std(ddof=1))}" if len(by_seed) > 1 else ""
    return Entry(_percent(by_seed.mean()), small)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}".replace("-", "−")


def _signed(number: float, digits: int) -> str:
    return f"{number:+.{digits}f}".replace("-", "−")


def _difference_text(difference: Difference) -> str:
    if np.isnan(difference.difference):
        return ""
    bounds = (difference.low, difference.high)
    interval = "" if np.isnan(bounds).any() else f" [{', '.join(_signed(100 * bound, 2) for bound in bounds)}]"
    return _signed(100 * difference.difference, 2) + interval


def _difference_entry(difference: Difference) -> Entry:
    text, _, interval = _difference_text(difference).partition(" ")
    return Entry(text, interval)


def _p_text(p: float) -> str:
    return "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
