"""Probe: an export that answers as trained passes, in a process without training code; every fault is found and named."""

import dataclasses
import json
import shutil
import subprocess
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2
from test_serving import POPULARITY, VOCABULARY, Export, L, draw_sessions, run_config

from fp_tfrs.serving import expectations, probe, recommender, warmup

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return Export(tmp_path_factory.mktemp("good"), run_config("fp_simple", exclude_seen=True))


@pytest.fixture
def export_dir(good, tmp_path):
    return shutil.copytree(good.directory, tmp_path / "export")


def test_a_good_export_passes_in_a_process_that_imports_tensorflow_but_no_training_code(good, monkeypatch):
    runs, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: runs.append(run(*args, **kwargs)) or runs[0])
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    result = probe.probe(good.directory)
    assert result.is_ok and result.figures["requests"] == 51, result
    assert result.figures["warmup_requests"] == 40
    json.dumps(result.figures)
    imported = {line.split("|")[-1].strip() for line in runs[0].stderr.splitlines() if line.startswith("import time:")}
    assert "fp_tfrs.serving.saved_model" in imported and any(name.startswith("tensorflow.") for name in imported)
    for training_code in (
        "tensorflow_recommenders",
        "tensorflow_transform",
        "tf_keras",
        "fp_tfrs.learning.model",
        "tfx",
    ):
        assert training_code not in imported


def rewrite(export_dir, change):
    """Applies `change` to each request's expected values."""
    path = export_dir / expectations.FILE_NAME
    values = json.loads(path.read_text())
    for value in values:
        change(value)
    path.write_text(json.dumps(values))


def test_scores_that_differ_from_the_trained_ones_are_found(export_dir):
    def change(value):
        value["top_score"][3] += 1e-3

    rewrite(export_dir, change)
    result = probe.examine(str(export_dir))
    assert not result.is_ok and result.signature == "recommend" and "place 4" in result.message
    assert {"item_id", "is_false_positive", "target"} <= result.request.keys()


def test_lists_that_are_not_heeded_are_found(export_dir):
    def change(value):
        if value["request"][7]:
            value["request"][7] = ["nothing"]  # the answers expected are still those without what was denied

    rewrite(export_dir, change)
    result = probe.examine(str(export_dir))
    assert not result.is_ok and result.signature == "recommend_among" and "place " in result.message


def test_ranks_that_differ_from_the_trained_ones_are_found(export_dir):
    rewrite(export_dir, lambda value: value.update(rank_low=value["rank_low"] + 1, rank_high=value["rank_high"] + 1))
    result = probe.examine(str(export_dir))
    assert not result.is_ok and result.signature == "rank" and "trained:" in result.message


@pytest.mark.parametrize(
    "fault",
    [
        {"run": run_config("fp_simple", exclude_seen=True, max_length=L - 1)},
        {"inputs": "all"},
        {"vocabulary": [*VOCABULARY[1:], VOCABULARY[0]]},
        {"popularity_score": np.zeros(len(VOCABULARY), np.float32)},
        {"run": run_config("fp_simple")},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_an_export_that_works_otherwise_than_trained_is_found(good, export_dir, fault):
    scorer = expectations.Scorer(
        vocabulary=VOCABULARY,
        user_vocabulary=[],
        popularity_score=recommender.popularity_score(POPULARITY),
        candidates=good.model.candidates().numpy(),
        target_queries=lambda batch: good.model.target_queries(batch).numpy(),
        inputs="tp",
        run=good.run,
    )
    expected = expectations.expect(draw_sessions(40, seed=1), dataclasses.replace(scorer, **fault))
    expectations.write(export_dir / expectations.FILE_NAME, expected)
    result = probe.examine(str(export_dir))
    assert not result.is_ok and result.signature == "recommend"


def test_a_damaged_export_is_named(export_dir):
    for file in (export_dir / "variables").iterdir():
        file.write_bytes(file.read_bytes()[:10])
    result = probe.examine(str(export_dir))
    assert (
        not result.is_ok and result.message.startswith("loading: InputError") and "cannot be loaded" in result.message
    )


def test_a_warmup_that_would_keep_a_server_from_serving_is_found(export_dir):
    path = export_dir / warmup.FILE_NAME
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    foreign = warmup.predict_request("m", "recommend", {"item_id": np.zeros([1, 1])})
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=foreign))
    classify = prediction_log_pb2.PredictionLog(classify_log=prediction_log_pb2.ClassifyLog())
    for wrong, said in (
        (records * 26, "more than 1000"),
        ([records[0], log.SerializeToString()], "'recommend', 'number': 1"),
        ([classify.SerializeToString()], "no Predict request"),
    ):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in wrong:
                writer.write(record)
        result = probe.examine(str(export_dir))
        assert not result.is_ok and result.message.startswith("warm-up: ")
        assert said in result.message + str(result.request)
    content = path.read_bytes()
    for broken in (content[:-1], (2**40).to_bytes(8, "little") + content[8:]):  # the process would die of that length
        path.write_bytes(broken)
        result = probe.examine(str(export_dir))
        assert not result.is_ok and "ends within a record" in result.message


def test_a_probe_that_ends_badly_is_a_finding_not_an_exception(tmp_path, monkeypatch):
    missing = probe.probe(tmp_path / "nothing")
    assert not missing.is_ok and "expectations.json" in missing.message and "Traceback" in missing.trace
    assert "within 0.01 s" in probe.probe(tmp_path, timeout_s=0.01).message
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert "died, exit code 1" in probe.probe(tmp_path).message


def expectation(*scored: tuple[str, float]) -> expectations.Expectation:
    request = expectations.Request([], [], "", [], [], "a")
    return expectations.Expectation(request, [i for i, _ in scored], [s for _, s in scored], 1, 1)


def test_requests_are_drawn_without_an_array_as_wide_as_the_longest_id():
    vocabulary = ["x" * 1_000, *(f"i{number}" for number in range(100_000))]
    tracemalloc.start()
    expectations._requests([], vocabulary, 50, np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_only_near_ties_may_change_places():
    expected = expectation(("a", 2.0), ("b", 1.000001), ("c", 1.0), ("", -np.inf))
    assert expectations.difference(expected, ["a", "b", "c", ""], [2.0, 1.0, 1.0, -np.inf]) is None
    assert expectations.difference(expected, ["a", "c", "b", ""], [2.0, 1.0, 1.0, -np.inf]) is None
    for ids, scores in (
        (["b", "a", "c", ""], [2.0, 1.0, 1.0, -np.inf]),
        (["a", "b", "b", ""], [2.0, 1.0, 1.0, -np.inf]),
        (["a", "b", "x", ""], [2.0, 1.0, 1.0, -np.inf]),
        (["a", "b", "c", "d"], [2.0, 1.0, 1.0, -1e5]),
        (["a", "b", "c", ""], [2.0, 1.0, np.nan, -np.inf]),
        (["a", "b", "c"], [2.0, 1.0, 1.0]),
    ):
        assert expectations.difference(expected, ids, scores)
