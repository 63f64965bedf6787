"""The configuration's way in and out for people: YAML file → `RunConfig`, and what `fp-tfrs config --explain` prints."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, get_origin

import pydantic
import yaml

from fp_tfrs.config import RuleConfig, RunConfig, Section, assign
from fp_tfrs.errors import InputError

SectionT = TypeVar("SectionT", bound=Section)

MOST_TEXT = 200_000  # characters of a file
MOST_VALUES = 100_000  # of a file once every alias stands for what it names
_MOST_LEVELS = 50
_MOST_DIGITS = 1_000


def load(path: str, since: str | None = None) -> RunConfig:
    """Reads a run's YAML file, `since` in place of its `data.since`; raises as `load_section`."""
    values = read_values(path)
    if since is not None:
        assign(values, "data.since", since)
    return parse_values(values, f"config {path}", RunConfig)


def load_section(path: str, kind: type[SectionT]) -> SectionT:
    """Reads a YAML file that holds one section.

    Raises:
        InputError: the file is missing, no YAML, or has an unknown key or a bad value; names it and the remedy.
    """
    return parse_values(read_values(path), f"config {path}", kind)


def read_values(path: str) -> dict[str, Any]:
    """A YAML file as it is.

    Raises:
        InputError: the file is missing, too large, no YAML, or no mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_TEXT + 1)
        values = _parse_yaml(text)
    except OSError as error:
        raise InputError(f"config {path}: {error.strerror}") from error
    except _TooMuch as error:
        raise InputError(f"config {path}: {error}") from None
    except _NO_YAML as error:
        raise InputError(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"config {path} is empty or not a mapping; see configs/quickstart.yaml for one")
    return values


# Tagged scalars that are not what their tag says raise anything: `!!bool x` a KeyError, `2026-13-01` a ValueError.
_NO_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError)


class _TooMuch(Exception):
    """A text that is refused, whatever it says."""


def _parse_yaml(text: str) -> Any:
    """`yaml.safe_load` of a text that is measured before its aliases are followed: a few lines may stand for billions."""
    if len(text) > MOST_TEXT:
        raise _TooMuch(f"it has more than {MOST_TEXT:,} characters; keep data out of it")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Stops at too many levels, rather than at the interpreter's limit; takes 1e-3 for a number, as YAML 1.2 does."""

    level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.level += 1
        if self.level > _MOST_LEVELS:
            raise _too_deep()
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z"), list("-+.0123456789")
)


def _too_deep() -> _TooMuch:
    return _TooMuch(f"it is nested too deeply; keep to {_MOST_LEVELS} levels")


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values and levels a node has with its aliases followed; `known`: those of nodes by their `id`.

    Raises:
        _TooMuch: too many, or it holds itself, or a number that is too long.
    """
    if id(node) in known:
        return known[id(node)]
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MOST_DIGITS:
            raise _TooMuch(f"a number has more than {_MOST_DIGITS:,} digits{_place(node)}")
        known[id(node)] = 1, 1
        return 1, 1
    known[id(node)] = MOST_VALUES, 0  # under way: one that holds itself holds too many
    is_mapping = isinstance(node, yaml.MappingNode)
    parts = [part for pair in node.value for part in pair] if is_mapping else node.value
    if is_mapping:
        _refuse_repeats(key for key, _ in node.value)
    sizes = [_measure(part, known) for part in parts]
    count, levels = 1 + sum(size[0] for size in sizes), 1 + max((size[1] for size in sizes), default=0)
    if count > MOST_VALUES:
        raise _TooMuch(f"it holds more than {MOST_VALUES:,} values, counted where aliases repeat them{_place(node)}")
    if levels > _MOST_LEVELS:
        raise _too_deep()
    known[id(node)] = count, levels
    return count, levels


def _refuse_repeats(keys: Iterable[yaml.Node]) -> None:
    """Of a key that is given twice PyYAML takes the last value, without a word."""
    found: dict[tuple[str, str], yaml.Node] = {}
    for key in keys:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            continue
        if (name := (key.tag, key.value)) in found:
            lines = f"{_place(found[name])} and {key.start_mark.line + 1}"
            raise _TooMuch(f"{key.value[:100]!r} is given twice{lines}; join them")
        found[name] = key


def _place(node: yaml.Node) -> str:
    return f", in line {node.start_mark.line + 1}"


def parse_values(values: dict[str, Any], where: str, kind: type[SectionT]) -> SectionT:
    """What a file holds as typed configuration; `where` heads the message.

    Raises:
        InputError: an unknown key or a bad value; names it and the remedy.
    """
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError(f"{where}: {_one_line(error, kind)}") from None


def _one_line(error: pydantic.ValidationError, kind: type[Section]) -> str:
    """The first problem as `path: what is wrong`, with valid keys for an unknown one."""
    problem = error.errors()[0]
    where, siblings = _locate(problem["loc"], kind)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1])[:100], siblings, 1)
        hint = f"the nearest valid key is {near[0]!r}" if near else f"valid keys there are {', '.join(siblings)}"
        return f"unknown key {where!r}; {hint}"
    if problem["type"] == "union_tag_invalid":
        context = problem["ctx"]
        return f"{where}.name = {context['tag']!r}: Input should be one of {context['expected_tags']}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("value_error", "missing"):
        return f"{where}: {message}" if where else message
    return f"{where} = {problem['input']!r}: {message}"


def _locate(location: tuple[int | str, ...], section: type[Section]) -> tuple[str, list[str]]:
    """A validation error's place as the path in the file, and the keys that are valid there."""
    path, keys = [], list(section.model_fields)
    choices: dict[str, type[Section]] = {}
    for part in location:
        if part in choices:  # pydantic names the chosen section, the file does not
            section = choices[str(part)]
        else:
            path.append(str(part))
            keys = list(section.model_fields)
        nested = _nested(section.model_fields[part].annotation) if part in section.model_fields else []
        if len(nested) == 1:
            section = nested[0]
        choices = {kind.model_fields["name"].default: kind for kind in nested} if len(nested) > 1 else {}
    return ".".join(path), keys


