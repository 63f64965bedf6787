"""A data set's prepared files → what all cells of an experiment share: tables to train on, targets to be judged by.

The files come from the pipeline's own nodes up to Transform, which `pipeline.local_runner.prepare_data` runs.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fp_tfrs import schema, storage
from fp_tfrs.config import RunConfig, fingerprint
from fp_tfrs.data import examples
from fp_tfrs.data.session_table import SessionTable, read_sessions
from fp_tfrs.data.vocabulary import read_vocabulary
from fp_tfrs.errors import RunError
from fp_tfrs.evaluation import baselines, top_lists
from fp_tfrs.evaluation.answers import ask_ranker
from fp_tfrs.evaluation.targets import Targets, list_targets
from fp_tfrs.experiments.figures import SET_METRICS
from fp_tfrs.experiments.results import Baseline
from fp_tfrs.simulation import bayes


class PreparedFiles(NamedTuple):
    """Where the pipeline's nodes left a data set."""

    examples_dir: str  # raw examples
    transformed_dir: str  # transformed ones, a folder a split
    item_vocabulary: str
    user_vocabulary: str | None


@dataclasses.dataclass(frozen=True)
class PreparedData:
    """A data set in memory.

    Attributes:
        tables: split → its sessions.
        catalogue: V item ids; n_users: U, 0 if no cell has users.
        targets: n test targets, the same for every cell.
        item_counts: <int64>[V] kept training events.
    """

    files: PreparedFiles
    tables: Mapping[str, SessionTable]
    catalogue: list[str]
    n_users: int
    targets: Targets
    item_counts: np.ndarray

    @functools.cached_property
    def digest(self) -> str:
        """Changes with the catalogue, a session of a split, or a target or its place."""
        targets = self.targets
        arrays = (targets.session, targets.position, targets.column, targets.is_false_positive)
        sessions = (session.session_id for session in targets.sessions)
        parts = (*sessions, "", *(str(array.tolist()) for array in arrays))
        return fingerprint(
            *self.catalogue, "", *parts, *(_digest_of(self.tables[name]) for name in sorted(self.tables))
        )


def _digest_of(table: SessionTable) -> str:
    """Of all but user_index: whether that is read depends on which other cells the experiment has."""
    digest = hashlib.sha256()
    for field in dataclasses.fields(table):
        values = getattr(table, field.name)
        if values is not None and field.name != "user_index":
            content = repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
            digest.update(f"{field.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def load(files: PreparedFiles, run: RunConfig) -> PreparedData:
    """Reads the tables; `run` is any run of the data set's cells that has all of their side features."""
    catalogue = read_vocabulary(files.item_vocabulary)
    tables = {
        split: read_sessions(
            tf.io.gfile.glob(os.path.join(files.transformed_dir, f"Split-{split}", "*")),
            has_users=files.user_vocabulary is not None,
            has_history=run.data.history is not None,
            has_unclicked=run.data.unclicked is not None,
            has_satisfaction=run.data.satisfaction is not None,
        )
        for split in schema.SPLITS
    }
    return PreparedData(
        files,
        tables,
        catalogue,
        len(read_vocabulary(files.user_vocabulary)) if files.user_vocabulary else 0,
        list_targets(examples.read_sessions(files.examples_dir, schema.TEST), catalogue),
        tables[schema.TRAIN].count_kept_items(len(catalogue)),
    )


def judge_baselines(data: PreparedData, run: RunConfig, cache_path: str) -> dict[str, Baseline]:
    """Baselines by name; kept in a file, as S-KNN takes minutes on a large log."""
    if not os.path.exists(cache_path):
        sessions = examples.read_sessions(data.files.examples_dir, schema.TRAIN)
        rankers = dict(baselines.fit(sessions, data.catalogue).rankers)
        rankers |= bayes.rankers(run.data, data.catalogue)
        cuts = top_lists.part_sessions(data.targets)
        arrays = {}
        for name, ranker in rankers.items():
            answers = ask_ranker(name, ranker, data.targets, cuts, len(data.catalogue))
            lists = top_lists.list_values(answers.top, cuts, data.item_counts)
            assert lists is not None  # the lists are of full width
            arrays[f"{name}/ranks"] = answers.ranks
            arrays |= {f"{name}/{metric}": lists.of_list[metric] for metric in SET_METRICS}
        save_arrays(cache_path, arrays)
    arrays = load_arrays(cache_path)
    names = [key.removesuffix("/ranks") for key in arrays if key.endswith("/ranks")]
    return {
        name: Baseline(arrays[f"{name}/ranks"], {metric: arrays[f"{name}/{metric}"] for metric in SET_METRICS})
        for name in names
    }


def save_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed .npz by rename."""
    storage.make_folder(os.path.dirname(path))
    with storage.replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_arrays(path: str) -> dict[str, np.ndarray]:
    """The inverse of `save_arrays`.

    Raises:
        RunError: the file is damaged.
    """
    try:
        return storage.read_arrays(path)
    except OSError as error:
        raise RunError(f"{path} is unreadable; delete it and start again") from error
