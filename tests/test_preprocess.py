"""The whole way from log files to a finished folder. Expected sessions are derived anew here, with pandas."""

import gzip
import json
import os
import shlex
import sys
from collections import Counter

import apache_beam as beam
import numpy as np
import pandas as pd
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from fp_tfrs.config import DataConfig
from fp_tfrs.data import manifest
from fp_tfrs.data.examples import read_sessions
from fp_tfrs.data.preprocess import WORK_FOLDER, preprocess
from fp_tfrs.errors import InputError, RunError

LATEST_S = 1_800_000_000.0
GAP_S, MIN_LENGTH, MAX_LENGTH, MIN_SUPPORT = 600, 3, 6, 12
SPLITS = ("train", "valid", "test")
HEADER = "user,item,time,click,dwell,note"


def make_config(path, **data) -> DataConfig:
    return DataConfig(
        **{
            "source": {"format": "csv", "files": (str(path),)},
            "columns": {
                "item_id": "item",
                "timestamp": "time",
                "user_id": "user",
                "feedback": {"click": "bool", "dwell": "float", "note": "string"},
            },
            "click_when": ({"column": "click", "op": "==", "value": True},),
            "false_positive_when": ({"column": "dwell", "op": "<", "value": 10},),
            "sessions": {"gap_s": GAP_S, "min_length": MIN_LENGTH, "max_length": MAX_LENGTH},
            "min_item_support": MIN_SUPPORT,
            **data,
        }
    )


def draw_log(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "user": rng.integers(0, 60, n).astype(str),
            "item": "i" + pd.Series(rng.zipf(1.3, n).clip(max=80)).astype(str),
            "time": rng.integers(1_700_000_000, 1_700_100_000, n),
            "click": rng.random(n) < 0.8,
            "dwell": rng.exponential(30, n).round(1),
            "note": rng.choice(["a", "b c", 'q"q'], n),
        }
    ).drop_duplicates()


def derive_sessions(log: pd.DataFrame) -> pd.DataFrame:
    """Clicks that must be written, one a row, with the session and split that they must be in."""
    clicks = log[log.click].assign(fp=log.dwell < 10)
    clicks = clicks.sort_values(
        ["user", "time", "item", "fp", "dwell", "note"]
    )  # no two rows have all of these in common
    starts_new = (clicks.user != clicks.user.shift()) | (clicks.time.diff() > GAP_S)
    clicks = clicks.assign(number=starts_new.cumsum())
    length = clicks.groupby("number").item.transform("size")
    kept = clicks[length >= MIN_LENGTH]
    first_s = kept.groupby("number").time.transform("min")
    kept = kept.assign(session=kept.user + "@" + first_s.astype(str)).groupby("number").tail(MAX_LENGTH)
    start_s = kept.groupby("session").time.min().sort_values()
    kept = kept.assign(start_s=kept.session.map(start_s))
    bounds = sorted(set(start_s))[1:]
    cuts_s = [min(bounds, key=lambda b: abs((start_s < b).sum() - share * len(start_s))) for share in (0.8, 0.9)]
    kept["split"] = np.select([kept.start_s < cuts_s[0], kept.start_s < cuts_s[1]], SPLITS[:2], SPLITS[2])
    return kept


BROKEN = [  # (line, reason); the fields are user, item, time, click, dwell, note
    (b"1,i1,1700000000,true", "not 6 fields"),
    (b"1,i1,1700000000,true,3.0,a,surplus", "not 6 fields"),
    (b'1,"i1,1700000000,true,3.0,a', "broken quotes"),
    (b"1,i\xff,1700000000,true,3.0,a", "invalid UTF-8"),
    (b"1,,1700000000,true,3.0,a", "item is empty"),
    (b"1," + b"x" * 1_000_000 + b",1700000000,true,3.0,a", "item is longer than 1000 bytes"),
    (b"1,i1,-5,true,3.0,a", "time is before 1970"),
    (b"1,i1,2200000000,true,3.0,a", "time is in the future"),
    (b"1,i1,NaN,true,3.0,a", "time is NaN"),
    (b"1,i1,1700000000,true,long,a", "dwell is not a number"),
]


