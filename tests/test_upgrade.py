"""What an earlier release left, this one takes up: its exports give the answers that it stored, its trainings go on.

`golden/export.tar.gz` was written by commit b9158fa, before exports had warm-up and metadata: STAMP with users, skip_aware, drawn
weights, 30 items. Exports are never rewritten, so a serving folder may hold versions of any release. Replace it by none.

`golden/training.tar.gz` is of that commit, too, before a training could have a warm start or several devices: its sessions,
its state after two of three epochs, what the best of them answered, and the figures that it then came to.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fp_tfrs import config, schema
from fp_tfrs.data.session_table import read_sessions
from fp_tfrs.errors import RunError
from fp_tfrs.learning import training
from fp_tfrs.serving import expectations
from fp_tfrs.serving.saved_model import SavedModel, read_catalogue
from pipeline import cli


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "1"
    return unpack("export.tar.gz", folder)


def unpack(name, folder):
    with tarfile.open(Path(__file__).with_name("golden") / name) as archive:
        archive.extractall(folder)
    return folder


def test_the_answers_are_those_that_were_stored(version, record_figure):
    expected = expectations.read(str(version / expectations.FILE_NAME))
    record_figure("an earlier release's export", f"{len(expected)} answers as stored", "all")
    requests = [one.request for one in expected]
    assert len(requests) == 22
    model, columns = SavedModel(version), [list(column) for column in zip(*(request[:3] for request in requests))]
    by_example = model.recommend_examples([request.to_example() for request in requests])
    for answer in (model.recommend(*columns), by_example):
        for one, item_id, score in zip(expected, answer.item_id, answer.score, strict=True):
            assert expectations.difference(one, item_id, score) is None
    items, flags, users = columns
    ranks = model.rank(items, flags, [request.target for request in requests], users)
    assert all(one.rank_low <= rank <= one.rank_high for one, rank in zip(expected, ranks, strict=True))


def test_it_is_asked_as_a_new_one(version, capsys):
    items = read_catalogue(version)[:2]
    arguments = ["--items", ",".join(items), "--fp", "0,1", "--user", "stranger", "-k", "5"]
    assert cli.main(["recommend", "--model", str(version.parent), *arguments]) == 0
    answer = SavedModel(version).recommend([items], [[0, 1]], ["stranger"])
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == answer.item_id[0][:5]


@pytest.mark.e2e
def test_a_training_goes_on_from_its_checkpoint(tmp_path, record_figure):
    folder = unpack("training.tar.gz", tmp_path)
    run = config.parse(config.RunConfig, (folder / "config.json").read_text())
    answers = json.loads((folder / "answers.json").read_text())
    tables = [read_sessions([str(folder / split)]) for split in ("train", "valid")]
    lines = []

    def train(some_run, **pause):
        places = (str(folder / name) for name in ("state", "logs"))
        return training.train(some_run, *tables, 24, *places, lines.append, **pause)

    two = train(run, epochs=2)
    index = np.array(answers["item_index"])
    queries = two.model.session_embeddings({schema.ITEM_INDEX: tf.constant(index, tf.int32)}).numpy()
    last = queries[np.arange(len(index)), (index > 0).sum(1) - 1]
    np.testing.assert_allclose(last @ two.model.candidates().numpy().T, answers["scores"], atol=1e-6)
    assert "going on after epoch 2" in lines[0] and two.best_epoch == answers["best_epoch_of_2"]

    three = train(run)  # of the optimiser's state, too
    assert len(three.history) == 3
    difference = max(abs(three.history[2][name] - value) for name, value in answers["history"][2].items())
    record_figure("an earlier release's checkpoint", f"{difference:.1e} of the figures after another epoch", "1e-4")
    assert difference <= 1e-4
    with pytest.raises(RunError, match="another configuration"):
        train(config.with_settings(run, {"training.learning_rate": 0.03}))
    with pytest.raises(RunError, match="another configuration"):
        train(config.with_settings(run, {"training.warm_start": "somewhere"}))
