"""A data set → the tables that the project trains on, and RecBole's atomic files of the same pairs of prefix and target.

Sessions of one event, which have nothing to predict, are left out; items are numbered by how often they occur, and all that
occur are the catalogue. A random share of the sessions validates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import fp_tfrs  # noqa: F401  settles Keras 2 before TensorFlow is imported

# isort: split
import numpy as np
import pandas as pd

from benchmarks import parity
from benchmarks.peers import settings
from fp_tfrs import schema
from fp_tfrs.data.session_table import SessionTable

_GAP_S = 86_400
_HEADER = "session_id:token\titem_id_list:token_seq\titem_id:token\n"


class PeerData(NamedTuple):
    """Tables of pieces of sessions, at most `MAX_PREFIX` targets each, all but the first event of a piece being one."""

    train: SessionTable
    valid: SessionTable
    n_items: int


def read(dataset: str, data_dir: str) -> PeerData:
    """Reads one of `settings.DATASETS` from the folder with all of them."""
    if dataset == "diginetica":
        path = os.path.join(data_dir, "diginetica", "train_sessions.parquet")
        return split(pd.read_parquet(path)["items"].to_list(), settings.DATASETS[dataset])
    path = os.path.join(data_dir, "movietweetings_100k", "ratings.dat")
    names = ["user", "item", "rating", "time_s"]
    ratings = pd.read_csv(path, sep="::", names=names, engine="python").sort_values(["user", "time_s"], kind="stable")
    is_first = (ratings["user"].diff() != 0) | (ratings["time_s"].diff() > _GAP_S)
    return split(
        [items.to_numpy() for _, items in ratings.groupby(is_first.cumsum())["item"]], settings.DATASETS[dataset]
    )


def split(sessions: Sequence[np.ndarray], valid_share: float) -> PeerData:
    """Sessions `<int>[n]` of item ids, oldest event first → both tables; n_items as `PeerData` says."""
    sessions = [items for items in sessions if len(items) > 1]
    item_id, row, count = np.unique(np.concatenate(sessions), return_inverse=True, return_counts=True)
    index = np.empty(len(item_id), np.int32)
    index[np.argsort(-count, kind="stable")] = np.arange(len(item_id)) + schema.FIRST_ITEM_INDEX
    encoded = np.split(index[row], np.cumsum([len(items) for items in sessions])[:-1])
    is_valid = np.random.default_rng(settings.VALID_SEED).random(len(sessions)) < valid_share
    train, valid = ({f"{k:06d}": encoded[k] for k in np.flatnonzero(part)} for part in (~is_valid, is_valid))
    return PeerData(parity.tabulate(train), parity.tabulate(valid), len(item_id))


def pairs(table: SessionTable) -> Iterator[tuple[np.ndarray, int]]:
    """Each target of the table with its prefix: `<int32>[1 … MAX_PREFIX]` item indices, and the target's."""
    end = np.cumsum(table.length)
    for first, last in zip(end - table.length, end, strict=True):
        for k in range(first + 1, last):
            yield table.item_index[first:k], int(table.item_index[k])


def write_atomic(dataset: str, data: PeerData, folder: Path) -> None:
    """`<folder>/<dataset>/<dataset>.train.inter` and `….valid.inter`: a row for each of `pairs`."""
    (folder / dataset).mkdir(parents=True, exist_ok=True)
    for name, table in (("train", data.train), ("valid", data.valid)):
        with open(folder / dataset / f"{dataset}.{name}.inter", "w", encoding="utf-8") as file:
            file.write(_HEADER)
            numbered = enumerate(pairs(table))
            file.writelines(
                f"{number}\t{' '.join(map(str, prefix))}\t{target}\n" for number, (prefix, target) in numbered
            )
