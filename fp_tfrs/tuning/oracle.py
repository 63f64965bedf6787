"""Section `tuner` → keras-tuner's oracle: what there is to try, and who says what to try next.

In: the configuration. Out: an oracle that is deterministic: with the same seed, and the same scores in the same order, it
asks for the same trials.
"""

from __future__ import annotations

import math
from typing import Any

import keras_tuner

from fp_tfrs.config import RangeConfig, TunerConfig
from fp_tfrs.errors import InputError

_HYPERBAND_FACTOR = 3
_N_SEEDS = 2**31  # keras-tuner counts on from its seed, and scikit-learn's end at 2³²


class _BayesianOracle(keras_tuner.oracles.BayesianOptimizationOracle):
    """Never asks for the same values twice, as the original does when what it expects to be best has been tried."""

    num_initial_points: int | None

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        found = super().populate_space(trial_id)
        if found["values"] in [trial.hyperparameters.values for trial in self.trials.values()]:
            usual = self.num_initial_points
            self.num_initial_points = len(self.trials) + 1  # as long as there are fewer, trials are drawn
            found = super().populate_space(trial_id)
            self.num_initial_points = usual
        return found


def make_oracle(tuner: TunerConfig, epochs: int, seed: int) -> keras_tuner.Oracle:
    """The oracle that the configuration asks for, with the number of its trials as `max_trials`.

    Args:
        tuner: what to search, how.
        epochs: of a trial, at most.
        seed: of the run.

    Raises:
        InputError: Hyperband has more trials to begin with than there are settings.
    """
    common = {
        "objective": keras_tuner.Objective(tuner.objective, "max"),
        "hyperparameters": _make_space(tuner),
        "allow_new_entries": False,
        "seed": 1 + seed % _N_SEEDS,  # keras-tuner takes 0 for none
    }
    if tuner.oracle == "hyperband":
        begun, n_trials = _plan_hyperband(epochs)
        n_settings = _count_settings(tuner)
        if n_settings < begun:
            raise InputError(
                f"tuner.oracle: hyperband begins {begun} trials when tuner.epochs is {epochs}, but tuner.search has "
                f"{n_settings} settings; give ranges such as {{min: 0.001, max: 10, sampling: log}}, or use oracle: random"
            )
        failures = {"max_consecutive_failed_trials": n_trials + 1}
        oracle = keras_tuner.oracles.HyperbandOracle(max_epochs=epochs, factor=_HYPERBAND_FACTOR, **common, **failures)
        oracle.max_trials = n_trials
        return oracle
    kind = _BayesianOracle if tuner.oracle == "bayesian" else keras_tuner.oracles.RandomSearchOracle
    n_trials = int(min(tuner.trials, _count_settings(tuner)))
    return kind(max_trials=n_trials, max_consecutive_failed_trials=n_trials + 1, **common)


def _make_space(tuner: TunerConfig) -> keras_tuner.HyperParameters:
    space = keras_tuner.HyperParameters()
    for path, choice in tuner.search.items():
        if not isinstance(choice, RangeConfig):
            space.Choice(path, list(choice))
        elif _is_whole(choice):
            space.Int(path, choice.min, choice.max, sampling=choice.sampling)
        else:
            space.Float(path, choice.min, choice.max, sampling=choice.sampling)
    return space


def _is_whole(choice: RangeConfig) -> bool:
    return isinstance(choice.min, int) and isinstance(choice.max, int)


def _count_settings(tuner: TunerConfig) -> float:
    counts = []
    for choice in tuner.search.values():
        if isinstance(choice, RangeConfig):
            counts.append(choice.max - choice.min + 1 if _is_whole(choice) else math.inf)
        else:
            counts.append(len(choice))
    return math.prod(counts)


def _plan_hyperband(epochs: int) -> tuple[int, int]:
    """How many trials keras-tuner's Hyperband begins, and how many it runs with those that go on."""
    n_brackets = 1
    while epochs / _HYPERBAND_FACTOR**n_brackets >= 1:
        n_brackets += 1
    at_end = math.ceil(1 + math.log(epochs, _HYPERBAND_FACTOR))
    sizes = [
        [math.ceil(at_end / (bracket + 1) * _HYPERBAND_FACTOR**left) for left in range(bracket, -1, -1)]
        for bracket in range(n_brackets)
    ]
    return sum(bracket[0] for bracket in sizes), sum(map(sum, sizes))
