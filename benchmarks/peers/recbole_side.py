"""RecBole's side of the comparison, by its own data set, loaders and trainer; runs in the environment of `setup.sh`.

In: the atomic files of `data.py`, and the description that `worker.serve` reads. RecBole pads every prefix to the longest
one of the file, and makes batches in the training process (its default, `worker: 0`), as it does for its users.
"""

from __future__ import annotations

import collections
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed

from benchmarks.peers import settings, worker


class RecBole:
    """A tower of RecBole's on a data set.

    Args:
        description: dataset, tower; atomic_dir, with the folder of the data set's files; threads.
    """

    def __init__(self, description: Mapping[str, Any]):
        torch.set_num_threads(description["threads"])
        torch.set_num_interop_threads(description["threads"])
        atomic_dir = description["atomic_dir"]
        os.chdir(atomic_dir)  # RecBole makes folders for logs where it is
        _, tower = settings.TOWERS[description["tower"]]
        config = Config(
            dataset=description["dataset"],
            config_dict={
                "embedding_size": settings.DIM,
                **tower,
                "data_path": atomic_dir,
                "benchmark_filename": ["train", "valid", "valid"],  # RecBole wants a test set, too
                "USER_ID_FIELD": "session_id",
                "ITEM_ID_FIELD": "item_id",
                "alias_of_item_id": ["item_id_list"],
                "load_col": {"inter": ["session_id", "item_id_list", "item_id"]},
                "MAX_ITEM_LIST_LENGTH": settings.MAX_PREFIX,
                "loss_type": "CE",
                "train_neg_sample_args": None,
                "train_batch_size": settings.TARGETS_PER_STEP,
                "eval_batch_size": settings.EVAL_ROWS,
                "learning_rate": settings.LEARNING_RATE,
                "clip_grad_norm": {"max_norm": settings.CLIP_NORM},
                "eval_args": {"split": None, "group_by": "user", "order": "TO", "mode": "full"},
                "metrics": ["MRR", "Hit"],
                "topk": [settings.TOP_K],
                "valid_metric": f"MRR@{settings.TOP_K}",
                "metric_decimal_place": 6,
                "seed": settings.SEED,
                "use_gpu": False,
                "show_progress": False,
            },
        )
        init_seed(config["seed"], config["reproducibility"])
        data = create_dataset(config)
        self._n_items = data.item_num - 1  # without padding
        self._train, self._valid, _ = data_preparation(config, data)
        init_seed(config["seed"], config["reproducibility"])
        self._model = get_model(config["model"])(config, self._train.dataset)
        self._trainer = Trainer(config, self._model)
        self._epoch = 0

    def facts(self) -> dict[str, Any]:
        return {
            "n_targets": self._train.sample_size,
            "n_steps": len(self._train),
            "n_valid_targets": self._valid.sample_size,
            "n_items": self._n_items,
            "n_parameters": sum(parameter.numel() for parameter in self._model.parameters()),
        }

    def train(self, n_steps: int, least_s: float) -> dict[str, Any]:
        def train_epoch(batches: _Counted) -> None:
            self._trainer._train_epoch(batches, self._epoch)
            self._epoch += 1

        return self._repeat(train_epoch, n_steps, least_s)

    def load(self, n_steps: int, least_s: float) -> dict[str, Any]:
        return self._repeat(functools.partial(collections.deque, maxlen=0), n_steps, least_s)

    def _repeat(self, use: Callable[[_Counted], object], n_steps: int, least_s: float) -> dict[str, Any]:
        n_targets = 0
        seconds = 0.0
        begin_s = time.perf_counter()
        while not n_targets or seconds < least_s:
            batches = _Counted(self._train, n_steps)
            use(batches)
            n_targets += batches.n_targets
            seconds = time.perf_counter() - begin_s
        return {"seconds": seconds, "n_targets": n_targets}

    def evaluate(self) -> dict[str, Any]:
        begin_s = time.perf_counter()
        result = self._trainer.evaluate(self._valid, load_best_model=False)
        seconds = time.perf_counter() - begin_s
        return {"seconds": seconds, "n_targets": self._valid.sample_size, "mrr": result[f"mrr@{settings.TOP_K}"]}

    def multiply(self, n_rows: int) -> dict[str, Any]:
        rows, items = torch.rand(n_rows, settings.DIM), torch.rand(self._n_items, settings.DIM)
        begin_s = time.perf_counter()
        logits = rows @ items.T
        _ = logits @ items, logits.T @ rows
        return {"seconds": time.perf_counter() - begin_s, "flop": 6 * n_rows * self._n_items * settings.DIM}


class _Counted:
    """The first batches of an epoch, and how many targets they had."""

    def __init__(self, batches: Any, n_steps: int):
        self._batches, self._n_steps = batches, n_steps
        self.n_targets = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in itertools.islice(self._batches, self._n_steps):
            self.n_targets += len(batch)
            yield batch


if __name__ == "__main__":
    worker.serve(RecBole)
