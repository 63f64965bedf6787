"""The search, with trainings that take no time: what is tried, what is never tried twice, what a user sees of it."""

import itertools
import json
import os
import types

import pytest

from fp_tfrs import progress
from fp_tfrs.config import RangeConfig, RunConfig, TunerConfig, with_settings
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.tuning import report, search
from fp_tfrs.tuning.oracle import make_oracle
from fp_tfrs.tuning.values import read_settings

LAMBDA, MARGIN = "model.loss.lambda_fp", "model.loss.margin"
RANGES = {LAMBDA: {"min": 0.001, "max": 10.0, "sampling": "log"}, MARGIN: {"min": 0.1, "max": 10.0}}
RUN = {
    "name": "log",
    "data": {
        "source": {"format": "csv", "files": ["x.csv"]},
        "columns": {"session_id": "s", "user_id": "u", "feedback": {"skip": "bool"}},
        "false_positive_when": [{"column": "skip", "op": "==", "value": True}],
    },
    "training": {"max_epochs": 9},
}


def make_job(folder, **tuner):
    run = RunConfig.model_validate({**RUN, "tuner": {"enabled": True, "trials": 6, **tuner}})
    return search.SearchJob(run, (), (), 10, 0, str(folder))


class Trainings:
    """Stands in for `training.train`: a figure that is best at λ 0.1 and margin 5, and rises with the epochs."""

    def __init__(self, monkeypatch):
        self.done = []
        self.diverging = set()
        monkeypatch.setattr(search, "train", self.train)
        monkeypatch.setattr(search.SessionTuner, "_read_tables", lambda _: (None, None))

    def train(self, run, _train, _valid, _n_items, state_dir, _log_dir, on_line, _n_users, epochs):
        loss = run.model.loss
        self.done.append((loss.lambda_fp, loss.margin, epochs))
        os.makedirs(state_dir, exist_ok=True)
        on_line("an epoch")
        if loss.margin in self.diverging:
            raise RunError("the loss is nan")
        score = 0.5 - 0.01 * abs(loss.lambda_fp - 0.1) - 0.01 * abs(loss.margin - 5) - 0.01 / epochs
        record = {"val_mrr@20": score, "val_hr@20": 1 - score, "seconds": 1.0}
        return types.SimpleNamespace(history=[record] * epochs, best_epoch=epochs)


@pytest.fixture
def trainings(monkeypatch):
    return Trainings(monkeypatch)


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(search, "say", found.append)
    return found


def tried(tuner):
    """(λ, margin) of each trial, in order."""
    order = [tuner.oracle.trials[name] for name in tuner.oracle.start_order]
    return [tuple(read_settings(trial.hyperparameters.values).values()) for trial in order]


@pytest.mark.parametrize("oracle", ["random", "bayesian"])
def test_a_search_tries_different_settings_and_names_the_best(oracle, trainings, tmp_path):
    tuner = search.SessionTuner(make_job(tmp_path, oracle=oracle, trials=12))
    tuner.search()
    known = make_job(tmp_path).run.tuner.search
    assert len(set(tried(tuner))) == len(trainings.done) == 12
    assert all(weight in known[LAMBDA] and margin in known[MARGIN] for weight, margin in tried(tuner))
    best = min(tried(tuner), key=distance)
    assert tuple(read_settings(tuner.get_best_hyperparameters()[0].values).values()) == best
    assert not list(tmp_path.rglob("state"))  # weights are large, and no one needs them


def distance(pair):
    return abs(pair[0] - 0.1) + abs(pair[1] - 5)


def test_bayesian_search_draws_where_its_best_guess_is_known(trainings, tmp_path):
    """keras-tuner's own would try one of so few settings again and again."""
    space = {MARGIN: [1.0, 2.0, 5.0, 10.0]}
    tuner = search.SessionTuner(make_job(tmp_path, oracle="bayesian", trials=4, search=space))
    tuner.search()
    assert sorted(margin for (margin,) in tried(tuner)) == space[MARGIN]


