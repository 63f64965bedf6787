"""The comparison with RecBole is one of equal work, and the table says of its answers what they are; RecBole isn't needed."""

import collections
import json
import sys

import numpy as np
import pytest

from benchmarks import bench, bench_table
from benchmarks.peers import compare, data, ours, settings, worker
from fp_tfrs import schema
from fp_tfrs.data.dataset import TrainingBatches

N_ITEMS = 30


@pytest.fixture(scope="module")
def sessions():
    """Sessions of items that are rare and common, one of a single event, one longer than a prefix may be."""
    rng = np.random.default_rng(3)
    lengths = [1, 130, *rng.integers(2, 12, 400)]
    return [rng.zipf(1.5, n) % N_ITEMS + 1 for n in lengths]


@pytest.fixture(scope="module")
def peer_data(sessions):
    return data.split(sessions, 0.1)


def test_recbole_reads_the_pairs_of_prefix_and_target_that_our_batches_hold(peer_data, tmp_path):
    data.write_atomic("made_up", peer_data, tmp_path)
    header, *lines = (tmp_path / "made_up" / "made_up.train.inter").read_text().splitlines()
    assert header.split("\t") == ["session_id:token", "item_id_list:token_seq", "item_id:token"]
    theirs = collections.Counter(
        (tuple(map(int, prefix.split())), int(target)) for _, prefix, target in (line.split("\t") for line in lines)
    )
    model = ours.model_config("gru4rec", {"kind": "full_softmax"})
    training = ours.training_config(peer_data.train, model, 64)
    batches = TrainingBatches(peer_data.train, model, training, 1)
    found = collections.Counter()
    for batch in batches.epoch(0).as_numpy_iterator():
        for items, labels in zip(batch[schema.ITEM_INDEX], batch[schema.LABEL], strict=True):
            for k in np.flatnonzero(labels):
                found[tuple(items[: k + 1].tolist()), int(labels[k])] += 1
    assert found == theirs
    assert max(len(prefix) for prefix, _ in theirs) == settings.MAX_PREFIX
    # RecBole's steps of an epoch, and ours: within one in twenty.
    assert batches.n_steps == pytest.approx(batches.n_targets / 64, rel=0.05)


def test_both_tables_together_have_every_target_of_the_log(sessions, peer_data):
    n_targets = [sum(1 for _ in data.pairs(table)) for table in (peer_data.train, peer_data.valid)]
    assert sum(n_targets) == sum(len(items) - 1 for items in sessions)
    assert min(n_targets) > 0
    assert peer_data.n_items == len(np.unique(np.concatenate(sessions[1:])))


def _facts(**changed):
    side = {"n_targets": 1000, "n_steps": 10, "n_valid_targets": 90, "n_items": 30, "n_parameters": 5000}
    return {"full": {**side, **changed}, "recbole": side}


@pytest.mark.parametrize(
    "changed", [{"n_targets": 999}, {"n_steps": 9}, {"n_valid_targets": 91}, {"n_items": 31}, {"n_parameters": 5100}]
)
def test_sides_that_do_different_work_are_refused(changed):
    compare.check_equal_work(_facts(), 100)
    with pytest.raises(RuntimeError, match="full"):
        compare.check_equal_work(_facts(**changed), 100)


def _cell(train_s):
    """Three sides of 1,000 targets, RecBole's training four times as long as ours; 1e9 FLOP take it 0.1 s, us 0.2 s."""

    def answers(seconds, multiply_s):
        ask = {"seconds": seconds, "n_targets": 1000}
        product = {"seconds": multiply_s, "flop": 1e9, "peak_mib": 5}
        return {"train": ask, "load": {**ask, "seconds": 0.1}, "evaluate": ask, "multiply": product}

    each = {"full": answers(train_s, 0.2), "sampled": answers(0.2, 0.2), "recbole": answers(4 * train_s, 0.1)}
    each["full"]["differentiate"] = {"seconds": 0.5, "n_targets": 1000}
    facts = {"full": {"n_items": 5000, "n_valid_sessions": 250, "n_valid_targets": 1000}}
    return {"facts": facts, "warm_up": each, "rounds": [each]}


