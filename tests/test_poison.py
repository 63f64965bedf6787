"""A log that is broken in eight ways, one line in a hundred: the other lines give what they give alone, the broken ones are named."""

import itertools
import json

import numpy as np
import pytest

from fp_tfrs import schema
from fp_tfrs.config import DataConfig
from fp_tfrs.data.examples import read_sessions
from fp_tfrs.data.preprocess import preprocess

N_ROWS, EACH = 4_400, 5  # good rows; lines of each kind
GOOD = {"session": "s1", "user": "u1", "item": "i1", "time": 1_600_000_000, "dwell": 3}


def line_of(**changes) -> bytes:
    return json.dumps(GOOD | changes).encode()


def broken_lines(key: str) -> dict[str, list[tuple[bytes, str]]]:
    """Kind → (line, reason), of a log whose sessions are told by the column `key`.

    Events that are there already, and columns that nobody asked for, are not here: they make no dead letters.
    """
    ids = ("item", key)
    return {
        "truncated": [(line_of()[:end], "not valid JSON") for end in (-5, -1, 1)],
        "wrong type": [
            (line_of(time={"year": 2020}), "time is not a number"),
            (line_of(dwell="long"), "dwell is not a number"),
            (line_of(item=["i1"]), "item is not a text"),
            (line_of(**{key: {"id": 1}}), f"{key} is not a text"),
            (line_of(**{key: True}), f"{key} is not a text"),
        ],
        "time": [
            (line_of(time=-5), "time is before 1970"),
            (line_of(time=float("nan")), "time is NaN"),
            (line_of(time=2**31), "time is in the future"),
        ],
        "empty": [(line_of(**{name: value}), f"{name} is empty") for value in ("", " ") for name in ids],
        "1 MB": [
            *((line_of(**{name: "x" * 1_000_000}), f"{name} is longer than 1000 bytes") for name in ids),
            *((line_of(**{name: "x" * 2**20}), "line longer than 1048576 bytes") for name in ids),
        ],
        "not UTF-8": [
            (line_of(**{name: "?"}).replace(b'"?"', text), "invalid UTF-8")
            for name, text in itertools.product(ids, (b'"i\xff"', b'"\xc3"'))
        ],
        "another name": [
            (line_of().replace(f'"{name}"'.encode(), f'"{name}s"'.encode()), reason)
            for name, reason in ((key, f"{key} is missing"), ("time", "time is empty"), ("item", "item is missing"))
        ],
    }


def config_of(path, key: str) -> DataConfig:
    columns = {"user_id": "user"} | ({"session_id": "session"} if key == "session" else {})
    return DataConfig(
        source={"format": "jsonl", "files": (str(path),)},
        columns={**columns, "item_id": "item", "timestamp": "time", "feedback": {"dwell": "float"}},
        false_positive_when=({"column": "dwell", "op": "<", "value": 10},),
        sessions={"gap_s": 7.5},  # a user's rows have pauses of eight seconds
        shards=2,
    )


@pytest.fixture(scope="module", params=["session", "user"])
def outcomes(request, tmp_path_factory):
    """Of a log: folder, lines, why some are refused, what became of the good rows alone and of all, and the key."""
    key = request.param
    rng, folder = np.random.default_rng(6), tmp_path_factory.mktemp("poison")
    rows = [
        {
            "session": f"s{n // 8}",
            "user": f"u{n // 16}",
            "item": f"i{rng.integers(50)}",
            "time": 1_600_000_000 + n + 7 * (n // 8),
            "dwell": int(rng.integers(60)),
        }
        for n in range(N_ROWS)
    ]
    clean = [line_of(**row) for row in rows]
    dirty = list(clean)
    wider, repeated = rng.permutation(N_ROWS)[: 2 * EACH].reshape(2, EACH)
    for n, value in zip(wider, ([1], {"item": "i1"}, None, "i2", -1.5), strict=True):
        dirty[n] = line_of(**rows[n], new=value)  # a column that nobody asked for, in the dirty log alone
    reasons, added = {}, [clean[n] for n in repeated]
    added[-1] = line_of(**rows[repeated[-1]], new=[1])  # the same event, though not the same line
    for lines in broken_lines(key).values():
        reasons |= dict(lines)
        added += [line for line, _ in itertools.islice(itertools.cycle(lines), EACH)]
    for line in added:
        dirty.insert(int(rng.integers(1, len(dirty))), line)
    results = []
    for name, lines in (("clean", clean), ("dirty", dirty)):
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        out, dead = str(folder / name), str(folder / f"{name}.dead")
        results.append(preprocess(config_of(folder / f"{name}.jsonl", key), 1, out, dead, 1_800_000_000.0))
    return folder, dirty, reasons, *results, key


def sessions_of(folder):
    return {split: sorted(read_sessions(str(folder), split), key=repr) for split in schema.SPLITS}


def test_good_rows_are_unchanged_and_every_other_is_accounted_for(outcomes, record_figure):
    folder, dirty, reasons, clean, result, key = outcomes
    before, after = sessions_of(folder / "clean"), sessions_of(folder / "dirty")
    n_events = sum(len(session.item_id) for sessions in after.values() for session in sessions)
    figure = f"{result.n_bad_rows} dead letters, {result.duplicate_events} repeated, {n_events:,} of {N_ROWS:,} good rows unchanged"
    record_figure(f"poison records, 8 kinds, by {key}", figure, "each named, good rows unchanged")
    assert after == before and n_events == N_ROWS
    assert sum(map(len, after.values())) == N_ROWS // 8
    assert (result.rows, result.clicks, result.duplicate_events) == (len(dirty), clean.clicks + EACH, EACH)
    expected = [reasons[line] for line in dirty if line in reasons]
    assert result.bad_rows == {reason: expected.count(reason) for reason in expected}
    assert result.n_bad_rows == 7 * EACH and clean.n_bad_rows == clean.duplicate_events == 0
    n_poisoned = result.n_bad_rows + result.duplicate_events + sum(b'"new"' in line for line in dirty)
    assert n_poisoned / len(dirty) == pytest.approx(0.01, abs=0.001)


def test_dead_letters_have_source_line_reason_and_text(outcomes):
    folder, dirty, reasons, *_ = outcomes
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
    assert (folder / "clean.dead").read_text() == ""
