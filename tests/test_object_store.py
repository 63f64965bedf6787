"""The nodes' work where the root is a URL: the same outcome as on a disk. `file://` stands for an object store.

TensorFlow takes it as it takes `gs://`, and nothing else does: a call past `fp_tfrs/storage.py` finds no such path.
"""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from test_serving import POPULARITY, VOCABULARY, V, draw_sessions, run_config

from fp_tfrs import schema, storage
from fp_tfrs.config import DataConfig, SimulationConfig
from fp_tfrs.data import manifest
from fp_tfrs.data.examples import read_sessions
from fp_tfrs.data.preprocess import preprocess
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.learning import training
from fp_tfrs.learning.distribution import devices_of
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.serving import exporting, probe, push
from fp_tfrs.serving.saved_model import SavedModel, find_version, list_versions
from fp_tfrs.simulation import simulate


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"file://{tmp_path_factory.mktemp('store')}"


def data_config(**source):
    return DataConfig(
        source=source,
        columns={"session_id": "session_id", "feedback": {"dwell_s": "float"}},
        false_positive_when=[{"column": "dwell_s", "op": "<", "value": 10}],
    )


def test_a_log_in_a_store_becomes_the_same_examples_in_a_store(store, tmp_path):
    simulated = data_config(format="simulated", simulation=SimulationConfig(sessions=300, items=100))
    found = {}
    for folder in (str(tmp_path), f"{store}/examples"):
        data = simulate.draw_source(simulated, f"{folder}/events")
        assert data.source.files[0].startswith(folder)
        result = preprocess(data, 1, f"{folder}/out", f"{folder}/letters/dead.jsonl", 2e9)
        assert manifest.verify(f"{folder}/out") == result
        assert storage.list_folder(f"{folder}/out") == sorted(
            [manifest.FILE_NAME, *(f"Split-{split}" for split in schema.SPLITS)]
        )
        sessions = (read_sessions(f"{folder}/out", split) for split in schema.SPLITS)
        found[folder] = [sorted(of, key=lambda session: session.session_id) for of in sessions]
        assert storage.read_text(f"{folder}/letters/dead.jsonl") == ""
    on_disk, in_store = found.values()
    assert on_disk == in_store


def test_a_globbed_gzipped_log_in_a_store_is_read(store, tmp_path):
    simulate.simulate_log(SimulationConfig(sessions=300, items=100), str(tmp_path / "all.csv"))
    header, *rows = (tmp_path / "all.csv").read_bytes().splitlines(keepends=True)
    for number in (0, 1):
        with storage.replacing(f"{store}/logs{number}.csv.gz") as file:
            file.write(gzip.compress(header + b"".join(rows[number::2])))
    data = data_config(format="csv", files=[f"{store}/logs*.csv.gz"])
    result = preprocess(data, 1, str(tmp_path / "out"), str(tmp_path / "dead.jsonl"), 2e9)
    assert (result.rows, result.n_bad_rows) == (len(rows), 0)


def test_training_state_in_a_store_is_found_again(store):
    """The files alone: that a run which finds them goes on as it should is tested on a disk."""

    def start():
        model = SessionModel(run_config("vanilla").model, V, 3, POPULARITY)
        return model, training.TrainingState(model, f"{store}/state", "this run", devices_of("one_device"), said.append)

    said = []
    model, state = start()
    weights = {}
    for epoch, mrr in ((1, 0.3), (2, 0.5), (3, 0.4), (4, 0.6)):
        model.set_weights([w + epoch for w in model.get_weights()])
        weights[epoch] = model.get_weights()
        state.finish_epoch({"epoch": epoch, "val_mrr@20": mrr})
    names = [name for name in storage.list_folder(f"{store}/state") if not name.startswith("ckpt")]
    assert names == ["best-2.npz", "best-4.npz", "checkpoint", "history.json", "run.json"]
    model, state = start()
    assert said == [f"going on after epoch 4, from {store}/state/ckpt-4"]
    assert (state.epoch, state.best_epoch, [record["epoch"] for record in state.history]) == (4, 4, [1, 2, 3, 4])
    model.set_weights([w * 0 for w in weights[1]])
    state.load_best(model)
    for got, want in zip(model.get_weights(), weights[4], strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.fixture(scope="module")
def exported(store):
    run = run_config("fp_metric")
    vocabulary = f"{store}/vocabulary"
    storage.write_text(vocabulary, "".join(f"{item}\n" for item in VOCABULARY))
    directory = f"{store}/export/Format-Serving"
    model = SessionModel(run.model, V, 3, POPULARITY)
    exporting.export(directory, model, vocabulary, POPULARITY, run, "version 7", draw_sessions(20, seed=1))
    return directory


def test_an_export_in_a_store_passes_the_probe_and_is_not_rewritten(exported):
    result = probe.examine(exported)
    assert result.is_ok, result.message
    with pytest.raises(RunError, match="there already"):
        exporting.export(
            exported, SessionModel(run_config("fp_metric").model, V, 3, POPULARITY), "", POPULARITY, *"abc"
        )


def test_versions_in_a_store_grow_and_the_newest_answers(store, exported):
    serving_root = f"{store}/serving"
    first, second = (push.push(exported, serving_root, "m") for _ in range(2))
    assert list_versions(f"{serving_root}/m") == [first, second]
    assert push.digests(second) == push.digests(exported)
    assert SavedModel(find_version(f"{serving_root}/m")).recommend([VOCABULARY[:2]]).item_id[0][0] in VOCABULARY


def test_half_a_version_in_a_store_is_never_taken_for_one(store, exported, monkeypatch):
    serving_root = f"{store}/broken"
    copy = storage.copy_file

    def copy_and_look(source, target):
        assert list_versions(f"{serving_root}/m") == []
        if Path(target).name == push.MARKER:
            raise OSError("the connection is lost")
        copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "copy_file", copy_and_look)
        with pytest.raises(RunError, match="connection is lost"):
            push.push(exported, serving_root, "m")
    assert storage.list_folder(f"{serving_root}/m") == []
    with pytest.raises(InputError, match="no saved_model.pb"):
        push.push(os.path.dirname(exported), serving_root, "m")