@pytest.mark.parametrize("oracle", ["random", "bayesian", "hyperband"])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(oracle, trainings, tmp_path, monkeypatch):
    ranges = {"search": RANGES} if oracle == "hyperband" else {}
    whole = search.SessionTuner(make_job(tmp_path / "whole", oracle=oracle, trials=8, **ranges))
    whole.search()
    all_done, trainings.done = trainings.done, []
    job = make_job(tmp_path / "killed", oracle=oracle, trials=8, **ranges)
    train = trainings.train

    def killed(*arguments):
        if len(trainings.done) == 7:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(search, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        search.SessionTuner(job).search()
    monkeypatch.setattr(search, "train", train)
    again = search.SessionTuner(job)
    again.search()
    assert trainings.done == all_done
    assert tried(again) == tried(whole)
    assert again.get_best_hyperparameters()[0].values == whole.get_best_hyperparameters()[0].values


def test_more_trials_keep_what_was_tried(trainings, tmp_path):
    search.SessionTuner(make_job(tmp_path, trials=4)).search()
    first = list(trainings.done)
    tuner = search.SessionTuner(make_job(tmp_path, trials=7))
    tuner.search()
    assert trainings.done[:4] == first and len({*trainings.done}) == len(trainings.done) == 7


def test_the_seed_decides_what_is_tried(trainings, tmp_path):
    found = []
    for k, seed in enumerate([0, 0, 1]):
        job = make_job(tmp_path / str(k))
        tuner = search.SessionTuner(
            search.SearchJob(job.run.model_copy(update={"seed": seed}), (), (), 10, 0, job.folder)
        )
        tuner.search()
        found.append(tried(tuner))
    assert found[0] == found[1] != found[2]


def test_hyperband_gives_the_best_more_epochs(trainings, tmp_path):
    tuner = search.SessionTuner(make_job(tmp_path, oracle="hyperband", search=RANGES))
    tuner.search()
    # 9 begin with 1 epoch, of which 3 get 3 and 1 gets 9; 5 begin with 3, of which 2 get 9; 3 begin with 9.
    assert sorted(epochs for *_, epochs in trainings.done) == [1] * 9 + [3] * 8 + [9] * 6
    assert len(trainings.done) == tuner.oracle.max_trials == 23
    first = sorted((done[:2] for done in trainings.done[:9]), key=distance)
    assert {done[:2] for done in trainings.done[9:12]} == set(first[:3])


def test_hyperband_is_refused_where_it_would_run_out_of_settings():
    tuner = TunerConfig(oracle="hyperband", search={MARGIN: [1.0, 2.0]})
    with pytest.raises(InputError, match=r"begins 17 trials .* has 2 settings; give ranges"):
        make_oracle(tuner, 9, 1)


def test_a_diverged_trial_is_a_failed_one_and_is_said(trainings, lines, tmp_path):
    trainings.diverging = {0.1, 0.5, 10.0}
    tuner = search.SessionTuner(make_job(tmp_path, trials=10))
    tuner.search()
    failed = [margin in trainings.diverging for _, margin in tried(tuner)]
    assert 0 < sum(failed) < len(failed) == 10
    assert [line.endswith(": failed: the loss is nan") for line in lines] == failed
    good = tuner.get_best_hyperparameters()[0].values
    assert good[MARGIN] not in trainings.diverging


def test_each_trial_is_judged_by_its_own_values_alone(trainings, lines, tmp_path):
    """8 heads divide 8 dimensions, not 10; that some do not go together is no fault of the others."""
    choices = {"model.tower.embedding_dim": [8, 10], "model.tower.n_heads": [2, 8]}
    tower = {"name": "sasrec", "embedding_dim": 8, "n_heads": 2}
    run = RunConfig.model_validate({**RUN, "model": {"tower": tower}, "tuner": {"enabled": True, "search": choices}})
    search.SessionTuner(search.SearchJob(run, (), (), 10, 0, str(tmp_path))).search()
    (refused,) = [line for line in lines if ": failed: " in line]
    assert len(trainings.done) == 3 and len(lines) == 4
    assert "embedding_dim 10, n_heads 8: failed: " in refused and "not a multiple" in refused


@pytest.mark.parametrize("kind", ["random", "bayesian"])
def test_any_seed_of_a_run_can_search(trainings, tmp_path, kind):
    job = make_job(tmp_path, oracle=kind, search=RANGES)
    run = job.run.model_copy(update={"seed": 2**63 - 1})
    search.SessionTuner(search.SearchJob(run, (), (), 10, 0, job.folder)).search()
    assert len(trainings.done) == 6


def test_a_search_in_which_everything_fails_is_an_error(trainings, tmp_path):
    trainings.diverging = {0.1, 0.5, 1.0, 2.0, 5.0, 10.0}
    with pytest.raises(RunError, match="all 6 trials"):
        search.SessionTuner(make_job(tmp_path)).search()


def test_what_no_trial_could_do_ends_the_search_at_once(trainings, tmp_path, monkeypatch):
    def unreadable(_):
        raise InputError("no such file")

    monkeypatch.setattr(search.SessionTuner, "_read_tables", unreadable)
    with pytest.raises(InputError, match="no such file"):
        search.SessionTuner(make_job(tmp_path)).search()


def test_each_line_tells_the_best_so_far(trainings, lines, tmp_path):
    tuner = search.SessionTuner(make_job(tmp_path))
    tuner.search()
    scores = [float(line.partition("val mrr@20 ")[2][:6]) for line in lines]
    bests = [float(line.rpartition(" ")[2]) for line in lines]
    assert bests == list(itertools.accumulate(scores, max))
    assert lines[2].startswith("[3/6] lambda_fp ")


def test_the_other_objective_is_read_from_the_same_epoch(trainings, tmp_path):
    tuner = search.SessionTuner(make_job(tmp_path, objective="val_hr@20"))
    tuner.search()
    assert tuner.oracle.get_best_trials(1)[0].score == pytest.approx(max(1 - s for s in _scores(tuner)))


def _scores(tuner):
    return [1 - trial.score for trial in tuner.oracle.trials.values()]


def test_numbers_mean_what_is_printed_of_them():
    assert read_settings({MARGIN: 0.01234567890, "training.batch_size": 1234567, "tuner/epochs": 3}) == {
        MARGIN: 0.0123457,
        "training.batch_size": 1234567,
    }


def test_a_job_survives_its_way_to_a_worker(tmp_path):
    job = make_job(tmp_path, search=RANGES, workers=2)
    assert search.SearchJob.from_json(job.to_json()) == job


def results(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / "tuner_results.json").write_text(json.dumps(rows))
    return report.read_trials(str(folder))


def test_the_table_has_the_best_first_and_says_how_to_keep_it(tmp_path):
    rows = [
        {"trial_id": "0", "score": 0.1, LAMBDA: 0.5, MARGIN: 1.0},
        {"trial_id": "1", "score": 0.25, LAMBDA: 5.0, MARGIN: 0.1},
    ]
    table = report.format_table(results(tmp_path, rows), "val_mrr@20").splitlines()
    assert table[0].split() == ["val", "mrr@20", "lambda_fp", "margin"]
    assert [line.split() for line in table[1:3]] == [["0.2500", "5.0", "0.1"], ["0.1000", "0.5", "1.0"]]
    assert table[-4:] == ["model:", "  loss:", "    lambda_fp: 5.0", "    margin: 0.1"]


@pytest.mark.parametrize("search", [{LAMBDA: (0.1, 1.0), MARGIN: (1.0, 2.0)}, RANGES])
def test_the_picture_is_a_png_that_shows_the_scores(search, tmp_path):
    rows = [
        {"trial_id": str(k), "score": 0.1 * k, LAMBDA: weight, MARGIN: 1.0, "tuner/epochs": 3}
        for k, weight in enumerate((0.1, 1.0, 1.0))
    ]
    tuner = TunerConfig(search=search)
    pictures = [report.draw_lambda_margin(results(tmp_path, rows[:n]), tuner) for n in (1, 2, 3)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len({*pictures}) == 3


def test_the_picture_has_the_numbers_as_they_were_tried(tmp_path):
    trials = results(tmp_path, [{"trial_id": "0", "score": 0.1, LAMBDA: 0.333333, MARGIN: 1.0}])
    assert report.draw_lambda_margin(trials, TunerConfig(search={LAMBDA: (1 / 3, 1.0), MARGIN: (1.0, 2.0)}))


def test_there_is_no_picture_of_something_else(tmp_path):
    trials = results(tmp_path, [{"trial_id": "0", "score": 0.1, MARGIN: 1.0}])
    assert report.draw_lambda_margin(trials, TunerConfig(search={MARGIN: (1.0,)})) is None


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"model.loss.lambda": [1, 2]}, ["no field 'model.loss.lambda'", "nearest is 'model.loss.lambda_fp'"]),
        ({"data.min_item_support": [1, 2]}, ["'data.min_item_support' is not under model or training"]),
        ({MARGIN: [1.0, -1.0]}, [f"{MARGIN} = -1.0", "greater than or equal to 0"]),
        ({MARGIN: [1.0, 1]}, ["has a value twice"]),
        ({MARGIN: [1.0, "much"]}, ["all numbers, all words"]),
        ({MARGIN: {"min": 2, "max": 1}}, ["min 2 is not below max 1"]),
        ({MARGIN: {"min": 0, "max": 1, "sampling": "log"}}, ["min 0 has no logarithm"]),
        ({MARGIN: {"min": 0}}, [f"{MARGIN}.max", "required"]),
        ({MARGIN: 3}, ["give a list of values"]),
        ({"model.user_concat": ["none", "add"]}, ["needs side features"]),
        ({}, ["nothing to search"]),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_runs(search, words):
    with pytest.raises(ValueError, match="tuner") as refused:
        RunConfig.model_validate({**RUN, "tuner": {"enabled": True, "search": search}})
    assert all(word in str(refused.value) for word in words), refused.value


