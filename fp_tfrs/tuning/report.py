"""A finished search → what a user sees of it: a table of the trials, and a picture of λ × margin.

In: the Tuner node's artifact of all trials. Out: lines of text, and a PNG file.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from fp_tfrs import storage
from fp_tfrs.config import Settings, TunerConfig, assign
from fp_tfrs.tuning.values import EPOCHS, read_settings, round_number

LAMBDA, MARGIN = "model.loss.lambda_fp", "model.loss.margin"
_RESULTS_FILE = "tuner_results.json"  # TFX's name
_SIZE, _DPI = (6.4, 4.4), 120  # inches, dots an inch


class Tried(NamedTuple):
    """A trial. epochs: of Hyperband's; None for those of other searches."""

    settings: Settings
    epochs: int | None
    score: float


def read_trials(folder: str) -> list[Tried]:
    """The finished trials of a `TunerResults` artifact, the best first."""
    rows = json.loads(storage.read_text(os.path.join(folder, _RESULTS_FILE)))
    trials = []
    for row in rows:
        score = row.pop("score")
        del row["trial_id"]
        trials.append(Tried(read_settings(row), row.get(EPOCHS), score))
    return sorted(trials, key=lambda trial: -trial.score)


def format_table(trials: Sequence[Tried], objective: str) -> str:
    """All trials, the best first, and then its settings as they stand in a configuration."""
    paths = list(trials[0].settings)
    has_epochs = trials[0].epochs is not None
    header = [objective.replace("val_", "val "), *(path.rsplit(".", 1)[-1] for path in paths)]
    rows = [header + ["epochs"] * has_epochs]
    for trial in trials:
        values = [str(trial.settings[path]) for path in paths]
        rows.append([f"{trial.score:.4f}", *values, *([str(trial.epochs)] if has_epochs else [])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    best: dict[str, Any] = {}
    for path, value in trials[0].settings.items():
        assign(best, path, value)
    return "\n".join(
        [*lines, "", "the best, as a configuration has it:", yaml.safe_dump(best, sort_keys=False).rstrip()]
    )


def draw_lambda_margin(trials: Sequence[Tried], tuner: TunerConfig) -> bytes | None:
    """A PNG of the best score at each λ and margin; None if they were not both searched.

    Lists of values make a table of colours, ranges make points. Of trials that differ in something else the best one counts.
    """
    if not {LAMBDA, MARGIN} <= tuner.search.keys():
        return None
    scores: dict[tuple[float, float], float] = {}
    for trial in trials:
        place = trial.settings[LAMBDA], trial.settings[MARGIN]
        scores[place] = max(trial.score, scores.get(place, 0.0))
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    choices = tuner.search[LAMBDA], tuner.search[MARGIN]
    if isinstance(choices[0], tuple) and isinstance(choices[1], tuple):
        rows, columns = (sorted({round_number(value) for value in choice}) for choice in choices)
        grid = np.full((len(rows), len(columns)), np.nan)
        for (weight, margin), score in scores.items():
            grid[rows.index(weight), columns.index(margin)] = score
        drawn: ScalarMappable = axes.imshow(grid, origin="lower", aspect="auto", cmap="cividis")
        middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
        for (row, column), score in np.ndenumerate(grid):
            if np.isfinite(score):
                color = "white" if score <= middle else "black"
                axes.text(column, row, f"{score:.4f}", ha="center", va="center", color=color, fontsize=8)
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    else:
        weights, margins = zip(*scores, strict=True)
        drawn = axes.scatter(margins, weights, c=list(scores.values()), cmap="cividis", edgecolors="black", s=60)
        if min(margins) > 0 and min(weights) > 0:
            axes.set_xscale("log")
            axes.set_yscale("log")
    axes.set_xlabel("margin m")
    axes.set_ylabel("weight λ")
    axes.set_title(f"{len(trials)} trials; empty: not tried")
    figure.colorbar(drawn, label=tuner.objective.replace("val_", "validation "))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
