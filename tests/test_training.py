"""A training run as a user meets it: figures, resuming after a kill, damaged checkpoints, divergence, warnings."""

import dataclasses
import glob
import json
import os
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from test_dataset import Clicks, write

from fp_tfrs import config, schema
from fp_tfrs.data.dataset import TrainingBatches, ranking_batches
from fp_tfrs.data.session_table import SessionTable, read_sessions
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.learning import training
from fp_tfrs.serving import exporting
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import SavedModel
from pipeline import cli

N_ITEMS = 24


def _sessions(prefix, count, seed):
    """Walks around a circle of items; a third of the clicks are abandoned."""
    rng = np.random.default_rng(seed)

    def walk(start, n):
        return [((start + k) % N_ITEMS + schema.FIRST_ITEM_INDEX, bool(rng.random() < 0.3)) for k in range(n)]

    return [Clicks(f"{prefix}{k:04d}", walk(int(rng.integers(N_ITEMS)), int(rng.integers(2, 8)))) for k in range(count)]


def _config(**training_values):
    values = {"batch_size": 32, "max_epochs": 3, "patience": 2, "learning_rate": 0.02, "length_buckets": (3,)}
    return config.RunConfig(
        name="walk",
        data=config.DataConfig(
            source=config.SourceConfig(format="csv", files=("x.csv",)),
            columns=config.ColumnsConfig(session_id="s", feedback={"skip": "bool"}),
            false_positive_when=(config.RuleConfig(column="skip", op="==", value=True),),
        ),
        model=config.ModelConfig(tower=config.NarmConfig(embedding_dim=8, hidden_dim=8)),
        training=config.TrainingConfig(**(values | training_values)),
    )


