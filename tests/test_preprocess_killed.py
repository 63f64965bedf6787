"""kill -9 of preprocessing, wherever it is: nothing that looks finished is not, and the next run loses and repeats nothing."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import beam_workers
from fp_tfrs import schema
from fp_tfrs.data import manifest
from fp_tfrs.data.examples import read_sessions

pytestmark = pytest.mark.long

N_EVENTS, N_SESSIONS, N_KILLS = 100_000, 8_000, 20

# Forks for each run, since a new Python for each would take minutes. Half of the kills come at a random time, half at a
# random one of the operations by which files come and go, of which most are at the end.
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
assert finish(start(4)) == 0
seconds, n_operations = time.monotonic() - begin, int(open(operations).read())
moments = dice.sample(range(n_operations), kills // 2)
n_killed = 0
while n_killed < kills:
    before = manifest.read(out)
    if moments and n_killed % 2:
        code = finish(start(4, moments.pop()))
    else:
        child = start(4)
        time.sleep(dice.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        code = finish(child)
    if code != -signal.SIGKILL:  # a run that was faster than the first one
        continue
    n_killed += 1
    if os.path.exists(os.path.join(out, manifest.FILE_NAME)):
        assert manifest.verify(out) == before
    shards = 3 + n_killed % 2
    assert finish(start(shards)) == 0
    assert len(manifest.verify(out).shards) == 3 * shards
    names = sorted(os.path.relpath(os.path.join(at, name), out) for at, _, names in os.walk(out) for name in names)
    print(json.dumps(names), flush=True)
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
    expected, n_lost, n_repeated, records = Counter(log), 0, 0, set()
    for number, names in enumerate(outcomes, 1):
        folder = str(tmp_path / f"after-{number}")
        listed = {shard.path for shard in manifest.read(folder).shards}
        assert names == sorted({*listed, manifest.FILE_NAME})
        sessions = [session for split in schema.SPLITS for session in read_sessions(folder, split)]
        found = Counter((s.session_id, t, i) for s in sessions for t, i in zip(s.timestamp_s, s.item_id, strict=True))
        n_lost += (expected - found).total()
        n_repeated += (found - expected).total()
        records.add(tuple(beam_workers.digest_records(Path(folder)).values()))
    figure = f"{len(outcomes)} kills: {n_lost} lost, {n_repeated} repeated"
    record_figure("kill -9 of preprocessing, 100,000 events", figure, "20 kills: 0 lost, 0 repeated")
    assert len(outcomes) == N_KILLS and (n_lost, n_repeated) == (0, 0)
    assert len(records) == 1
