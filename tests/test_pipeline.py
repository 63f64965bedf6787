"""The whole pipeline as a user runs it: `fp-tfrs run` in processes of its own, on a small simulated log."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import beam_workers
from fp_tfrs import schema

pytestmark = pytest.mark.e2e

CONFIG = {
    "name": "tiny",
    "data": {
        "source": {"format": "simulated", "simulation": {"sessions": 2500, "items": 120}},
        "columns": {"session_id": "session_id", "user_id": "user_id", "feedback": {"dwell_s": "float", "skip": "bool"}},
        "false_positive_when": [{"column": "dwell_s", "op": "<", "value": 10}],
    },
    "model": {"method": "fp_adametric", "tower": {"embedding_dim": 24, "hidden_dim": 24}},
    "training": {"max_epochs": 6, "learning_rate": 0.01},
    "evaluation": {"floors": {"mrr@20": 0.01}},
}
NODES = [
    "SessionExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "AnomalyGate",
    "Transform",
    "Trainer",
    "RankingEvaluator",
    "Evaluator",
    "ServingProbe",
    "Pusher",
]


def command(*arguments):
    return [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]


def run_cli(*arguments):
    """A finished command. Of its stderr, without what TensorFlow 2.21 says whatever its log level (its issue 100442)."""
    run = subprocess.run(command(*arguments), check=False, capture_output=True, text=True, timeout=600)
    run.stderr = re.sub(r"^(WARNING: All log messages before absl::|I0000 ).*\n", "", run.stderr, flags=re.MULTILINE)
    return run


def write_config(folder, values):
    path = folder / "config.yaml"
    path.write_text(json.dumps(values))
    return path


def versions(root):
    folder = root / "serving" / "tiny"
    return sorted(int(name) for name in os.listdir(folder) if name.isdecimal()) if folder.exists() else []


def nodes_run(run):
    """node → "done" or "unchanged", from what the run said."""
    return dict(re.findall(r"^\[\d+/11\] (\w+): (done|unchanged)", run.stderr, re.MULTILINE))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run: its folder (with a space and a letter beyond ASCII in the name), and what it said."""
    folder = tmp_path_factory.mktemp("läufe und so")
    run = run_cli("run", "--config", write_config(folder, CONFIG), "--root", folder / "root")
    assert run.returncode == 0, run.stderr
    return folder, run


@pytest.fixture(scope="module")
def pushed(first):
    folder, _ = first
    (version,) = versions(folder / "root")
    return folder / "root" / "serving" / "tiny" / str(version)


def metrics_of(root):
    """The first run's report."""
    paths = root.glob("artifacts/RankingEvaluator/evaluation_result/*/metrics.json")
    return json.loads(min(paths, key=os.path.getmtime).read_text())


def test_run_ends_with_table_version_and_next_command(first, pushed):
    _, run = first
    assert nodes_run(run) == dict.fromkeys(NODES, "done")
    for word in ("model", "popularity", "s_pop", "repeat_last", "markov", "bayes_optimal", "mrr@20", "fp_hr@20"):
        assert word in run.stdout
    assert "targets unseen in training: 0.0%" in run.stdout
    assert f"pushed: {pushed}" in run.stdout
    assert "try: fp-tfrs recommend --model" in run.stdout


def noise_of(run):
    """Lines that are not ours."""
    noise = re.compile(r"warn|deprecat|traceback|absl|tensorflow/|\bI\d{4} |\bW\d{4} |could not find", re.IGNORECASE)
    lines = [line for line in (run.stderr + run.stdout).splitlines() if not line.startswith("warning: the ")]
    return [line for line in lines if noise.search(line)]


def test_run_prints_its_own_lines_only(first):
    assert noise_of(first[1]) == []


def test_metrics_carry_targets_and_intervals_and_bayes_is_the_best(first):
    report = metrics_of(first[0] / "root")
    for ranker in report["metrics"].values():
        for figure in ranker.values():
            assert figure["targets"] > 100
            assert figure["low"] <= figure["value"] <= figure["high"]
    best = report["metrics"]["bayes_optimal"]["mrr@20"]["value"]
    assert all(ranker["mrr@20"]["value"] <= best + 0.01 for ranker in report["metrics"].values())
    assert report["metrics"]["model"]["mrr@20"]["value"] > report["metrics"]["popularity"]["mrr@20"]["value"]