@dataclasses.dataclass
class Run:
    """The arguments of `train`, and the lines it printed."""

    train_table: SessionTable
    valid_table: SessionTable
    folder: str
    lines: list[str] = dataclasses.field(default_factory=list)

    def train(self, run_config, on_line=None, epochs=None):
        state_dir, log_dir = (os.path.join(self.folder, name) for name in ("state", "logs"))
        return training.train(
            run_config,
            self.train_table,
            self.valid_table,
            N_ITEMS,
            state_dir,
            log_dir,
            on_line or self.lines.append,
            epochs=epochs,
        )

    def copy(self, folder):
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return dataclasses.replace(self, folder=str(folder), lines=[])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sessions = {"train": _sessions("t", 200, 1), "valid": _sessions("v", 40, 2)}
    return [read_sessions([write(folder / split, sessions[split])]) for split in sessions]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run and its result."""
    run = Run(*data, str(tmp_path_factory.mktemp("whole")))
    return run, run.train(_config())


class _Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def killed(data, tmp_path_factory):
    """A run that ended in the middle of its third epoch."""
    run = Run(*data, str(tmp_path_factory.mktemp("killed")))

    def die(self, batch, logs=None):
        if self._epoch == 2 and batch == 3:
            raise _Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(training._StopAtNaN, "on_train_batch_end", die)
        run.train(_config())
    return run


def _assert_same_outcome(result, expected):
    assert result.best_epoch == expected.best_epoch
    for got, want in zip(result.history, expected.history, strict=True):
        for name in want.keys() - {"seconds", "targets_per_s"}:
            assert got[name] == pytest.approx(want[name], abs=1e-6), name
    for got, want in zip(result.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_run_that_pauses_goes_on_with_the_dropout_and_the_negatives_that_it_would_have_had(data, tmp_path):
    tower = config.StampConfig(embedding_dim=8, dropout_embedding=0.4)
    next_item = config.NextItemConfig(kind="sampled_softmax", negatives=6)
    sampled = config.ModelConfig(method="fp_simple", tower=tower, next_item=next_item)
    run_config = _config(max_epochs=2).model_copy(update={"model": sampled})
    whole, paused = (Run(*data, str(tmp_path / name)) for name in ("whole", "paused"))

    def keep_first_epoch(line):
        if line.startswith("epoch 1/2"):
            whole.copy(paused.folder)

    expected = whole.train(run_config, keep_first_epoch)
    assert len(paused.train(run_config, epochs=1).history) == 1
    _assert_same_outcome(paused.train(run_config), expected)
    got, want = (tf.train.load_checkpoint(os.path.join(run.folder, "state", "ckpt-2")) for run in (paused, whole))
    names = want.get_variable_to_shape_map().keys() - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert sum("_generator" in name for name in names) == 2
    for name in names:  # weights, the optimiser's moments, random states: to the bit
        np.testing.assert_array_equal(got.get_tensor(name), want.get_tensor(name), err_msg=name)


def test_a_run_learns_and_its_figures_are_those_of_a_plain_count_of_ranks(whole):
    run, result = whole
    best = result.history[result.best_epoch - 1]
    assert best["val_mrr@20"] == max(record["val_mrr@20"] for record in result.history) > 0.35  # chance: 0.16
    assert result.history[-1]["next_item_loss"] < result.history[0]["next_item_loss"] < np.log(N_ITEMS) * 1.2

    ranks: dict[bool, list[int]] = {True: [], False: []}
    for batch in ranking_batches(run.valid_table, _config().model, 1).as_numpy_iterator():
        scores = result.model.session_embeddings(batch).numpy()[0] @ result.model.candidates().numpy().T
        for target, position, is_fp in zip(*(batch[f"target_{name}"][0] for name in ("index", "position", "is_fp"))):
            ranks[is_fp].append(np.sum(scores[position] >= scores[position, target - schema.FIRST_ITEM_INDEX]))
    kept, abandoned = np.array(ranks[False]), np.array(ranks[True])
    assert best["val_mrr@20"] == pytest.approx(np.mean((kept <= 20) / kept), abs=1e-5)
    assert best["val_hr@20"] == pytest.approx(np.mean(kept <= 20), abs=1e-5)
    assert best["val_fp_hr@20"] == pytest.approx(np.mean(abandoned <= 20), abs=1e-5)


def test_a_run_reports_each_epoch_and_compiles_its_step_once(whole):
    run, result = whole
    for epoch, line in enumerate((line for line in run.lines if line.startswith("epoch") and "left" in line), 1):
        assert re.match(
            rf"epoch {epoch}/3: next item loss \d+\.\d+, metric loss .* targets/s, at most 0:\d\d:\d\d left", line
        )
    assert sum("gate mean weight" in line for line in run.lines) == len(result.history) == 3
    assert result.model.train_function.experimental_get_tracing_count() == 1
    assert glob.glob(os.path.join(run.folder, "logs", "events.out.tfevents*"))


def test_the_reloaded_export_answers_raw_examples_as_the_trained_model_does(whole, tmp_path, record_figure):
    """A thousand sessions: scores, and ids of the top 20 in their order, of ties in any."""
    model, rng = whole[1].model, np.random.default_rng(7)
    run_config = _config().model_copy(update={"serving": config.ServingConfig(top_k=20)})
    items = [f"item {k:02d}" for k in range(N_ITEMS)]
    vocabulary, popularity = tmp_path / "items", np.arange(N_ITEMS)
    vocabulary.write_text("".join(f"{item}\n" for item in items))
    exporting.export(tmp_path / "export", model, str(vocabulary), popularity, run_config, "1", [])
    clicked = [rng.integers(N_ITEMS, size=rng.integers(1, 12)) for _ in range(1_000)]
    abandoned = [rng.random(len(columns)) < 0.3 for columns in clicked]
    answer = SavedModel(tmp_path / "export").recommend_examples(
        [
            Request([items[k] for k in columns], is_fp.astype(int).tolist()).to_example()
            for columns, is_fp in zip(clicked, abandoned, strict=True)
        ]
    )

    index = np.zeros([1_000, 12], np.int32)
    for row, columns, is_fp in zip(index, clicked, abandoned, strict=True):
        row[: np.sum(~is_fp)] = columns[~is_fp] + schema.FIRST_ITEM_INDEX
    is_empty = index[:, :1] == 0
    sessions = model.session_embeddings({schema.ITEM_INDEX: tf.constant(index)}).numpy()
    last = sessions[np.arange(1_000), np.maximum((index > 0).sum(1) - 1, 0)]
    scores = np.where(is_empty, np.log1p(popularity), last @ model.candidates().numpy().T)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    answered = np.array([[items.index(item) for item in row] for row in answer.item_id])
    of_expected, of_answered = (np.take_along_axis(scores, columns, 1) for columns in (expected, answered))
    step = 1e-6 * np.maximum(np.abs(of_expected), 1)  # float32 knows no smaller ones of scores from 8 on
    difference, n_same = np.abs(answer.score - of_answered), (answered == expected).sum()
    figure = (
        f"{difference.max():.1e} of scores up to {of_expected.max():.1f}, {n_same:,} of 20,000 ids in the same place"
    )
    record_figure("trained model and export, 1,000 sessions", figure, "1e-6, top 20 equal but for ties")
    assert (difference <= step).all()
    assert ((answered == expected) | (np.abs(of_answered - of_expected) <= step)).all()
    assert all(len(set(row)) == 20 for row in answer.item_id)


def test_a_finished_run_is_returned_as_it_is_without_training(whole, monkeypatch):
    run, expected = whole
    monkeypatch.setattr(training, "_run_epochs", None)
    _assert_same_outcome(run.train(_config()), expected)


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(killed, whole, tmp_path):
    run = killed.copy(tmp_path)
    _assert_same_outcome(run.train(_config()), whole[1])
    assert "going on after epoch 2" in run.lines[0]


def test_damaged_best_weights_are_named(whole, tmp_path):
    run = whole[0].copy(tmp_path)
    for path in glob.glob(os.path.join(run.folder, "state", "best-*.npz")):
        os.truncate(path, os.path.getsize(path) // 2)
    with pytest.raises(RunError, match="best weights in .* are unreadable; delete it and train again"):
        run.train(_config())


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(killed, whole, tmp_path, record_figure):
    record_figure("newest checkpoint cut in half", "the one before is taken, and named", "says so; none left: an error")
    run = killed.copy(tmp_path)
    newest = glob.glob(os.path.join(run.folder, "state", "ckpt-2.data*"))[0]
    os.truncate(newest, os.path.getsize(newest) // 2)
    result = run.train(_config())
    assert "ckpt-2 is unreadable" in run.lines[0] and "going on after epoch 1" in run.lines[1]
    assert [line.split(":")[0] for line in run.lines if line.startswith("epoch") and "left" in line] == [
        "epoch 2/3",
        "epoch 3/3",
    ]
    _assert_same_outcome(result, whole[1])


def test_no_readable_checkpoint_at_all_is_an_error_that_names_the_remedy(killed, tmp_path, monkeypatch, capsys):
    run = killed.copy(tmp_path)
    for path in glob.glob(os.path.join(run.folder, "state", "ckpt-*.index")):
        os.truncate(path, 3)
    monkeypatch.setattr(cli, "_run", lambda parsed: run.train(_config()))
    assert cli.main(["run", "--config", "-", "--root", "-"]) == 1
    assert re.fullmatch(r"fp-tfrs: no checkpoint in .* is readable; delete it to .*\n", capsys.readouterr().err)


def test_a_state_directory_of_another_configuration_is_refused(killed, tmp_path):
    with pytest.raises(RunError, match="another configuration"):
        killed.copy(tmp_path).train(_config(learning_rate=0.5))


def test_a_run_stops_early_and_returns_the_best_epoch(data, tmp_path):
    run = Run(*data, str(tmp_path))
    values = iter([0.2, 0.4, 0.3, 0.4, 0.9])

    class Validation:
        def __init__(self, model, table, config):
            self._model = model

        def __call__(self):
            weights.append(self._model.get_weights())
            return {"val_mrr@20": next(values), "val_hr@20": 0.5, "val_fp_hr@20": None}

    weights = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_Validation", Validation)
        run_config = _config(max_epochs=9)
        simple = run_config.model.model_copy(update={"method": "fp_simple"})
        result = run.train(run_config.model_copy(update={"model": simple}))
    assert (result.best_epoch, len(result.history)) == (2, 4)
    for got, want in zip(result.model.get_weights(), weights[1], strict=True):
        np.testing.assert_array_equal(got, want)
    assert json.loads((tmp_path / "state" / "history.json").read_text()) == result.history


def _assert_lists_the_batch(run, run_config, epoch, step):
    """The listed sessions are those whose kept clicks the step was fed, by the batch itself."""
    batches = TrainingBatches(run.train_table, run_config.model, run_config.training, run_config.seed)
    batch = next(batches.epoch(epoch).skip(step).as_numpy_iterator())
    first, rest = batch[schema.ITEM_INDEX][:, :1], batch[schema.LABEL]
    fed = [row[row != schema.PAD_INDEX].tolist() for row in np.concatenate([first, rest], axis=1)]
    with open(os.path.join(run.folder, "state", "diverged_batch.txt")) as file:
        listed = file.read().split()
    kept = {
        clicks.session_id: [item for item, is_fp in clicks.events if not is_fp] for clicks in _sessions("t", 200, 1)
    }
    assert len(set(listed)) == len(listed) == 32
    assert [kept[session_id] for session_id in listed] == fed


def test_a_diverging_run_stops_at_the_step_names_its_sessions_and_saves_nothing(data, tmp_path):
    run = Run(*data, str(tmp_path))
    run_config = _config(learning_rate=1e38)
    with pytest.raises(RunError, match=r"loss is (nan|inf) at epoch 1, step 2, sessions t\d{4}, .*learning_rate"):
        run.train(run_config)
    _assert_lists_the_batch(run, run_config, epoch=0, step=1)
    assert not glob.glob(str(tmp_path / "state" / "ckpt-*"))


@pytest.mark.e2e
def test_a_run_that_diverges_later_keeps_its_last_good_checkpoint_and_goes_on_from_there(
    data, whole, tmp_path, record_figure
):
    record_figure("NaN in the loss", "stops at its step, names its sessions, keeps the checkpoint", "one step")
    run = Run(*data, str(tmp_path))

    def poison(self, batch, logs=None):
        if (self._epoch, batch) == (1, 3):
            table = self.model.items.trainable_variables[0]
            table.assign(table * np.nan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._StopAtNaN, "on_train_batch_begin", poison)
        with pytest.raises(RunError, match="loss is nan at epoch 2, step 4, sessions t"):
            run.train(_config())
    _assert_lists_the_batch(run, _config(), epoch=1, step=3)
    assert {os.path.basename(path) for path in glob.glob(str(tmp_path / "state" / "ckpt-*.index"))} == {"ckpt-1.index"}
    _assert_same_outcome(run.train(_config()), whole[1])
    assert any("going on after epoch 1" in line for line in run.lines)


def test_examples_of_another_vocabulary_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"index 25.* vocabulary of 10 items"):
        training.train(_config(), *data, 10, str(tmp_path / "state"), str(tmp_path / "logs"), print)


def _record(**figures):
    plain = {"epoch": 3, "next_item_loss": 5, "val_mrr@20": 0.1, "val_hr@20": 0.2, "val_fp_hr@20": None}
    term = {"metric_loss": 0.1, "fp_position_share": 0.5, "hinge_active_share": 0.4}
    gate = {"gate_mean": 0.5, "gate_similarity_correlation": -0.1}
    return plain | term | gate | {"targets_per_s": 1234.5, "seconds": 10.0} | figures


@pytest.mark.parametrize(
    ("figures", "warning"),
    [
        ({}, None),
        ({"gate_mean": 0.049}, "the gate has switched the metric term off"),
        ({"hinge_active_share": 0.009}, "the hinge is almost never active"),
        ({"fp_position_share": 0.0, "hinge_active_share": 0.0}, "no target has false positives"),
    ],
)
def test_a_metric_term_that_does_nothing_is_told_once(figures, warning):
    first = training.describe_epoch([_record(**figures)], 10)
    assert first[0].endswith("fp_hr@20 none, 1,234 targets/s, at most 0:01:10 left")
    assert [line.startswith(f"warning: {warning}") for line in first[2:]] == ([True] if warning else [])
    assert len(training.describe_epoch([_record(**figures)] * 2, 10)) == 2
    told = training.describe_epoch([_record(**figures)], 10, ignores_scale=True)
    assert (len(told) == 2) == ("gate_mean" in figures or not warning)


def test_the_learning_rate_decays_by_epoch_also_after_a_restart(data, tmp_path):
    run, rates = Run(*data, str(tmp_path)), []

    def note_rate(self, batch, logs=None):
        rates.append((self._epoch, round(float(self.model.optimizer.learning_rate), 6)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._StopAtNaN, "on_train_batch_end", note_rate)
        decaying = {"learning_rate_decay": 0.5, "decay_epochs": 2, "patience": 9}
        run.train(_config(max_epochs=3, **decaying))
        config_of_five = _config(max_epochs=5, **decaying)
        os.remove(os.path.join(run.folder, "state", "run.json"))  # as if five epochs had been asked for at first
        run.train(config_of_five)
    assert sorted(set(rates)) == [(0, 0.02), (1, 0.02), (2, 0.01), (3, 0.01), (4, 0.005)]


def test_terms_without_a_hinge_and_other_losses_are_told_by_their_names():
    """A record of every method ends up as words: what is not there is not mentioned."""
    plain = {
        name: value for name, value in _record().items() if not name.startswith(("metric", "fp_", "hinge", "gate"))
    }
    assert len(training.describe_epoch([plain], 10)) == 1
    (both,) = training.describe_epoch([plain | {"satisfaction_loss": 0.25}], 10)
    assert both.startswith("epoch 3/10: next item loss 5.0000, satisfaction loss 0.2500, val mrr@20")
    first, second = training.describe_epoch([plain | {"metric_loss": 0.5, "fp_position_share": 0.25}], 10)
    assert "next item loss 5.0000, false positives' loss 0.5000, val" in first
    assert second == "  25.0% of targets have false positives"
    *_, warning = training.describe_epoch([plain | {"fp_position_share": 0.0}], 10)
    assert warning.startswith("warning: no target has false positives")


def test_what_unclicked_items_did_is_told():
    plain = {
        name: value for name, value in _record().items() if not name.startswith(("metric", "fp_", "hinge", "gate"))
    }
    shown = plain | {"unclicked_loss": 0.75, "unclicked_position_share": 0.4}
    first, second = training.describe_epoch([shown], 10)
    assert "next item loss 5.0000, unclicked items' loss 0.7500, val" in first
    assert second == "  40.0% of targets have unclicked items"
    _, second = training.describe_epoch([shown | {"unclicked_active_share": 0.3}], 10)
    assert second == "  hinge active at 30.0% of the 40.0% of targets with unclicked items"
    *_, warning = training.describe_epoch([shown | {"unclicked_active_share": 0.001}], 10)
    assert warning.endswith("raise model.xdm.margin")
    *_, warning = training.describe_epoch([shown | {"unclicked_position_share": 0.0}], 10)
    assert warning.startswith("warning: no target has unclicked items")
