import itertools

import pytest
import yaml

from fp_tfrs.errors import InputError
from fp_tfrs.experiments.plan import Cell, Plan, run_fingerprint

RUN = {
    "name": "log",
    "seed": 3,
    "data": {
        "source": {"format": "simulated", "simulation": {"sessions": 300, "items": 100, "seed": 1}},
        "columns": {"session_id": "session_id", "feedback": {"dwell_s": "float"}},
        "false_positive_when": [{"column": "dwell_s", "op": "<", "value": 10}],
    },
}
EXPERIMENT = {
    "name": "small",
    "title": "A small one",
    "seeds": [1, 2],
    "trials": 4,
    "data_sets": {"log": {"config": "log.yaml"}},
    "towers": {
        "narm": {"set": {"model.tower": {"name": "narm"}}},
        "stamp": {"set": {"model.tower": {"name": "stamp"}}},
    },
    "methods": {
        "vanilla": {"set": {"model.method": "vanilla"}},
        "fp_metric": {
            "set": {"model.method": "fp_metric"},
            "search": {"model.loss.lambda_fp": [0.1, 0.5], "model.loss.margin": [1, 2, 3]},
        },
    },
    "search": {"training.learning_rate": [0.003, 0.001, 0.01]},
}


def _plan(folder, **changes):
    (folder / "log.yaml").write_text(yaml.safe_dump(RUN))
    (folder / "small.yaml").write_text(yaml.safe_dump({**EXPERIMENT, **changes}, sort_keys=False))
    return Plan(str(folder / "small.yaml"))


def test_a_run_is_the_data_sets_file_with_the_plans_values_in_it(tmp_path):
    plan = _plan(tmp_path, data_sets={"log": {"config": "log.yaml", "set": {"training.batch_size": 7}}})
    run = plan.run(Cell("log", "stamp", "fp_metric"), {"model.loss.margin": 2, "training.learning_rate": 0.01}, 9)
    assert (run.name, run.seed, run.training.batch_size, run.training.learning_rate) == ("log", 9, 7, 0.01)
    assert (run.model.method, run.model.tower.name, run.model.loss.margin) == ("fp_metric", "stamp", 2)
    assert plan.data_run("log").seed == 3  # the data does not change with the training's seed


def test_other_runs_data_can_take_the_place_of_the_experiments_without_their_models(tmp_path):
    _plan(tmp_path)
    mine = {**RUN, "name": "mine", "training": {"batch_size": 7}, "model": {"cosine_scale": 9}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    plan = Plan(str(tmp_path / "small.yaml"), [str(tmp_path / "mine.yaml")])
    assert {cell.data_set for cell in plan.experiment.cells()} == {"mine"}
    run = plan.run(plan.experiment.cells()[0], {}, 1)
    assert run.training.batch_size == 7 and run.model.cosine_scale is None
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(mine))
    with pytest.raises(InputError, match=r"mine.yaml and .*other.yaml both have name: mine; rename one"):
        Plan(str(tmp_path / "small.yaml"), [str(tmp_path / "mine.yaml"), str(tmp_path / "other.yaml")])


def test_every_cell_tries_as_many_settings_and_the_same_shared_ones(tmp_path):
    plan = _plan(tmp_path)
    tried = {cell.method: plan.candidates(cell) for cell in plan.experiment.cells()}
    assert [len(settings) for settings in tried.values()] == [3, 4]  # vanilla has but three
    shared = [settings["training.learning_rate"] for settings in tried["fp_metric"]]
    assert shared[:3] == [settings["training.learning_rate"] for settings in tried["vanilla"]]
    assert tried["fp_metric"][0] == {
        "training.learning_rate": 0.003,
        "model.loss.lambda_fp": 0.1,
        "model.loss.margin": 1,
    }


def test_with_enough_trials_every_combination_is_tried_once(tmp_path):
    tried = _plan(tmp_path, trials=100).candidates(Cell("log", "narm", "fp_metric"))
    wanted = itertools.product([0.003, 0.001, 0.01], [0.1, 0.5], [1, 2, 3])
    assert sorted(
        (s["training.learning_rate"], s["model.loss.lambda_fp"], s["model.loss.margin"]) for s in tried
    ) == sorted(wanted)


