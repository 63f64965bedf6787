"""The command line in this process: what it prints and the exit codes, where no pipeline has to run for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fp_tfrs import progress
from pipeline import cli

ROWS = ["session_id,item_id,timestamp,dwell_s"] + [
    f"s{s},i{(s + e) % 9},{1_000_000 + 100 * s + e},{5 + 10 * (e % 2)}" for s in range(40) for e in range(4)
]


def write_config(folder, **changes):
    values = {
        "name": "tiny",
        "data": {
            "source": {"format": "csv", "files": [str(folder / "events.csv")]},
            "columns": {"session_id": "session_id", "feedback": {"dwell_s": "float"}},
            "false_positive_when": [{"column": "dwell_s", "op": "<", "value": 10}],
            "min_item_support": 1,
        },
    }
    for path, value in changes.items():
        section = values
        *parents, last = path.split("__")
        for name in parents:
            section = section[name]
        section[last] = value
    path = folder / "config.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return str(path)


@pytest.fixture(autouse=True)
def stay_loud(monkeypatch):
    """`--quiet` holds for a process; here many commands share one."""
    monkeypatch.setattr(progress, "_is_quiet", False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "events.csv").write_text("\n".join(ROWS) + "\n")
    return tmp_path


def run_cli(capsys, *arguments):
    code = cli.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"floors": 1}}, "unknown key 'training.floors'; valid keys there are batch_size, "),
        ({"data__colums": {}}, "unknown key 'data.colums'; the nearest valid key is 'columns'"),
        ({"model": {"loss": {"marign": 2}}}, "unknown key 'model.loss.marign'; the nearest valid key is 'margin'"),
        ({"data__max_bad_share": 2}, "data.max_bad_share = 2"),
        (
            {"model": {"tower": {"dropout_embeding": 0}}},
            "unknown key 'model.tower.dropout_embeding'; the nearest valid key is 'dropout_embedding'",
        ),
        (
            {"model": {"tower": {"name": "gru4rec", "layers": 2}}},
            "unknown key 'model.tower.layers'; the nearest valid key is 'n_layers'",
        ),
        ({"model": {"tower": {"name": "gru5rec"}}}, "model.tower.name = 'gru5rec': Input should be one of 'narm', "),
        ({"model": {"tower": {"name": "gru4rec", "n_layers": 0}}}, "model.tower.n_layers = 0: "),
        (
            {"data__false_positive_when": []},
            "which says what an abandoned click is; add a rule, or choose method: vanilla",
        ),
        (
            {"data__false_positive_when": [], "model": {"method": "vanilla", "penalty": 0.5}},
            "model.penalty needs data.false_positive_when",
        ),
        (
            {"data__false_positive_when": [], "model": {"method": "vanilla", "inputs": "marked"}},
            "model.inputs: marked needs data.false_positive_when",
        ),
        ({"model": {"method": "entire_space", "inputs": "tp"}}, "choose inputs: marked or all"),
        ({"model": {"method": "soft_labels"}}, "model.method soft_labels needs data.satisfaction, which says how much"),
        (
            {"model": {"loss": {"gate_gradient": "supervised"}}},
            "model.loss.gate_gradient: supervised needs data.satisfaction",
        ),
        ({"model": {"loss": {"fp_scope": "user"}}}, "model.loss.fp_scope: user needs data.columns.user_id"),
        ({"model": {"user_concat": "gate"}}, "model.user_concat: gate needs data.columns.user_id"),
        (
            {"model": {"tower": {"name": "sdm", "has_users": True}}},
            "model.tower.has_users needs data.columns.user_id",
        ),
        (
            {
                "data__columns__user_id": "session_id",
                "model": {"tower": {"name": "sdm", "has_users": True, "has_history": True}},
            },
            "model.tower.has_history needs data.history; {} gives it the defaults",
        ),
        ({"data__columns": {"item_id": "item_id"}}, "neither session_id nor user_id is mapped"),
        (
            {"data__false_positive_when": [{"column": "dwel", "op": "<", "value": 1}]},
            "uses column 'dwel', which columns.feedback does not list (it has: dwell_s)",
        ),
        ({"data__columns__item_id": "itemid"}, "itemid"),
        ({"data__source__files": ["$NOWHERE_SET/x.csv"]}, "NOWHERE_SET"),
        ({"data__source__files": ["/nonexistent/*.csv"]}, "/nonexistent/*.csv"),
        ({"validation": {"schema_file": "/nonexistent.pbtxt"}}, "validation.schema_file = /nonexistent.pbtxt"),
        (
            {
                "data__columns": {"item_id": "item_id", "user_id": "session_id", "feedback": {"dwell_s": "float"}},
                "data__split": {"by": "random"},
                "data__since": "30d",
                "training": {"warm_start": "latest"},
            },
            "training.warm_start with data.since and sessions cut per user",
        ),
        (
            {"model": {"loss": {"similarity": "cosine", "aggregation": "sum"}}},
            "aggregation: sum is the mean where similarity: cosine",
        ),
        (
            {
                "model": {"method": "two_queries"},
                "tuner": {"enabled": True, "search": {"model.loss.gate_hidden_dim": [4, 8]}},
            },
            "tuner.search has model.loss.gate_hidden_dim, but method two_queries has no use for it",
        ),
        (
            {"tuner": {"enabled": True, "search": {"training.max_epochs": [2, 40]}}},
            "training.max_epochs is the same for all trials; set tuner.epochs",
        ),
        (
            {"model": {"method": "fp_contrastive"}, "tuner": {"enabled": True}},
            "tuner.search has model.loss.margin, but method fp_contrastive has no use for it",
        ),
        (
            {
                "tuner": {"enabled": True, "search": {"model.loss.similarity": ["dot", "cosine"]}},
                "model": {"method": "fp_simple"},
            },
            "tuner.search has model.loss.similarity, but method fp_simple has no use for it",
        ),
    ],
)
def test_bad_config_is_one_line_and_exit_code_2(folder, capsys, changes, said):
    code, out, err = run_cli(
        capsys, "run", "--quiet", "--config", write_config(folder, **changes), "--root", str(folder / "root")
    )
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_schema_that_is_none_is_named_before_the_run(folder, capsys):
    config = write_config(folder, validation={"schema_file": str(folder / "events.csv")})
    code, _, err = run_cli(capsys, "run", "--quiet", "--config", config, "--root", str(folder / "root"))
    assert code == 2
    assert f"validation.schema_file = {folder}/events.csv is no schema: 1:" in err
    assert err.count("\n") == 1


def test_missing_config_is_one_line(folder, capsys):
    code, _, err = run_cli(capsys, "run", "--config", str(folder / "no.yaml"), "--root", str(folder / "root"))
    assert code == 2
    assert err == f"fp-tfrs: config {folder}/no.yaml: No such file or directory\n"


def test_root_that_is_a_file_is_refused(folder, capsys):
    code, _, err = run_cli(
        capsys, "run", "--quiet", "--config", write_config(folder), "--root", str(folder / "events.csv")
    )
    assert code == 2
    assert "cannot be written" in err


@pytest.mark.parametrize("name", ["r[1]", "r?", "r*"])
def test_root_that_would_be_read_as_a_pattern_is_refused(folder, capsys, name):
    code, _, err = run_cli(capsys, "run", "--quiet", "--config", write_config(folder), "--root", str(folder / name))
    assert code == 2
    assert f"--root {folder}/{name}: TFX finds files by patterns" in err and err.count("\n") == 1
    assert not (folder / name).exists()


def test_a_locale_without_the_letters_of_a_summary_prints_their_numbers():
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "pipeline.cli", "config", "--explain"]
    run = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    assert rb"float \u2265 0" in run.stdout


def test_config_explain_gives_every_field_with_meaning_and_source(capsys):
    code, out, _ = run_cli(capsys, "config", "--explain")
    assert code == 0
    assert "model.loss.margin\n    float ≥ 0; default 1.0; source: unknown in the paper" in out
    assert "model.tower.name\n    one of [narm, gru4rec" in out
    assert "model.tower (gru4rec).n_layers\n    int ≥ 1; default 1; " in out
    assert len(out.splitlines()) % 3 == 0


def test_simulate_writes_a_log_that_is_equal_for_equal_seeds(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("a.csv", "b.csv", "c.csv")]
    for path, seed in zip(paths, "112", strict=True):
        code, out, _ = run_cli(
            capsys, "simulate", "--out", path, "--sessions", "50", "--items", "100", "--seed", seed, "--quiet"
        )
        assert code == 0
        assert "50 sessions over 100 items" in out
    first, second, other = (Path(path).read_text() for path in paths)
    assert first == second != other


def test_simulate_with_slates_counts_and_writes_what_was_shown(tmp_path, capsys):
    path = tmp_path / "a.csv"
    code, out, _ = run_cli(capsys, "simulate", "--out", str(path), "--sessions", "20", "--slate", "3", "--quiet")
    assert code == 0
    header, *rows = path.read_text().splitlines()
    assert header.endswith(",is_click,slate_position")
    assert f"{len(rows):,} shown items in 20 sessions" in out


@pytest.mark.parametrize(("option", "value"), [("--items", "3"), ("--slate", "1")])
def test_simulate_refuses_what_it_cannot_draw(tmp_path, capsys, option, value):
    code, _, err = run_cli(capsys, "simulate", "--out", str(tmp_path / "x.csv"), option, value)
    assert code == 2
    assert f"{option} {value}" in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--items", "a,b", "--fp", "1"], "give a 0 or 1 for each of the 2 items"),
        (["--items", "a,b", "--fp", "1,x"], "give a 0 or 1"),
        (["--items", "a", "-k", "0"], "ask for 1 item at least"),
        (["--items", "a, b", "--fp", "0, 1"], "neither an exported model nor a folder of versions"),
        (["--items", "a"], "neither an exported model nor a folder of versions"),
    ],
)
def test_recommend_refuses_bad_requests(tmp_path, capsys, arguments, said):
    code, _, err = run_cli(capsys, "recommend", "--model", str(tmp_path), *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_no_command_says_where_help_is(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_root_that_cannot_be_written_is_refused(folder, capsys):
    code, _, err = run_cli(capsys, "run", "--quiet", "--config", write_config(folder), "--root", "/proc/fp-tfrs")
    assert code == 2
    assert "--root /proc/fp-tfrs cannot be written" in err


@pytest.mark.parametrize(
    "arguments",
    [["run", "--config", "{config}", "--root"], ["tune", "--config", "{config}", "--root"], ["simulate", "--out"]],
)
def test_a_disk_that_cannot_be_written_is_one_line(folder, disk, capsys, arguments):
    place = disk("ro") / "new"
    known = [argument.format(config=write_config(folder)) for argument in arguments]
    code, out, err = run_cli(capsys, *known, str(place), "--quiet")
    assert code in (1, 2) and out == "" and err.count("\n") == 1
    assert str(place) in err and ("cannot be written" in err or "Read-only file system" in err)
