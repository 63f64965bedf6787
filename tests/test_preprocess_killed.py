"""kill -9 of preprocessing, wherever it is: nothing that looks finished is not, and the next run loses and repeats nothing."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.beam_workers import digest_records
from fp_tfrs import schema
from fp_tfrs.data import manifest
from fp_tfrs.data.examples import read_sessions

pytestmark = pytest.mark.long

N_EVENTS, N_SESSIONS, N_KILLS = 100_000, 8_000, 20

# Forks for each run, since a new Python for each would take minutes. Half of the kills come at a random time, half at a
# random one of the operations by which files come and go, of which most are at the end. Half of either begin with no
# output folder, half with a finished one.
DRIVER = """
import json, os, random, shutil, signal, sys, time
import tensorflow  # here, so that it is not in each run's time
from fp_tfrs.config import DataConfig, parse
from fp_tfrs.data import manifest
from fp_tfrs.data.preprocess import preprocess

data, folder, kills = parse(DataConfig, sys.argv[1]), sys.argv[2], int(sys.argv[3])
out, operations = os.path.join(folder, "out"), os.path.join(folder, "operations")
dice = random.Random(3)

def start(shards, dies_at=None):
    child = os.fork()
    if child:
        return child
    done = 0
    def counting(call):
        def count_and_call(*args, **kwargs):
            nonlocal done
            if done == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return call(*args, **kwargs)
        return count_and_call
    for module, name in ((os, "replace"), (os, "remove"), (os, "makedirs"), (os, "fsync"), (shutil, "rmtree")):
        setattr(module, name, counting(getattr(module, name)))
    preprocess(data.model_copy(update={"shards": shards}), 1, out, os.path.join(folder, "dead.jsonl"), 2e9)
    with open(operations, "w") as file:
        file.write(str(done))
    os._exit(0)

def finish(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

begin = time.monotonic()
assert finish(start(4)) == 0  # on no folder at all
seconds = time.monotonic() - begin
n_operations = {True: int(open(operations).read())}
shutil.copytree(out, os.path.join(folder, "unkilled"))
assert finish(start(4)) == 0  # over a finished one, which it has to remove
n_operations[False] = int(open(operations).read())
n_killed = 0
while n_killed < kills:
    starts_empty, dies_at = n_killed % 4 < 2, None
    if starts_empty:
        shutil.rmtree(out)
    if n_killed % 2:
        dies_at = dice.randrange(n_operations[starts_empty])
    child = start(4, dies_at)
    if dies_at is None:
        time.sleep(dice.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
    if finish(child) != -signal.SIGKILL:  # a run that was faster than the first one
        continue
    n_killed += 1
    looks_finished = os.path.exists(os.path.join(out, manifest.FILE_NAME))
    if looks_finished:
        manifest.verify(out)
        shutil.copytree(out, os.path.join(folder, f"killed-{n_killed}"))
    shards = 3 + n_killed % 2
    assert finish(start(shards)) == 0
    assert len(manifest.verify(out).shards) == 3 * shards
    assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]  # beside the dead letters
    names = sorted(os.path.relpath(os.path.join(at, name), out) for at, _, names in os.walk(out) for name in names)
    print(json.dumps([starts_empty, looks_finished, names]), flush=True)
    os.rename(out, os.path.join(folder, f"after-{n_killed}"))
    shutil.copytree(os.path.join(folder, f"after-{n_killed}"), out)
"""


@pytest.fixture(scope="module")
def log():
    """Events (session, second, item), no two of them equal, each in a session that is long enough and not too long."""
    rng = np.random.default_rng(2)
    session = np.concatenate(
        [np.repeat(np.arange(N_SESSIONS), 2), rng.integers(0, N_SESSIONS, N_EVENTS - 2 * N_SESSIONS)]
    )
    second = 1_600_000_000 + 100 * session + rng.permutation(N_EVENTS)
    items = rng.zipf(1.3, N_EVENTS).clip(max=3_000)
    return [(f"s{s}", int(t), f"i{i}") for s, t, i in zip(session, second, items, strict=True)]


def test_20_kills_of_preprocessing_lose_and_repeat_none_of_100000_events(log, tmp_path, record_figure):
    rows = [f"{session},{item},{second},{second % 60}\n" for session, second, item in log]
    (tmp_path / "log.csv").write_text("".join(["session,item,time,dwell\n", *rows]))
    data = {
        "source": {"format": "csv", "files": [str(tmp_path / "log.csv")]},
        "columns": {"session_id": "session", "item_id": "item", "timestamp": "time", "feedback": {"dwell": "int"}},
        "false_positive_when": [{"column": "dwell", "op": "<", "value": 10}],
        "sessions": {"max_length": 100},
    }
    command = [sys.executable, "-c", DRIVER, json.dumps(data), str(tmp_path), str(N_KILLS)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3_000:]
    outcomes = list(map(json.loads, done.stdout.splitlines()))
    unkilled = digest_records(tmp_path / "unkilled")
    n_lost, n_repeated, n_like_unkilled = 0, 0, 0
    for number, (_, looked_finished, names) in enumerate(outcomes, 1):
        after = tmp_path / f"after-{number}"
        assert names == sorted([*(shard.path for shard in manifest.read(str(after)).shards), manifest.FILE_NAME])
        lost, repeated = lost_and_repeated(log, after)
        n_lost, n_repeated = n_lost + lost, n_repeated + repeated
        n_like_unkilled += digest_records(after) == unkilled
        if looked_finished:
            assert digest_records(tmp_path / f"killed-{number}") == unkilled, "looked finished, and was not"
    figure = f"{len(outcomes)} kills: {n_lost} lost, {n_repeated} repeated, {n_like_unkilled} with the unkilled records"
    record_figure(
        "kill -9 of preprocessing, 100,000 events", figure, "20 kills: 0 lost, 0 repeated, all with the same records"
    )
    assert lost_and_repeated(log, tmp_path / "unkilled") == (0, 0)
    assert len(outcomes) == n_like_unkilled == N_KILLS and (n_lost, n_repeated) == (0, 0)
    assert sum(started_empty for started_empty, _, _ in outcomes) == N_KILLS // 2
    # Some kills have to meet unfinished output, or nothing was tried.
    assert not all(looked_finished for _, looked_finished, _ in outcomes)


def lost_and_repeated(log, folder):
    """How many events of the log the examples lack, and how many they have that the log has not, or has less often."""
    sessions = [session for split in schema.SPLITS for session in read_sessions(str(folder), split)]
    found = Counter((s.session_id, t, i) for s in sessions for t, i in zip(s.timestamp_s, s.item_id, strict=True))
    expected = Counter(log)
    return (expected - found).total(), (found - expected).total()