def test_an_objective_that_training_does_not_measure_is_refused():
    with pytest.raises(ValueError, match="objective"):
        RunConfig.model_validate({**RUN, "tuner": {"objective": "val_ndcg@20"}})


def test_settings_replace_values_and_must_make_a_valid_whole():
    run = RunConfig.model_validate(RUN)
    changed = with_settings(run, {MARGIN: 3.0, "training.batch_size": 7})
    assert (changed.model.loss.margin, changed.training.batch_size) == (3.0, 7)
    assert with_settings(changed, {MARGIN: run.model.loss.margin, "training.batch_size": 128}) == run
    with pytest.raises(ValueError, match="margin"):
        with_settings(run, {MARGIN: -3.0})


def test_whole_limits_make_whole_numbers():
    tuner = TunerConfig(
        search={"training.batch_size": RangeConfig(min=16, max=64), MARGIN: RangeConfig(min=0.5, max=1)}
    )
    values = [make_oracle(tuner, 9, seed).populate_space("0")["values"] for seed in range(5)]
    assert all(isinstance(v["training.batch_size"], int) and 16 <= v["training.batch_size"] <= 64 for v in values)
    assert all(isinstance(v[MARGIN], float) and 0.5 <= v[MARGIN] <= 1 for v in values)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(progress, "_is_quiet", True)
