"""The commands `fp-tfrs rollback` and `fp-tfrs label`: which of a model's pushed versions are served."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fp_tfrs import storage
from fp_tfrs.errors import InputError
from fp_tfrs.serving import labels, rollback


def roll_back(model: str, to: str | None) -> str:
    """Rolls back, and says what was done; raises as `rollback.roll_back`."""
    number = None if to is None else _parse_version("--to", to)
    done = rollback.roll_back(_folder(model), number)
    return f"{done.version_dir}: version {done.version} again, in place of {done.instead_of}"


def label(model: str, given: Sequence[str]) -> list[str]:
    """Sets labels that are given as name=version, and says where they are and what they name; raises as `labels.label`."""
    wanted = {}
    for text in given:
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # what argv has for other bytes
            raise InputError(f"{text!r} is not UTF-8, as labels are")
        name, sign, version = text.partition("=")
        if not (name and sign) or name in wanted:
            raise InputError(f"{text}: give each label once, as name=version")
        wanted[name] = _parse_version(name, version)
    path = labels.label(_folder(model), wanted)
    return [f"{path}:", *(f"  {name} = {version}" for name, version in wanted.items())]


def _folder(model: str) -> str:
    return os.path.abspath(model) if storage.is_local(model) else model.rstrip("/")


def _parse_version(what: str, text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"{what} {text}: give the number of a version, the name of its folder")
    return int(text)
