"""The shipped configs: every one is valid, and says what it must."""

from pathlib import Path

import pytest

from fp_tfrs import config, config_file
from fp_tfrs.experiments.plan import Plan

EXPERIMENTS = sorted(Path(__file__).parents[1].glob("configs/experiments/*.yaml"))
CONFIGS = sorted(Path(__file__).parents[1].glob("configs/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_is_valid_and_survives_its_way_to_a_node(path):
    run = config_file.load(str(path))
    assert run.name == path.stem
    assert config.parse(config.RunConfig, config.dump(run)) == run


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_shipped_experiment_is_valid_in_every_cell_and_the_readme_names_it(path):
    plan = Plan(str(path))
    assert plan.experiment.name == path.stem
    assert f"`{path.stem}" in (path.parents[2] / "README.md").read_text()


def test_there_is_one_config_for_each_task_of_the_readme():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert all(path.name in readme for path in CONFIGS)


def test_every_field_has_a_meaning_and_every_default_a_source():
    rows = list(config_file.explain())
    assert len(rows) > 50
    for path, kind, _, meaning, source in rows:
        assert meaning, path
        assert source or kind == "section", path