def to_lines(log: pd.DataFrame) -> list[bytes]:
    return log.to_csv(index=False, header=False).encode().splitlines()


def read_all(folder) -> dict[str, list]:
    sessions = {split: read_sessions(str(folder), split) for split in SPLITS}
    return {split: sorted(found, key=lambda session: session.session_id) for split, found in sessions.items()}


@pytest.fixture(scope="module")
def log():
    return draw_log(6_000)


@pytest.fixture(scope="module")
def finished(log, tmp_path_factory):
    """A dirty log in two files, one of them gzipped: shuffled, 10 % repeated, 1 % broken; and what became of it."""
    root = tmp_path_factory.mktemp("dirty log ü")
    rng = np.random.default_rng(5)
    repeated = pd.concat([log, log.sample(frac=0.1, random_state=1)])
    lines = to_lines(repeated) + [line for line, _ in BROKEN] * 6
    rng.shuffle(lines)
    half = len(lines) // 2
    (root / "a.csv").write_bytes(b"\n".join([HEADER.encode(), *lines[:half]]))
    (root / "b.csv.gz").write_bytes(gzip.compress(b"\n".join([HEADER.encode(), *lines[half:], b""])))
    config = make_config(root / "*.csv*")
    result = preprocess(config, 17, str(root / "out"), str(root / "dead.jsonl"), LATEST_S, fingerprint="abc")
    return root, repeated, lines, result


def test_a_dirty_log_gives_the_sessions_that_pandas_derives_from_the_clean_one(log, finished, record_figure):
    root, *_ = finished
    record_figure("events out of order, 10 % repeated", "sessions of the sorted log without repeats", "equal sessions")
    expected = derive_sessions(log)
    sessions = read_all(root / "out")
    for split in SPLITS:
        groups = dict(list(expected[expected.split == split].groupby("session")))
        assert [session.session_id for session in sessions[split]] == sorted(groups)
        for session in sessions[split]:
            group = groups[session.session_id]
            assert session.user_id == group.user.iloc[0]
            feedback = (session.feedback[name] for name in ("click", "dwell", "note"))
            ours = zip(session.timestamp_s, session.item_id, session.is_false_positive, *feedback, strict=True)
            theirs = zip(
                group.time, group.item, group.fp, group.click, np.float32(group.dwell), group.note, strict=True
            )
            # Event by event, each with its own feedback; those of the same time in whatever order.
            assert list(session.timestamp_s) == sorted(session.timestamp_s)
            assert sorted(ours) == sorted(theirs)


def test_every_row_is_counted(log, finished):
    _, repeated, lines, result = finished
    expected = derive_sessions(log)
    assert (result.rows, result.impressions) == (len(lines), (~repeated.click).sum())
    assert (result.clicks, result.duplicate_events) == (repeated.click.sum(), repeated.click.sum() - log.click.sum())
    assert len(repeated) == pytest.approx(1.1 * len(log), abs=1) and result.impressions > (~log.click).sum()
    assert result.bad_rows == dict(Counter(reason for _, reason in BROKEN * 6).most_common())
    assert result.feedback_ranges["dwell"] == (log[log.click].dwell.min(), log[log.click].dwell.max())
    support = expected[expected.split == "train"].item.value_counts()
    catalogue = set(support[support >= MIN_SUPPORT].index)
    assert result.catalogue_items == len(catalogue)
    for split in SPLITS:
        counts, group = result.splits[split], expected[expected.split == split]
        assert (counts.sessions, counts.events) == (group.session.nunique(), len(group))
        assert counts.false_positives == group.fp.sum()
        assert (counts.first_start_s, counts.last_start_s) == (group.start_s.min(), group.start_s.max())
        positives = group[~group.fp].sort_values(["session", "time", "item"])
        targets = positives[positives.session.duplicated()]
        assert counts.targets == len(targets)
        assert counts.unseen_targets == sum(item not in catalogue for item in targets.item)
    assert result.splits["valid"].unseen_targets > 0
    assert result.splits["train"].last_start_s < result.splits["valid"].first_start_s
    assert result.splits["valid"].last_start_s < result.splits["test"].first_start_s
    left_out = result.n_bad_rows + result.impressions + result.duplicate_events + result.short_events
    assert result.rows == left_out + result.cut_events + len(expected)