def test_tfma_opens_the_evaluators_artifact_and_has_the_reports_figures(first):
    """TFX's Evaluator and RankingEvaluator: two views of the same ranks."""
    import tensorflow_model_analysis as tfma

    folder = min((first[0] / "root").glob("artifacts/Evaluator/evaluation/*"), key=os.path.getmtime)
    report = metrics_of(first[0] / "root")
    found = {key: figures[""][""] for key, figures in tfma.load_eval_result(str(folder)).slicing_metrics}
    ours = {((kind, name),): of for kind, slices in report["slices"].items() for name, of in slices.items()}
    assert set(found) - {()} == {key for key, of in ours.items() if of["hr@20"]["targets"] + of["fp_hr@20"]["targets"]}
    ours[()] = {name: report["metrics"]["model"][name] for name in next(iter(ours.values()))}
    for key, figures in found.items():
        for name, figure in ours[key].items():
            value = float(figures[name]["doubleValue"])
            assert value == pytest.approx(np.nan if figure["value"] is None else figure["value"], abs=1e-6, nan_ok=True)
    assert (folder / "tfma.html").stat().st_size > 1_000_000  # TFMA's script is within
    validation = tfma.load_validation_result(str(folder))
    assert validation.validation_ok
    assert len(validation.validation_details.slicing_details) == 1  # the floor, of the whole


def test_lineage_leads_from_the_pushed_model_to_the_examples(first):
    """MLMD as any tool reads it: every node's execution is complete, the pushed model's way is closed."""
    with sqlite3.connect(first[0] / "root" / "metadata.sqlite") as database:
        types = dict(database.execute("select id, name from Type"))
        events = database.execute("select artifact_id, execution_id, type from Event").fetchall()
        artifact_types = {row[0]: types[row[1]] for row in database.execute("select id, type_id from Artifact")}
        states = {row[0] for row in database.execute("select last_known_state from Execution")}
    assert states == {3}  # COMPLETE
    made_by = {artifact: execution for artifact, execution, kind in events if kind == 4}
    inputs = {}
    for artifact, execution, kind in events:
        if kind == 3:
            inputs.setdefault(execution, []).append(artifact)
    todo = [artifact for artifact, name in artifact_types.items() if name == "PushedModel"]
    seen = set()
    while todo:
        artifact = todo.pop()
        seen.add(artifact_types[artifact])
        todo += inputs.get(made_by[artifact], [])
    assert {"PushedModel", "ModelBlessing", "InfraBlessing", "Model", "TransformGraph", "Schema", "Examples"} <= seen


