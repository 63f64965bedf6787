"""Drift since the last pushed model: what TFDV measures is what NumPy counts, and what has moved is named."""

import re

import numpy as np
import pyarrow as pa
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory

from components import anomaly_gate
from fp_tfrs.config import DriftConfig
from fp_tfrs.data import drift

N_ITEMS = 40


class Log:
    """Sessions of Zipf-like items, and their statistics as StatisticsGen leaves them."""

    def __init__(self, folder, seed=0, fp_share=0.2, mean_extra=4, favourite=0.0, n_sessions=3000):
        rng = np.random.default_rng(seed)
        self.lengths = 2 + rng.geometric(1 / mean_extra, n_sessions) - 1
        weights = 1 / np.arange(3, N_ITEMS + 3)
        self.items = rng.choice(N_ITEMS, self.lengths.sum(), p=weights / weights.sum())
        self.items[rng.random(len(self.items)) < favourite] = N_ITEMS - 1
        self.flags = (rng.random(len(self.items)) < fp_share).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        columns = {"item_id": pa.array([f"i{n}" for n in self.items]), "is_false_positive": pa.array(self.flags)}
        lists = [pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), column) for column in columns.values()]
        path = folder / f"{seed}" / drift.TRAINING_FILE
        path.parent.mkdir(parents=True)
        self.uri = str(folder / f"{seed}")
        statistics = generate_statistics_in_memory(
            pa.RecordBatch.from_arrays(lists, list(columns)), tfdv.StatsOptions()
        )
        path.write_bytes(statistics.SerializeToString())
        self.summary = drift.summarise(str(path))

    def shares(self):
        return np.bincount(self.items, minlength=N_ITEMS) / len(self.items)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return Log(tmp_path_factory.mktemp("usual"))


def test_another_sample_of_the_same_has_not_drifted(usual, tmp_path):
    for seed in range(1, 4):
        assert drift.describe_drift(Log(tmp_path, seed).summary, usual.summary, DriftConfig()) == []


@pytest.mark.parametrize(
    ("change", "column", "limit"),
    [
        ({"fp_share": 0.4}, "is_false_positive", "max_fp_share_change = 0.1"),  # doubled
        ({"favourite": 0.15}, "item_id", "max_item_change = 0.05"),
        ({"mean_extra": 10}, "session_length", "max_length_divergence = 0.1"),  # from 5 clicks to 11
    ],
)
def test_what_has_moved_is_named_with_value_and_limit_and_nothing_else(usual, tmp_path, change, column, limit):
    now = Log(tmp_path, 9, **change)
    (sentence,) = drift.describe_drift(now.summary, usual.summary, DriftConfig())
    value = {
        "is_false_positive": now.flags.mean() - usual.flags.mean(),
        "item_id": np.abs(now.shares() - usual.shares()).max(),
        "session_length": None,  # of deciles: not to be had of the sessions
    }[column]
    found = re.fullmatch(rf"{column} has drifted .*, (\d\.\d{{3}}), is above validation\.drift\.{limit}", sentence)
    assert found and float(found[1]) > float(limit.split()[-1]), sentence
    assert value is None or float(found[1]) == pytest.approx(value, abs=0.0006)


def test_values_are_those_of_numpy_and_limits_those_of_the_configuration(usual, tmp_path):
    now = Log(tmp_path, 9, fp_share=0.25, favourite=0.05)
    items, flags = np.abs(now.shares() - usual.shares()).max(), abs(now.flags.mean() - usual.flags.mean())
    strict = DriftConfig(max_item_change=items - 0.002, max_fp_share_change=flags - 0.002)
    by_flags, by_items = sorted(drift.describe_drift(now.summary, usual.summary, strict))
    assert f"false positives, {flags:.3f}, is above validation.drift.max_fp_share_change = " in by_flags
    assert f"clicks, {items:.3f}, is above validation.drift.max_item_change = " in by_items
    loose = DriftConfig(max_item_change=items + 0.002, max_fp_share_change=flags + 0.002)
    assert drift.describe_drift(now.summary, usual.summary, loose) == []


def test_the_gate_compares_with_the_last_pushed_version(usual, tmp_path, capsys):
    doubled, serving = Log(tmp_path, 9, fp_share=0.4), tmp_path / "serving"
    assert anomaly_gate.list_drift(doubled.uri, str(serving), DriftConfig()) == []  # nothing is pushed yet
    (serving / "1").mkdir(parents=True)
    assert anomaly_gate.list_drift(doubled.uri, str(serving), DriftConfig()) == []
    assert "drift is not looked for" in capsys.readouterr().err
    for version, log in (("2", doubled), ("10", usual)):
        path = serving / version / drift.SUMMARY_FILE
        path.parent.mkdir(parents=True)
        path.write_text(log.summary)
    (sentence,) = anomaly_gate.list_drift(doubled.uri, str(serving), DriftConfig())
    assert sentence.startswith("is_false_positive has drifted since the last pushed model")
