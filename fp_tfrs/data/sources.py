"""Log files → rows: CSV, JSON lines, Parquet and data sets by name behind one iterator, the first step of the data's way.

A row that can't be read comes out as a `RawRow` with its `problem`, never as an exception; a file that can't be read
(a truncated gzip, a broken Parquet file) raises `InputError` with its name. In CSV one line is one row: fields may be
quoted, but a quoted field can't hold a line break, so that an unclosed quote costs its own row only.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import gzip
import itertools
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, NoReturn, cast

import pyarrow as pa

from fp_tfrs import parquet, storage
from fp_tfrs.config import ColumnsConfig, DataConfig, SourceConfig
from fp_tfrs.datasets import prepared
from fp_tfrs.errors import InputError

MAX_LINE_BYTES = 1 << 20
_SAMPLE_ROWS = 1_000
_MOST_SEARCHED_ROWS = 300_000  # of JSON lines for a key that the first ones lack
_PARQUET_BATCH_ROWS = 16_384


class RawRow(NamedTuple):
    """One row of a log: its values, or what is wrong with it."""

    line: int  # 1-based; the line of a text file, the row of another one
    values: dict[str, Any] | None
    text: str  # as it was written; "" where that is no text
    problem: str | None


def expand_files(source: SourceConfig) -> list[str]:
    """The source's files: variables filled in, each glob's matches sorted, none twice; a data set's are made first.

    Raises:
      InputError: a variable is not set, a pattern matches nothing, a file is empty, or a data set can't be prepared.
    """
    if source.format == "tfds":
        return prepared.prepare(source)
    files: dict[str, None] = {}
    for pattern in source.files:
        expanded = os.path.expanduser(os.path.expandvars(pattern))
        if "$" in expanded:
            raise InputError(f"source.files: {pattern} uses a variable that is not set; export it first")
        matches = [expanded] if os.path.isfile(expanded) else storage.find_files(expanded)
        if not matches:
            raise InputError(f"source.files: no file matches {expanded}; check the path")
        files.update(dict.fromkeys(matches))
    if not files:
        raise InputError(f"source names no files (format: {source.format})")
    for path in files:
        if not storage.size(path):
            raise InputError(f"{path} is empty (0 bytes); remove it or fetch it again")
    return list(files)


def mapped_columns(columns: ColumnsConfig) -> tuple[str, ...]:
    """Every column of the log that the configuration names, once."""
    own = (columns.item_id, columns.timestamp, columns.session_id, columns.user_id, columns.clicked_item_ids)
    named = (*own, *columns.feedback)
    return tuple(dict.fromkeys(column for column in named if column))


def read_rows(path: str, source: SourceConfig, columns: Sequence[str] | None = None) -> Iterator[RawRow]:
    """Every row of a file, in order. Empty lines of text files are no rows.

    Args:
      path: one of `expand_files`.
      source: how it is written.
      columns: Parquet and data sets: read these columns only.

    Raises:
      InputError: the file, rather than one of its rows, can't be read.
    """
    try:
        if source.format == "parquet":
            yield from _read_parquet(path, columns)
            return
        if source.format == "tfds":
            for number, values in enumerate(prepared.read_rows(path, columns), 1):
                yield RawRow(number, values, "", None)
            return
        with _open(path) as file:
            yield from read_json_lines(file) if source.format == "jsonl" else _read_csv(_read_lines(file), path, source)
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        raise _unreadable(path, source, error) from error


def split_items(row: RawRow, columns: ColumnsConfig) -> Iterator[RawRow]:
    """The row; or, where it is an impression (`columns.clicked_item_ids`), a row for each item that was shown, in order,
    with the item in place of the list, and whether it was clicked in place of the other.

    What was clicked and is not listed as shown was shown, too. An impression of nothing, or without lists, is one bad row.
    """
    clicked_column = columns.clicked_item_ids
    if clicked_column is None or row.values is None:
        yield row
        return
    shown, clicked = row.values.get(columns.item_id), row.values.get(clicked_column)
    clicked = [] if clicked is None else clicked
    for name, items in ((columns.item_id, shown), (clicked_column, clicked)):
        if not isinstance(items, list):
            yield row._replace(problem=f"{name} is not a list")
            return
    assert isinstance(shown, list)
    # Sets, since a list may be long; what has no hash is no id either, and becomes a bad row of its own.
    is_shown, is_clicked = ({item for item in items if _has_hash(item)} for items in (shown, clicked))
    items = [*shown, *(item for item in clicked if not _has_hash(item) or item not in is_shown)]
    if not items:
        yield row._replace(problem=f"{columns.item_id} is an empty list")
    for item in items:
        was_clicked = _has_hash(item) and item in is_clicked
        yield row._replace(values={**row.values, columns.item_id: item, clicked_column: was_clicked})


def _has_hash(item: Any) -> bool:
    try:
        hash(item)
    except TypeError:
        return False
    return True


@contextlib.contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    """A text file's bytes, decompressed."""
    with storage.open_to_read(path) as file:
        if path.endswith(".gz"):
            with gzip.open(file) as unpacked:
                yield cast(BinaryIO, unpacked)
        else:
            yield file


