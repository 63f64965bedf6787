"""Pruning: of a model's pushed versions the newest stay, older ones are removed.

A version goes as it came: by one rename, to a name that no model server looks at, and only then file by file; killed
half-way, the rest is swept by the next push. In an object store `MARKER` goes first. What has a label stays, and so does
what a process of ours on this machine has loaded (`SavedModel` holds `MARKER`): it may still read files of it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from fp_tfrs import storage
from fp_tfrs.serving import labels, push


def prune(models: str | os.PathLike[str], keep: int) -> list[int]:
    """Removes versions that are neither among the `keep` newest nor spared; returns the numbers of those removed.

    Args:
        models: folder of a model's versions.
        keep: at least 1.

    Raises:
        InputError: the folder cannot be written, or the file of labels cannot be read. RunError: a push does not end.
        OSError: a version cannot be removed.
    """
    if not storage.is_local(models):
        return _prune_marker_first(os.fspath(models), keep, _labelled(models))
    with push.lock(Path(models)):
        spared = _labelled(models)  # within the lock, as labels are given
        old = [version for version in push.list_complete(models)[:-keep] if version not in spared]
        return [version for version in old if _remove(Path(models), version)]


def _labelled(models: str | os.PathLike[str]) -> set[int]:
    return set(labels.read(os.fspath(models)).values())


def _remove(models: Path, version: int) -> bool:
    """Is it gone? Not while somebody holds it."""
    with open(models / str(version) / push.MARKER, "rb") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        stage = push.stage_of(models, version)
        os.rename(models / str(version), stage)
        push.sync(models)  # else the disk might forget the rename, and remember what is removed after it
        shutil.rmtree(stage)
    return True


def _prune_marker_first(models: str, keep: int, spared: set[int]) -> list[int]:
    """Also takes away what an earlier pruning, or a push that was killed, has left without `MARKER`."""
    complete = push.list_complete(models)
    numbers = (int(name) for name in storage.list_folder(models) if name.isdecimal())
    old = sorted(number for number in numbers if number not in {*complete[-keep:], *spared} and number < complete[-1])
    for version in old:
        folder = os.path.join(models, str(version))
        if version in complete:
            storage.remove(os.path.join(folder, push.MARKER))
        storage.remove_tree(folder)
    return [version for version in old if version in complete]
