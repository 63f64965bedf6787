"""`data.since`: what is read then is what a log that begins there has, whichever way the time is given."""

import datetime
import json

import pytest
import yaml
from test_preprocess import LATEST_S, draw_log, make_config

from fp_tfrs import config_file, schema
from fp_tfrs.config import DataConfig, dump, parse_since
from fp_tfrs.data import manifest
from fp_tfrs.data.examples import read_sessions
from fp_tfrs.data.preprocess import preprocess
from fp_tfrs.errors import InputError

SINCE_S = 1_700_040_000  # of a log from 1_700_000_000 to 1_700_100_000
AS_TIME = "2023-11-15T09:20:00Z"


@pytest.mark.parametrize(
    ("text", "timestamp_s", "before_end_s"),
    [
        (AS_TIME, SINCE_S, None),
        ("2023-11-15T10:20:00+01:00", SINCE_S, None),
        ("2023-11-15", 1_700_006_400, None),
        ("1970-01-01T00:00:00+01:00", 0, None),
        ("30d", None, 30 * 86_400),
        ("90m", None, 5_400),
        ("2w", None, 14 * 86_400),
    ],
)
def test_times_and_durations(text, timestamp_s, before_end_s):
    assert parse_since(text) == (timestamp_s, before_end_s)


@pytest.mark.parametrize("text", ["", "yesterday", "30", "-3d", "3y", "1700040000", "2023-13-01"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(ValueError, match="neither an ISO 8601 time"):
        make_config("x.csv", since=text)


def test_the_option_replaces_the_files_value_and_makes_another_configuration(tmp_path):
    path = tmp_path / "run.yaml"
    values = {"name": "m", "data": json.loads(dump(make_config("x.csv"))) | {"since": datetime.date(2023, 11, 15)}}
    path.write_text(yaml.safe_dump(values))
    assert config_file.load(str(path)).data.since == "2023-11-15"  # YAML makes a date of it
    assert config_file.load(str(path), "30d").data.since == "30d"
    with pytest.raises(InputError, match="since: 'soon' is neither"):
        config_file.load(str(path), "soon")


@pytest.fixture(scope="module")
def log():
    rows = draw_log(2_000)
    rows.loc[rows.index[0], "time"] = SINCE_S  # the time itself is new
    rows.loc[rows.index[1], "time"] = SINCE_S + 16 * 3_600  # and the log ends 16 hours later
    return rows[rows.time <= SINCE_S + 16 * 3_600]


def sessions_of(folder, data: DataConfig):
    result = preprocess(data, 1, str(folder), str(folder / "bad.jsonl"), LATEST_S)
    return result, {split: sorted(map(repr, read_sessions(str(folder), split))) for split in schema.SPLITS}


@pytest.mark.parametrize("since", [AS_TIME, "16h"])
def test_it_is_as_if_the_log_began_there(log, tmp_path, since, monkeypatch):
    monkeypatch.setattr("fp_tfrs.data.preprocess._SAMPLE_ROWS", 40)
    is_old = log.time < SINCE_S
    log[~is_old].to_csv(tmp_path / "new.csv", index=False)
    cut, expected = sessions_of(tmp_path / "cut", make_config(tmp_path / "new.csv", history={}))
    broken = log[is_old].head(300).assign(item="")  # many, but none of those that are read
    log = log.sort_values("time")
    for name, part in {"a": broken, "b": log[::2], "c": log[1::2]}.items():
        part.to_csv(tmp_path / f"part-{name}.csv", index=False)
    result, found = sessions_of(tmp_path / "out", make_config(tmp_path / "part-*.csv", history={}, since=since))
    assert found == expected
    assert (result.since_s, result.older_rows, result.n_bad_rows) == (SINCE_S, is_old.sum() + 300, 0)
    assert result.rows == cut.rows + result.older_rows
    assert result.splits == cut.splits
    assert f"{result.older_rows:,} before 2023-11-15 09:20 were not taken" in manifest.format_summary(result)[0]


@pytest.mark.parametrize("since", [AS_TIME, "16h"])
def test_one_bad_row_among_old_ones_says_nothing_of_the_log(log, tmp_path, since, monkeypatch):
    monkeypatch.setattr("fp_tfrs.data.preprocess._SAMPLE_ROWS", 40)
    log = log.sort_values("time")
    log.assign(item=log.item.where(log.index != log.index[20], "")).to_csv(tmp_path / "log.csv", index=False)
    result, _ = sessions_of(tmp_path / "out", make_config(tmp_path / "log.csv", since=since))
    assert result.older_rows == (log.time < SINCE_S).sum() > 40


def test_a_late_log_is_said_to_be_one(log, tmp_path):
    log.to_csv(tmp_path / "log.csv", index=False)
    data = make_config(tmp_path / "log.csv", since="2023-12-01")
    with pytest.raises(
        InputError, match=rf"all {len(log)} rows are of before data.since = 2023-12-01 \(2023-12-01 00:00\)"
    ):
        sessions_of(tmp_path / "out", data)
