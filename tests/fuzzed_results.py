"""What reads results of experiments that came with a project, as cases and checks (see `fuzzed_data.py`).

Files that only a run writes and reads, in its own root, are left out: what searches and trainings hand to their processes,
trials, and the report of an evaluation.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
from fuzzed_data import Parser, refusing
from hostile import as_json, byte_strings, scalars, value_trees

from fp_tfrs.experiments.ledger import Judged, Ledger, Training

TRAINING = {"run": "a1", "val_mrr": 0.25, "best_epoch": 3, "seconds": 12.5, "code": "c0de"}


def ledgers(folder: Path) -> Parser:
    """Lines of trainings, torn ones too, and ranks of judged runs."""
    ledger, path, ranks = Ledger(str(folder)), folder / "trainings.jsonl", folder / "ranks" / "a1.npz"
    ledger.judge("a1", Judged(np.array([1, 2]), [{"epoch": 1, "val_mrr@20": 0.5}], {"set_hr@50": np.array([0.5])}))
    text, packed = as_json(TRAINING) + b"\n" + as_json(TRAINING | {"run": "a2"}) + b"\n", ranks.read_bytes()

    def arrays(values: Any) -> bytes:
        sink = io.BytesIO()
        np.savez(sink, **values)
        return sink.getvalue()

    def check(case: tuple[str, bytes]) -> bool:
        kind, content = case
        if kind == "trainings":
            path.write_bytes(content)
            with refusing(str(path), "; delete the line") as said:
                found = ledger.trainings()
                assert all(isinstance(training, Training) for training in found.values())
                "".join([*found, *(training.code for training in found.values())]).encode()  # as a report writes them
            return not said and bool(found)
        ranks.write_bytes(content)
        with refusing(str(ranks), "; delete it and start again") as said:
            judged = ledger.judged("a1")
            assert judged.ranks.dtype == np.int64 and isinstance(judged.history, list)
        return not said

    names = st.sampled_from(["ranks", "history", "set_hr@50", "x"])
    values = st.one_of(scalars, value_trees([[{"epoch": 1}]]).map(as_json).map(bytes.decode), st.just([1, 2]))
    made = st.dictionaries(names, values.map(_to_array), max_size=3).map(arrays)
    trees = value_trees([TRAINING]).map(as_json)
    lines = st.one_of(trees, trees.map(lambda line: text + line), byte_strings([text]))
    files = st.one_of(byte_strings([packed]), made)
    return Parser(st.one_of(*(st.tuples(st.just(k), v) for k, v in (("trainings", lines), ("ranks", files)))), check)


def _to_array(value: Any) -> np.ndarray:
    try:
        found = np.array(value)
    except (ValueError, OverflowError):
        return np.array(0)
    return found if found.dtype.kind != "O" else np.array(str(value)[:100])


PARSERS: dict[str, Callable[[Path], Parser]] = {"ledgers": ledgers}
