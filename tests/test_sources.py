import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fp_tfrs.config import DataConfig, SourceConfig
from fp_tfrs.data.sources import MAX_LINE_BYTES, check_source, count_rows, expand_files, read_rows
from fp_tfrs.datasets.raw_files import read_table, table_parts
from fp_tfrs.errors import InputError


def read(path: Path, content: bytes, **source) -> list:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return list(read_rows(str(path), SourceConfig(files=(str(path),), **source)))


def data_config(path: Path, **source) -> DataConfig:
    return DataConfig(
        source={"format": "csv", "files": (str(path),), **source},
        columns={"item_id": "item", "timestamp": "time", "session_id": "session", "feedback": {"dwell": "float"}},
    )


def test_csv_fields_quotes_and_line_numbers(tmp_path):
    rows = read(tmp_path / "a.csv", b'\xef\xbb\xbfitem,time\r\nx,1\r\n\r\n"y, ""z""",2\r\n', format="csv")
    assert [(row.line, row.values) for row in rows] == [
        (2, {"item": "x", "time": "1"}),
        (4, {"item": 'y, "z"', "time": "2"}),
    ]


@pytest.mark.parametrize("separator", ["::", "\t", ";", ",", "|"])
def test_any_separator_without_header(tmp_path, separator):
    content = separator.join(["1", "tt7", "8"]).encode() + b"\n"
    [row] = read(
        tmp_path / "a.dat",
        content,
        format="csv",
        separator=separator,
        header=False,
        column_names=("user", "item", "rating"),
    )
    assert row.values == {"user": "1", "item": "tt7", "rating": "8"} and row.line == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"x", "not 2 fields"),
        (b"x,1,surplus", "not 2 fields"),
        (b'"x,1', "broken quotes"),
        (b"\xff\xfe,1", "invalid UTF-8"),
        (b"x\0,1", "NUL character"),
        (b"x" * (MAX_LINE_BYTES + 5) + b",1", f"line longer than {MAX_LINE_BYTES} bytes"),
    ],
)
def test_broken_csv_line_costs_itself_only(tmp_path, line, problem):
    rows = read(tmp_path / "a.csv", b"item,time\na,1\n" + line + b"\nb,2\n", format="csv")
    assert [row.problem for row in rows] == [None, problem, None]
    assert [row.line for row in rows] == [2, 3, 4]
    assert rows[1].values is None and rows[2].values == {"item": "b", "time": "2"}


def test_json_lines(tmp_path):
    content = b'{"item": "a", "new": 1}\n{"item": "b"\n[1]\n' + b"[" * 100_000 + b"\n{}"
    rows = read(tmp_path / "a.jsonl.gz", content, format="jsonl")
    assert [row.problem for row in rows] == [None, "not valid JSON", "not a JSON object", "not valid JSON", None]
    assert rows[0].values == {"item": "a", "new": 1}


def test_parquet_reads_the_named_columns_only(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"item": [3, 4], "tags": [[1], [2, 3]], "dwell": pd.array([5, None], dtype="Int64")})
    frame.to_parquet(path)
    rows = list(read_rows(str(path), SourceConfig(format="parquet", files=(str(path),)), ["item", "dwell"]))
    assert [row.values for row in rows] == [{"item": 3, "dwell": 5}, {"item": 4, "dwell": None}]
    assert [row.line for row in rows] == [1, 2]


def test_unreadable_files_are_named(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"item,time\n" + b"a,1\n" * 10_000)[:-20])
    source = SourceConfig(format="csv", files=(str(path),))
    with pytest.raises(InputError, match=r"a\.csv\.gz can't be read"):
        list(read_rows(str(path), source))
    with pytest.raises(InputError, match=r"a\.csv\.gz can't be read"):
        count_rows(str(path), source)
    path = tmp_path / "b.parquet"
    path.write_bytes(b"PAR1 broken")
    with pytest.raises(InputError, match=r"b\.parquet can't be read"):
        check_source(data_config(path, format="parquet"))


def test_files_are_expanded_sorted_and_unique(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGS", str(tmp_path))
    for name in ("b.csv", "a.csv"):
        (tmp_path / name).write_text("x")
    files = expand_files(SourceConfig(format="csv", files=("$LOGS/*.csv", "$LOGS/a.csv")))
    assert files == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]


