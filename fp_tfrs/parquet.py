"""Parquet files → rows, without running what is in them: the one place where Parquet of others is opened.

In: a Parquet file. Out: its rows as dicts. A value that Python cannot hold, such as a time after the year 9999 or a text that
is not UTF-8, costs its row only. pyarrow before 14.0.1 unpickles what a file's schema says (CVE-2023-47248), and so runs
whatever its writer wanted; here it refuses the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

# Of `as_py`: no UTF-8, a time that `datetime` has not, a time zone that there is not.
_BROKEN_VALUE = (ValueError, OverflowError, LookupError)
_PICKLED = "arrow.py_extension_type"  # the name under which a schema's pickles are looked up


class _Pickled(pa.ExtensionType):
    """Takes the place of the type that unpickles itself."""

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> _Pickled:
        raise RuntimeError("its schema holds a pickled Python object, which is not loaded")


if hasattr(pa, "PyExtensionType"):
    pa.unregister_extension_type(_PICKLED)
    pa.register_extension_type(_Pickled(pa.null(), _PICKLED))


@contextlib.contextmanager
def opened(content: str | BinaryIO) -> Iterator[pq.ParquetFile]:
    """The file, for the length of a block.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read, also of reads within the block.
    """
    try:
        with pq.ParquetFile(content) as file:
            yield file
    except UnicodeDecodeError as error:  # of a column's name
        raise pa.ArrowInvalid(f"its schema has a name that is no UTF-8: {error}") from error
    except RuntimeError as error:  # of `_Pickled`, or of pyarrow-hotfix, which Beam puts in its place
        raise pa.ArrowInvalid(str(error).split("\n")[0]) from error


def batches(
    file: pq.ParquetFile, most_rows: int, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of these columns that the file has (None: all), of these row groups (None: all), so many at a time.

    Each column has a reader of its own: where a damaged page makes a column shorter than the others, pyarrow's reader of
    several ends the process (`std::bad_alloc`).

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    names = file.schema_arrow.names
    asked = [name for name in dict.fromkeys(names if columns is None else columns) if name in names]
    chosen = list(range(file.num_row_groups) if groups is None else groups)
    left = sum(file.metadata.row_group(k).num_rows for k in chosen) if asked else 0
    readers = [filter(len, file.iter_batches(most_rows, chosen, [name])) for name in asked]
    parts = [next(reader, None) for reader in readers]
    while there := [part for part in parts if part is not None]:
        if len(there) < len(parts):
            raise pa.ArrowInvalid("its columns are not equally long")
        n_rows = min(map(len, there))  # batches of categories end where their row group does, those of others don't
        fields = [field for part in there for field in part.schema]
        arrays = [array for part in there for array in part.slice(0, n_rows).columns]
        left -= n_rows
        yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        parts = [
            part.slice(n_rows) if len(part) > n_rows else next(reader, None) for part, reader in zip(there, readers)
        ]
    if left:
        raise pa.ArrowInvalid(f"of its rows {left} are missing")


def to_rows(batch: pa.RecordBatch | pa.Table) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The rows by column; beside each the column of a value that cannot be read, which is None then, or None."""
    names = batch.schema.names
    columns: list[list[Any]] = []
    broken: list[str | None] = [None] * batch.num_rows
    for name, column in zip(names, batch.columns):
        try:
            columns.append(column.to_pylist())
        except _BROKEN_VALUE:
            values = [_read(value) for value in column]
            columns.append([value for value, _ in values])
            broken = [name if is_broken else before for (_, is_broken), before in zip(values, broken)]
    for row, problem in zip(zip(*columns), broken):
        yield dict(zip(names, row)), problem


def _read(value: pa.Scalar) -> tuple[Any, bool]:
    try:
        return value.as_py(), False
    except _BROKEN_VALUE:
        return None, True