def test_dead_letters_hold_every_bad_row_in_order(finished):
    root, _, lines, _ = finished
    letters = [json.loads(line) for line in (root / "dead.jsonl").read_text().splitlines()]
    reasons = dict(BROKEN)
    half = len(lines) // 2
    expected = [
        (name, number + 2, reasons[line], line.decode(errors="replace")[:500])
        for name, part in (("a.csv", lines[:half]), ("b.csv.gz", lines[half:]))
        for number, line in enumerate(part)
        if line in reasons
    ]
    found = [(os.path.basename(x["source"]), x["line"], x["reason"], x["text"]) for x in letters]
    assert found == expected


def test_the_finished_folder_holds_the_manifest_and_its_shards_only(finished):
    root, _, _, result = finished
    assert manifest.verify(str(root / "out")) == result and result.fingerprint == "abc"
    found = {os.path.join(folder, name) for folder, _, names in os.walk(root / "out") for name in names}
    expected = {f"Split-{split}/sessions-{n:05d}-of-00002.gz" for split in SPLITS for n in range(2)}
    assert found == {str(root / "out" / path) for path in {*expected, "_MANIFEST.json"}}


@pytest.mark.e2e
def test_workers_in_other_processes_give_the_same_in_fewer_shards(finished, tmp_path, monkeypatch):
    """Also: a second run replaces the first one's files, the driver does not read the log, the current folder is any."""
    root, *_ = finished
    before = read_all(root / "out")
    old = tmp_path / "out" / "Split-train" / "sessions-00003-of-00004.gz"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of an earlier run")
    monkeypatch.chdir(tmp_path)
    # Beam starts its workers by a shell command with the bare path: with a space in it they never start.
    monkeypatch.setattr(sys, "executable", shlex.quote(sys.executable))
    options = PipelineOptions(
        ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    )
    config = make_config(root / "*.csv*", shards=1)
    monkeypatch.setattr("fp_tfrs.data.preprocess.count_rows", None)
    preprocess(config, 17, "out", "dead.jsonl", LATEST_S, lambda: beam.Pipeline(options=options), is_in_process=False)
    assert read_all("out") == before
    assert os.listdir("out/Split-train") == ["sessions-00000-of-00001.gz"]
    assert (tmp_path / "dead.jsonl").read_text() == (root / "dead.jsonl").read_text()


def write_log(path, lines: list[bytes]):
    path.write_bytes(b"\n".join([HEADER.encode(), *lines]))
    return path


def assert_nothing_finished(folder):
    assert not [name for _, _, names in os.walk(folder) for name in names]
    with pytest.raises(InputError, match="not finished"):
        manifest.read(str(folder))


def refuse(path, tmp_path, message, **data) -> str:
    with pytest.raises(InputError, match=message) as error:
        preprocess(make_config(path, **data), 1, str(tmp_path / "out"), str(tmp_path / "dead.jsonl"), LATEST_S)
    assert "\n" not in str(error.value)
    assert_nothing_finished(tmp_path / "out")
    return str(error.value)


