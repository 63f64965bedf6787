"""Item tables of fewer bytes: what is stored, that an export with one answers by it, and what is said of the loss."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from test_serving import VOCABULARY, Export, K, V, run_config

from fp_tfrs.serving import expectations, fidelity, item_table, probe
from fp_tfrs.serving.request import Request

RANDOM = np.random.default_rng(3)


def test_int8_by_hand():
    packed = item_table.pack(np.array([[0.5, -1.27, 0.004], [0, 0, 0]], np.float32), "int8")
    assert packed.values.tolist() == [[50, -127, 0], [0, 0, 0]] and packed.values.dtype == np.int8
    np.testing.assert_allclose(item_table.unpack(packed), [[0.5, -1.27, 0], [0, 0, 0]], rtol=1e-6)
    assert packed.n_bytes == 6 + 2 * 4


@pytest.mark.parametrize(("kind", "error"), [("float32", 0), ("bfloat16", 2**-8), ("int8", 0.5 / 127)])
def test_what_is_stored_is_as_close_as_its_bits_allow(kind, error):
    candidates = (RANDOM.normal(size=(50, 9)) * 10.0 ** RANDOM.integers(-6, 6, (50, 1))).astype(np.float32)
    largest = np.abs(candidates).max(axis=1, keepdims=True)
    assert (np.abs(item_table.unpack(item_table.pack(candidates, kind)) - candidates) <= largest * error * 1.001).all()


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    run = run_config("vanilla", item_table="int8")
    return Export(tmp_path_factory.mktemp("int8"), run)


def test_an_export_answers_by_its_table_and_says_what_that_loses(export):
    candidates = export.model.candidates().numpy()
    scale = np.abs(candidates).max(axis=1, keepdims=True) / 127
    rounded = np.rint(candidates / scale) * scale
    requests = [one.request for one in expectations.read(str(export.directory / expectations.FILE_NAME))[:40]]
    exact = export.scores([(request.item_id, request.is_false_positive) for request in requests])
    is_known = [any(item in VOCABULARY for item in request.item_id) for request in requests]
    # The session embedding is what solves queries · candidates = scores.
    queries = np.linalg.lstsq(candidates, exact.T, rcond=None)[0].T
    answers = export.saved.recommend([request.item_id for request in requests])
    for row in np.flatnonzero(is_known):
        best = np.sort(rounded @ queries[row])[::-1][:K]
        np.testing.assert_allclose(answers.score[row], best, atol=1e-5 * np.abs(best).max())

    about = json.loads((export.directory / "assets.extra/metadata.json").read_text())
    assert about["item_table"] == "int8" and about["item_table_bytes"] == V * (8 + 4)
    assert about["item_table_float32_bytes"] == 4 * V * 8
    assert about["recall_sessions"] == sum(is_known) > 30
    best = [{VOCABULARY[n] for n in np.argsort(-row, kind="stable")[:K]} for row in exact]
    shares = [len(best[row] & set(answers.item_id[row])) / K for row in np.flatnonzero(is_known)]
    np.testing.assert_allclose(about["recall@20"], np.mean(shares))


def test_recall_by_hand():
    """Of what may be answered and the model can answer; a session without an input, or that has seen all there is, is left out."""
    found = [["a", "b", ""], ["c", "d", "a"], [""] * 3]
    model = SimpleNamespace(answer=lambda _: SimpleNamespace(item_id=found))
    exact = SimpleNamespace(
        vocabulary="abcd",
        has_input=lambda request: bool(request.item_id),
        offered=lambda _, scores: scores,
        scores=lambda _: iter(np.array([[9, -np.inf, 8, -np.inf], [4, 3, 2, 1], [-np.inf] * 4])),
    )
    requests = [Request(["x"], [0]), Request([], []), Request(["y"], [0]), Request(["z"], [0])]
    assert fidelity.measure(model, requests, exact) == ((1 / 2 + 2 / 3) / 2, 2)


def test_the_probe_holds_an_export_to_its_table(export):
    assert probe.examine(str(export.directory)).is_ok
    stored = tf.train.load_checkpoint(str(export.directory / "variables" / "variables"))
    assert stored.get_tensor("candidates/.ATTRIBUTES/VARIABLE_VALUE").dtype == np.int8
