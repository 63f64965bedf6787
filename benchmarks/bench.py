"""Every figure that the project says of its speed, beside what is asked and what the machine allows: one table.

    sh benchmarks/peers/setup.sh runs/peers-venv          # RecBole's own environment, once
    FP_TFRS_DATA_DIR=… python -m benchmarks.bench       # what has no result yet; goes on where it was stopped
    python -m benchmarks.bench --list                     # the table alone

Parts are run one after the other, each in a process of its own, on two cores; each part's answers are kept in
`<root>/results.json`, or the file of `--results`, as soon as it is finished, with the settings that they were had by. On an
idle machine of two cores all take two hours and a half with a twentieth of Diginetica's epochs, and many more with whole ones
(`--share 1`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import bench_table
from benchmarks.peers import settings


class Part(NamedTuple):
    """A function `module.name` of keyword arguments that answers in plain JSON.

    where: arguments that say where it works, and are no setting.
    settings: what else its answers depend on.
    """

    module: str
    name: str
    arguments: Mapping[str, Any]
    where: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}


def make_parts(n_rounds: int, share: float, data_dir: str, root: Path, until_equal: Sequence[str]) -> dict[str, Part]:
    """All parts by name, short ones first."""
    where = {"data_dir": data_dir, "recbole_python": str(root.parent / "peers-venv" / "bin" / "python"), "folder": root}
    threads = {"n_threads": settings.THREADS}
    parts = {
        "start-up": Part("benchmarks.waiting", "start_up", {"n_rounds": n_rounds}),
        "growth": Part("benchmarks.catalogue_growth", "time_steps", {"n_rounds": n_rounds, **threads}),
        "memory": Part("benchmarks.catalogue_growth", "rank_a_million", threads),
        "quickstart": Part("benchmarks.waiting", "quickstart", {"n_rounds": n_rounds}),
        "preprocessing": Part("benchmarks.preprocessing", "measure", {"n_rounds": n_rounds}, {"data_dir": data_dir}),
    }
    for dataset in settings.DATASETS:
        for tower in settings.TOWERS:
            cell = {"dataset": dataset, "tower": tower}
            how = {"share": share if dataset == "diginetica" else 1, "n_rounds": n_rounds}
            parts[f"{dataset}/{tower}"] = Part(
                "benchmarks.peers.compare", "run_cell", {**cell, **how}, where, settings.of(tower)
            )
    for tower in until_equal:
        cell = {"dataset": "diginetica", "tower": tower}
        how = {"negatives": list(settings.NEGATIVES), "max_epochs": 30, "n_peer_epochs": 2}
        parts[f"until-equal/{tower}"] = Part(
            "benchmarks.peers.compare", "run_until_equal", {**cell, **how}, where, settings.of(tower)
        )
    return parts


def run_parts(parts: Mapping[str, Part], results_path: Path) -> list[str]:
    """Runs those without a result by these arguments and settings; the names of those that failed."""
    failed = []
    for name, part in parts.items():
        known = read_results(results_path).get(name, {})
        if (known.get("arguments"), known.get("settings")) == (part.arguments, part.settings):
            print(f"{name}: finished before", flush=True)
            continue
        load = os.getloadavg()[0]
        print(f"{name}: begins, load of the machine {load:.1f}", flush=True)
        process = multiprocessing.get_context("spawn").Process(target=_run_part, args=(name, part, load, results_path))
        process.start()
        process.join()
        if process.exitcode:
            failed.append(name)
    return failed


def _run_part(name: str, part: Part, load: float, results_path: Path) -> None:
    answer = getattr(importlib.import_module(part.module), part.name)(**part.arguments, **part.where)
    result = {"arguments": dict(part.arguments), "settings": dict(part.settings), "load": load, "answer": answer}
    write_results(results_path, read_results(results_path) | {name: result})


def read_results(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, default=Path("runs/bench"), help="RecBole's files, logs; default: %(default)s"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="default: results.json in the root")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts whose names begin so, e.g. diginetica/narm")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--share", type=float, default=0.05, help="of Diginetica's epoch that a round trains; default: %(default)s"
    )
    parser.add_argument(
        "--until-equal", nargs="+", default=[], choices=settings.TOWERS, metavar="TOWER",
        help="also train by full softmax to the end, and by the sampled one until it is as good: two hours",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="only print the table")
    parsed = parser.parse_args(arguments)
    results_path = parsed.results or parsed.root / "results.json"
    failed = []
    if not parsed.list:
        data_dir = os.environ.get("FP_TFRS_DATA_DIR")
        if not data_dir:
            parser.error("FP_TFRS_DATA_DIR is not set: the folder with movietweetings_100k/, diginetica/ and globo/")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.THREADS])
        parts = make_parts(parsed.rounds, parsed.share, data_dir, parsed.root.resolve(), parsed.until_equal)
        wanted = tuple(parsed.only or parts)
        failed = run_parts({name: part for name, part in parts.items() if name.startswith(wanted)}, results_path)
    print(bench_table.describe(read_results(results_path)))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
