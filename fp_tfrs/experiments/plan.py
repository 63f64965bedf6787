"""An experiment's YAML file → `Experiment`: its cells, and what each of them may try.

In: a file of `configs/experiments/`. Out: the typed plan; its cells, one for each data set, tower and method; and for each
cell the runs that tuning tries. A run is a whole `RunConfig`, as `fp-tfrs run` takes it: the data set's own config file,
without its model, in which the plan has set values by their dotted paths, such as `model.loss.margin`.

Equal budgets: a cell tries `trials` settings, or all there are if these are fewer. What all methods search (the common
part, the data set's and the tower's) is drawn in the same order for every method; what a method alone searches is drawn
beside it. The first values of all lists make the first trial.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pydantic
from sklearn.model_selection import ParameterGrid

from fp_tfrs import config_file
from fp_tfrs.config import RunConfig, Section, fingerprint
from fp_tfrs.config.section import field
from fp_tfrs.config.settings import Settings, assign, check_paths
from fp_tfrs.errors import InputError
from fp_tfrs.experiments.figures import SHARES
from fp_tfrs.experiments.titles import TitlesPlan

Space = dict[str, tuple[Any, ...]]  # dotted path → the values to choose from
_NAME = "[a-z0-9][a-z0-9_-]*"  # what becomes a folder's name leads nowhere else
COMPACT = ("hr@20", "mrr@20", "ndcg@20", "fp_hr@20", "delta_hr@20")


class DataSetPlan(Section):
    """A log that every method is tried on."""

    config: str = field(
        ..., "the run's YAML file that says how it is read, cut and split; beside the experiment's file"
    )
    set: Settings = field({}, "values of that file to replace, by dotted path")
    search: Space = field({}, "dotted path → values that tuning chooses from, for all methods")
    titles: TitlesPlan | None = field(None, "a file that says what people call the items; null: reports give ids")


class ChoicePlan(Section):
    """A tower or a method."""

    set: Settings = field({}, "values of the run to replace, by dotted path under model or training")
    search: Space = field({}, "dotted path → values that tuning chooses from")

    @pydantic.model_validator(mode="after")
    def _check(self) -> ChoicePlan:
        check_paths((*self.set, *self.search))
        return self


class Cell(NamedTuple):
    """One place of the grid. With a sweep, a method is many cells: one for each (swept, value)."""

    data_set: str
    tower: str
    method: str
    swept: str = ""  # dotted path; "" = not of a sweep
    value: Any = None

    def __hash__(self) -> int:
        return hash(self[:-1])  # the value may be a list or a section

    def __str__(self) -> str:
        sweep = f" {self.swept.rsplit('.', 1)[-1]}={self.value}" if self.swept else ""
        return f"{self.data_set}/{self.tower}/{self.method}{sweep}"


class Experiment(Section):
    """The whole file."""

    name: str = field(..., "folder of its results", pattern=f"^{_NAME}$")
    title: str = field(..., "what it asks; heads its report")
    seeds: tuple[int, ...] = field(
        (1, 2, 3, 4, 5), "trainings of the chosen settings", "method.md 9: at least 5", min_length=1
    )
    trials: int = field(6, "settings that each cell tries on the validation split, with the first seed", ge=1)
    data_sets: dict[str, DataSetPlan] = field(..., "by name, which is a folder's too", min_length=1)
    towers: dict[str, ChoicePlan] = field(..., "by name", min_length=1)
    methods: dict[str, ChoicePlan] = field(..., "by name; the tables have them in this order", min_length=1)
    search: Space = field({}, "what every cell searches: dotted path → values")
    sweep: Space = field(
        {}, "dotted path → values: every method once with each value of each path, the others as they are"
    )
    against: tuple[str, ...] = field((), "methods that all others are tested against; default: the first")
    metrics: tuple[str, ...] = field(
        (),
        f"columns of the tables, the first two also what the papers' order is judged by; default: {', '.join(COMPACT)}",
    )
    resamples: int = field(10_000, "bootstrap resamples of the sessions", ge=100)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Experiment:
        if unknown := [name for name in self.against if name not in self.methods]:
            raise ValueError(f"against has no method {unknown[0]!r}; methods are {', '.join(self.methods)}")
        for name in self.data_sets:
            if not re.fullmatch(_NAME, name):
                raise ValueError(f"data_sets has {name!r}, which names no folder; write it as {_NAME} has it")
        for name in self.metrics:
            if name not in SHARES:
                near = difflib.get_close_matches(name, SHARES, 1, 0.0)[0]
                raise ValueError(f"metrics has {name!r}, which is none; the nearest one is {near!r}")
        if len({*self.metrics}) < len(self.metrics):
            raise ValueError(f"metrics {', '.join(self.metrics)} has one twice")
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} has one twice")
        spaces = (self.search, self.sweep, *(plan.search for plan in (*self.data_sets.values(), *self.choices)))
        for path, values in (pair for space in spaces for pair in space.items()):
            if not values:
                raise ValueError(f"{path!r} has no values to choose from")
            check_paths([path])
        return self

    @property
    def choices(self) -> tuple[ChoicePlan, ...]:
        """All towers and methods."""
        return (*self.towers.values(), *self.methods.values())

    @property
    def references(self) -> tuple[str, ...]:
        """The methods that the others are tested against."""
        return self.against or tuple(self.methods)[:1]

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics of the tables."""
        return self.metrics or COMPACT

    def cells(self) -> list[Cell]:
        """All cells, in the order of work: tower by tower, so that a stopped experiment has one on all data sets."""
        swept = [(path, value) for path, values in self.sweep.items() for value in values] or [("", None)]
        grid = itertools.product(self.towers, self.data_sets, self.methods, swept)
        return [Cell(data_set, tower, method, *sweep) for tower, data_set, method, sweep in grid]


