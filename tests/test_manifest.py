import os

import pytest

from fp_tfrs.data import examples, manifest
from fp_tfrs.data.sessions import Session
from fp_tfrs.errors import InputError, RunError

SESSIONS = [
    Session("s1", ("a", "ü"), (False, True), "u", (5, 9), {"dwell": (0.5, 2.0), "plays": (3, 4), "mood": ("x", "y")}),
    Session("s2", ("b", "a"), (True, False), "", (7, 7), {"dwell": (1.0, 1.5), "plays": (-1, 0), "mood": ("z", "x")}),
]
KINDS = {"dwell": "float", "plays": "int", "mood": "string"}


def make_folder(folder) -> manifest.Manifest:
    records = [examples.encode_session(session, KINDS) for session in SESSIONS]
    shards = [examples.write_shard(str(folder), split, 0, 1, records) for split in ("train", "valid", "test")]
    counts = manifest.SplitCounts(
        sessions=2, events=4, false_positives=1, first_start_s=5, last_start_s=86_400, targets=8, unseen_targets=2
    )
    return manifest.Manifest(
        fingerprint="f",
        rows=30,
        bad_rows={"item is empty": 2, "time is NaN": 1},
        impressions=7,
        clicks=20,
        duplicate_events=1,
        short_sessions=2,
        short_events=2,
        cut_events=5,
        catalogue_items=3,
        feedback_ranges={"dwell": (0.5, 2.0)},
        splits={split: counts for split in ("train", "valid", "test")},
        shards=tuple(shards),
    )


def test_sessions_survive_the_way_through_a_finished_folder(tmp_path):
    made = make_folder(tmp_path)
    with pytest.raises(InputError, match=r"not finished: it has no _MANIFEST\.json"):
        examples.read_sessions(str(tmp_path), "train")
    manifest.write(made, str(tmp_path))
    assert manifest.verify(str(tmp_path)) == made
    assert examples.read_sessions(str(tmp_path), "valid") == SESSIONS
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if name.endswith(".tmp")]


@pytest.mark.parametrize("damage", ["remove", "cut", "change"])
def test_damaged_shards_are_named(tmp_path, damage):
    made = make_folder(tmp_path)
    manifest.write(made, str(tmp_path))
    path = tmp_path / made.shards[1].path
    content = path.read_bytes()
    path.unlink()
    if damage != "remove":
        path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="sessions-00000-of-00001.gz is"):
        manifest.verify(str(tmp_path))


def test_a_broken_manifest_is_no_manifest(tmp_path):
    endless = make_folder(tmp_path).model_dump_json().replace('"targets":8', f'"targets":{10**400}')
    for text in ("{", endless):
        (tmp_path / manifest.FILE_NAME).write_text(text)
        with pytest.raises(InputError, match="not a manifest"):
            manifest.read(str(tmp_path))


def test_lost_rows_and_lost_sessions_are_found(tmp_path):
    made = make_folder(tmp_path)
    manifest.check_conservation(made)
    with pytest.raises(RunError, match="31 rows were read, but 30 are accounted for"):
        manifest.check_conservation(made.model_copy(update={"rows": 31}))
    with pytest.raises(RunError, match="test has 2 sessions, but 0 were written"):
        manifest.check_conservation(made.model_copy(update={"shards": made.shards[:1] + made.shards[1:2]}))


def test_summary_tells_what_a_user_must_know(tmp_path):
    text = "\n".join(manifest.format_summary(make_folder(tmp_path)))
    for part in (
        "30: 20 clicks, 7 impressions, 3 bad (10.00%), most often: item is empty (2)",
        "1 duplicates, 2 clicks in 2 sessions that are too short, 5 cut",
        "25.0% false positives, starts 1970-01-01 00:00 … 1970-01-02 00:00",
        "targets unseen in training: 25.0% of 8",
    ):
        assert part in text
    assert text.count("unseen") == 2
