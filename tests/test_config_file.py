"""A configuration file can say anything; what is no configuration is refused in a sentence, at once and in little memory."""

import os
import time

import pytest
from hostile import BOMB, MERGE_BOMB

from fp_tfrs import config_file
from fp_tfrs.config import DataConfig, SourceConfig, parse_since
from fp_tfrs.errors import MOST_CHARACTERS, InputError

SMALLEST = "name: films\ndata: {source: {format: simulated, simulation: {}}, columns: {session_id: s}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{BOMB}name: *b11\n", "holds more than 100,000 values"),
        (f"{MERGE_BOMB}<<: *m8\n", "holds more than 100,000 values"),
        ("name: &a [*a]\n", "holds more than 100,000 values"),
        ("".join(f"a{n}: &a{n} [{f'*a{n - 1}' if n else 1}]\n" for n in range(200)), "nested too deeply"),
        ("name: " + "[" * 60 + "]" * 60, "nested too deeply; keep to 50 levels"),
        ("[" * 5_000, "nested too deeply; keep to 50 levels"),
        ("# " + "x" * 200_000, "more than 200,000 characters"),
        (f"{SMALLEST}seed: {'9' * 5_000}\n", "a number has more than 1,000 digits, in line 3"),
        (f"{SMALLEST}seed: 0x{'f' * 5_000}\n", "a number has more than 1,000 digits, in line 3"),
        (
            f"{SMALLEST}training: {{}}\nseed: 1\ntraining: {{batch_size: 64}}\n",
            "'training' is given twice, in line 3 and 5",
        ),
        (f"{SMALLEST}card: {{&k intended_use: a, *k : b}}\n", "'intended_use' is given twice, in line 3 and 3"),
        (f"{SMALLEST}training: {{length_buckets: [8, 4]}}\n", "length_buckets.*rising order"),
        (f"{SMALLEST}seed: {2**63}\n", "seed = "),
        ("name: 2026-13-45\n", "is not YAML: month must be in 1..12"),
        ("name: !!bool perhaps\n", "is not YAML"),
        ("name: !!int x\n", "is not YAML"),
        ("name: !!timestamp x\n", "is not YAML"),
        ("name: !!python/object/apply:os.mkdir [made]\n", "could not determine a constructor"),
        (f"{SMALLEST}seed: {'s' * 100_000}\n", "seed = "),
        (
            SMALLEST.replace("id: s}", 'id: "\\ud800"}'),
            r"data\.columns\.session_id: .* has half a character; write the whole one",
        ),
        (
            SMALLEST.replace("id: s}", 'id: s, feedback: {"\\udfff": int}}'),
            r"data\.columns\.feedback.* has half a character",
        ),
    ],
)
def test_what_is_no_configuration_is_refused_at_once(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(text)
    start_s = time.process_time()
    with pytest.raises(InputError, match=said) as refused:
        config_file.load("my.yaml")
    assert time.process_time() - start_s < 5
    assert len(str(refused.value)) <= MOST_CHARACTERS
    assert os.listdir(tmp_path) == ["my.yaml"]  # nothing in it was run


def test_anchors_and_merges_are_followed(tmp_path):
    (tmp_path / "my.yaml").write_text(
        "name: films\n"
        "data:\n"
        "  <<: {source: {format: simulated, simulation: &log {sessions: 50}}, columns: {session_id: &id s}}\n"
        "  shards: 3\n"
        "model: {method: vanilla}\n"
        "card: {intended_use: *id}\n"
    )
    run = config_file.load(str(tmp_path / "my.yaml"))
    assert (run.data.shards, run.data.source.simulation.sessions, run.card.intended_use) == (3, 50, "s")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-2", 0.01), ("1E5", 1e5), ("-2e-4", -2e-4), ("+.5e1", 5.0), ("3.e2", 300.0), ("1.5e+3", 1500.0)],
        *[("'1e-2'", "1e-2"), ('"1E5"', "1E5"), ("1e", "1e"), ("e5", "e5"), ("12e5f", "12e5f"), ("1_0e2", "1_0e2")],
        *[("0x1e5", 0x1E5), ("10", 10), ("2.5", 2.5), ("-e1", "-e1"), ("1e5 1", "1e5 1")],
    ],
)
def test_numbers_may_have_an_exponent_without_a_point_and_texts_stay_texts(tmp_path, text, value):
    (tmp_path / "my.yaml").write_text(f"a: [{text}]\n{text}: b\n")
    found = config_file.read_values(str(tmp_path / "my.yaml"))
    assert found == {"a": [value], value: "b"} and type(found["a"][0]) is type(value)


def test_rules_and_searches_take_numbers_with_an_exponent(tmp_path):
    (tmp_path / "my.yaml").write_text(
        "name: films\n"
        "data:\n"
        "  source: {format: csv, files: [a.csv]}\n"
        "  columns: {session_id: s, feedback: {share: float}}\n"
        '  false_positive_when: [{column: share, op: "<", value: 1e-2}]\n'
        "tuner: {search: {model.loss.margin: [1e-3, 0.1], model.loss.lambda_fp: {min: 1e-3, max: 1e1}}}\n"
    )
    run = config_file.load(str(tmp_path / "my.yaml"))
    assert run.data.false_positive_when[0].value == 0.01
    assert run.tuner.search["model.loss.margin"] == (0.001, 0.1)
    assert run.tuner.search["model.loss.lambda_fp"].max == 10


def test_the_middle_of_an_endless_message_goes():
    message = str(InputError(f"log.csv has no column 'item'; it has: {'x' * 100_000}; check data.columns"))
    assert len(message) <= MOST_CHARACTERS
    assert message.startswith("log.csv has no column 'item'") and message.endswith("; check data.columns")


@pytest.mark.parametrize("separator", ['"', '"a', "\n", "\r", "\0", "\u2028"])
def test_what_separates_no_fields_is_refused(separator):
    with pytest.raises(ValueError, match="separate no fields; give another one"):
        SourceConfig(format="csv", files=("x.csv",), separator=separator)


def test_durations_longer_than_time_begin_in_1970_and_times_beyond_the_calendar_are_refused():
    for text in ("999999999d", f"{'9' * 500}w"):
        assert parse_since(text).resolve(1e9) == 0.0
    with pytest.raises(ValueError, match="is neither an ISO 8601 time"):
        parse_since("9999-12-31T23:59:59-23:59")
    with pytest.raises(ValueError, match="since: '30x' is neither"):
        DataConfig.model_validate(
            {"source": {"format": "csv", "files": ["x"]}, "columns": {"user_id": "u"}, "since": "30x"}
        )