def test_the_pushed_version_says_whose_model_it_is_and_warms_a_server_up(first, pushed):
    lineage = json.loads((pushed / "assets.extra" / "lineage.json").read_text())
    assert "mrr@20 beats popularity's" in (pushed / "assets.extra" / "model_card.md").read_text("utf-8")
    assert "<h1>Model card: tiny</h1>" in (pushed / "assets.extra" / "model_card.html").read_text("utf-8")
    about = json.loads((pushed / "assets.extra" / "metadata.json").read_text())
    with sqlite3.connect(first[0] / "root" / "metadata.sqlite") as database:
        model = database.execute(
            "select Artifact.uri, Type.name from Artifact join Type on Type.id = type_id where Artifact.id = ?",
            [lineage["model_artifact"]["id"]],
        ).fetchone()
        runs = [name for (name,) in database.execute("select name from Context")]
    assert model == (lineage["model_artifact"]["uri"], "Model")
    assert lineage["pipeline_run"] in runs and lineage["pipeline"] == about["name"] == "tiny"
    assert (pushed / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 10_000


def test_recommend_answers_in_item_ids(pushed):
    run = run_cli("recommend", "--model", pushed.parent, "--items", "item_00001,item_00002,nonsense", "-k", "7")
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert run.returncode == 0
    assert len(rows) == 7
    assert all(re.fullmatch(r"item_\d{5}", item) for item, _ in rows)
    scores = [float(score) for _, score in rows]
    assert scores == sorted(scores, reverse=True)
    abandoned = run_cli("recommend", "--model", pushed, "--items", "item_00001,item_00002", "--fp", "0,1")
    alone = run_cli("recommend", "--model", pushed, "--items", "item_00001")
    assert abandoned.stdout == alone.stdout  # fp_adametric takes kept items only as inputs


def test_a_model_without_users_refuses_one(pushed):
    run = run_cli("recommend", "--model", pushed, "--items", "item_00001", "--user", "u00000001")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"fp-tfrs: --user u00000001: {pushed} takes no user_id; leave --user out\n"


def test_users_histories_and_measured_dislike_end_in_a_pushed_model_that_answers_each_user(tmp_path):
    tower = {"name": "sdm", "embedding_dim": 24, "n_heads": 2, "has_users": True, "has_history": True}
    values = CONFIG | {
        "data": CONFIG["data"] | {"satisfaction": {"column": "dwell_s"}, "history": {"max_items": 10}},
        "model": {
            "method": "fp_adametric",
            "tower": tower,
            "next_item": {"kind": "sampled_softmax", "negatives": 64},
            "loss": {"gate_gradient": "supervised"},
        },
        "training": {"max_epochs": 3, "learning_rate": 0.01},
    }
    run = run_cli("run", "--config", write_config(tmp_path, values), "--root", tmp_path / "root")
    assert run.returncode == 0, run.stderr
    assert noise_of(run) == []
    (version,) = versions(tmp_path / "root")
    model = tmp_path / "root" / "serving" / "tiny" / str(version)
    users = (model / "assets" / "user_id_vocabulary").read_text().split()
    answers = set()
    for context in ([], ["--user", users[0], "--history", "item_00003,item_00004"]):
        answer = run_cli("recommend", "--model", model, "--items", "item_00001,item_00002", *context)
        assert (answer.returncode, answer.stderr, answer.stdout.count("\n")) == (0, "", 10)
        answers.add(answer.stdout)
    assert len(answers) == 2


def test_evaluate_gives_the_evaluators_figures(first, pushed, tmp_path):
    folder, _ = first
    (log,) = (folder / "root" / "events" / "simulated").glob("*.csv")
    output, command = tmp_path / "metrics.json", ["evaluate", "--model", pushed, "--config", folder / "config.yaml"]
    run = run_cli(*command, "--events", log, "--output", output)
    assert run.returncode == 0, run.stderr
    assert os.listdir(tmp_path) == ["metrics.json"]
    ours, theirs = json.loads(output.read_text()), metrics_of(folder / "root")
    of_config = run_cli(*command, "--output", output)  # draws the same log
    assert of_config.returncode == 0 and json.loads(output.read_text())["metrics"] == ours["metrics"]
    assert ours["counts"] == theirs["counts"]
    for place, said in ((tmp_path, "is a folder"), ("/proc/fp-tfrs/m.json", "can't be written (No such file")):
        refused = run_cli(*command, "--output", place)
        assert refused.returncode == 2 and f"--output {place} {said}" in refused.stderr, refused.stderr
    later = run_cli(*command, "--since", "2100-01-01", "--output", output)
    assert (later.returncode, "are of before data.since = 2100-01-01" in later.stderr) == (2, True), later.stderr
    for ranker, figures in theirs["metrics"].items():
        for metric, figure in figures.items():
            found = ours["metrics"][ranker][metric]
            np.testing.assert_allclose(
                [found[key] for key in ("value", "low", "high")],
                [figure[key] for key in ("value", "low", "high")],
                atol=1e-6,
            )


def test_second_run_does_nothing_then_a_changed_margin_trains_again(first):
    folder, _ = first
    before = versions(folder / "root")
    again = run_cli("run", "--config", folder / "config.yaml", "--root", folder / "root")
    assert again.returncode == 0
    assert nodes_run(again) == dict.fromkeys(NODES, "unchanged")
    assert "nothing has changed: all 11 nodes" in again.stdout
    assert versions(folder / "root") == before

    changed = CONFIG | {"model": CONFIG["model"] | {"loss": {"margin": 2.0}}}
    config = folder / "changed.yaml"
    config.write_text(json.dumps(changed))
    trained = run_cli("run", "--config", config, "--root", folder / "root")
    assert trained.returncode == 0, trained.stderr
    expected = dict.fromkeys(NODES[:6], "unchanged") | dict.fromkeys(NODES[6:], "done")
    assert nodes_run(trained) == expected
    assert "the last blessed model" in trained.stdout

    back = run_cli("rollback", "--model", folder / "root" / "serving" / "tiny")
    assert back.returncode == 0, back.stderr
    after = run_cli("run", "--config", config, "--root", folder / "root")
    assert nodes_run(after) == dict.fromkeys(NODES, "unchanged")  # what was rolled back is not pushed again
    assert f"served since: {back.stdout.partition(': ')[0]}\n" in after.stdout
    assert versions(folder / "root") != before and len(versions(folder / "root")) == len(before) + 2


def test_killed_runs_go_on_with_the_same_command_and_end_as_if_nothing_had_happened(first, tmp_path, record_figure):
    """kill -9 while sessions are written, then while the model is trained; the third start finishes as another run did."""
    root, said = tmp_path / "root", tmp_path / "said.txt"
    arguments = command("run", "--config", write_config(tmp_path, CONFIG), "--root", root)
    kill_when(arguments, lambda _: list(root.glob("artifacts/SessionExampleGen/examples/*/.unfinished")), said)
    assert not list(root.rglob("_MANIFEST.json"))
    kill_when(arguments, lambda said_so_far: "epoch 3/6" in said_so_far, said)
    assert versions(root) == []
    last = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=600)
    assert last.returncode == 0, last.stderr
    assert nodes_run(last)["Transform"] == "unchanged"
    assert "going on after epoch" in last.stderr
    assert "epoch 2/6" not in last.stderr
    assert len(versions(root)) == 1
    (history,) = read_histories(root)
    assert any(same_history(history, other) for other in read_histories(first[0] / "root"))

    ours, theirs = (read_products(folder) for folder in (root, first[0] / "root"))
    assert ours["bytes"] == theirs["bytes"]
    assert ours["figures"].keys() == theirs["figures"].keys() and len(ours["figures"]) > 100
    difference = max(abs(value - theirs["figures"][key]) for key, value in ours["figures"].items())
    record_figure("two whole runs", f"same sessions, splits, vocabulary; {difference:.1e} of metrics", "same; 1e-6")
    assert difference <= 1e-6


