"""A log that is broken in eight ways, one line in a hundred: the other lines give what they give alone, the broken ones are named."""

import json

import numpy as np
import pytest

from fp_tfrs import schema
from fp_tfrs.config import DataConfig
from fp_tfrs.data.examples import read_sessions
from fp_tfrs.data.preprocess import preprocess

N_ROWS = 4_000
GOOD = {"session": "s1", "item": "i1", "time": 1_600_000_000, "dwell": 3}


def line_of(**changes) -> bytes:
    return json.dumps(GOOD | changes).encode()


POISON = [  # (line, reason), of eight kinds; times are wrong in three ways
    (line_of()[:-5], "not valid JSON"),
    (line_of(time={"year": 2020}), "time is not a number"),
    (line_of(time=-5), "time is before 1970"),
    (line_of(time=float("nan")), "time is NaN"),
    (line_of(time=2**31), "time is in the future"),
    (line_of(item=" "), "item is empty"),
    (line_of(item="x" * 1_000_000), "item is longer than 1000 bytes"),
    (line_of(item="i\xff").decode("unicode_escape").encode("latin-1"), "invalid UTF-8"),
    (
        json.dumps({"sessions" if key == "session" else key: value for key, value in GOOD.items()}).encode(),
        "session is missing",
    ),
]


def config_of(path) -> DataConfig:
    return DataConfig(
        source={"format": "jsonl", "files": (str(path),)},
        columns={"session_id": "session", "item_id": "item", "timestamp": "time", "feedback": {"dwell": "float"}},
        false_positive_when=({"column": "dwell", "op": "<", "value": 10},),
        shards=2,
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of the good rows alone, and of all; and the lines of the latter."""
    rng, folder = np.random.default_rng(6), tmp_path_factory.mktemp("poison")
    rows = [
        line_of(session=f"s{n // 8}", item=f"i{rng.integers(50)}", time=1_600_000_000 + n, dwell=int(rng.integers(60)))
        for n in range(N_ROWS)
    ]
    rows[::50] = [row[:-1] + b', "new": [1]}' for row in rows[::50]]  # a column that nobody asked for
    poison = [line for line, _ in POISON] * 4 + [rows[7]] * 4  # and events that are there already
    dirty = list(rows)
    for line in poison:
        dirty.insert(int(rng.integers(1, len(dirty))), line)
    results = []
    for name, lines in (("clean", rows), ("dirty", dirty)):
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        out, dead = str(folder / name), str(folder / f"{name}.dead")
        results.append(preprocess(config_of(folder / f"{name}.jsonl"), 1, out, dead, 1_800_000_000.0))
    return folder, dirty, *results


def sessions_of(folder):
    return {split: sorted(read_sessions(str(folder), split), key=repr) for split in schema.SPLITS}


def test_good_rows_are_unchanged_and_every_other_is_accounted_for(outcomes, record_figure):
    folder, dirty, clean, result = outcomes
    before, after = sessions_of(folder / "clean"), sessions_of(folder / "dirty")
    n_events = sum(len(session.item_id) for sessions in after.values() for session in sessions)
    figure = f"{result.n_bad_rows} dead letters, {result.duplicate_events} repeated, {n_events:,} of {N_ROWS:,} good rows unchanged"
    record_figure("poison records, 8 kinds", figure, "each named, good rows unchanged")
    assert after == before and n_events == N_ROWS
    assert (result.rows, result.clicks, result.duplicate_events) == (len(dirty), clean.clicks + 4, 4)
    assert result.bad_rows == {reason: 4 for _, reason in POISON}
    assert (result.n_bad_rows + 4) / len(dirty) == pytest.approx(0.01, abs=0.001)


def test_dead_letters_have_source_line_reason_and_text(outcomes):
    folder, dirty, *_ = outcomes
    reasons = dict(POISON)
    expected = [
        {
            "source": str(folder / "dirty.jsonl"),
            "line": number,
            "reason": reasons[line],
            "text": line.decode(errors="replace")[:500],
        }
        for number, line in enumerate(dirty, 1)
        if line in reasons
    ]
    assert [json.loads(line) for line in (folder / "dirty.dead").read_text().splitlines()] == expected