def test_ratios_and_shares_of_the_machine_are_those_of_the_answers():
    rows = {row.figure: row for row in bench_table.cell_rows("diginetica", "narm", 1, _cell(1.0))}
    by_word = {
        word: next(row for figure, row in rows.items() if word in figure) for word in ("full", "rate of", "rank")
    }
    assert by_word["full"].measured == "1,000 ÷ RecBole's 250 = 4.00"
    assert by_word["full"].is_met
    # 6 · 5000 · 100 FLOP a target at 10 GFLOP/s: 3,333 targets/s.
    assert by_word["full"].machine.startswith("3,333")
    assert by_word["rate of"].measured == "30%; RecBole 8%"
    assert by_word["rate of"].machine == "100 %; by tower and loss alone 60%"
    assert not by_word["rate of"].is_met
    assert by_word["rank"].measured.startswith("250 ÷ RecBole's 62 = 4")
    assert by_word["rank"].machine == "2,500"


class _Learning:
    """A side that learns by a curve of MRR@20, 1,000 targets an epoch."""

    def __init__(self, curve):
        self.facts = {"n_steps": 1}
        self._curve = iter(curve)

    def ask(self, name, **_):
        return {"mrr": next(self._curve)} if name == "evaluate" else {"seconds": 0.4, "n_targets": 1000}

    def close(self):
        pass


def test_a_sampled_softmax_is_trained_until_it_is_as_good_as_the_full_one_or_rises_no_more(monkeypatch):
    def start(stack, names, *_, negatives=None):
        curves = {"full": [0.1, 0.2, 0.19, 0.18, 0.9], "recbole": [0.11, 0.21, 0.9]}
        sampled = {10: [0.1, 0.15, 0.14, 0.13, 0.9], 20: [0.1, 0.1991, 0.9], None: None}[negatives]
        return {names[0]: _Learning(curves.get(names[0], sampled))}

    monkeypatch.setattr(compare, "_start", start)
    found = compare.run_until_equal(
        "diginetica",
        "narm",
        negatives=[10, 20],
        max_epochs=9,
        n_peer_epochs=2,
        data_dir="",
        recbole_python="",
        folder=None,
    )
    short, enough, alike = bench_table.rows({"until-equal/narm": {"answer": found}})
    assert short.measured == "0.1500 after 4 epochs, full 0.2000 after 4: -25.0%"
    assert enough.measured == "0.1991 after 2 epochs, full 0.2000 after 4: -0.5%"
    assert (short.is_met, enough.is_met) == (False, True)
    assert alike.measured == "0.1000, 0.1100; 0.2000, 0.2100"


@pytest.mark.parametrize(("power", "is_met"), [(1.0, True), (1.2, False)])
def test_preprocessing_is_linear_whatever_it_takes_to_start(power, is_met):
    n_clicks = {"whole": 3_000_000, "tenth": 300_000, "hundredth": 30_000}
    each = {
        f"{size}, one process": {"seconds": 20 + 1e-6 * n**power, "memory_mib": [900, 800]}
        for size, n in n_clicks.items()
    }
    answer = {"n_clicks": n_clicks, "rounds": [{**each, "floor": {"map": 3.0}}]}
    rows = list(bench_table.rows({"preprocessing": {"answer": answer}}))
    assert [row.is_met for row in rows] == [True, True, is_met]
    assert rows[1].measured == "1,700"


def test_a_part_that_is_finished_is_not_run_again_and_another_failing_does_not_lose_it(tmp_path):
    path = tmp_path / "results.json"
    parts = {"start-up": bench.Part("builtins", "dict", {"x": 6}), "growth": bench.Part("builtins", "nothing", {})}
    assert bench.run_parts({"start-up": parts["start-up"]}, path) == []
    stored = json.loads(path.read_text())
    assert stored["start-up"]["answer"] == {"x": 6}
    path.write_text(json.dumps({"start-up": {**stored["start-up"], "answer": "kept"}}))
    assert bench.run_parts(parts, path) == ["growth"]
    assert json.loads(path.read_text())["start-up"]["answer"] == "kept"


def test_a_side_that_dies_is_reported_with_the_end_of_its_log(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(RuntimeError, match="No module named benchmarks.nowhere"):
        worker.Worker(sys.executable, "benchmarks.nowhere", {"threads": 1}, log)
