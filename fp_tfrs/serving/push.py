"""Push: an exported SavedModel → `<serving root>/<name>/<version>/`, the layout that model servers watch.

A version appears by one rename, complete and verified; it is never rewritten, and versions only grow. One pusher at a
time works on a model: the kernel frees the lock of a dead one, so whatever it left half-copied is swept by the next.

Object stores have neither renames of folders nor locks. There a version is complete when its `saved_model.pb`, which is
written last, is there; a model server that looks earlier finds nothing that it could load, and looks again. That only one
run at a time pushes a model is for whoever schedules the runs to see to.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from fp_tfrs import storage
from fp_tfrs.errors import InputError, RunError

MARKER = "saved_model.pb"
LOCK_NAME = ".push.lock"
JUDGE_AGAIN = (
    ".judge_again"  # names the version that was pushed, or rolled back to, between a model's judgement and its push
)
STAGE_SUFFIX = ".push.tmp"  # with a leading dot: model servers look at names that are numbers only
LOCK_WAIT_S = 600.0


def push(
    model_dir: str | os.PathLike[str],
    serving_root: str | os.PathLike[str],
    name: str,
    additions: Mapping[str, str] = MappingProxyType({}),
    find_pushed: Callable[[], str | None] = lambda: None,
) -> str:
    """Copies the SavedModel in `model_dir` to the next version under `serving_root/name`; returns the version's folder.

    The version is the Unix time in seconds, or one more than the highest there is when that is larger. `additions` are
    texts that the version has besides, by their paths within it; they take the place of files that the model has there.
    `find_pushed` is asked when no other push or rollback can come between: the folder that it returns, if any, is returned
    instead, and what it raises stops the push.

    Raises:
        InputError: `model_dir` holds no SavedModel, or the serving root cannot be written.
        RunError: the copy failed or differs from its source, or another push did not end; nothing new is visible.
    """
    if not storage.exists(os.path.join(model_dir, MARKER)):
        raise InputError(f"{model_dir} has no {MARKER}; give the folder of an exported model")
    if not (storage.is_local(model_dir) and storage.is_local(serving_root)):
        return find_pushed() or push_marker_last(os.fspath(model_dir), os.path.join(serving_root, name), additions)
    models = Path(serving_root) / name
    with lock(models):
        return find_pushed() or push_locked(Path(model_dir), models, additions)


def push_locked(source: Path, models: Path, additions: Mapping[str, str]) -> str:
    """`push` for who holds the lock of the local folder `models`; raises RunError as it does."""
    for leftover in models.glob(f".*{STAGE_SUFFIX}"):
        shutil.rmtree(leftover)
    version = _next_version(models)
    stage = stage_of(models, version)
    try:
        _copy(source, stage, additions)
        if digests(stage) != _expected(source, additions):
            raise RunError(f"{source} changed while it was pushed to {models}; push again when its export has ended")
        return str(_publish(stage, version))
    except OSError as error:
        raise RunError(f"push of {source} to {models} failed: {error}; free space or mend the disk, and repeat")
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def stage_of(models: Path, version: int) -> Path:
    """Where a version is while it comes or goes: no model server looks there, and the next push removes what it finds."""
    return models / f".{version}.{os.getpid()}{STAGE_SUFFIX}"


def list_complete(models: str | os.PathLike[str]) -> list[int]:
    """The numbers of the versions in a model's folder, oldest first; without those that lack `MARKER`."""
    numbers = sorted(int(name) for name in storage.list_folder(models) if name.isdecimal())
    return [number for number in numbers if storage.exists(os.path.join(models, str(number), MARKER))]


def describe_versions(models: str | os.PathLike[str]) -> str:
    """Which versions there are, for messages."""
    there = ", ".join(map(str, list_complete(models)))
    return f"{models} has {f'the versions {there}' if there else 'no version'}"


def _next_version(models: str | os.PathLike[str]) -> int:
    return max([int(time.time()), *(int(name) + 1 for name in storage.list_folder(models) if name.isdecimal())])


def push_marker_last(source: str, models: str, additions: Mapping[str, str]) -> str:
    """From or to an object store: all files, then `MARKER`. A push that fails removes what it has copied."""
    target = os.path.join(models, str(_next_version(models)))
    try:
        for path, text in additions.items():
            storage.make_folder(storage.parent(os.path.join(target, path)))
            storage.write_text(os.path.join(target, path), text)
        for path in sorted(set(storage.list_tree(source)) - set(additions), key=lambda path: (path == MARKER, path)):
            storage.copy_file(os.path.join(source, path), os.path.join(target, path))
        if digests(target) != _expected(source, additions):
            raise RunError(f"{source} changed while it was pushed to {models}; push again when its export has ended")
    except BaseException as error:
        with contextlib.suppress(OSError):
            storage.remove_tree(target)
        if isinstance(error, OSError):
            raise RunError(
                f"push of {source} to {models} failed: {error}; mend the access to it, and repeat"
            ) from error
        raise
    return target


def _expected(source: str | os.PathLike[str], additions: Mapping[str, str]) -> dict[str, str]:
    """`digests` of a whole version."""
    return {**digests(source), **{path: hashlib.sha256(text.encode()).hexdigest() for path, text in additions.items()}}


def digests(directory: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of every file below `directory` by its relative path."""
    return {name: storage.hash_file(os.path.join(directory, name)) for name in storage.list_tree(directory)}


@contextlib.contextmanager
def lock(models: Path) -> Iterator[None]:
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


def _copy(source: Path, stage: Path, additions: Mapping[str, str]) -> None:
    """Copies the tree, adds to it, and has the disk confirm each file, then each folder, before anything is renamed."""
    shutil.copytree(source, stage, copy_function=shutil.copyfile)
    for path, text in additions.items():
        (stage / path).parent.mkdir(parents=True, exist_ok=True)
        (stage / path).write_text(text, "utf-8")
    for folder, _, files in os.walk(stage, topdown=False):
        for file in files:
            sync(Path(folder, file))
        sync(Path(folder))


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
        sync(stage.parent)
        return target


def sync(path: Path) -> None:
    """Has the disk confirm a file, or which names a folder has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
