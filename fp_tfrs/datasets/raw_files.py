"""Published files → rows, in parts that can be read apart from each other: the first step of every data set builder.

In: a text file (CSV, TSV, "::") or a Parquet file. Out: parts of it, small enough that the rows of one fit in memory
many times over, and the rows of a part as dicts. A part of a text file is a range of bytes and has the lines that start
in it, so that no line is lost or read twice; one line is one row. A row that does not fit raises `InputError`: the files
are published ones, so it means that another file, or half of one, is there.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fp_tfrs import parquet
from fp_tfrs.errors import InputError

PART_BYTES = 8 << 20
PART_ROWS = 100_000  # of a Parquet file
_MOST_PARTS = 100  # of one file: beyond it parts grow, since each costs Beam a step


@dataclass(frozen=True)
class TextPart:
    """The lines of a text file that start in bytes `start` … `stop` − 1."""

    path: str
    start: int
    stop: int
    separator: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class TablePart:
    """Rows `start` … `stop` − 1 of one row group of a Parquet file, which begins at row `offset` of the file."""

    path: str
    group: int
    offset: int
    start: int
    stop: int


def text_parts(path: str, separator: str, names: Sequence[str] = (), part_bytes: int = PART_BYTES) -> list[TextPart]:
    """The parts of a text file.

    Args:
      path: the file; not compressed.
      separator: between the fields of a line.
      names: of the fields, in order; empty: the first line has them.
      part_bytes: size of a part; more in a file that would have more than 100.

    Raises:
      InputError: the file is empty, or its first line is no text.
    """
    size = os.path.getsize(path)
    first = 0
    if not names:
        with open(path, "rb") as file:
            line = file.readline()
        try:
            first, names = len(line), _split(line.decode("utf-8-sig").rstrip("\r\n"), separator)
        except (UnicodeDecodeError, csv.Error):
            raise InputError(f"{path}: its first line is no text ({line[:100]!r}); fetch the file again") from None
    if first >= size:
        raise InputError(f"{path} has no rows; fetch it again")
    step = max(part_bytes, size // _MOST_PARTS)
    return [
        TextPart(path, start, min(start + step, size), separator, tuple(names)) for start in range(first, size, step)
    ]


def read_text(part: TextPart, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a part: column → text, as written.

    Raises:
      InputError: the file lacks one of `columns`, a line has another number of fields than there are names, or it is
        not UTF-8.
    """
    _check_columns(part.path, columns, part.names)
    with open(part.path, "rb") as file:
        if part.start:  # a line that starts before is the earlier part's, to its end
            file.seek(part.start - 1)
            file.readline()
        while file.tell() < part.stop and (line := file.readline()):
            try:
                fields = _split(line.decode().rstrip("\r\n"), part.separator)
            except (UnicodeDecodeError, csv.Error):
                fields = []
            if len(fields) != len(part.names):
                raise InputError(
                    f"{part.path}: the line that ends at byte {file.tell()} is not {len(part.names)} fields of text "
                    f"({line[:100]!r}); fetch the file again"
                )
            yield dict(zip(part.names, fields))


def _split(line: str, separator: str) -> list[str]:
    if '"' in line and separator in (",", ";"):  # others are written without quoting
        return next(csv.reader([line], delimiter=separator))
    return line.split(separator)


def table_parts(path: str, part_rows: int = PART_ROWS) -> list[TablePart]:
    """The parts of a Parquet file, of `part_rows` rows; more in a file that would have more than 100.

    Raises:
      InputError: it can't be read, or has no rows.
    """
    try:
        with parquet.opened(path) as file:
            metadata = file.metadata
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} can't be read as parquet: {error}; fetch it again") from error
    if not metadata.num_rows:
        raise InputError(f"{path} has no rows; fetch it again")
    step = max(part_rows, metadata.num_rows // _MOST_PARTS)
    parts, offset = [], 0
    for group in range(metadata.num_row_groups):
        n_rows = metadata.row_group(group).num_rows
        parts += [TablePart(path, group, offset, start, min(start + step, n_rows)) for start in range(0, n_rows, step)]
        offset += n_rows
    return parts


def read_table(part: TablePart, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a part: column → value; None where there is none.

    Raises:
      InputError: the file lacks one of `columns`, or it, or a value in it, can't be read.
    """
    try:
        with parquet.opened(part.path) as file:
            _check_columns(part.path, columns, file.schema_arrow.names)
            group = pa.Table.from_batches(parquet.batches(file, part.stop, columns, [part.group]))
            table = group.slice(part.start, part.stop - part.start)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{part.path} can't be read as parquet: {error}; fetch it again") from error
    for values, broken in parquet.to_rows(table):
        if broken is not None:
            raise InputError(f"{part.path}: {broken} has a value that can't be read; fetch it again")
        yield values


def to_id(value: Any) -> str:
    """An id as text.

    Raises:
      ValueError: there is none; as text it would become one more item or visitor, by the name of "None".
    """
    if value is None:
        raise ValueError("an id is missing")
    return str(value)


def _check_columns(path: str, columns: Sequence[str], names: Sequence[str]) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        raise InputError(f"{path} has no column {missing[0]!r}; it has: {', '.join(names)}; is it another release?")
