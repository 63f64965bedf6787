"""P@20 / MRR@20 of the towers beside published ones, on the data sets as SR-GNN prepared them: `benchmarks/parity_results.json`.

    FP_TFRS_DATA_DIR=… python benchmarks/parity.py --root runs/parity
    python benchmarks/parity.py --list

In: `train_sessions.parquet` (items) and `test_prefixes.parquet` (prefix, target) of a data set. Out: one result a cell, a
cell being a data set and a tower, such as `yoochoose_1_64/narm`. A finished cell is not run again while its settings are the
same; a killed one goes on after its last epoch; processes that are started side by side share the cells.

A random 3 % of the training sessions choose the epoch, and chose the settings below; the catalogue is all items of the
training sessions. Random and not the last days, because these are what the test, the day or week after, can be learned from
best. The test set is looked at once, by the chosen epoch: published figures are often those of the epoch that is best on
test, so the same model reaches less here.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fp_tfrs  # noqa: F401  settles Keras 2 before TensorFlow is imported

# isort: split
import numpy as np
import pandas as pd
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import RunConfig, fingerprint
from fp_tfrs.data.session_table import SessionTable
from fp_tfrs.evaluation import bootstrap
from fp_tfrs.learning.metrics import count_ranks, metric_matrix
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.learning.training import train

RESULTS_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "parity_results.json")
METRICS = ("hr@20", "mrr@20")
MAX_LENGTH = 50  # the last clicks of a longer prefix are its input
VALID_SHARE, VALID_SEED = 0.03, 1
RESAMPLES, RESAMPLES_SEED = 1_000, 1
_RANK_BATCH = 256  # prefixes
_RANK_CHUNK_SIZE = 4 * 4096

Percents = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is run, and what it is held against: P@20 and MRR@20 in percent.

    Settings that matter are written out, so that a change of the project's defaults does not change a result in silence.
    """

    tower: Mapping[str, Any]
    training: Mapping[str, Any]
    demanded: Percents | None = None
    published: Percents | None = None
    seed: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """What a result depends on, as plain JSON."""
        return {
            "tower": dict(self.tower),
            "training": dict(self.training),
            "seed": self.seed,
            "max_length": MAX_LENGTH,
            "valid": [VALID_SHARE, VALID_SEED],
        }