def test_a_sweep_gives_every_method_each_value_of_each_path_and_searches_none_of_it(tmp_path):
    plan = _plan(tmp_path, sweep={"model.loss.margin": [1, 5], "model.loss.lambda_fp": [0.1]}, trials=50)
    cells = [cell for cell in plan.experiment.cells() if (cell.tower, cell.method) == ("narm", "fp_metric")]
    assert [(cell.swept, cell.value) for cell in cells] == [
        ("model.loss.margin", 1),
        ("model.loss.margin", 5),
        ("model.loss.lambda_fp", 0.1),
    ]
    assert plan.run(cells[1], plan.candidates(cells[1])[0], 1).model.loss.margin == 5
    assert len(plan.candidates(cells[1])) == 6 and "model.loss.margin" not in plan.candidates(cells[1])[0]


def test_lists_and_sections_can_be_swept(tmp_path):
    kinds = [{"kind": "full_softmax"}, {"kind": "sampled_softmax"}]
    sweep = {"training.length_buckets": [[], [10, 20]], "model.next_item": kinds}
    plan = _plan(tmp_path, sweep=sweep, seeds=[1])
    cells = [cell for cell in plan.experiment.cells() if (cell.tower, cell.method) == ("narm", "vanilla")]
    assert len(set(cells)) == 4
    runs = [plan.run(cell, plan.candidates(cell)[0], 1) for cell in cells]
    assert [run.training.length_buckets for run in runs[:2]] == [(), (10, 20)]
    assert [run.model.next_item.kind for run in runs[2:]] == ["full_softmax", "sampled_softmax"]


def test_what_a_run_comes_to_depends_on_data_model_training_and_seed_alone(tmp_path):
    plan, cell = _plan(tmp_path), Cell("log", "narm", "vanilla")
    run = plan.run(cell, {}, 1)
    renamed = run.model_copy(
        update={"name": "other", "evaluation": run.evaluation.model_copy(update={"resamples": 100})}
    )
    assert run_fingerprint(renamed) == run_fingerprint(run)
    others = [plan.run(cell, {}, 2), plan.run(cell, {"training.learning_rate": 0.5}, 1)]
    others.append(plan.run(cell, {"model.loss.margin": 2}, 1))
    others += [plan.run(Cell("log", "stamp", "vanilla"), {}, 1), plan.run(cell, {"model.loss.gate": "hard"}, 1)]
    assert len({run_fingerprint(other) for other in (run, *others)}) == 6


def test_a_default_that_is_written_out_names_the_same_run(tmp_path):
    plan, cell = _plan(tmp_path), Cell("log", "narm", "vanilla")
    written = {"model.loss.margin": 1.0, "training.batch_size": 128, "model.next_item": {"kind": "full_softmax"}}
    assert run_fingerprint(plan.run(cell, written, 1)) == run_fingerprint(plan.run(cell, {}, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"against": ["fp_simple"]}, "against has no method 'fp_simple'; methods are vanilla, fp_metric"),
        (
            {"metrics": ["hr@20", "set_recal@50"]},
            "metrics has 'set_recal@50', which is none; the nearest one is 'set_recall@50'",
        ),
        ({"metrics": ["hr@20", "hr@20"]}, "metrics hr@20, hr@20 has one twice"),
        ({"seeds": [1, 1]}, "seeds [1, 1] has one twice"),
        ({"trails": 3}, "unknown key 'trails'; the nearest valid key is 'trials'"),
        ({"search": {"data.min_item_support": [1, 5]}}, "'data.min_item_support' is not under model or training"),
        ({"search": {"training.learning_rate": []}}, "'training.learning_rate' has no values to choose from"),
        (
            {"search": {"training.learning_rat": [1]}},
            "small.yaml: log/narm/vanilla: unknown key 'training.learning_rat'",
        ),
        ({"search": {"model.tower.name.x": [1]}}, "'name' is no section"),
        ({"data_sets": {"log": {"config": "nowhere.yaml"}}}, "nowhere.yaml: No such file"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        _plan(tmp_path, methods={**EXPERIMENT["methods"], "fp_metric": {"set": {"model.loss.margin": 1}}}, **changes)
    assert message in str(error.value)
