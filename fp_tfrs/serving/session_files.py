"""Files of sessions → requests: the input of `batch.py`, in parts that workers take one by one.

A file is Parquet (`.parquet`), JSON lines (`.jsonl`, `.jsonl.gz`) or TFRecords of `tf.train.Example` (any other name; with `.gz`
packed): raw examples as a run writes them, say. Columns and features are those of `schema.py`; others are ignored.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
from google.protobuf.message import DecodeError

from fp_tfrs import parquet, schema, storage
from fp_tfrs.data.events import BadRow, BadValue, is_missing, parse_text
from fp_tfrs.data.sources import RawRow, read_batch, read_json_lines
from fp_tfrs.errors import InputError
from fp_tfrs.serving.request import Request

COLUMNS = (
    schema.SESSION_ID,
    schema.ITEM_ID,
    schema.IS_FALSE_POSITIVE,
    schema.USER_ID,
    schema.HISTORY_ITEM_ID,
    schema.UNCLICKED_ITEM_ID,
    schema.UNCLICKED_FIRST,
    schema.UNCLICKED_END,
    schema.ALLOWED_ITEM_ID,
    schema.DENIED_ITEM_ID,
)
_BATCH_ROWS = 4_096


class Part(NamedTuple):
    """Rows of a file that one worker reads: `n_rows` from `first_row` on, or all of a file that cannot be entered midway."""

    file: int  # its number among the files
    path: str
    first_row: int
    n_rows: int | None  # None = all; nobody has counted them
    start: int = 0  # where the first row is: a byte of a text file, a row group of a Parquet file
    end: int = 0  # the row group after the last one


class Asked(NamedTuple):
    """A session, and what to ask a model of it."""

    session_id: str
    request: Request


def find_files(patterns: Sequence[str]) -> list[str]:
    """The files that are meant, each pattern's sorted, none twice: files, globs, or folders with all that is in them.

    Raises:
        InputError: one of them names no file, or a file is empty.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        files = storage.find_files(pattern)
        if not files and storage.exists(pattern):
            files = [os.path.join(pattern, name) for name in storage.list_tree(pattern) if not _is_hidden(name)]
        if not files:
            raise InputError(f"--input {pattern}: no such file; give files, a pattern or a folder")
        found.update(dict.fromkeys(files))
    for path in found:
        if not storage.size(path):
            raise InputError(f"--input {path} is empty (0 bytes); remove it or write it again")
    return list(found)


def _is_hidden(path: str) -> bool:
    """Is it what programs write beside data, such as manifests?"""
    return any(name.startswith(("_", ".")) for name in path.split("/"))


def divide(files: Sequence[str], rows: int) -> list[Part]:
    """The files in parts of `rows` rows: those of JSON lines exactly, Parquet by row groups, others whole.

    Raises:
        InputError: a file cannot be read.
    """
    parts: list[Part] = []
    for number, path in enumerate(files):
        if path.endswith(".parquet"):
            parts += _divide_parquet(number, path, rows)
        elif path.endswith(".jsonl"):
            parts += _divide_lines(number, path, rows)
        else:
            parts.append(Part(number, path, 0, None))
    return parts


def _divide_parquet(number: int, path: str, rows: int) -> Iterator[Part]:
    try:
        with storage.open_to_read(path) as content, parquet.opened(content) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    first_row = start = n_rows = 0
    for end, size in enumerate(sizes, 1):
        n_rows += size
        if n_rows >= rows or end == len(sizes):
            yield Part(number, path, first_row, n_rows, start, end)
            first_row, start, n_rows = first_row + n_rows, end, 0


def _divide_lines(number: int, path: str, rows: int) -> Iterator[Part]:
    starts, n_lines, offset = [0], 0, 0
    with storage.open_to_read(path) as file:
        while block := file.read(1 << 20):
            at = 0
            while at := block.find(b"\n", at) + 1:
                n_lines += 1
                if n_lines % rows == 0:
                    starts.append(offset + at)
            offset += len(block)
            has_end = block.endswith(b"\n")
    n_lines += not has_end  # the file is not empty
    for part, start in enumerate(starts):
        if part * rows < n_lines:
            yield Part(number, path, part * rows, min(rows, n_lines - part * rows), start)


def read_part(part: Part) -> Iterator[RawRow]:
    """The part's rows, numbered as in the file; empty lines are no rows.

    Raises:
        InputError: the file, rather than one of its rows, cannot be read.
    """
    try:
        if part.path.endswith(".parquet"):
            yield from _read_parquet(part)
        elif part.path.endswith((".jsonl", ".jsonl.gz")):
            with storage.open_to_read(part.path) as content, _unpacked(content, part.path) as file:
                file.seek(part.start)
                for row in read_json_lines(file):
                    if part.n_rows is not None and row.line > part.n_rows:
                        return
                    yield row._replace(line=part.first_row + row.line)
        else:
            yield from _read_examples(part.path)
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        raise _unreadable(part.path, error) from error


