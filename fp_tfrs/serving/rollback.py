"""Rollback: what is served becomes an earlier version again.

In: a model's folder. Out: a new version in it with the earlier one's files. Model servers take the highest number, and so
does the next run, which is then compared with what is really served. `lineage.json` says of which version it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fp_tfrs import storage
from fp_tfrs.errors import InputError
from fp_tfrs.serving import labels, metadata, push


class Rollback(NamedTuple):
    """What was done."""

    version_dir: str  # of the new version
    version: int  # whose files it has
    instead_of: int  # what was served


def roll_back(models: str, to: int | None = None) -> Rollback:
    """Pushes an earlier version again.

    Args:
        models: folder of a model's versions.
        to: its number; None = what was served before what is served now. A rollback counts as the version whose files it
            has, so that one after another goes further back.

    Raises:
        InputError: there is no such version, nothing before what is served, labels say what is served, or what a version
            says of itself cannot be read.
        RunError: as `push.push`.
    """
    models = models.rstrip("/")
    if not push.list_complete(models):
        raise InputError(f"--model {models} has no pushed versions; give the folder that has them, ROOT/serving/NAME")
    if storage.is_local(models):
        with push.lock(Path(models)):
            served, source, version, additions = _choose(models, to)
            return Rollback(push.push_locked(Path(source), Path(models), additions), version, served)
    served, source, version, additions = _choose(models, to)
    return Rollback(push.push_marker_last(source, models, additions), version, served)


def _choose(models: str, to: int | None) -> tuple[int, str, int, dict[str, str]]:
    """What is served, the folder to push again, whose files it has, and what the new version says of itself."""
    if given := labels.read(models):
        named = " ".join(f"{name}={version}" for name, version in given.items())
        raise InputError(f"{models} is served by labels ({named}); move them with fp-tfrs label")
    versions = push.list_complete(models)
    served = versions[-1]
    chosen = _version_before(models, versions) if to is None else to
    if chosen not in versions:
        raise InputError(f"--to {chosen}: {push.describe_versions(models)}")
    version = _origin(models, chosen)
    if version == _origin(models, served):
        raise InputError(f"--to {chosen} is what is served already, as version {served}")
    lineage = metadata.of_rollback(_lineage(models, chosen), version, served)
    return served, os.path.join(models, str(chosen)), version, {metadata.LINEAGE_FILE: lineage}


def _version_before(models: str, versions: Sequence[int]) -> int:
    """What was served when the files that are served now were first pushed."""
    served = versions[-1]
    origin = _origin(models, served)
    earlier = [version for version in versions if version < origin]
    if not earlier:
        of = "" if origin == served else f", which is {origin} again"
        raise InputError(
            f"nothing is left from before version {served}{of}, to roll back to: {push.describe_versions(models)}"
        )
    return earlier[-1]


def _origin(models: str, version: int) -> int:
    try:
        return metadata.rolled_back_to(_lineage(models, version)) or version
    except ValueError:
        path = os.path.join(models, str(version), metadata.LINEAGE_FILE)
        raise InputError(f"{path} is none that fp-tfrs has written; mend it, or push that version again") from None


def _lineage(models: str, version: int) -> str:
    path = os.path.join(models, str(version), metadata.LINEAGE_FILE)
    return storage.read_text(path) if storage.exists(path) else "{}"
