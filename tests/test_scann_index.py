"""ScaNN's index: how much it finds, what an export answers with it, and what is said where it is not installed."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from test_serving import VOCABULARY, Export, V, draw_sessions, run_config

from fp_tfrs.errors import RunError
from fp_tfrs.serving import expectations, probe, scann_index
from fp_tfrs.serving.expectations import Expectation
from fp_tfrs.serving.request import Request


@pytest.fixture(scope="module")
def scann():
    pytest.importorskip("scann", reason="no ScaNN is made for this TensorFlow")


@pytest.fixture(scope="module")
def export(scann, tmp_path_factory):
    run = run_config("vanilla", index="scann", item_table="bfloat16", exclude_seen=True, top_k=V // 2)
    model = run.model.model_copy(update={"penalty": 0.3})
    return Export(tmp_path_factory.mktemp("scann"), run.model_copy(update={"model": model}))


def test_an_index_finds_most_of_the_highest_products(scann):
    random = np.random.default_rng(0)
    n_items, size, n = 20_000, 16, 50  # as few as are hashed
    items = random.normal(size=(n_items, size)).astype(np.float32)
    queries = random.normal(size=(20, size)).astype(np.float32)
    index = scann_index.ScannIndex(items, n)
    found = index.nearest(tf.constant(queries)).numpy()
    exact = np.argsort(-queries @ items.T, axis=1)[:, :n]
    assert found.shape == (20, n) and found.dtype == np.int32
    assert np.mean([len(set(a) & set(b)) / n for a, b in zip(found, exact)]) > 0.8
    assert index.nearest(tf.zeros([0, size])).shape == [0, n]


@pytest.mark.e2e
def test_an_export_with_an_index_answers_as_trained_and_says_what_it_needs(export):
    """Of so few items the index finds all, so that answers are exact; empty sessions, lists and long ones go their own way."""
    result = probe.examine(str(export.directory))
    assert result.is_ok, result
    about = json.loads((export.directory / "assets.extra/metadata.json").read_text())
    assert about["index"] == "scann" and about["needs_ops_of"] == ["Scann"]
    assert about["recall_sessions"] > 30 and 0.9 < about["recall@20"] <= 1
    saved = tf.io.gfile.GFile(str(export.directory / "saved_model.pb"), "rb").read()
    assert b"Scann>ScannSearchBatched" in saved


@pytest.mark.e2e
def test_what_is_asked_alone_is_answered_as_in_a_batch(export):
    sessions = [list(s.item_id) for s in draw_sessions(30, seed=5) if set(s.item_id) & set(VOCABULARY)]
    sessions.append(VOCABULARY[:35])  # after which fewer than top_k are left
    together = export.saved.recommend([*sessions, []])  # an empty session: all exactly
    for row, session in enumerate(sessions):
        alone = export.saved.recommend([session])
        np.testing.assert_allclose(alone.score[0], together.score[row], rtol=1e-5, atol=1e-5)
        assert not set(alone.item_id[0]) & set(session)
    assert together.item_id[len(sessions) - 1][5:] == [""] * (V // 2 - 5)


@pytest.mark.e2e
def test_a_process_that_has_not_imported_scann_yet_loads_the_export(export):
    assert probe.probe(export.directory).is_ok


def test_items_that_an_index_may_miss_are_not_missed_by_the_probe_s_judgement():
    expected = Expectation(Request(["x"], [0]), ["a", "b", "c"], [3.0, 2.0, 1.0], 0, 0, is_exact=False)

    def difference(*answer):
        return expectations.difference(expected, *zip(*answer))

    assert difference(("a", 3), ("c", 1), ("z", 0.5)) is None
    assert "place 2" in difference(("a", 3), ("c", 2), ("z", 0.5))
    assert "place 1" in difference(("z", 3), ("b", 2), ("c", 1))
    assert "twice" in difference(("a", 3), ("a", 3), ("c", 1))
    assert "order" in difference(("b", 2), ("a", 3), ("c", 1))


def test_where_scann_is_not_installed_one_sentence_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "scann", None)
    monkeypatch.setitem(sys.modules, "scann.scann_ops", None)
    with pytest.raises(RunError, match="pip install 'fp-tfrs\\[scann\\]'"):
        scann_index.ScannIndex(np.zeros([5, 2], np.float32), 2)
