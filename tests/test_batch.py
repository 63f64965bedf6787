"""Recommending for files: each session gets what the model answers to it alone, and a command that is stopped goes on."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_serving import VOCABULARY, Export, draw_sessions, run_config

from fp_tfrs import storage
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.serving import batch, batch_steps, pruning, push
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import SavedModel
from fp_tfrs.serving.session_files import divide
from pipeline import cli

pytestmark = pytest.mark.e2e

K = 4
N = 70


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return Export(tmp_path_factory.mktemp("export"), run_config("fp_metric", exclude_seen=True))


@pytest.fixture(scope="module")
def rows():
    made = []
    for session in draw_sessions(N, seed=5):
        items = [item or "none" for item in session.item_id]
        row = {
            "session_id": f"s{session.session_id}",
            "item_id": items,
            "is_false_positive": list(map(int, session.is_false_positive)),
        }
        if len(made) % 3 == 1:
            row["denied_item_id"] = VOCABULARY[: len(made)]
        made.append(row)
    return made


@pytest.fixture(scope="module")
def expected(export, rows):
    """What the model answers to each session alone."""
    model, found = SavedModel(export.directory), []
    for row in rows:
        denied = [row["denied_item_id"]] if "denied_item_id" in row else None
        one = model.recommend([row["item_id"]], [row["is_false_positive"]], denied_item_id=denied)
        items = [item for item in one.item_id[0][:K] if item]
        found.append((row["session_id"], items, one.score[0][: len(items)].tolist(), one.model_version[0]))
    return found


@pytest.fixture
def written(tmp_path, rows, monkeypatch):
    """Two files, the second with a bad row, in shards of 20."""
    monkeypatch.setattr(batch_steps, "SHARD_ROWS", 20)
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(lines[:50]))
    (tmp_path / "b.jsonl").write_text("{}\n" + "".join(lines[50:]))
    return tmp_path


def recommend(export, folder, file_format="jsonl", pattern="*.jsonl", k=K, output="out"):
    return batch.recommend_all(
        str(export.directory), [f"{folder}/{pattern}"], f"{folder}/{output}", k, file_format,
        lambda: beam.Pipeline(runner="FnApiRunner"), is_in_process=True,
    )  # fmt: skip


def read(folder):
    found = []
    for path in sorted(Path(folder).glob("sessions-*")):
        if path.suffix == ".parquet":
            found += pq.read_table(path).to_pylist()
        else:
            found += map(json.loads, path.read_text().splitlines())
    return found


def listed(folder):
    """What is there besides the lock, which stays."""
    return sorted(set(os.listdir(folder)) - {".lock"})


def check(found, expected):
    assert [(row["session_id"], row["item_id"], row["model_version"]) for row in found] == [
        (session, items, version) for session, items, _, version in expected
    ]
    for row, (_, _, scores, _) in zip(found, expected):
        assert row["score"] == pytest.approx(scores, rel=1e-5, abs=1e-6)


def test_every_session_gets_its_own_answer_in_the_inputs_order(export, expected, written):
    assert len({len(items) for _, items, *_ in expected}) > 1  # where most are denied, fewer are left
    manifest = recommend(export, written)
    check(read(written / "out"), expected)
    assert (manifest.rows, manifest.sessions, manifest.bad_rows) == (N + 1, N, {"session_id is missing": 1})
    (letter,) = map(json.loads, (written / "out" / batch.DEAD_LETTERS).read_text().splitlines())
    assert letter == {"source": f"{written}/b.jsonl", "line": 1, "reason": "session_id is missing", "text": "{}"}
    files = [shard.path for shard in manifest.shards]
    assert len(files) == 5 and {*files, batch.DEAD_LETTERS, batch.MANIFEST} == set(listed(written / "out"))
    recommend(export, written, "parquet")
    check(read(written / "out"), expected)
    assert not list((written / "out").glob("*.jsonl.facts*")) and len(list((written / "out").glob("*.jsonl"))) == 1


def test_a_command_that_was_stopped_goes_on_and_one_that_is_done_does_nothing(
    export, expected, written, monkeypatch, capsys
):
    write, done = batch_steps.Recommend._write, []

    def stop(self, name, *arguments):
        if len(done) == 3:
            raise RuntimeError("the power is gone")
        done.append(name)
        write(self, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(batch_steps.Recommend, "_write", stop)
        with pytest.raises(RunError, match="the power is gone.*the same command goes on"):
            recommend(export, written)
        assert listed(written / "out") == [batch.WORK_FOLDER]
        done.clear()
        move, moved = storage.move, []

        def stop_moving(source, target):
            if os.path.dirname(target) == str(written / "out") and "sessions-" in target:
                if len(moved) == 2:
                    raise OSError("gone again")
                moved.append(target)
            move(source, target)

        patch.setattr(storage, "move", stop_moving)
        with pytest.raises(OSError, match="gone again"):
            recommend(export, written)
        assert len(done) == 2  # of five
        patch.setattr(storage, "move", move)
        recommend(export, written)
        assert len(done) == 2
    check(read(written / "out"), expected)
    assert batch.WORK_FOLDER not in os.listdir(written / "out")
    capsys.readouterr()
    recommend(export, written)
    assert "has these answers already" in capsys.readouterr().err
    finished = recommend(export, written, k=2)
    assert batch.format_summary(finished, "out", 2)[2:] == []
    assert batch.format_summary(finished, "out", 3)[2:] == ["no session got more than 2 items"]
    assert {len(row["item_id"]) for row in read(written / "out")} <= {0, 1, 2}


def test_what_the_runner_loses_is_not_taken_for_answered(export, expected, written, monkeypatch):
    process = batch_steps.Recommend.process
    with monkeypatch.context() as patch:
        patch.setattr(
            batch_steps.Recommend, "process", lambda self, part: part[2] != 20 and process(self, part) or None
        )
        with pytest.raises(
            RunError, match=r"left out 2 of 5 parts, such as .*a.jsonl from row 20 on; the same command"
        ):
            recommend(export, written)
    assert listed(written / "out") == [batch.WORK_FOLDER]
    recommend(export, written)
    check(read(written / "out"), expected)


def test_a_file_without_rows_is_passed_over(export, tmp_path):
    """As Spark writes a partition that has none."""
    schema = pa.schema({"session_id": pa.string(), "item_id": pa.list_(pa.string())})
    for part, rows in enumerate(([], [{"session_id": "s", "item_id": VOCABULARY[:1]}])):
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / f"part-{part}.parquet")
    assert recommend(export, tmp_path, pattern="*.parquet").sessions == 1


@pytest.mark.parametrize("damage", [os.remove, lambda path: os.truncate(path, 9)])
def test_answers_that_are_gone_or_damaged_are_made_again(export, expected, written, damage):
    recommend(export, written)
    damage(sorted((written / "out").glob("sessions-*"))[1])
    recommend(export, written)
    check(read(written / "out"), expected)


def test_files_of_others_in_the_folder_are_left_alone(export, written):
    out = written / "out"
    out.mkdir()
    (out / "sessions-of-may.csv").write_text("mine")
    for k in (1, 2):
        recommend(export, written, k=k)
    assert (out / "sessions-of-may.csv").read_text() == "mine" and len(list(out.glob("sessions-0*"))) == 5
    (written / "other").mkdir()
    (written / "other" / batch.DEAD_LETTERS).write_text("mine")
    for _ in range(2):
        with pytest.raises(InputError, match="dead_letters.jsonl is none of fp-tfrs batch-recommend"):
            recommend(export, written, output="other")
    assert (written / "other" / batch.DEAD_LETTERS).read_text() == "mine"


def test_a_command_that_gets_the_lock_of_one_that_has_ended_finds_its_answers(export, written, monkeypatch, capsys):
    flock, locked = batch.fcntl.flock, []

    def end_first(file, how):
        locked.append(file)
        if len(locked) == 1:  # opened, and not locked yet
            recommend(export, written)
            locked.append(contents(written / "out"))
        return flock(file, how)

    monkeypatch.setattr(batch.fcntl, "flock", end_first)
    recommend(export, written)
    assert contents(written / "out") == locked[-1] and "has these answers already" in capsys.readouterr().err


def test_a_file_that_ends_midway_is_refused_as_input(export, rows, tmp_path, capfd):
    packed = gzip.compress("".join(json.dumps(row | {"n": os.urandom(99).hex()}) + "\n" for row in rows * 50).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[:-1_000])
    (tmp_path / "whole.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):  # what was refused is looked at again
        with pytest.raises(InputError, match=r"cut.jsonl.gz can't be read: Compressed file ended(?!.*goes on)"):
            recommend(export, tmp_path, pattern="*.jsonl*")
    assert "Traceback" not in capfd.readouterr().err


def test_once_something_is_refused_nothing_more_is_answered(export, tmp_path, rows):
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]) + "\n")
    step = batch_steps.Recommend(str(export.directory), str(tmp_path), K, "jsonl")
    (tmp_path / batch_steps.REFUSAL).write_text("cut off")
    (part,) = divide([str(tmp_path / "a.jsonl")], 20)
    step.process(part)
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", batch_steps.REFUSAL]
    (tmp_path / batch_steps.REFUSAL).unlink()
    step.process(part)
    assert len(os.listdir(tmp_path)) > 2


@pytest.mark.parametrize("text", ["", '{"session_id": "s", "item_id": []}\n'])
def test_input_that_changes_meanwhile_is_refused(export, written, monkeypatch, text):
    prepare = batch._prepare

    def change(*arguments):
        prepare(*arguments)
        for path in written.glob("*.jsonl"):
            path.write_text(text)

    monkeypatch.setattr(batch, "_prepare", change)
    with pytest.raises(InputError, match="the model or a file of --input has changed"):
        recommend(export, written)
    assert listed(written / "out") == [batch.WORK_FOLDER]


def test_a_kill_while_earlier_answers_are_cleared_leaves_a_folder_to_go_on_in(export, written, monkeypatch):
    assert recommend(export, written).bad_rows
    remove = batch.storage.remove

    def stop(path):
        if path.endswith(batch.DEAD_LETTERS):
            raise KeyboardInterrupt
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(batch.storage, "remove", stop)
        with pytest.raises(KeyboardInterrupt):
            recommend(export, written, k=1)
    assert recommend(export, written, k=1).bad_rows


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_store_and_a_packed_file_give_the_same(export, rows, expected, written):
    (written / "all.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    manifest = recommend(export, f"file://{written}", pattern="all.jsonl.gz")
    assert len(manifest.shards) == 4
    check(read(written / "out"), expected)


def test_long_sessions_do_not_pad_all_others(export, monkeypatch):
    """Calls stay small where one session of many is long."""
    monkeypatch.setattr(batch_steps, "_MOST_CELLS", 100)
    model, shapes = SavedModel(export.directory), []
    call = model.call
    monkeypatch.setattr(
        model, "call", lambda name, **inputs: (shapes.append(inputs["item_id"].shape), call(name, **inputs))[1]
    )
    requests = [Request((VOCABULARY * 8)[:n], [0] * n) for n in (1, 300, 3, 2, 4, 90, 2) * 5]
    batch_steps.answer(model, requests, K)
    assert sum(rows for rows, _ in shapes) == len(requests)
    assert all(n_rows == 1 or n_rows * n_steps <= 100 for n_rows, n_steps in shapes)


def test_a_version_that_is_being_asked_is_not_pruned(export, tmp_path):
    first, _ = (push.push(export.directory, tmp_path, "m") for _ in range(2))
    model = SavedModel(first)
    assert pruning.prune(tmp_path / "m", 1) == []
    del model
    assert pruning.prune(tmp_path / "m", 1) == [int(Path(first).name)]


def test_what_cannot_be_done_is_said_in_a_line(export, written, capsys):
    bad = written / "bad.jsonl"
    bad.write_text('{"session": 1}\n' * 3)
    (written / "other").mkdir()
    (written / "other" / batch.MANIFEST).write_text("{}")
    for changes, said in (
        ({"-k": "0"}, "ask for 1 item at least"),
        ({"--model": str(written)}, "neither an exported model nor"),
        ({"--input": str(written / "c*")}, "no such file"),
        (
            {"--input": str(written), "--output": str(written / "answers")},
            "answers lie in one another; give folders apart",
        ),
        ({"--output": str(written)}, "lie in one another; give folders apart"),
        ({"--input": str(bad)}, "none of the first 3 rows can be used; most often (3): session_id is missing"),
        ({"--output": str(written / "b.jsonl")}, "cannot be written"),
        ({"--output": str(written / "other")}, "is none of fp-tfrs batch-recommend"),
    ):
        options = {
            "--model": str(export.directory),
            "--input": str(written / "a.jsonl"),
            "--output": str(written / "o"),
        }
        code = cli.main(["batch-recommend", *(word for pair in (options | changes).items() for word in pair)])
        assert code == 2 and said in capsys.readouterr().err, changes
    with batch._exclusive(str(written / "busy")), pytest.raises(InputError, match="another command is writing"):
        recommend(export, written, output="busy")


def test_a_killed_command_ends_as_two_processes_that_nobody_killed(beam_processes, export, rows, tmp_path):
    with open(tmp_path / "in.jsonl", "w") as file:
        for turn in range(1_500):
            file.writelines(json.dumps(row | {"session_id": f"{turn} {row['session_id']}"}) + "\n" for row in rows)
    config = {
        "name": "m",
        "data": {"source": {"format": "simulated", "simulation": {}}, "columns": {"session_id": "s"}},
        "model": {"method": "vanilla"},
        "beam": {"workers": 2},
    }
    (tmp_path / "two.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pipeline.cli", "batch-recommend", "--model", str(export.directory)]
    command += ["--input", str(tmp_path / "in.jsonl"), "--format", "jsonl", "--output"]
    killed = tmp_path / "killed"
    process = subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL)
    while len(list((killed / batch.WORK_FOLDER).glob("*.facts.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in (killed / batch.WORK_FOLDER).glob("sessions-*.jsonl")}
    assert listed(killed) == [batch.WORK_FOLDER]
    again = subprocess.run([*command, str(killed)], check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{1_500 * N:,} sessions answered" in again.stdout
    assert sum((killed / name).stat().st_mtime_ns == then for name, then in done.items() if "dead" not in name) >= 2
    two = subprocess.run([*command, str(tmp_path / "two"), "--config", str(tmp_path / "two.yaml")], check=False,
                         capture_output=True, text=True)  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert contents(tmp_path / "two") == contents(killed)


@pytest.mark.parametrize(
    ("sessions", "items"),
    [
        (300, 100),
        pytest.param(1_000_000, 1_000, marks=pytest.mark.long),
    ],
)
def test_the_benchmark_answers_all_sessions_and_memory_does_not_grow_with_them(sessions, items, capsys, record_figure):
    # In a process of its own: what one starts begins with the memory that its parent ever had, as Linux counts it.
    script = Path(__file__).parent.parent / "benchmarks" / "batch_recommend.py"
    command = [sys.executable, script, "--sessions", str(sessions), "--items", str(items)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    with capsys.disabled():
        print(said)
    cells = said.splitlines()[-1].strip("| ").split(" | ")
    assert cells[:2] == [f"{sessions:,}", f"{items:,}"]
    record_figure(f"recommending for {sessions:,} sessions in files", cells[-1], "2,048 MiB")
    assert int(cells[-1].removesuffix(" MiB").replace(",", "")) < 2_048