def _nested(annotation: Any) -> list[type[Section]]:
    """The section types inside an annotation such as `X`, `X | None`, `tuple[X, ...]` or `X | Y`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _nested(argument)]


def explain() -> Iterator[tuple[str, str, str, str, str]]:
    """Every field as (path, type, default, meaning, source), sections in the file's order."""
    yield from _explain(RunConfig, "")


def _explain(section: type[Section], prefix: str) -> Iterator[tuple[str, str, str, str, str]]:
    for name, field in section.model_fields.items():
        nested = _nested(field.annotation)
        if len(nested) > 1:
            yield from _explain_choice(nested, field, f"{prefix}{name}")
        elif nested and nested != [RuleConfig] and get_origin(field.annotation) is not dict:
            if _is_optional(field.annotation):
                yield f"{prefix}{name}", "section", "null", field.description or "", ""
            yield from _explain(nested[0], f"{prefix}{name}.")
        else:
            yield _explain_field(field, f"{prefix}{name}")


def _explain_choice(
    choices: list[type[Section]], field: pydantic.fields.FieldInfo, path: str
) -> Iterator[tuple[str, str, str, str, str]]:
    """A section of one of several kinds: first its name, then the fields of each as `path (name).field`."""
    names = [choice.model_fields["name"].default for choice in choices]
    source = (field.json_schema_extra or {})["source"]  # type: ignore[index]
    default = json.dumps(field.default.name)
    yield f"{path}.name", f"one of [{', '.join(names)}]", default, field.description or "", str(source)
    for name, choice in zip(names, choices, strict=True):
        rows = _explain(choice, f"{path} ({name}).")
        yield from (row for row in rows if row[0] != f"{path} ({name}).name")


def _explain_field(field: pydantic.fields.FieldInfo, path: str) -> tuple[str, str, str, str, str]:
    default = "required" if field.is_required() else json.dumps(field.default)
    source = (field.json_schema_extra or {})["source"]  # type: ignore[index]
    return path, _type_name(field), default, field.description or "", str(source)


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
        "fp_tfrs.config.kubeflow.",
        "fp_tfrs.config.model.",
        "fp_tfrs.config.run.",
        "fp_tfrs.config.towers.",
        "fp_tfrs.config.tuner.",
        ", ...",
        "NoneType",
    ):
        name = name.replace(noise, "null" if noise == "NoneType" else "")
    name = name.replace("Literal", "one of ").replace("'", "").replace("None", "null").replace("RuleConfig", "rule")
    name = name.replace("NodeConfig", "as all_nodes")
    if name.startswith("Optional["):
        name = f"{name.removeprefix('Optional[').removesuffix(']')} | null"
    limits = [
        f"{sign} {value:g}"
        for rule in field.metadata
        for sign, value in (
            (s, getattr(rule, a, None)) for a, s in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        )
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]
    return " ".join([name, *limits])
