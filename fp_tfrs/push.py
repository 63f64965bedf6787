"""Push: an exported SavedModel → `<serving root>/<name>/<version>/`, the layout that model servers watch.

A version appears by one rename, complete and verified; it is never rewritten, and versions only grow. One pusher at a
time works on a model: the kernel frees the lock of a dead one, so whatever it left half-copied is swept by the next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from fp_tfrs.errors import InputError, RunError

LOCK_NAME = ".push.lock"
STAGE_SUFFIX = ".push.tmp"  # with a leading dot: model servers look at names that are numbers only
LOCK_WAIT_S = 600.0


def push(model_dir: str | os.PathLike[str], serving_root: str | os.PathLike[str], name: str) -> str:
    """Copies the SavedModel in `model_dir` to the next version under `serving_root/name`; returns the version's folder.

    The version is the Unix time in seconds, or one more than the highest there is when that is larger.

    Raises:
        InputError: `model_dir` holds no SavedModel, or the serving root cannot be written.
        RunError: the copy failed or differs from its source, or another push did not end; nothing new is visible.
    """
    source, models = Path(model_dir), Path(serving_root) / name
    if not (source / "saved_model.pb").is_file():
        raise InputError(f"{source} has no saved_model.pb; give the folder of an exported model")
    with _lock(models):
        for leftover in models.glob(f".*{STAGE_SUFFIX}"):
            shutil.rmtree(leftover)
        version = max([int(time.time()), *(int(path.name) + 1 for path in models.iterdir() if path.name.isdecimal())])
        stage = models / f".{version}.{os.getpid()}{STAGE_SUFFIX}"
        try:
            _copy(source, stage)
            if digests(stage) != digests(source):
                raise RunError(
                    f"{source} changed while it was pushed to {models}; push again when its export has ended"
                )
            return str(_publish(stage, version))
        except OSError as error:
            raise RunError(f"push of {source} to {models} failed: {error}; free space or mend the disk, and repeat")
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below `directory` by its relative path."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            found[path.relative_to(directory).as_posix()] = digest.hexdigest()
    return found


@contextlib.contextmanager
def _lock(models: Path) -> Iterator[None]:
    """Makes the model's folder and holds its lock; a lock file rather than process ids, which other hosts don't share."""
    try:
        models.mkdir(parents=True, exist_ok=True)
        file = (models / LOCK_NAME).open("a")
    except OSError as error:
        raise InputError(
            f"cannot write to the serving root {models}: {error.strerror}; choose a writable folder"
        ) from None
    with file:
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise RunError(
                        f"another push to {models} has run for over {LOCK_WAIT_S:g} s; end it and repeat"
                    ) from None
                time.sleep(0.05)
        yield


def _copy(source: Path, stage: Path) -> None:
    """Copies the tree and has the disk confirm each file, then each folder, before anything is renamed."""
    shutil.copytree(source, stage, copy_function=shutil.copyfile)
    for folder, _, files in os.walk(stage, topdown=False):
        for file in files:
            _fsync(Path(folder, file))
        _fsync(Path(folder))


def _publish(stage: Path, version: int) -> Path:
    """Renames to the version; a foreign pusher that ignores the lock may have taken it: then to the next free one."""
    while True:
        target = stage.parent / str(version)
        try:
            if target.exists():  # POSIX would rename over an empty folder
                raise FileExistsError(errno.EEXIST, "exists", str(target))
            os.rename(stage, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            version += 1
            continue
        _fsync(stage.parent)
        return target


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
