import multiprocessing

import numpy as np
import pytest

from fp_tfrs.errors import RunError
from fp_tfrs.experiments.ledger import Judged, Ledger, Training, lock


def test_what_was_added_is_read_back_by_another_process_and_once_is_enough(tmp_path):
    training = Training(0.25, 3, 12.5, "c0de")
    Ledger(str(tmp_path)).add("run1", training)
    Ledger(str(tmp_path)).add("run1", Training(0.9, 1, 1.0, "other"))
    assert Ledger(str(tmp_path)).trainings() == {"run1": training}


def test_a_line_that_was_torn_is_left_out_and_the_next_one_is_whole(tmp_path):
    ledger = Ledger(str(tmp_path))
    ledger.add("run1", Training(0.25, 3, 12.5, "c"))
    with open(tmp_path / "trainings.jsonl", "a") as file:
        file.write('{"run": "run2", "val_')
    ledger.add("run3", Training(0.5, 1, 2.0, "c"))
    assert list(ledger.trainings()) == ["run1", "run3"]


def test_ranks_and_history_come_back_as_they_went_in(tmp_path):
    ledger = Ledger(str(tmp_path))
    assert not ledger.is_judged("run1")
    history = [{"epoch": 1, "val_mrr@20": 0.123456, "val_fp_hr@20": None}]
    lists = {"set_hr@50": np.array([0, 1]), "set_recall@50": np.array([0, 1 / 3])}
    ledger.judge("run1", Judged(np.array([1, 70_000, 3]), history, lists, "of these targets"))
    found = ledger.judged("run1")
    assert found.data == "of these targets"
    np.testing.assert_array_equal(found.ranks, [1, 70_000, 3])
    assert found.history == history and ledger.is_judged("run1")
    assert {name: of.tolist() for name, of in found.list_values.items()} == {
        "set_hr@50": [0, 1],
        "set_recall@50": [0, pytest.approx(1 / 3)],
    }


def test_ranks_of_before_there_were_lists_are_read(tmp_path):
    ledger = Ledger(str(tmp_path))
    (tmp_path / "ranks").mkdir()
    np.savez_compressed(tmp_path / "ranks" / "old.npz", ranks=np.array([2, 1], np.int32), history=np.array("[]"))
    found = ledger.judged("old")
    assert found.ranks.tolist() == [2, 1] and found.list_values == {} and found.data == ""


def test_damaged_ranks_are_named(tmp_path):
    ledger = Ledger(str(tmp_path))
    ledger.judge("run1", Judged(np.arange(100), []))
    path = tmp_path / "ranks" / "run1.npz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match=r"run1\.npz is unreadable; delete it"):
        ledger.judged("run1")


def _try(path, answers):
    with lock(path) as is_held:
        answers.put(is_held)


def test_only_one_process_holds_a_lock(tmp_path):
    path, answers = str(tmp_path / "run" / "lock"), multiprocessing.get_context("spawn").Queue()
    for is_held_here in (True, False):
        process = multiprocessing.get_context("spawn").Process(target=_try, args=(path, answers))
        if is_held_here:
            with lock(path) as is_held:
                assert is_held
                process.start()
                assert answers.get() is False
        else:
            process.start()
            assert answers.get() is True
        process.join()