def read_products(root):
    """What two runs must have in common: to the byte, and as figures by their path in the report."""
    (made,) = root.rglob("_MANIFEST.json")
    (vocabulary,) = root.glob(f"artifacts/Transform/transform_graph/*/transform_fn/assets/{schema.ITEM_VOCABULARY}")
    in_bytes = (
        json.loads(made.read_text())["fingerprint"],
        beam_workers.digest_records(made.parent),
        vocabulary.read_bytes(),
    )
    figures, todo = {}, [((), metrics_of(root))]
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            todo += [((*path, key), inner) for key, inner in value.items()]
        elif value is not None:
            figures[path] = value
    return {"bytes": in_bytes, "figures": figures}


def read_histories(root):
    return [json.loads(path.read_text()) for path in root.glob("state/*/history.json")]


def same_history(one, other):
    keys = ("next_item_loss", "metric_loss", "gate_mean", "val_mrr@20", "val_hr@20")
    return len(one) == len(other) and all(
        abs(a[key] - b[key]) <= 1e-6 for a, b in zip(one, other, strict=True) for key in keys
    )


def kill_when(arguments, is_time, said_path, timeout_s=300):
    """Starts the command and kills it, hard, as soon as `is_time(what it said so far)`."""
    with open(said_path, "w+") as said:
        process = subprocess.Popen(arguments, stderr=said, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + timeout_s
        try:
            while not is_time(said_path.read_text()):
                assert process.poll() is None, f"the run ended before it could be killed: {said_path.read_text()}"
                assert time.monotonic() < deadline, f"not within {timeout_s} s: {said_path.read_text()}"
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()


def test_data_that_has_drifted_stops_before_training(tmp_path):
    """The last days' clicks are nearly all abandoned: the gate names the feature, the value and the limit."""
    rows = ["session_id,item_id,timestamp,dwell_s"]
    for session in range(400):
        limit = 2 if session < 340 else 9
        rows += [
            f"s{session},i{(session * 7 + event) % 30},{1_600_000_000 + 1000 * session + event},{5 if event % 10 < limit else 60}"
            for event in range(10)
        ]
    (tmp_path / "events.csv").write_text("\n".join(rows))
    values = CONFIG | {
        "data": {
            "source": {"format": "csv", "files": [str(tmp_path / "events.csv")]},
            "columns": {"session_id": "session_id", "feedback": {"dwell_s": "float"}},
            "false_positive_when": [{"column": "dwell_s", "op": "<", "value": 10}],
        }
    }
    run = run_cli("run", "--quiet", "--config", write_config(tmp_path, values), "--root", tmp_path / "root")
    assert run.returncode == 2
    assert "not fit to train on" in run.stderr
    assert "max_fp_share_change = 0.2" in run.stderr
    assert not (tmp_path / "root" / "state").exists()
    assert versions(tmp_path / "root") == []


@pytest.mark.real_data
def test_real_clicks_end_in_a_pushed_model(data_dir: Path, tmp_path):
    """Yoochoose with its shipped config, shortened to two epochs."""
    import yaml

    values = yaml.safe_load(Path("configs/yoochoose_100k.yaml").read_text())
    values["training"] = {"max_epochs": 2}
    values["model"]["tower"] = {"embedding_dim": 32, "hidden_dim": 32}
    environment = os.environ | {"FP_TFRS_DATA_DIR": str(data_dir)}
    arguments = command("run", "--config", write_config(tmp_path, values), "--root", tmp_path / "root")
    run = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=600, env=environment)
    assert run.returncode == 0, run.stderr
    assert "rows        83,846: 83,846 clicks" in run.stdout
    assert os.listdir(tmp_path / "root" / "serving" / "yoochoose_100k")
