"""What every section of the configuration is made of: typed, frozen, documented fields, and their way as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import pydantic
from pydantic import Field


def field(default: Any, meaning: str, source: str = "our choice", **limits: Any) -> Any:
    """A field with its meaning and the source of its default; `...` as default makes it required."""
    return Field(default, description=meaning, json_schema_extra={"source": source}, validate_default=False, **limits)


class Section(pydantic.BaseModel):
    """A frozen part of the configuration; unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @pydantic.field_validator("*")
    @classmethod
    def _is_unicode(cls, value: Any) -> Any:
        """What JSON and YAML can spell, but no file or record can hold: half of a character of two."""
        for text in _texts_in(value):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{text[:100]!r} has half a character; write the whole one") from None
        return value


def _texts_in(value: Any) -> Iterator[str]:
    """All texts of a field; those of sections in it are their own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts_in(pair)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts_in(inner)


SectionT = TypeVar("SectionT", bound=Section)


def dump(section: Section) -> str:
    """The section as canonical JSON: what travels to a pipeline node and what fingerprints are made of."""
    return json.dumps(section.model_dump(mode="json"), sort_keys=True)


def parse(kind: type[SectionT], text: str) -> SectionT:
    """The inverse of `dump`."""
    return kind.model_validate_json(text)


def fingerprint(*parts: str) -> str:
    """A short hexadecimal name for these texts (the first 16 digits of SHA-256)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:16]
