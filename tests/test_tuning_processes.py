"""The search in processes of its own, with real trainings: memory, a kill, and two workers."""

import json
import signal
import subprocess
import sys
import time

import pytest
from test_dataset import Clicks, write

from fp_tfrs import schema
from fp_tfrs.config import RunConfig
from fp_tfrs.tuning import search

pytestmark = pytest.mark.e2e
N_ITEMS = 24
SEARCH = """
import resource, sys
from fp_tfrs.tuning import workers
from fp_tfrs.tuning.search import SearchJob

def say(line):
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    own = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
    print(f"{own} {children} {line}", flush=True)

workers.say = say
workers.ParentTuner(SearchJob.from_json(open(sys.argv[1]).read())).search()
"""


def walks(prefix, count):
    """Sessions around a circle of items, each third click abandoned."""
    first = schema.FIRST_ITEM_INDEX
    return [
        Clicks(f"{prefix}{k:03d}", [((5 * k + step) % N_ITEMS + first, step % 3 == 1) for step in range(2 + k % 6)])
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return [write(folder / split, walks(split, count)) for split, count in (("train", 60), ("valid", 20))]


def start(files, folder, **tuner):
    run = RunConfig.model_validate(
        {
            "name": "walk",
            "data": {
                "source": {"format": "csv", "files": ["x.csv"]},
                "columns": {"session_id": "s", "feedback": {"skip": "bool"}},
                "false_positive_when": [{"column": "skip", "op": "==", "value": True}],
            },
            "model": {"method": "fp_metric", "tower": {"name": "stamp", "embedding_dim": 8}},
            "training": {"max_epochs": 3, "length_buckets": [8], "learning_rate": 0.02},
            "tuner": {"enabled": True, **tuner},
        }
    )
    job = search.SearchJob(run, (files[0],), (files[1],), N_ITEMS, 0, str(folder / "search"))
    folder.mkdir(exist_ok=True)
    (folder / "job.json").write_text(job.to_json())
    command = [sys.executable, "-c", SEARCH, str(folder / "job.json")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output


def results(folder):
    """(λ, margin) → score, of each result file; and the files."""
    paths = sorted(folder.glob("search/trials/*/result-3.json"))
    found = [json.loads(path.read_text()) for path in paths]
    return {tuple(result["settings"].values()): result["score"] for result in found}, paths


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """A search by two workers."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, finish(start(files, folder, trials=20, workers=2)).splitlines()


def test_two_workers_share_the_trials(whole):
    folder, lines = whole
    assert len(results(folder)[0]) == 20
    assert [line.split()[2] for line in lines] == [f"[{k}/20]" for k in range(1, 21)]
    oracle = json.loads((folder / "search" / "oracle" / "oracle.json").read_text())
    assert oracle["ongoing_trials"] == {} and len({*oracle["end_order"]}) == 20


def test_memory_stays_flat_over_20_trials(whole):
    """In MB: that of the process with the oracle, and the most that any worker so far has had."""
    memory = [[int(value) for value in line.split()[:2]] for line in whole[1]]
    assert memory[4][1] > 100
    for k in (0, 1):
        assert memory[-1][k] < 1.1 * memory[4][k], memory


def test_a_search_killed_in_its_third_trial_goes_on(files, whole, tmp_path):
    process = start(files, tmp_path, trials=6)
    while len(results(tmp_path)[1]) < 2 or not list(tmp_path.glob("search/trials/*/state/ckpt-*.index")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(1)  # until the worker has noticed
    finished = {path: path.stat().st_mtime_ns for path in results(tmp_path)[1]}
    assert 2 <= len(finished) <= 3
    lines = finish(start(files, tmp_path, trials=6)).splitlines()
    scores, paths = results(tmp_path)
    assert len(lines) == len(paths) == len(scores) == 6
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())  # none was tried again
    assert scores.items() <= results(whole[0])[0].items()  # as two workers had them, and no one was killed
    assert lines[-1].endswith(f"val mrr@20 {max(scores.values()):.4f}")


def test_no_worker_outlives_a_killed_search(files, tmp_path):
    process = start(files, tmp_path, trials=6, workers=2)
    while not results(tmp_path)[1]:
        assert process.poll() is None
        time.sleep(0.05)
    children = [
        pid
        for pid in subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
    ]
    assert len(children) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(_is_running(pid) for pid in children):
        time.sleep(0.1)
    assert not any(_is_running(pid) for pid in children)


def test_a_worker_that_cannot_read_the_data_ends_the_search(files, tmp_path):
    process = start([str(tmp_path / "nowhere")] * 2, tmp_path, workers=2)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "InputError: transformed examples cannot be read" in errors.splitlines()[-1] and "nowhere" in errors


def test_a_failed_trial_of_a_worker_says_why(files, tmp_path):
    process = start(files, tmp_path, search={"training.learning_rate": [0.02, 1e30]})
    lines = finish(process).splitlines()
    assert len(lines) == 2
    (failed,) = [line for line in lines if "failed" in line]
    assert "learning_rate 1e+30: failed: " in failed and "the model has diverged" in failed


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