def _unpacked(content: BinaryIO, path: str) -> Any:
    return gzip.open(content) if path.endswith(".gz") else content


def _read_parquet(part: Part) -> Iterator[RawRow]:
    with storage.open_to_read(part.path) as content, parquet.opened(content) as file:
        number = part.first_row
        for batch in parquet.batches(file, _BATCH_ROWS, COLUMNS, range(part.start, part.end)):
            yield from read_batch(batch, number + 1)
            number += batch.num_rows


def _read_examples(path: str) -> Iterator[RawRow]:
    import tensorflow as tf

    if not path.endswith(".gz") and not storage.has_whole_records(path):
        raise InputError(
            f"--input {path} can't be read: by its name it holds TFRecords, and a record ends after the file does; write it again, "
            "or rename it if it is .parquet or .jsonl"
        )
    records = tf.data.TFRecordDataset(path, "GZIP" if path.endswith(".gz") else "")
    try:
        for line, record in enumerate(records.as_numpy_iterator(), 1):
            try:
                features = tf.train.Example.FromString(record).features.feature
            except DecodeError:
                yield RawRow(line, None, "", "not a tf.train.Example")
                continue
            values: dict[str, Any] = {}
            for name in set(COLUMNS) & set(features):
                kind = features[name].WhichOneof("kind")
                values[name] = list(getattr(features[name], kind).value) if kind else []
            for name in (schema.SESSION_ID, schema.USER_ID):
                values[name] = values[name][0] if values.get(name) else None
            yield RawRow(line, values, "", None)
    except tf.errors.OpError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> InputError:
    reason = str(error).strip().split("\n")[0]
    return InputError(
        f"--input {path} can't be read: {reason}; its name says what it is: .parquet, .jsonl, or TFRecords"
    )


def parse(row: RawRow) -> Asked | BadRow:
    """The row's session, or why it cannot be used; never raises."""
    if row.values is None:
        return BadRow(row.problem or "no values")
    column, values = "", row.values
    try:
        session_id = parse_text(values.get(column := schema.SESSION_ID))
        items = _parse_list(values.get(column := schema.ITEM_ID), is_needed=True)
        flags = _parse_flags(values.get(column := schema.IS_FALSE_POSITIVE), len(items))
        user = values.get(column := schema.USER_ID)
        user_id = "" if is_missing(user) else parse_text(user)
        history = _parse_list(values.get(column := schema.HISTORY_ITEM_ID))
        unclicked = _parse_list(values.get(column := schema.UNCLICKED_ITEM_ID))
        if values.get(schema.UNCLICKED_FIRST) is not None:
            column = schema.UNCLICKED_END
            unclicked = _at_last_event(unclicked, values, len(items))
        allowed = _parse_list(values.get(column := schema.ALLOWED_ITEM_ID))
        denied = _parse_list(values.get(column := schema.DENIED_ITEM_ID))
    except BadValue as error:
        return BadRow(f"{column} {error}")
    return Asked(session_id, Request(items, flags, user_id, history, unclicked, "", allowed, denied))


def _parse_list(values: Any, *, is_needed: bool = False) -> list[str]:
    if values is None:
        if is_needed:
            raise BadValue("is missing")
        return []
    if not isinstance(values, list):
        raise BadValue("is no list")
    return [parse_text(value) for value in values]


def _parse_flags(values: Any, n_items: int) -> list[int]:
    """A session without flags has kept all of its items."""
    if values is None:
        return [0] * n_items
    if not isinstance(values, list) or len(values) != n_items:
        raise BadValue("has not one flag for each item")
    if any(value not in (0, 1) for value in values):
        raise BadValue("has a flag that is neither 0 nor 1")
    return list(map(int, values))


def _at_last_event(items: Sequence[str], values: dict[str, Any], n_events: int) -> list[str]:
    """Of a raw example, what its lists say of its last event: what came after that, they don't."""
    first, end = values[schema.UNCLICKED_FIRST], values.get(schema.UNCLICKED_END)
    if not (isinstance(first, list) and isinstance(end, list) and len(items) == len(first) == len(end)):
        raise BadValue("has not one number for each unclicked item")
    if not all(isinstance(number, int | float) for number in (*first, *end)):
        raise BadValue("has what is no number for an unclicked item")
    return [item for item, since, until in zip(items, first, end) if since < n_events <= until]
