"""Files wherever a run has them: on a local disk, or in an object store that is named by a URL (`gs://…`, `s3://…`).

In: a path or URL. Local paths go to the operating system. URLs go to `tf.io.gfile`, which TFX's own nodes read and write
them with too, so that there is one set of credentials; TensorFlow is imported when the first URL is met. What is read
and written here is whole or not there: a file by rename, a folder by writing its marker last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import os
import re
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, TextIO, cast, overload

import numpy as np

from fp_tfrs.errors import InputError

Path = str | os.PathLike[str]


def is_local(path: Path) -> bool:
    """Is it a path of this machine, rather than a URL?"""
    return "://" not in os.fspath(path)


def open_to_read(path: Path) -> BinaryIO:
    """The file's bytes, seekable.

    Raises:
        FileNotFoundError: there is none. OSError: it cannot be read.
    """
    if is_local(path):
        return open(path, "rb")
    if not exists(path):
        raise FileNotFoundError(errno.ENOENT, "no such object", os.fspath(path))
    return cast(BinaryIO, io.BufferedReader(_Object(os.fspath(path), "rb"), 1 << 20))


def hold(path: Path) -> BinaryIO | None:
    """A local file with a shared lock (`flock`) on it, until what is returned is closed or forgotten; else None."""
    if not is_local(path):
        return None
    file = open(path, "rb")  # noqa: SIM115  (whoever asked closes it)
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def read_text(path: Path) -> str:
    """The whole file as UTF-8, its line ends as they are; raises as `open_to_read`."""
    with open_to_read(path) as file:
        return file.read().decode()


@overload
def replacing(path: Path, mode: Literal["wb"] = "wb") -> contextlib.AbstractContextManager[BinaryIO]: ...
@overload
def replacing(path: Path, mode: Literal["w"]) -> contextlib.AbstractContextManager[TextIO]: ...
@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[Any]:
    """A file to write bytes, or with "w" UTF-8, to: it takes the path's place when the block ends, and not if it raises."""
    attempt = f"{os.fspath(path)}.{uuid.uuid4().hex}.tmp"
    try:
        with _open_to_write(attempt) as file:
            if mode == "w":
                text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
                yield text
                text.flush()
                text.detach()
            else:
                yield file
            file.flush()
            if is_local(path):
                os.fsync(file.fileno())
        move(attempt, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(attempt)
        raise


def remove_attempts(path: Path) -> None:
    """Deletes what killed `replacing`s of this file have left; nobody else may be writing it."""
    folder, name = parent(path), os.path.basename(os.fspath(path))
    for found in list_folder(folder):
        if re.fullmatch(re.escape(name) + r"\.[0-9a-f]{32}\.tmp", found):
            remove(os.path.join(folder, found))


def _open_to_write(path: str) -> BinaryIO:
    if is_local(path):
        return open(path, "wb")
    return cast(BinaryIO, io.BufferedWriter(_Object(path, "wb"), 1 << 20))


def write_text(path: Path, text: str) -> None:
    """Writes the whole file as UTF-8, by rename."""
    with replacing(path) as file:
        file.write(text.encode())


def has_whole_records(path: Path) -> bool:
    """Does each record of a TFRecord file that isn't packed end within the file?

    To be asked of foreign files before TensorFlow reads them: it makes room for what a length says, and the process dies of
    one that lies. Packed ones it reads piece by piece.
    """
    end, n_bytes = 0, size(path)
    with open_to_read(path) as file:
        while length := file.read(8):
            end += 16 + int.from_bytes(length, "little")  # the length, its checksum, the record, its checksum
            if end > n_bytes:
                return False
            file.seek(end)
    return True


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, in its order.

    Raises:
        OSError: it cannot be read, or is damaged.
    """
    try:
        with open_to_read(path) as file, np.load(file) as arrays:
            return {name: arrays[name] for name in arrays.files}
    # RuntimeError: a packing that is unknown here
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise OSError(f"{os.fspath(path)} is damaged: {error}") from error


def exists(path: Path) -> bool:
    """Is there a file or a folder? An object store's folder is there while something is in it."""
    if is_local(path):
        return os.path.exists(path)
    with _as_os_error(path):
        return bool(_gfile().exists(os.fspath(path)))


def size(path: Path) -> int:
    """A file's bytes; raises OSError if there is none."""
    if is_local(path):
        return os.path.getsize(path)
    with _as_os_error(path):
        return int(_gfile().stat(os.fspath(path)).length)


def modified_ns(path: Path) -> int:
    """When a file was last written, in nanoseconds of Unix time; raises OSError if there is none."""
    if is_local(path):
        return os.stat(path).st_mtime_ns
    with _as_os_error(path):
        return int(_gfile().stat(os.fspath(path)).mtime_nsec)


def parent(path: Path) -> str:
    """The folder that a file is in, or will be."""
    return os.path.dirname(os.path.abspath(path) if is_local(path) else os.fspath(path))


def find_files(pattern: str) -> list[str]:
    """The files that match a glob, sorted; on a disk `**` stands for any number of folders.

    Raises:
        InputError: `**` in a URL, which object stores take for `*`: files would be left out without a word.
    """
    if is_local(pattern):
        return sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
    if "**" in pattern:
        raise InputError(f"{pattern}: ** works on a disk only; name a pattern for each depth, with * for each folder")
    with _as_os_error(pattern):
        return sorted(path for path in _gfile().glob(pattern) if not _gfile().isdir(path))


def list_folder(path: Path) -> list[str]:
    """The names in a folder, sorted; none where there is no folder."""
    if is_local(path):
        return sorted(os.listdir(path)) if os.path.isdir(path) else []
    with _as_os_error(path):
        is_there = _gfile().isdir(os.fspath(path))
        return sorted(name.rstrip("/") for name in _gfile().listdir(os.fspath(path))) if is_there else []


def list_tree(path: Path) -> list[str]:
    """The files below a folder, by their paths within it, sorted."""
    if is_local(path):
        tree: Iterator[tuple[str, list[str], list[str]]] = os.walk(path)
    else:
        with _as_os_error(path):
            tree = iter(list(_gfile().walk(os.fspath(path))))
    found = (os.path.join(folder, name) for folder, _, names in tree for name in names)
    return sorted(os.path.relpath(file, path) if is_local(path) else _within(file, os.fspath(path)) for file in found)


def _within(url: str, folder: str) -> str:
    return url.removeprefix(folder.rstrip("/")).lstrip("/")


def make_folder(path: Path) -> None:
    """Makes the folder and those above it."""
    if is_local(path):
        os.makedirs(path, exist_ok=True)
    else:
        with _as_os_error(path):
            _gfile().makedirs(os.fspath(path))


def move(source: Path, target: Path) -> None:
    """Puts a file in the target's place. One step on a disk; an object store copies, and shows the target when it is whole."""
    if is_local(source):
        os.replace(source, target)
    else:
        with _as_os_error(source):
            _gfile().rename(os.fspath(source), os.fspath(target), overwrite=True)


def copy_tree(source: Path, target: Path, marker: str) -> None:
    """Copies a folder from and to anywhere; `marker`, the file in it that says that it is complete, is the last."""
    for name in sorted(list_tree(source), key=lambda name: name == marker):
        copy_file(os.path.join(source, name), os.path.join(target, name))


def copy_file(source: Path, target: Path) -> None:
    """Copies a file from and to anywhere; makes the target's folder."""
    make_folder(parent(target))
    with open_to_read(source) as reader, replacing(target) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def hash_file(path: Path) -> str:
    """The file's SHA-256 as hexadecimal digits."""
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Deletes a file."""
    if is_local(path):
        os.remove(path)
    else:
        with _as_os_error(path):
            _gfile().remove(os.fspath(path))


def remove_tree(path: Path) -> None:
    """Deletes a folder with all that is in it, if it is there."""
    if is_local(path):
        if os.path.exists(path):
            shutil.rmtree(path)
    elif exists(path):
        with _as_os_error(path):
            _gfile().rmtree(os.fspath(path))


def _gfile() -> Any:
    import tensorflow as tf

    return tf.io.gfile


@contextlib.contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """TensorFlow's errors as those that `open` raises, so that callers need not know which it was."""
    from tensorflow import errors

    try:
        yield
    except errors.NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, error.message, os.fspath(path)) from error
    except errors.OpError as error:
        raise OSError(errno.EIO, error.message, os.fspath(path)) from error


class _Object(io.RawIOBase):
    """A `GFile` as the raw file that Python's buffers, gzip, zip and Arrow expect."""

    def __init__(self, path: str, mode: str) -> None:
        self._path, self._mode = path, mode
        self._file = _gfile().GFile(path, mode)
        if self.writable():
            self.write(b"")  # a GFile is opened, and so made, by the first write; without one it never is

    def readable(self) -> bool:
        return self._mode == "rb"

    def writable(self) -> bool:
        return self._mode == "wb"

    def seekable(self) -> bool:
        return self.readable()

    def readinto(self, buffer: Any) -> int:
        with _as_os_error(self._path):
            content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def write(self, content: Any) -> int:
        with _as_os_error(self._path):
            self._file.write(bytes(content))
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if not self.seekable():
            raise io.UnsupportedOperation("an object is written from its beginning to its end")
        with _as_os_error(self._path):
            self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        if not self.seekable():
            raise io.UnsupportedOperation("an object is written from its beginning to its end")
        with _as_os_error(self._path):
            return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            with _as_os_error(self._path):
                self._file.close()
        super().close()