def test_too_many_bad_rows_stop_the_run(log, tmp_path):
    good = to_lines(log[:800])
    path = write_log(tmp_path / "log.csv", good + [BROKEN[4][0]] * 150 + [BROKEN[6][0]] * 50)
    message = refuse(path, tmp_path, r"200 of 1000 rows \(20\.0%\) are bad, more than data\.max_bad_share = 5\.0%")
    assert "most often (150): item is empty, e.g. " in message and "line 802: '1,,1700000000" in message
    assert message.endswith(f"all are in {tmp_path / 'dead.jsonl'}")
    assert len((tmp_path / "dead.jsonl").read_text().splitlines()) == 200


@pytest.mark.parametrize(("data", "limit"), [({}, 0.05), ({"max_bad_share": 0.2}, 0.2), ({"max_bad_share": 0}, 0)])
def test_as_many_bad_rows_as_the_limit_pass_and_one_more_stops_the_run(log, tmp_path, data, limit):
    data = {"sessions": {}, **data}  # one session a user: few rows are enough for all splits
    most, reason = int(1000 * limit), BROKEN[4][1]
    path = write_log(tmp_path / "log.csv", to_lines(log[: 1000 - most]) + [BROKEN[4][0]] * most)
    result = preprocess(make_config(path, **data), 1, str(tmp_path / "ok"), str(tmp_path / "ok.dead"), LATEST_S)
    assert (result.rows, result.bad_rows) == (1000, {reason: most} if most else {})
    write_log(path, to_lines(log[: 999 - most]) + [BROKEN[4][0]] * (most + 1))
    words = (
        rf"{most + 1} of 1000 rows \({(most + 1) / 1000:.1%}\) are bad, more than data\.max_bad_share = {limit:.1%}; "
    )
    refuse(path, tmp_path, rf"{words}most often \({most + 1}\): {reason}, e\.g\. .*log\.csv line \d+: '1,,17", **data)


@pytest.mark.parametrize(("value", "verdict"), [(-1, "none of"), (9999, "all of")])
def test_a_rule_that_tells_nothing_apart_stops_the_run(log, tmp_path, value, verdict):
    path = write_log(tmp_path / "log.csv", to_lines(log[:300]))
    rules = ({"column": "dwell", "op": "<", "value": 10}, {"column": "dwell", "op": "<", "value": value})
    message = refuse(
        path, tmp_path, rf"the rule dwell < {value:g}.* holds for {verdict}", false_positive_when=rules[1:]
    )
    assert "click False … True, dwell 0.0 … " in message and "note a … q" in message


def test_no_click_and_one_session_stop_the_run(log, tmp_path):
    path = write_log(tmp_path / "log.csv", to_lines(log[~log.click][:50]))
    refuse(path, tmp_path, r"none of 50 rows is a click \(data\.click_when: click == True\).*click False … False")
    path = write_log(tmp_path / "log.csv", [b"1,i%d,170000000%d,true,%d,a" % (n, n, 5 * n) for n in range(5)])
    refuse(path, tmp_path, r"1 sessions of at least .* leave a split empty \(train 1, valid 0, test 0\)")