def test_missing_and_empty_files_are_named(tmp_path):
    for pattern, message in (("$NO_SUCH_DIR/a", r"\$NO_SUCH_DIR"), (f"{tmp_path}/*.csv", r"\*\.csv")):
        with pytest.raises(InputError, match=message):
            expand_files(SourceConfig(format="csv", files=(pattern,)))
    for name, content in (("a.csv", b""), ("b.csv", b"session,item,time,dwell\n"), ("c.csv.gz", gzip.compress(b""))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            check_source(data_config(tmp_path / name))


def test_missing_column_names_the_nearest_and_all_others(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("session,item,time,dwell_s\n1,a,2,3\n")
    with pytest.raises(
        InputError, match=r"no column 'dwell'; did you mean 'dwell_s'\? It has: session, item, time, dwe"
    ):
        check_source(data_config(path))
    with pytest.raises(InputError, match="is the separator ';'"):
        check_source(data_config(path, separator=";"))
    path.write_text('{"item": 1}\n' * 2)
    with pytest.raises(InputError, match=r"is it JSON lines\? data.source.format is csv"):
        check_source(data_config(path))
    path.write_text(json.dumps({"session": 1, "item": 2, "time": 3}))
    with pytest.raises(InputError, match="no column 'dwell'"):
        check_source(data_config(path, format="jsonl"))
    path.write_text(json.dumps({"session": 1, "item": 2, "time": 3, "dwell": None}))
    assert check_source(data_config(path, format="jsonl")) == [str(path)]


def test_json_lines_may_leave_out_a_key_for_a_while_but_not_everywhere(tmp_path):
    shown = {"session": 1, "item": 2, "time": 3}
    lines = [json.dumps(shown)] * 1_500
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    data = data_config(tmp_path / "?.jsonl", format="jsonl")
    with pytest.raises(InputError, match=r"a\.jsonl has no column 'dwell'; it has: session, item, time"):
        check_source(data)
    (tmp_path / "b.jsonl").write_text(json.dumps(shown | {"dwell_s": 4}))
    with pytest.raises(
        InputError, match=r"from .*a\.jsonl to .*b\.jsonl has no column 'dwell'; did you mean 'dwell_s'\? "
    ):
        check_source(data)
    (tmp_path / "b.jsonl").write_text(json.dumps(shown | {"dwell": 4}))
    assert len(check_source(data)) == 2
    (tmp_path / "b.jsonl").write_text(json.dumps({"session": 1, "film": 2, "time": 3, "dwell": 4}))
    with pytest.raises(InputError, match=r"^[^ ]*b\.jsonl has no column 'item'; "):  # which rows need
        check_source(data)
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, json.dumps(shown | {"dwell": 4})]))
    assert len(check_source(data)) == 1


def test_row_count(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"item,time\n" + b"a,1\n" * 1_000))
    assert count_rows(str(path), SourceConfig(format="csv", files=(str(path),))) == 1_001


@pytest.mark.parametrize("group_rows", [7_000, 10_000, 20_000])
def test_a_parquet_file_with_categories_is_read_whatever_its_row_groups_are(tmp_path, group_rows):
    path = tmp_path / "a.parquet"
    items = [f"i{row % 50}" for row in range(20_000)]
    frame = pd.DataFrame(
        {"item": pd.Series(items, dtype="category"), "time": range(20_000), "dwell": [[1], []] * 10_000}
    )
    frame.to_parquet(path, row_group_size=group_rows)
    rows = list(read_rows(str(path), SourceConfig(format="parquet", files=(str(path),)), ["item", "time", "dwell"]))
    assert [row.line for row in rows] == list(range(1, 20_001))
    expected = [{"item": item, "time": row, "dwell": [1][row % 2 :]} for row, item in enumerate(items)]
    assert [row.values for row in rows] == expected


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["item"], "its columns are not equally long"),
        (["dwell"], "its columns are not equally long"),
        (["item", "dwell"], "of its rows 3 are missing"),
    ],
)
def test_a_parquet_file_with_a_page_too_few_is_refused(tmp_path, lost, said):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"item": [["a"], ["b", "c"], []], "dwell": [1, 2, 3]}).to_parquet(path, compression=None)
    content, group = bytearray(path.read_bytes()), pq.ParquetFile(path).metadata.row_group(0)
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema.split(".")[0] in lost:
            kind = column.data_page_offset + 1
            assert content[kind] == 0  # a data page; readers skip those of a kind that they do not know
            content[kind] = 8
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.parquet can't be read.*{said}"):
        read(path, content, format="parquet")
    with pytest.raises(InputError, match=rf"a\.parquet can't be read.*{said}"):
        list(read_table(table_parts(str(path))[0], ["item", "dwell"]))
