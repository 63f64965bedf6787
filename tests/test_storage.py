"""The same calls on a disk and on file systems behind URLs, which stand for an object store: what is there, and when."""

import gzip
import io
import itertools
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fp_tfrs import storage
from fp_tfrs.errors import InputError

_numbers = itertools.count()


@pytest.fixture(params=["disk", "file://", "ram://"])
def folder(request, tmp_path):
    if request.param != "ram://":
        yield str(tmp_path) if request.param == "disk" else f"file://{tmp_path}"
    else:
        path = f"ram://test_storage/{next(_numbers)}"
        storage.make_folder(path)
        yield path
        storage.remove_tree(path)


def write(path, content):
    with storage.replacing(path) as file:
        file.write(content)


def test_bytes_and_text_come_back_as_they_were(folder):
    path = os.path.join(folder, "a", "file")
    storage.make_folder(os.path.dirname(path))
    content = bytes(range(256)) * 10_000  # more than a buffer
    write(path, content)
    with storage.open_to_read(path) as file:
        assert file.read() == content
        file.seek(257)
        assert file.read(2) == b"\x01\x02"
    assert storage.size(path) == len(content)
    write(path, b"")
    assert storage.size(path) == 0 and storage.read_text(path) == ""
    with storage.replacing(path, "w") as file:
        file.write("eins\r\nzwei\nö")
    assert storage.read_text(path) == "eins\r\nzwei\nö"


def test_a_file_is_replaced_whole_or_not_at_all(folder):
    path = os.path.join(folder, "file")
    storage.write_text(path, "before")
    with pytest.raises(KeyError), storage.replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert (storage.read_text(path), storage.list_folder(folder)) == ("before", ["file"])
    with storage.replacing(path) as file:
        file.write(b"after")
        assert storage.read_text(path) == "before"
    assert (storage.read_text(path), storage.list_folder(folder)) == ("after", ["file"])


def test_what_a_killed_writer_has_left_is_removed_and_nothing_else(folder):
    path, others = os.path.join(folder, "log.jsonl"), ["log.jsonl", "log.jsonl.tmp", "log.jsonl.0.tmp", "other"]
    for name in [*others, f"log.jsonl.{'0a' * 16}.tmp", f"other.log.jsonl.{'0a' * 16}.tmp"]:
        storage.write_text(os.path.join(folder, name), "")
    writer = storage.replacing(path)
    writer.__enter__()  # and dies
    storage.remove_attempts(path)
    assert storage.list_folder(folder) == sorted([*others, f"other.log.jsonl.{'0a' * 16}.tmp"])
    storage.remove_attempts(os.path.join(folder, "nowhere", "log.jsonl"))


def test_what_is_there(folder):
    for name in ("b/2.csv", "b/1.csv", "b/c/deep", "top"):
        storage.make_folder(os.path.dirname(os.path.join(folder, name)))
        storage.write_text(os.path.join(folder, name), name)
    assert storage.list_folder(folder) == ["b", "top"]
    assert storage.list_tree(folder) == ["b/1.csv", "b/2.csv", "b/c/deep", "top"]
    assert storage.find_files(os.path.join(folder, "b/*")) == [os.path.join(folder, f"b/{n}.csv") for n in (1, 2)]
    if storage.is_local(folder):
        assert (
            storage.find_files(os.path.join(folder, "**/*"))
            == storage.find_files(os.path.join(folder, "**"))
            == [os.path.join(folder, name) for name in ("b/1.csv", "b/2.csv", "b/c/deep", "top")]
        )
    else:
        with pytest.raises(InputError, match=r"\*\*/\*: \*\* works on a disk only"):
            storage.find_files(os.path.join(folder, "**/*"))
    assert storage.exists(os.path.join(folder, "b/c/deep")) and not storage.exists(os.path.join(folder, "nothing"))
    storage.remove_tree(os.path.join(folder, "b"))
    storage.remove_tree(os.path.join(folder, "was never there"))
    storage.remove(os.path.join(folder, "top"))
    assert storage.list_tree(folder) == storage.list_folder(os.path.join(folder, "b")) == []


def test_what_is_missing_is_an_os_error_with_its_name(folder):
    path = os.path.join(folder, "nothing")
    for call in (storage.open_to_read, storage.size, storage.remove):
        with pytest.raises(FileNotFoundError) as found:
            call(path)
        assert found.value.filename == path


def test_libraries_read_and_write_it(folder, tmp_path):
    """gzip, NumPy's zip files and Parquet, which seek from the end."""
    path = os.path.join(folder, "file")
    write(path, gzip.compress(b"line 1\nline 2\n"))
    with storage.open_to_read(path) as file, gzip.open(file) as lines:
        assert list(lines) == [b"line 1\n", b"line 2\n"]
    with storage.replacing(path) as file:
        np.savez(file, np.arange(5), np.ones([2, 3], np.float32))
    with storage.open_to_read(path) as file, np.load(file) as arrays:
        assert arrays["arr_0"].tolist() == [0, 1, 2, 3, 4] and arrays["arr_1"].shape == (2, 3)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2]}), buffer)
    write(path, buffer.getvalue())
    with storage.open_to_read(path) as file, pq.ParquetFile(file) as table:
        assert table.read().to_pydict() == {"a": [1, 2]}
    storage.copy_file(path, tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == buffer.getvalue()
