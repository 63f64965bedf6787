"""What a large catalogue costs: a training step with the sampled softmax by its size, and the memory of ranking a million items.

Made-up sessions; nothing is read.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import fp_tfrs  # noqa: F401  settles Keras 2 before TensorFlow is imported

# isort: split
import numpy as np
import tensorflow as tf

from benchmarks import parity, throughput
from benchmarks.peers.worker import memory_mib
from fp_tfrs import schema
from fp_tfrs.config import ModelConfig
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.learning.ranking import TargetRanking

CATALOGUES = (10_000, 100_000, 1_000_000)
_SAMPLED = {"sampled": {"method": "vanilla", "next_item": {"kind": "sampled_softmax"}}}
_BATCH_SIZE = 128  # the default of `training.batch_size`


def time_steps(n_rounds: int, n_threads: int) -> dict[str, Any]:
    """Number of items → seconds of GRU4Rec's training step in each round, all sizes in turn."""
    _use_threads(n_threads)
    runs = {
        str(n_items): throughput.step_runs("gru4rec", _SAMPLED, n_items, throughput.Sizes())["sampled"]
        for n_items in CATALOGUES
    }
    # A step is short: ten rounds for one of the others.
    return {n_items: seconds.tolist() for n_items, seconds in throughput.measure(runs, 10 * n_rounds).items()}


def rank_a_million(n_threads: int, n_items: int = CATALOGUES[-1], n_sessions: int = 500) -> dict[str, Any]:
    """Ranks the targets of sessions of five events: `extra_mib`, the most memory beyond what the model had, and seconds."""
    _use_threads(n_threads)
    random = np.random.default_rng(1)
    items = random.integers(n_items, size=(n_sessions, 5), dtype=np.int32) + schema.FIRST_ITEM_INDEX
    table = parity.tabulate({f"{k:06d}": row for k, row in enumerate(items)})
    config = ModelConfig.model_validate({"method": "vanilla", "tower": {"name": "gru4rec"}})
    ranking = TargetRanking(SessionModel(config, n_items, 1, np.ones(n_items)), table, config, _BATCH_SIZE)
    # What was needed to make the model is given back, and the peak begins here.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, begin_s = memory_mib("VmRSS"), time.perf_counter()
    ranking.ranks()
    seconds = time.perf_counter() - begin_s
    return {"extra_mib": memory_mib("VmHWM") - before, "seconds": seconds, "n_sessions": n_sessions}


def _use_threads(n_threads: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(n_threads)
    tf.config.threading.set_inter_op_parallelism_threads(n_threads)
