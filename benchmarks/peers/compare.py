"""The project beside RecBole 1.2.1 on the same data, in one run: training, ranking and loaders, round by round.

In: a data set and a tower of `settings.py`, and RecBole's Python (`setup.sh`). Out: what each side answered in each round,
as plain JSON; `bench_table.py` makes figures of it. Three processes take turns, none works while another does: the project
with the full softmax, the project with the sampled one, and RecBole with the full one. Each round has another order. The
first round is the warm-up, in which graphs are traced and caches filled; it is kept apart.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import data, settings
from benchmarks.peers.worker import Worker

SIDES = ("full", "sampled", "recbole")
Answers = dict[str, dict[str, Any]]  # question → answer

_PATIENCE = 2  # epochs without a rise


def run_cell(
    dataset: str, tower: str, *, share: float, n_rounds: int, data_dir: str, recbole_python: str, folder: Path
) -> dict[str, Any]:
    """All rounds of a data set and a tower.

    Args:
        share: of an epoch's steps that a round trains by full softmax, the same for both sides; 1 = whole epochs. The
            sampled one, which is fast, and the loaders always have whole ones.
        folder: for RecBole's files and all logs.

    Returns:
        facts: side → `Side.facts`; warm_up: side → question → answer; rounds: a list of the same.

    Raises:
        RuntimeError: a process has ended, or the sides do not do the same work.
    """
    with contextlib.ExitStack() as stack:
        sides = _start(stack, SIDES, dataset, tower, data_dir, recbole_python, folder)
        facts = {name: side.facts for name, side in sides.items()}
        check_equal_work(facts, settings.TARGETS_PER_STEP)
        rounds = []
        for k in range(n_rounds + 1):
            names = SIDES[k % 3 :] + SIDES[: k % 3]
            rounds.append({name: _ask_all(name, sides[name], share, settings.TARGETS_PER_STEP) for name in names})
    return {"facts": facts, "warm_up": rounds[0], "rounds": rounds[1:]}


def _ask_all(name: str, side: Worker, share: float, n_rows: int) -> Answers:
    n_steps = side.facts["n_steps"]
    n_trained = n_steps if name == "sampled" else math.ceil(share * n_steps)
    found = {
        "train": side.ask("train", n_steps=n_trained, least_s=settings.LEAST_TRAINING_S),
        "load": side.ask("load", n_steps=n_steps, least_s=settings.LEAST_LOADING_S),
        # The best of three: what the machine can do.
        "multiply": min((side.ask("multiply", n_rows=n_rows) for _ in range(3)), key=lambda answer: answer["seconds"]),
    }
    if name == "sampled":  # it ranks as the full one does
        return found
    if name == "full" and share == 1:
        found["differentiate"] = side.ask("differentiate")
    return {**found, "evaluate": side.ask("evaluate")}


def check_equal_work(facts: Mapping[str, Mapping[str, Any]], targets_per_step: int) -> None:
    """That the sides have as many targets, items, weights and updates as each other.

    Raises:
        RuntimeError: they have not.
    """
    theirs = facts["recbole"]
    for name, ours in facts.items():
        for what in ("n_targets", "n_valid_targets", "n_items"):
            if ours[what] != theirs[what]:
                raise RuntimeError(f"{what}: {name} has {ours[what]:,}, recbole {theirs[what]:,}")
        if abs(ours["n_parameters"] / theirs["n_parameters"] - 1) > 0.001:  # rows for padding, biases
            raise RuntimeError(f"weights: {name} has {ours['n_parameters']:,}, recbole {theirs['n_parameters']:,}")
        mean = ours["n_targets"] / ours["n_steps"]
        if abs(mean / targets_per_step - 1) > 0.02:
            raise RuntimeError(f"{name} has {mean:.0f} targets a step, not {targets_per_step}")


def run_until_equal(
    dataset: str,
    tower: str,
    *,
    negatives: Sequence[int],
    max_epochs: int,
    n_peer_epochs: int,
    data_dir: str,
    recbole_python: str,
    folder: Path,
) -> dict[str, Any]:
    """Full softmax until validation MRR@20 has ceased to rise, and the sampled one, by its negatives, until it is as good.

    The full one is the project's, since RecBole's takes hours to its end; RecBole's first epochs are put beside its own.

    Args:
        negatives: sampled items of a step, one training for each number.

    Returns:
        full, recbole: a list with seconds, n_targets and mrr of each epoch; sampled: negatives → such a list, which ends
        when its MRR@20 is at least 99.5 % of the full one's best, or has ceased to rise.
    """

    def train(side_name: str, n_epochs: int, enough: float, **more: Any) -> list[dict[str, Any]]:
        epochs: list[dict[str, Any]] = []
        with contextlib.ExitStack() as stack:
            side = _start(stack, (side_name,), dataset, tower, data_dir, recbole_python, folder, **more)[side_name]
            while len(epochs) < n_epochs and (len(epochs) <= _PATIENCE or _rises(epochs)):
                trained = side.ask("train", n_steps=side.facts["n_steps"], least_s=0)
                epochs.append({**trained, "mrr": side.ask("evaluate")["mrr"]})
                print(f"{dataset} {tower} {side_name} {more}, epoch {len(epochs)}: {epochs[-1]}", flush=True)
                if epochs[-1]["mrr"] >= enough:
                    break
        return epochs

    full = train("full", max_epochs, math.inf)
    enough = settings.EQUAL * max(epoch["mrr"] for epoch in full)
    sampled = {str(n): train("sampled", max_epochs, enough, negatives=n) for n in negatives}
    return {"full": full, "sampled": sampled, "recbole": train("recbole", n_peer_epochs, math.inf)}


def _rises(epochs: list[dict[str, Any]]) -> bool:
    mrr = [epoch["mrr"] for epoch in epochs]
    return max(mrr[-_PATIENCE:]) > max(mrr[:-_PATIENCE])


def _start(
    stack: contextlib.ExitStack,
    names: tuple[str, ...],
    dataset: str,
    tower: str,
    data_dir: str,
    recbole_python: str,
    folder: Path,
    **more_ours: Any,
) -> dict[str, Worker]:
    atomic_dir = (folder / "atomic").resolve()
    if "recbole" in names:
        data.write_atomic(dataset, data.read(dataset, data_dir), atomic_dir)
    common = {"dataset": dataset, "tower": tower, "threads": settings.THREADS}
    ours = {"data_dir": data_dir, **more_ours}
    how: dict[str, tuple[str, str, dict[str, Any]]] = {
        "full": (sys.executable, "benchmarks.peers.ours", {**ours, "next_item": "full_softmax"}),
        "sampled": (sys.executable, "benchmarks.peers.ours", {**ours, "next_item": "sampled_softmax"}),
        "recbole": (recbole_python, "benchmarks.peers.recbole_side", {"atomic_dir": str(atomic_dir)}),
    }
    started = {}
    for name in names:
        python, module, more = how[name]
        started[name] = Worker(python, module, {**common, **more}, folder / f"{name}.log")
        stack.callback(started[name].close)
    return started
