"""configs/datasets/: one for each data set, valid, and fit for the events that its builder makes."""

import shutil
from pathlib import Path

import pytest
from dataset_files import DUMMY_DATA, write_ebnerd, write_sequences

from fp_tfrs import config, config_file, datasets
from fp_tfrs.datasets import prepared
from fp_tfrs.events import BadRow, Event, EventParser
from fp_tfrs.sources import RawRow

FOLDER = Path(__file__).parents[1] / "configs/datasets"
WITH_MISSING = {"ebnerd": 2, "lastfm1k": 2}  # clicks of the made-up files whose feedback was not measured


def test_every_data_set_has_one():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(datasets.NAMES)


@pytest.mark.parametrize("name", datasets.NAMES)
def test_it_is_valid_and_reads_what_the_builder_makes(tmp_path, name):
    run = config_file.load(str(FOLDER / f"{name}.yaml"))
    assert run.name == run.data.source.name == name
    assert config.parse(config.RunConfig, config.dump(run)) == run
    raw = tmp_path / "raw"
    if (DUMMY_DATA / name).exists():
        shutil.copytree(DUMMY_DATA / name, raw)
    if name == "ebnerd":
        write_ebnerd(raw)
    if run.data.source.config == "sr_gnn":
        write_sequences(raw)
    builder = prepared._find_builder(run.data.source.model_copy(update={"data_dir": str(tmp_path)}))
    parser = EventParser(run.data, 2e9)
    rows = [RawRow(1, event, "", None) for read, part in builder.find_parts(str(raw)) for event in read(part)]
    results = [parser.parse(row) for row in rows]
    bad = [result.reason for result in results if isinstance(result, BadRow)]
    assert len(bad) == WITH_MISSING.get(name, 0) and all(reason.endswith("is NaN") for reason in bad)
    clicks = [result for result in results if isinstance(result, Event)]
    assert clicks and any(click.is_false_positive for click in clicks) == (run.model.method != "vanilla")
