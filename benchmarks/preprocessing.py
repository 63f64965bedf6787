"""What preprocessing a log of clicks takes, a tenth of it, and what Beam alone would take for as many elements.

In: `globo/clicks.parquet` of `FP_TFRS_DATA_DIR`, all of it and the clicks of a tenth and of a hundredth of its users. Out: seconds and the most
memory of each of Beam's processes, by one process and by two (`beam_workers.process`), and Beam's floor: a pipeline that only
makes as many elements and passes them through a function that does nothing, and one that also groups them once by session.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fp_tfrs  # noqa: F401  settles Keras 2 before TensorFlow is imported

# isort: split
import apache_beam as beam
import pandas as pd

from benchmarks import beam_workers
from fp_tfrs.config import BeamConfig, DataConfig
from pipeline import several_workers

WAYS = {"one process": BeamConfig(), "two processes": BeamConfig(workers=2)}
SIZES = {"whole": 1, "tenth": 10, "hundredth": 100}
_CHUNK = 1_000  # elements that come of one


def measure(data_dir: str, n_rounds: int) -> dict[str, Any]:
    """n_clicks: size → clicks; rounds: a list of size and way → seconds, memory_mib of each process, cpu_s; of floor,
    stage → seconds. Sizes: those of `SIZES`."""
    with tempfile.TemporaryDirectory(prefix="preprocessing-") as name:
        folder = Path(name)
        clicks = pd.read_parquet(os.path.join(data_dir, "globo", "clicks.parquet"))
        parts = {size: clicks[clicks["user_id"] % every == 0] for size, every in SIZES.items()}
        n_clicks = {size: len(part) for size, part in parts.items()}
        logs = {size: _write_log(part, folder / f"{size}.parquet") for size, part in parts.items()}
        del clicks, parts
        rounds = []
        for k in range(n_rounds):
            found: dict[str, Any] = {
                f"{size}, {way}": _process(log, section, folder / f"{size} {way} {k}")
                for way, section in WAYS.items()
                for size, log in logs.items()
            }
            rounds.append({**found, "floor": time_floor(n_clicks["whole"], WAYS["one process"])})
    return {"n_clicks": n_clicks, "rounds": rounds}


def _write_log(clicks: pd.DataFrame, path: Path) -> DataConfig:
    clicks.to_parquet(path)
    return DataConfig.model_validate(
        {
            "source": {"format": "parquet", "files": [str(path)]},
            "columns": {
                "user_id": "user_id",
                "session_id": "session_id",
                "item_id": "click_article_id",
                "timestamp": "click_timestamp",
            },
            "time_unit": "ms",
            "split": {"by": "random"},
        }
    )


def _process(log: DataConfig, section: BeamConfig, folder: Path) -> Mapping[str, Any]:
    outcome = beam_workers.process(log, section, folder)
    memory = [peak for peaks in outcome.memory_mib.values() for peak in peaks]
    return {"seconds": outcome.seconds, "memory_mib": memory, "cpu_s": outcome.measured["cpu_s"]}


def time_floor(n_elements: int, section: BeamConfig) -> dict[str, float]:
    """Seconds of Beam alone for so many elements: `map`, and `map and group` by a key that three elements share."""
    several_workers.make_safe()
    seconds = {}
    for name in ("map", "map and group"):
        begin_s = time.perf_counter()
        with beam.Pipeline(argv=section.arguments()) as pipeline:
            elements = (
                pipeline
                | beam.Create(range(-(-n_elements // _CHUNK)))
                | "make" >> beam.FlatMap(_make)
                | "pass" >> beam.Map(_key)
            )
            if name == "map and group":
                elements |= beam.GroupByKey()
            _ = elements | "end" >> beam.combiners.Count.Globally()
        seconds[name] = time.perf_counter() - begin_s
    return seconds


def _make(chunk: int) -> range:
    return range(chunk * _CHUNK, (chunk + 1) * _CHUNK)


def _key(element: int) -> tuple[int, int]:
    return element // 3, element
