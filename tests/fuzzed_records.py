"""What reads records, manifests and what lies beside a model, as cases and checks (see `fuzzed_data.py`)."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import tensorflow as tf
from fuzzed_data import Parser, as_parquet, refusing
from hostile import as_json, byte_strings, value_trees

from fp_tfrs import schema
from fp_tfrs.data import examples, manifest, session_table
from fp_tfrs.data.sessions import Session
from fp_tfrs.data.sources import RawRow
from fp_tfrs.demo import explaining, samples
from fp_tfrs.demo.content import Content
from fp_tfrs.serving import batch, labels, metadata, rollback, session_files

SESSIONS = [
    Session("s1", ("a", "ü"), (False, True), "u", (5, 9), {"rating": (0.5, 2.0), "plays": (3, 4), "mood": ("x", "y")}),
    Session("s2", ("b",), (True,), "", (7,), {}, ("h", "a"), (("x", 0, 1),)),
]
RECORDS = [
    examples.encode_session(
        session, {"rating": "float", "plays": "int", "mood": "string"}, has_history=True, has_unclicked=True
    )
    for session in SESSIONS
]

COUNTS = manifest.SplitCounts(
    sessions=2, events=3, false_positives=2, first_start_s=5, last_start_s=7, targets=1, unseen_targets=1
)
MANIFEST = manifest.Manifest(
    fingerprint="f", rows=9, bad_rows={"item is empty": 2}, impressions=0, clicks=9, duplicate_events=0, short_sessions=0,
    short_events=0, cut_events=0, catalogue_items=3, feedback_ranges={"mood": ("x", "y")},
    splits=dict.fromkeys(("train", "valid", "test"), COUNTS),
    shards=(manifest.Shard(split="test", path="Split-test/sessions-00000-of-00001.gz", records=2, n_bytes=9, sha256="aa"),),
)  # fmt: skip


def raw_examples(folder: Path) -> Parser:
    """Shards of raw examples, changed under their checksums, and the records in them."""
    (folder / "raw").mkdir()
    shard = examples.write_shard(str(folder / "raw"), "test", 0, 1, RECORDS)
    manifest.write(MANIFEST.model_copy(update={"shards": (shard,)}), str(folder / "raw"))
    path = folder / "raw" / shard.path
    packed = path.read_bytes()
    whole = gzip.decompress(packed)

    def check(case: tuple[str, bytes]) -> bool:
        kind, content = case
        if kind == "record":
            with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
                writer.write(content)
        else:
            path.write_bytes(content if kind == "packed" else gzip.compress(content, 1))
        with refusing(str(path)) as said:
            examples.read_sessions(str(folder / "raw"), "test")
        return not said

    cases = [("record", byte_strings(RECORDS)), ("packed", byte_strings([packed])), ("file", byte_strings([whole]))]
    return Parser(st.one_of(*(st.tuples(st.just(kind), contents) for kind, contents in cases)), check)


def transformed_examples(folder: Path) -> Parser:
    """Shards of transformed examples: the records in them, with features of other types, lengths and values."""
    path = folder / "transformed.gz"

    def example(features: dict[str, Any]) -> bytes:
        made = tf.train.Example()
        for name, values in features.items():
            kind = made.features.feature[name]
            if values and isinstance(values[0], bytes):
                kind.bytes_list.value.extend(values)
            elif values and isinstance(values[0], float):
                kind.float_list.value.extend(values)
            else:
                kind.int64_list.value.extend(values)
        return made.SerializeToString()

    valid = {
        schema.SESSION_ID: [b"s"],
        schema.USER_ID: [b"u"],
        schema.ITEM_INDEX: [2, 1, 3],
        schema.IS_FALSE_POSITIVE: [0, 1, 0],
        schema.TIMESTAMP_S: [1, 2, 3],
        schema.USER_INDEX: [1],
        schema.HISTORY_INDEX: [3, 2],
        schema.SATISFACTION: [0.5, 1.0, 2.0],
        schema.UNCLICKED_INDEX: [2],
        schema.UNCLICKED_FIRST: [0],
        schema.UNCLICKED_END: [2],
    }

    def check(case: bytes) -> bool:
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            writer.write(example(valid))
            writer.write(case)
        with refusing() as said:
            table = session_table.read_sessions([str(path)], True, True, True, True)
            table.raw_sessions(["a", "b", "c"], 10)
        return not said

    numbers = st.sampled_from([0, 1, 2, 3, -1, 7, 2**31, 2**40, -(2**63), 2**63 - 1])
    values = st.one_of(
        st.lists(numbers, max_size=4),
        st.lists(st.sampled_from([b"", b"s", b"\xff"]), max_size=3),
        st.lists(st.floats(width=32), max_size=3),
    )
    changed = st.dictionaries(st.sampled_from(sorted(valid)), values, max_size=2)
    return Parser(st.one_of(changed.map(lambda new: example(valid | new)), byte_strings([example(valid)])), check)


def manifests(folder: Path) -> Parser:
    """Both kinds, with everything that is done with one; paths in them may lead nowhere else."""
    (folder / "finished").mkdir()
    (folder / "answers").mkdir()
    answers = {
        "fingerprint": "f", "model": "m", "model_version": "v", "rows": 2, "sessions": 1, "bad_rows": {"x": 1},
        "shards": [{"path": "sessions-00000-0000000000.jsonl", "sessions": 1, "bad_rows": {"x": 1}, "most_items": 3,
                    "model_version": "v", "n_bytes": 9, "sha256": "aa"}],
    }  # fmt: skip
    valid = json.loads(MANIFEST.model_dump_json())
    raw_path, answers_path = folder / "finished" / manifest.FILE_NAME, folder / "answers" / batch.MANIFEST
    root = str(folder)

    def check(case: tuple[bool, bytes]) -> bool:
        is_raw, content = case
        (raw_path if is_raw else answers_path).write_bytes(content)
        with refusing(root) as said:
            if is_raw:
                found = manifest.read(str(raw_path.parent))
                manifest.format_summary(found)
                assert all((raw_path.parent / shard.path).resolve().is_relative_to(folder) for shard in found.shards)
                for counts in found.splits.values():
                    assert 0 <= counts.false_positive_share and 0 <= counts.unseen_target_share
                manifest.verify(str(raw_path.parent))
            else:
                made = batch._read_finished(str(answers_path.parent))
                batch.format_summary(made, "out", 10)
                assert all((answers_path.parent / shard.path).resolve().is_relative_to(folder) for shard in made.shards)
        return not said

    trees = [
        st.tuples(st.just(is_raw), value_trees([tree]).map(as_json))
        for is_raw, tree in ((True, valid), (False, answers))
    ]
    texts = st.tuples(st.booleans(), byte_strings([as_json(valid), as_json(answers)]))
    return Parser(st.one_of(*trees, texts), check)


def beside_models(folder: Path) -> Parser:
    """What lies beside models: labels, lineage, what the export says of itself, and the requests of the probe."""
    models = folder / "models"
    for version in ("1", "2"):
        (models / version / "assets.extra").mkdir(parents=True)
        (models / version / "saved_model.pb").touch()
    labels.label(str(models), {"stable": 1})
    config = folder / labels.FILE_NAME
    valid = {
        "labels": config.read_bytes(),
        "lineage": metadata.of_rollback(metadata.of_push("p", "r", 1, "n", "u"), 1, 2).encode(),
        "export": as_json({"name": "m", "method": "vanilla", "tower": "narm", "n_items": 3}),
        "requests": as_json([{
            "request": [["a", "b"], [0, 1], "u", ["c"], [], "d", [], []], "top_item_id": ["a"], "top_score": [1.0],
            "rank_low": 1, "rank_high": 1, "is_exact": True,
        }] * 12),
    }  # fmt: skip
    newest = models / "2" / "assets.extra"

    def check(case: tuple[str, bytes]) -> bool:
        kind, content = case
        with refusing() as said:
            if kind == "labels":
                config.write_bytes(content)
                assert all(isinstance(version, int) for version in labels.read(str(models)).values())
            elif kind == "lineage":
                config.unlink(missing_ok=True)
                (newest / "lineage.json").write_bytes(content)
                rollback._choose(str(models), 1)
            elif kind == "export":
                (newest / "metadata.json").write_bytes(content)
                explaining._read_kind(str(models / "2"))
            else:
                (newest / "expectations.json").write_bytes(content)
                json.dumps(Content([], samples.from_export(str(models / "2")), {}).describe())
        return not said

    trees = [
        st.tuples(st.just(kind), value_trees([json.loads(content)]).map(as_json))
        for kind, content in valid.items()
        if kind != "labels"
    ]
    texts = [st.tuples(st.just(kind), byte_strings([content])) for kind, content in valid.items()]
    return Parser(st.one_of(*trees, *texts), check)


ASKED = {
    "session_id": "s", "item_id": ["a", "b"], "is_false_positive": [0, 1], "user_id": "u", "history_item_id": ["h"],
    "unclicked_item_id": ["x", "y"], "unclicked_first": [0, 1], "unclicked_end": [1, 2], "allowed_item_id": ["p"],
    "denied_item_id": ["q"],
}  # fmt: skip


def session_rows(folder: Path) -> Parser:
    """Rows of batch-recommend, as values and as files of every kind."""
    line = json.dumps(ASKED).encode()
    record = examples.encode_session(SESSIONS[0], {"rating": "float", "plays": "int", "mood": "string"})
    paths = {kind: folder / f"sessions{kind}" for kind in (".jsonl", ".jsonl.gz", ".parquet", ".gz", ".record")}
    table = as_parquet(pa.Table.from_pylist([ASKED] * 3))
    packed = gzip.compress(line + b"\n" + line)

    def check(case: tuple[str, Any]) -> bool:
        kind, content = case
        if kind == "values":
            found = [session_files.parse(RawRow(1, content, "", None))] if isinstance(content, dict) else []
        else:
            path = paths[kind]
            if kind == ".record":
                with tf.io.TFRecordWriter(str(path)) as writer:
                    writer.write(content)
            else:
                path.write_bytes(content)
            found = []
            with refusing(str(path)):
                for part in session_files.divide(session_files.find_files([str(path)]), 2):
                    found += map(session_files.parse, session_files.read_part(part))
        for row in found:
            if isinstance(row, session_files.Asked):
                assert len(row.request.item_id) == len(row.request.is_false_positive)
                row.request.to_example()
            else:
                assert row.reason and len(row.reason) < 200
        return any(isinstance(row, session_files.Asked) for row in found)

    kinds = {
        "values": value_trees([ASKED]), ".jsonl": byte_strings([line + b"\n" + line]), ".jsonl.gz": byte_strings([packed]),
        ".parquet": byte_strings([table]), ".gz": byte_strings([packed]), ".record": byte_strings([record]),
    }  # fmt: skip
    cases = [st.tuples(st.just(kind), contents) for kind, contents in kinds.items()]
    return Parser(st.one_of(cases[0], *cases), check)


PARSERS: dict[str, Callable[[Path], Parser]] = {
    "raw examples": raw_examples,
    "transformed examples": transformed_examples,
    "manifests": manifests,
    "beside models": beside_models,
    "sessions to answer": session_rows,
}
