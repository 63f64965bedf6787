"""The configuration's way in and out for people: YAML file → `RunConfig`, and what `fp-tfrs config --explain` prints."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator
from typing import Any

import pydantic
import yaml

from fp_tfrs.config import RuleConfig, RunConfig, Section
from fp_tfrs.errors import InputError


def load(path: str) -> RunConfig:
    """Reads a run's YAML file.

    Raises:
        InputError: the file is missing, no YAML, or has an unknown key or a bad value; names it and the remedy.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except OSError as error:
        raise InputError(f"config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"config {path} is empty or not a mapping; see configs/quickstart.yaml for one")
    try:
        return RunConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError(f"config {path}: {_one_line(error)}") from None


def _one_line(error: pydantic.ValidationError) -> str:
    """The first problem as `path: what is wrong`, with the nearest valid key for an unknown one."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        siblings = list(_section_at(problem["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(problem["loc"][-1]), siblings, 1, 0.0)[0]
        return f"unknown key {where!r}; the nearest valid key is {near!r}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("value_error", "missing"):
        return f"{where}: {message}" if where else message
    return f"{where} = {problem['input']!r}: {message}"


def _section_at(location: tuple[int | str, ...]) -> type[Section]:
    """The section type at a location of a validation error."""
    section: type[Section] = RunConfig
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _nested(section.model_fields[part].annotation) or section
    return section


def _nested(annotation: Any) -> type[Section] | None:
    """The section type inside an annotation such as `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _nested(argument)
        if found:
            return found
    return None


def explain() -> Iterator[tuple[str, str, str, str, str]]:
    """Every field as (path, type, default, meaning, source), sections in the file's order."""
    yield from _explain(RunConfig, "")


def _explain(section: type[Section], prefix: str) -> Iterator[tuple[str, str, str, str, str]]:
    for name, field in section.model_fields.items():
        nested = _nested(field.annotation)
        if nested and nested is not RuleConfig:
            if _is_optional(field.annotation):
                yield f"{prefix}{name}", "section", "null", field.description or "", ""
            yield from _explain(nested, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else json.dumps(field.default)
        source = (field.json_schema_extra or {})["source"]  # type: ignore[index]
        yield f"{prefix}{name}", _type_name(field), default, field.description or "", str(source)


def _is_optional(annotation: Any) -> bool:
    return type(None) in getattr(annotation, "__args__", ())


def _type_name(field: pydantic.fields.FieldInfo) -> str:
    """The type as a user would write it, with its limits."""
    annotation = field.annotation
    name = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    for noise in (
        "typing.",
        "fp_tfrs.config.data.",
        "fp_tfrs.config.model.",
        "fp_tfrs.config.run.",
        "fp_tfrs.config.towers.",
        ", ...",
        "NoneType",
    ):
        name = name.replace(noise, "null" if noise == "NoneType" else "")
    name = name.replace("Literal", "one of ").replace("'", "").replace("None", "null").replace("RuleConfig", "rule")
    limits = [
        f"{sign} {value:g}"
        for rule in field.metadata
        for sign, value in (
            (s, getattr(rule, a, None)) for a, s in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        )
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]
    return " ".join([name, *limits])