def _unreadable(path: str, source: SourceConfig, error: Exception) -> InputError:
    reason = str(error).strip().split("\n")[0]
    return InputError(f"{path} can't be read as {source.format}: {reason}; fetch or write it again")


def _read_lines(file: BinaryIO) -> Iterator[RawRow]:
    """Lines without their ends, `values` still missing; `problem` is set if a line is no readable text."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        problem = None
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            problem = f"line longer than {MAX_LINE_BYTES} bytes"
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.rstrip(b"\r\n")
        if not line:
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text, problem = line.decode(errors="replace"), problem or "invalid UTF-8"
        yield RawRow(number, None, text, problem or ("NUL character" if "\0" in text else None))


def read_json_lines(file: BinaryIO) -> Iterator[RawRow]:
    """The rows of an open file of JSON lines, from where it stands; lines are counted from there."""
    for row in _read_lines(file):
        if row.problem:
            yield row
            continue
        try:
            values = json.loads(row.text)
        except (ValueError, RecursionError):
            yield row._replace(problem="not valid JSON")
            continue
        if isinstance(values, dict):
            yield RawRow(row.line, values, row.text, None)
        else:
            yield row._replace(problem="not a JSON object")


def _read_csv(lines: Iterator[RawRow], path: str, source: SourceConfig) -> Iterator[RawRow]:
    names = list(source.column_names)
    if source.header:
        first = next(lines, None)
        names = [] if first is None or first.problem else _split_fields(first.text, source.separator) or []
        if not names or len(set(names)) < len(names):
            found = "no line" if first is None else repr(first.text[:100])
            raise InputError(f"{path}: the first line must name each column once, but it has {found}")
    for row in lines:
        if row.problem:
            yield row
            continue
        fields = _split_fields(row.text, source.separator)
        if fields is None:
            yield row._replace(problem="broken quotes")
        elif len(fields) != len(names):
            yield row._replace(problem=f"not {len(names)} fields")
        else:
            yield RawRow(row.line, dict(zip(names, fields)), row.text, None)


def _split_fields(text: str, separator: str) -> list[str] | None:
    """A line's fields; None if its quotes don't pair."""
    if len(separator) > 1 or '"' not in text:
        return text.split(separator)
    try:
        return next(csv.reader([text], delimiter=separator, strict=True))
    except csv.Error:
        return None


def _read_parquet(path: str, columns: Sequence[str] | None) -> Iterator[RawRow]:
    number = 0
    with storage.open_to_read(path) as content, parquet.opened(content) as file:
        for batch in parquet.batches(file, _PARQUET_BATCH_ROWS, columns):
            yield from read_batch(batch, number + 1)
            number += batch.num_rows


def read_batch(batch: pa.RecordBatch, first_line: int) -> Iterator[RawRow]:
    """The rows of a part of a Parquet file, whose first has the number `first_line`."""
    for line, (values, broken) in enumerate(parquet.to_rows(batch), first_line):
        if broken is None:
            yield RawRow(line, values, "", None)
        else:
            yield RawRow(line, None, str(values), f"{broken} has a value that cannot be read")


def check_source(data: DataConfig) -> list[str]:
    """The log's files, once it is sure that each has every mapped column: what is checked before the real work.

    Of JSON lines it is enough that one file has what rows may leave out, as impressions do with feedback.

    Raises:
      InputError: see `expand_files`; or a file's columns (for JSON lines: those of its first rows) lack a mapped one.
    """
    files, source = expand_files(data.source), data.source
    columns: dict[str, list[str]] = {}
    for path in files:
        names = _column_names(path, source)
        if names is None:
            raise InputError(f"{path} has no rows; remove it or fetch it again")
        columns[path] = names
    mapped = mapped_columns(data.columns)
    optional = [column for column in mapped if source.format == "jsonl" and column not in _needed(data.columns)]
    found = list(dict.fromkeys(itertools.chain(*columns.values())))
    for column in optional:
        if column not in found and not _has_key(files, column, source):
            where = files[0] if len(files) == 1 else f"the log from {files[0]} to {files[-1]}"
            _refuse_column(where, column, found, source)
    for path, names in columns.items():
        for column in mapped:
            if column not in names and column not in optional:
                _refuse_column(path, column, names, source)
    return files


def _needed(columns: ColumnsConfig) -> tuple[str | None, ...]:
    """What every row has to have."""
    return columns.item_id, columns.timestamp, columns.session_id or columns.user_id


def _has_key(files: Sequence[str], key: str, source: SourceConfig) -> bool:
    """Does a row of JSON lines have it, among as many of each file as can be read in seconds?"""
    rows = (row for path in files for row in islice(read_rows(path, source), max(1, _MOST_SEARCHED_ROWS // len(files))))
    return any(row.values is not None and key in row.values for row in rows)


def _column_names(path: str, source: SourceConfig) -> list[str] | None:
    """A file's columns; None if it has no rows."""
    if source.format == "tfds":
        return prepared.column_names(path)
    if source.format == "parquet":
        try:
            with storage.open_to_read(path) as content, parquet.opened(content) as file:
                return file.schema_arrow.names if file.metadata.num_rows else None
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, source, error) from error
    rows = list(islice(read_rows(path, source), _SAMPLE_ROWS))
    if source.format == "csv" and not source.header:
        return list(source.column_names) if rows else None
    names = dict.fromkeys(name for row in rows if row.values for name in row.values)
    if rows and not names:
        raise InputError(
            f"{path}: none of the first {len(rows)} rows can be read as {source.format}: line {rows[0].line} is "
            f"{rows[0].problem} ({rows[0].text[:100]!r}); check data.source"
        )
    return list(names) or None


def _refuse_column(path: str, column: str, names: list[str], source: SourceConfig) -> NoReturn:
    nearest = difflib.get_close_matches(column, names, n=1)
    subject = f"did you mean {nearest[0]!r}? It" if nearest else "it"
    hint = ""
    if source.format == "csv" and names[0].startswith("{"):
        hint = "; is it JSON lines? data.source.format is csv"
    elif source.format == "csv" and len(names) == 1:
        hint = f"; is the separator {source.separator!r}?"
    raise InputError(f"{path} has no column {column!r}; {subject} has: {', '.join(names)}{hint}")


def count_rows(path: str, source: SourceConfig) -> int:
    """About how many rows a file has (a text file's lines), for progress; reads a gzip to its end.

    Raises:
      InputError: the file is truncated or broken.
    """
    if source.format == "tfds":
        return prepared.count_rows(path)
    try:
        if source.format == "parquet":
            with storage.open_to_read(path) as content, parquet.opened(content) as table:
                return int(table.metadata.num_rows)
        with _open(path) as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        raise _unreadable(path, source, error) from error