def test_days_for_times_are_refused_unless_their_order_is_hidden(log, tmp_path):
    days = log.assign(time=log.time // 86_400 * 86_400)
    path = write_log(tmp_path / "log.csv", to_lines(days))
    refuse(path, tmp_path, r"have the time of the one before in their session.*set data.sessions.same_time: hash")
    config = make_config(path, sessions={"same_time": "hash"}, split={"by": "random"})
    preprocess(config, 1, str(tmp_path / "hidden"), str(tmp_path / "d"), LATEST_S)


@pytest.mark.parametrize("name", ["2026-01.csv", "2026-03.csv"])
def test_one_bad_row_in_a_file_of_its_own_is_one_bad_row(log, tmp_path, name):
    write_log(tmp_path / "2026-02.csv", to_lines(log))
    write_log(tmp_path / name, [b"1,,1700000000,true,3,a"])
    result = preprocess(make_config(tmp_path / "2026-*.csv"), 1, str(tmp_path / "out"), str(tmp_path / "d"), LATEST_S)
    assert result.n_bad_rows == 1


def test_a_log_that_begins_with_bad_rows_is_judged_by_all_of_them(log, tmp_path):
    bad = [b"1,i1,1700000000,true,,a"] * 1_100
    path = write_log(tmp_path / "log.csv", bad + to_lines(log))
    arguments = (1, str(tmp_path / "out"), str(tmp_path / "dead.jsonl"), LATEST_S)
    assert preprocess(make_config(path, max_bad_share=0.2), *arguments).bad_rows == {"dwell is empty": 1_100}
    with pytest.raises(
        InputError, match=r"1100 of \d+ rows \(15\.\d%\) are bad, more than data\.max_bad_share = 15\.0%"
    ):
        preprocess(make_config(path, max_bad_share=0.15), *arguments)


def test_bad_sources_stop_before_the_work(tmp_path):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "\n" + "1,i1,1700000000,true,3.0,a\n" * 50_000).encode())[:-30])
    refuse(path, tmp_path, r"log\.csv\.gz can't be read as csv")
    with pytest.raises(InputError, match=r"log\.csv\.gz can't be read as csv"):  # workers find it, as the driver does
        preprocess(make_config(path), 1, str(tmp_path / "out"), str(tmp_path / "d"), LATEST_S, is_in_process=False)
    assert_nothing_finished(tmp_path / "out")
    path = write_log(tmp_path / "log.csv", [b"1,i1,1700000000000,true,3,a"] * 5)
    refuse(path, tmp_path, "none of the first 5 rows can be used; most often: time is in the future.*data.time_unit")
    with pytest.raises(InputError, match="can't be written"):
        preprocess(make_config(write_log(path, [b"1,i1,1,true,3,a"])), 1, str(path / "x"), "dead", LATEST_S)


def test_a_run_that_breaks_leaves_nothing_that_looks_finished(log, tmp_path, monkeypatch):
    """Interrupted at its last step; then killed in the pipeline, which can't tidy up; then run again."""
    path = write_log(tmp_path / "log.csv", to_lines(log[:1_500]))
    out, arguments = tmp_path / "out", (17, str(tmp_path / "out"), str(tmp_path / "dead.jsonl"), LATEST_S)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            preprocess(make_config(path), *arguments)
    with pytest.raises(InputError, match="not finished"):
        read_sessions(str(out), "train")

    def broken_pipeline():
        (out / WORK_FOLDER / "left over").mkdir()
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(RunError, match="pipeline failed: No space left on device"):
            preprocess(make_config(path), *arguments, make_pipeline=broken_pipeline)
    assert (out / WORK_FOLDER).exists() and not (out / manifest.FILE_NAME).exists()
    preprocess(make_config(path, shards=40), *arguments)
    result = manifest.verify(str(out))
    assert sorted(os.listdir(out)) == ["Split-test", "Split-train", "Split-valid", "_MANIFEST.json"]
    assert len(result.shards) == 120 and min(shard.records for shard in result.shards) == 0
    total = sum(len(sessions) for sessions in read_all(out).values())
    assert total == sum(counts.sessions for counts in result.splits.values())


@pytest.mark.parametrize(("unit", "factor", "is_told"), [("ms", 1, True), ("ms", 1_000, False), ("s", 1, False)])
def test_seconds_that_are_read_as_milliseconds_are_told(tmp_path, capsys, unit, factor, is_told):
    log = draw_log(2_000)
    log.assign(time=log.time * factor).to_csv(tmp_path / "log.csv", index=False)
    data = make_config(tmp_path / "log.csv", time_unit=unit)
    preprocess(data, 1, str(tmp_path / "out"), str(tmp_path / "bad.jsonl"), LATEST_S)
    said = "the newest session begins 1970-01-20 16:1"
    assert (said in (told := capsys.readouterr().err)) == ("data.time_unit = ms is wrong" in told) == is_told
