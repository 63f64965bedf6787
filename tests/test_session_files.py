"""Files of sessions: every row of every kind of file is read once, whole or in parts, and a row that cannot be used says why."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fp_tfrs import schema
from fp_tfrs.data.examples import encode_session
from fp_tfrs.data.sessions import Session
from fp_tfrs.data.sources import RawRow
from fp_tfrs.errors import InputError
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.session_files import Asked, Part, divide, find_files, parse, read_part

ROWS = [
    {"session_id": f"s{n}", "item_id": [f"i{k}" for k in range(n % 4)], "is_false_positive": [0] * (n % 4)}
    for n in range(23)
]


def read_all(path, rows):
    parts = divide([str(path)], rows)
    return parts, [(row.line, row.values or row.problem) for part in parts for row in read_part(part)]


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
@pytest.mark.parametrize("rows", [1, 5, 23, 24, 100])
def test_json_lines_are_the_same_in_parts_and_packed(tmp_path, rows, ending):
    lines = [json.dumps(row) for row in ROWS]
    lines[7], lines[11] = "", "no JSON"
    text = (ending or "\n").join(lines) + ending
    (tmp_path / "a.jsonl").write_bytes(text.encode())
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    parts, found = read_all(tmp_path / "a.jsonl", rows)
    assert [part.n_rows for part in parts[:-1]] == [rows] * (len(parts) - 1)
    assert sum(part.n_rows for part in parts) == 23
    expected = [(n + 1, row) for n, row in enumerate(ROWS) if n != 7]
    expected[10] = (12, "not valid JSON")
    assert found == expected
    packed, found = read_all(tmp_path / "b.jsonl.gz", rows)
    assert [part.n_rows for part in packed] == [None] and found == expected


@pytest.mark.parametrize(("rows", "sizes"), [(1, [4, 4, 4, 4, 4, 3]), (5, [8, 8, 7]), (100, [23])])
def test_parquet_is_divided_by_row_groups(tmp_path, rows, sizes):
    table = pa.Table.from_pylist([{**row, "other": 1} for row in ROWS])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    parts, found = read_all(tmp_path / "a.parquet", rows)
    assert [part.n_rows for part in parts] == sizes
    assert found == list(enumerate(ROWS, 1))


def test_raw_examples_are_asked_after_their_last_event_as_it_was_known_then(tmp_path):
    import tensorflow as tf

    session = Session(
        "s", ("a", "b", "c"), (False, True, False), user_id="u", timestamp_s=(1, 2, 3),
        history_item_id=("h",), unclicked=(("x", 0, 1), ("y", 1, 3), ("z", 2, 3)),
    )  # fmt: skip
    with tf.io.TFRecordWriter(str(tmp_path / "a.gz"), "GZIP") as writer:
        writer.write(encode_session(session, {}, has_history=True, has_unclicked=True))
        writer.write(b"no example")
        writer.write(tf.train.Example().SerializeToString())
    with tf.io.TFRecordWriter(str(tmp_path / "b")) as writer:
        writer.write(Request(["é"], [1], "", unclicked_item_id=["x"], denied_item_id=["d"]).to_example())
    (part,) = divide([str(tmp_path / "a.gz")], 2)
    good, broken, empty = map(parse, read_part(part))
    assert good == Asked("s", Request(["a", "b", "c"], [0, 1, 0], "u", ["h"], ["y", "z"], "", [], []))
    assert session.unclicked_before(2) == ("y", "z")
    assert (broken.reason, empty.reason) == ("not a tf.train.Example", "session_id is missing")
    (row,) = read_part(Part(0, str(tmp_path / "b"), 0, None))
    row.values[schema.SESSION_ID] = b"t"
    assert parse(row) == Asked("t", Request(["é"], [1], "", [], ["x"], "", [], ["d"]))


@pytest.mark.parametrize("user", [None, " ", float("nan")])
def test_ids_may_be_numbers_and_what_may_be_left_out_may_be_null(user):
    values = {"session_id": 7, "item_id": [1, " a "], "is_false_positive": [True, 0], "user_id": user}
    assert parse(RawRow(1, values, "", None)) == Asked("7", Request(["1", "a"], [1, 0], "", [], [], "", [], []))
    assert parse(RawRow(1, {"session_id": "s", "item_id": []}, "", None)).request.item_id == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"session_id": None}, "session_id is missing"),
        ({"session_id": ["s"]}, "session_id is not a text"),
        ({"item_id": None}, "item_id is missing"),
        ({"item_id": "a"}, "item_id is no list"),
        ({"item_id": ["a", None]}, "item_id is missing"),
        ({"item_id": ["a", ""]}, "item_id is empty"),
        ({"is_false_positive": [0]}, "is_false_positive has not one flag for each item"),
        ({"is_false_positive": [0, 2]}, "is_false_positive has a flag that is neither 0 nor 1"),
        ({"user_id": 1.5}, "user_id is not a text"),
        ({"denied_item_id": {}}, "denied_item_id is no list"),
        ({"unclicked_item_id": ["x"], "unclicked_first": [0]}, "unclicked_end has not one number for each unclicked item"),
    ],
)  # fmt: skip
def test_a_bad_row_names_its_column(change, reason):
    good = {"session_id": "s", "item_id": ["a", "b"], "is_false_positive": [0, 1], "user_id": "u"}
    assert isinstance(parse(RawRow(1, good, "", None)), Asked)
    assert parse(RawRow(1, good | change, "", None)).reason == reason


def test_files_are_found_by_name_pattern_and_folder_and_bad_ones_are_named(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "Split-test/x.gz", "_MANIFEST.json", ".unfinished/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{")
    found = find_files([str(tmp_path / "b.jsonl"), str(tmp_path / "*.jsonl"), str(tmp_path)])
    assert [name.removeprefix(f"{tmp_path}/") for name in found] == ["b.jsonl", "a.jsonl", "Split-test/x.gz"]
    (tmp_path / "empty.jsonl").touch()
    for pattern, said in (("nothing*", "no such file"), ("empty.jsonl", "is empty")):
        with pytest.raises(InputError, match=said):
            find_files([str(tmp_path / pattern)])
    for name in ("x.parquet", "Split-test/x.gz"):
        (tmp_path / name).write_text("not that")
        with pytest.raises(InputError, match=f"{name} can't be read"):
            read_all(tmp_path / name, 5)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode())[:-5])
    with pytest.raises(InputError, match="c.jsonl.gz can't be read"):
        read_all(tmp_path / "c.jsonl.gz", 5)