class Plan:
    """An experiment whose data sets' files are read.

    Args:
        path: the experiment's file.
        data_files: runs' files whose data to take in place of the experiment's data sets.

    Attributes:
        experiment: what the file says.
        path: the file.

    Raises:
        InputError: a file cannot be read, or no valid run comes out; the message names the file, the cell and the field.
    """

    def __init__(self, path: str, data_files: Sequence[str] = ()) -> None:
        self.path = path
        self.experiment = config_file.load_section(path, Experiment)
        if data_files:
            files = [os.path.abspath(file) for file in data_files]
            data_sets: dict[str, DataSetPlan] = {}
            for file in files:
                name = config_file.load(file).name
                if name in data_sets:
                    raise InputError(f"--data: {data_sets[name].config} and {file} both have name: {name}; rename one")
                data_sets[name] = DataSetPlan(config=file)
            self.experiment = self.experiment.model_copy(update={"data_sets": data_sets})
        folder = os.path.dirname(os.path.abspath(path))
        self._values = {
            name: {**config_file.read_values(os.path.join(folder, plan.config)), "model": {}}
            for name, plan in self.experiment.data_sets.items()
        }
        for cell in self.experiment.cells():  # whatever is wrong shows now, not after an hour
            for settings in self.candidates(cell):
                self.run(cell, settings, self.experiment.seeds[0])

    def candidates(self, cell: Cell) -> list[Settings]:
        """The different settings that tuning tries, `trials` at most, in order."""
        experiment = self.experiment
        common, tower = experiment.search, experiment.towers[cell.tower].search
        shared = _shuffled({**common, **experiment.data_sets[cell.data_set].search, **tower}, cell.swept)
        own = _shuffled(experiment.methods[cell.method].search, cell.swept)
        n_shared, n_own = len(shared), len(own)
        # Goes through all pairs, each once, both sides changing from one to the next.
        pairs = ((k % n_shared, (k % n_shared + k // n_shared) % n_own) for k in range(n_shared * n_own))
        return [{**shared[a], **own[b]} for a, b in itertools.islice(pairs, experiment.trials)]

    def run(self, cell: Cell, settings: Settings, seed: int) -> RunConfig:
        """The run of a cell with these settings."""
        experiment = self.experiment
        values = copy.deepcopy(self._values[cell.data_set])
        sets = (
            experiment.data_sets[cell.data_set].set,
            experiment.towers[cell.tower].set,
            experiment.methods[cell.method].set,
            {cell.swept: cell.value} if cell.swept else {},
            settings,
            {"seed": seed},
        )
        for path, value in (pair for assignments in sets for pair in assignments.items()):
            assign(values, path, value)
        return config_file.parse_values(values, f"{self.path}: {cell}", RunConfig)

    def data_run(self, data_set: str) -> RunConfig:
        """A run of the data set that makes all side features that one of its cells needs, with the file's own seed."""
        cells = [cell for cell in self.experiment.cells() if cell.data_set == data_set]
        runs = [self.run(cell, self.candidates(cell)[0], self.experiment.seeds[0]) for cell in cells]
        run = next((run for run in runs if run.model.has_users), runs[0])
        return run.model_copy(
            update={"seed": self._values[data_set].get("seed", RunConfig.model_fields["seed"].default)}
        )


def run_fingerprint(run: RunConfig) -> str:
    """Names what a training comes to: how a run is judged, served and called makes no difference to it.

    Values at their defaults do not count, so that finished runs keep their names when a field is added; whoever changes what a
    default does must start the ledger anew.
    """
    parts = (json.dumps(_chosen(section), sort_keys=True) for section in (run.data, run.model, run.training))
    return fingerprint(*parts, str(run.seed))


def _chosen(section: Section) -> Settings:
    """The values that are not defaults, as plain JSON, and the section's kind."""
    plain = section.model_dump(mode="json")
    fields = {name: getattr(section, name) for name in type(section).model_fields}
    chosen = {name: value for name, value in fields.items() if value != type(section).model_fields[name].default}
    return {"kind": type(section).__name__} | {
        name: _chosen(value) if isinstance(value, Section) else plain[name] for name, value in chosen.items()
    }


def _shuffled(space: Mapping[str, tuple[Any, ...]], swept: str) -> list[Settings]:
    """All combinations but of what is swept: that of the first values first, the others in a fixed random order."""
    searched = {path: list(values) for path, values in space.items() if path != swept}
    grid = list(ParameterGrid(searched))
    first = {path: values[0] for path, values in searched.items()}
    others = [settings for settings in grid if settings != first]
    order = np.random.default_rng(len(grid)).permutation(len(others))
    return [first, *(others[k] for k in order)]