_NARM = {"name": "narm", "embedding_dim": 100, "hidden_dim": 100, "dropout_embedding": 0.25, "dropout_context": 0.5}
_GRU4REC = {"name": "gru4rec", "embedding_dim": 100, "hidden_dim": 100, "dropout_embedding": 0.3}
_STAMP = {"name": "stamp", "embedding_dim": 100, "max_norm": 1.0, "dropout_embedding": 0.1}
_SR_GNN = {"name": "sr_gnn", "embedding_dim": 100, "dropout_embedding": 0.25}
_SASREC = {"name": "sasrec", "embedding_dim": 100, "n_layers": 2, "n_heads": 2, "hidden_dim": 256, "dropout": 0.2}
_TRAINING = {
    "batch_size": 64,
    "learning_rate": 2e-3,
    "learning_rate_decay": 0.1,
    "decay_epochs": 4,
    "max_epochs": 12,
    "patience": 2,
}
# Chosen on validation, as STAMP's and SR-GNN's dropout is, which their papers don't have.
_STAMP_TRAINING = {**_TRAINING, "learning_rate": 3e-3, "max_epochs": 7}
_WITH_L2 = {**_TRAINING, "l2": 1e-5, "max_epochs": 10}
CELLS = {
    "yoochoose_1_64/narm": Cell(_NARM, _TRAINING, (68.0, 28.5), (68.32, 28.63)),
    "yoochoose_1_64/stamp": Cell(_STAMP, _STAMP_TRAINING, (68.0, 29.0), (68.74, 29.67)),
    "yoochoose_1_64/sr_gnn": Cell(_SR_GNN, _WITH_L2, (69.5, 30.0), (70.57, 30.94)),
    "yoochoose_1_64/gru4rec": Cell(_GRU4REC, _TRAINING, (66.0, 27.0), (60.64, 22.89)),
    # validation ranks a session of MAX_LENGTH targets whole, with its last click
    "yoochoose_1_64/sasrec": Cell({**_SASREC, "max_positions": MAX_LENGTH + 1}, _TRAINING),
    "diginetica/narm": Cell(_NARM, _TRAINING, (49.5, 16.0), (49.70, 16.17)),
    "diginetica/sr_gnn": Cell(_SR_GNN, _WITH_L2, (50.0, 17.0), (50.73, 17.59)),
    "diginetica/sasrec": Cell(_SASREC, {**_TRAINING, "max_epochs": 7}, (50.0, 17.0)),
    "diginetica/gru4rec": Cell(_GRU4REC, _TRAINING, None, (29.45, 8.33)),
    "diginetica/stamp": Cell(_STAMP, _STAMP_TRAINING, None, (45.64, 14.32)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="runs/parity", help="checkpoints and logs")
    parser.add_argument("--only", choices=CELLS, nargs="+", default=list(CELLS), metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--threads", type=int, default=1, help="of each kind, in this process; 0: TensorFlow's choice")
    parser.add_argument("--list", action="store_true", help="only print the results as a Markdown table")
    parsed = parser.parse_args(arguments)
    if parsed.list:
        print(describe(CELLS, _read_results(RESULTS_PATH)))
        return
    data_dir = os.environ.get("FP_TFRS_DATA_DIR")
    if not data_dir:
        parser.error("FP_TFRS_DATA_DIR is not set: the folder with yoochoose_1_64/ and diginetica/")
    tf.config.threading.set_intra_op_parallelism_threads(parsed.threads)
    tf.config.threading.set_inter_op_parallelism_threads(parsed.threads)
    run_cells({name: CELLS[name] for name in parsed.only}, data_dir, parsed.root, RESULTS_PATH)


def run_cells(cells: Mapping[str, Cell], data_dir: str, root: str, results_path: str) -> None:
    """Runs the cells that are not in the results with these settings, and that no other process has in hand."""
    for name, cell in cells.items():
        folder = os.path.join(root, name, fingerprint(json.dumps(cell.settings, sort_keys=True)))
        os.makedirs(folder, exist_ok=True)
        with _lock(os.path.join(folder, "lock"), fcntl.LOCK_EX | fcntl.LOCK_NB) as is_held:
            if not is_held:
                print(f"{name}: another process is at it", flush=True)
            elif _read_results(results_path).get(name, {}).get("settings") == cell.settings:
                print(f"{name}: finished before", flush=True)
            else:
                result = _run_cell(name, cell, data_dir, folder)
                with _lock(os.path.join(root, "results_lock"), fcntl.LOCK_EX):
                    _write_results(results_path, _read_results(results_path) | {name: result})


def _run_cell(name: str, cell: Cell, data_dir: str, folder: str) -> dict[str, Any]:
    """Trains, ranks the test targets, and says what came out."""

    def say(line: str) -> None:
        print(f"{name}: {line}", flush=True)

    dataset = os.path.join(data_dir, name.split("/")[0])
    data = read_data(dataset)
    say(f"{data.n_prefixes:,} training prefixes, {data.n_valid_prefixes:,} of them validate; {data.n_items:,} items")
    run = RunConfig.model_validate(
        {
            "name": "parity",
            "seed": cell.seed,
            "data": {
                "source": {"format": "parquet", "files": [os.path.join(dataset, "train_sessions.parquet")]},
                "columns": {"item_id": "items", "session_id": "row"},
                "sessions": {"max_length": MAX_LENGTH},
            },
            "model": {"method": "vanilla", "tower": cell.tower},
            "training": cell.training,
        }
    )
    trained = train(run, data.train, data.valid, data.n_items, os.path.join(folder, "state"), folder, say)
    metrics = metric_matrix(rank_prefixes(trained.model, data.test_prefixes, data.test_columns))
    gains = np.stack([metrics[metric] for metric in METRICS], axis=1)
    totals, counts = _sum_by_session(gains, data.test_sessions)
    value, low, high = bootstrap.ratio_intervals(totals, counts, RESAMPLES, RESAMPLES_SEED)
    seconds = sum(record["seconds"] or 0 for record in trained.history)
    result = {
        "settings": cell.settings,
        "demanded": dict(zip(METRICS, cell.demanded, strict=True)) if cell.demanded else None,
        "epochs": len(trained.history),
        "best_epoch": trained.best_epoch,
        "val_mrr@20": trained.history[trained.best_epoch - 1]["val_mrr@20"],
        "test": {metric: {"value": value[k], "low": low[k], "high": high[k]} for k, metric in enumerate(METRICS)},
        "test_prefixes": len(data.test_prefixes),
        "seconds": round(seconds),
        "targets_per_s": round(np.mean([record["targets_per_s"] or 0 for record in trained.history])),
    }
    say(f"test p@20 {value[0]:.4f} [{low[0]:.4f}, {high[0]:.4f}], mrr@20 {value[1]:.4f} [{low[1]:.4f}, {high[1]:.4f}]")
    return result


@dataclasses.dataclass(frozen=True)
class ParityData:
    """A data set: tables to train on and to validate with, and the test's prefixes as they are.

    n_prefixes, n_valid_prefixes: targets of the training sessions, and of those among them that validate.
    test_prefixes: `<int32>[n]` item indices of each, without unknown ones; test_columns: `<int32>[P]` the target's row of
    the item table, −1 = not in the catalogue; test_sessions: `<int64>[P]` number of the session that a prefix is of.
    """

    train: SessionTable
    valid: SessionTable
    n_items: int
    n_prefixes: int
    n_valid_prefixes: int
    test_prefixes: list[np.ndarray]
    test_columns: np.ndarray
    test_sessions: np.ndarray


def read_data(dataset: str) -> ParityData:
    """Reads a data set's folder. Items are numbered by how often they occur in the training sessions, most often first."""
    sessions = pd.read_parquet(os.path.join(dataset, "train_sessions.parquet"))["items"]
    item_id, count = np.unique(np.concatenate(sessions.to_list()), return_counts=True)
    item_id = item_id[np.argsort(-count, kind="stable")]
    index_of = {int(item): row + schema.FIRST_ITEM_INDEX for row, item in enumerate(item_id)}

    def encode(items: Sequence[int]) -> np.ndarray:
        return np.array([index_of[item] for item in items if item in index_of], np.int32)

    encoded = {f"{row:06d}": encode(items) for row, items in enumerate(sessions)}
    parts: tuple[dict, dict] = ({}, {})
    for session_id, items in encoded.items():
        is_valid = int(fingerprint(str(VALID_SEED), session_id), 16) < VALID_SHARE * 2**64
        parts[is_valid][session_id] = items
    test = pd.read_parquet(os.path.join(dataset, "test_prefixes.parquet"))
    columns = [index_of.get(int(target), 0) - schema.FIRST_ITEM_INDEX for target in test["target"]]
    return ParityData(
        train=tabulate(parts[False]),
        valid=tabulate(parts[True]),
        n_items=len(item_id),
        n_prefixes=sum(len(items) - 1 for items in encoded.values()),
        n_valid_prefixes=sum(len(items) - 1 for items in parts[True].values()),
        test_prefixes=[encode(prefix)[-MAX_LENGTH:] for prefix in test["prefix"]],
        test_columns=np.maximum(columns, -1).astype(np.int32),
        test_sessions=_number_sessions(test["prefix"].to_list(), test["target"].to_list()),
    )


def tabulate(sessions: Mapping[str, np.ndarray]) -> SessionTable:
    """A table in which every item but a session's first is a target once.

    A session with more than MAX_LENGTH targets is cut into pieces; each begins with the last item of the one before.
    """
    pieces = {
        f"{session_id}/{start:03d}".encode(): items[start : start + MAX_LENGTH + 1]
        for session_id, items in sessions.items()
        for start in range(0, len(items) - 1, MAX_LENGTH)
    }
    item_index = np.concatenate([*pieces.values(), np.zeros(0, np.int32)]).astype(np.int32)
    return SessionTable(
        session_id=np.array(list(pieces), object),
        user_id=np.array([b""] * len(pieces), object),
        start_s=np.zeros(len(pieces), np.int64),
        length=np.array([len(items) for items in pieces.values()], np.int32),
        item_index=item_index,
        is_false_positive=np.zeros(len(item_index), bool),
    )


def _number_sessions(prefixes: Sequence[np.ndarray], targets: Sequence[int]) -> np.ndarray:
    """`<int64>[P]` the session of each prefix: a session's prefixes follow each other, the longest first."""
    is_first = [
        k == 0 or [*prefix, target] != list(prefixes[k - 1])
        for k, (prefix, target) in enumerate(zip(prefixes, targets, strict=True))
    ]
    return np.cumsum(is_first) - 1


def _sum_by_session(gains: np.ndarray, sessions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`<float64>[P, C]` gains of prefixes → `<float64>[S, C]` sums and `<int64>[S]` numbers of prefixes."""
    sums = np.stack([np.bincount(sessions, column) for column in gains.T], axis=1)
    return sums, np.bincount(sessions)


def rank_prefixes(model: SessionModel, prefixes: Sequence[np.ndarray], columns: np.ndarray) -> np.ndarray:
    """`<int64>[P]` rank of each target over the whole catalogue; 0 = target not in it, or nothing known of the prefix.

    Args:
        prefixes: `<int>[n]` item indices of each.
        columns: `<int32>[P]` the targets' rows of the item table; −1 = not in it.
    """
    candidates = model.candidates()

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)])
    def rank(item_index: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        last = tf.math.count_nonzero(item_index, axis=1, keepdims=True, dtype=tf.int32) - 1
        queries = model.target_queries({schema.ITEM_INDEX: item_index, schema.TARGET_POSITION: last})
        return count_ranks(queries[:, 0], candidates, column, _RANK_CHUNK_SIZE)

    lengths = np.array([len(prefix) for prefix in prefixes])
    rows = np.flatnonzero(lengths)
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    ranks = np.zeros(len(prefixes), np.int64)
    for start in range(0, len(rows), _RANK_BATCH):
        batch = rows[start : start + _RANK_BATCH]
        padded = tf.ragged.constant([prefixes[row] for row in batch], dtype=tf.int32).to_tensor()
        ranks[batch] = rank(padded, columns[batch]).numpy()
    return ranks


@contextlib.contextmanager
def _lock(path: str, operation: int) -> Iterator[bool]:
    """Whether the lock is held now; the system releases it when the process ends, however it ends."""
    with open(path, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, operation)
        except BlockingIOError:
            yield False
        else:
            yield True


def _read_results(path: str) -> dict[str, Any]:
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _write_results(path: str, results: Mapping[str, Any]) -> None:
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1, sort_keys=True)
        file.write("\n")
    os.replace(partial, path)


def describe(cells: Mapping[str, Cell], results: Mapping[str, Any]) -> str:
    """The results as a Markdown table, P@20 / MRR@20 in percent, a line a cell."""
    lines = [
        "| | demanded | published | P@20 [95 %] | MRR@20 [95 %] | val MRR@20 | epoch | seed | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, cell in cells.items():
        demanded, published = (
            f"{pair[0]:.2f} / {pair[1]:.2f}" if pair else "" for pair in (cell.demanded, cell.published)
        )
        reached = "| | | | | |"
        if name in results:
            result = results[name]
            figures = [
                f"{100 * test['value']:.2f} [{100 * test['low']:.2f}, {100 * test['high']:.2f}]"
                for test in (result["test"][metric] for metric in METRICS)
            ]
            reached = (
                f"{figures[0]} | {figures[1]} | {100 * result['val_mrr@20']:.2f} | {result['best_epoch']} of "
                f"{result['epochs']} | {result['settings']['seed']} | {result['seconds'] / 60:.0f} |"
            )
        lines.append(f"| {name} | {demanded} | {published} | {reached}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
