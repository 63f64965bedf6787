"""A fingerprint of code: the source files that some modules are made of → 16 hexadecimal digits.

The pipeline gives each node the fingerprint of the modules it runs, so that changed code re-runs exactly the nodes that
it affects. Imports are found in the syntax tree, also those inside functions; nothing is imported. A module named by a
string (a dotted path in a component's properties, `importlib.import_module`) is not found: name it to
`code_fingerprint` yourself.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
from collections.abc import Iterable
from pathlib import Path

FIRST_PARTY = ("fp_tfrs", "components", "pipeline")


def code_fingerprint(*modules: str) -> str:
    """The first 16 hexadecimal digits of SHA-256 over these modules' source and that of all they import.

    Args:
        modules: dotted names within the packages `FIRST_PARTY`; imports of other packages are not followed.

    Raises:
        ModuleNotFoundError: one of `modules` does not exist or is not first-party.
    """
    digest = hashlib.sha256()
    for name in sorted(modules_of(*modules)):
        source = _source_file(name).read_bytes()  # type: ignore[union-attr]
        digest.update(f"{name}:{len(source)}:".encode() + source)
    return digest.hexdigest()[:16]


def modules_of(*modules: str) -> set[str]:
    """These modules and every first-party module that importing and running them can reach, packages included."""
    for name in modules:
        if _source_file(name) is None:
            raise ModuleNotFoundError(f"{name!r} is no module of {', '.join(FIRST_PARTY)}; name an existing one")
    found: set[str] = set()
    waiting = set(modules)
    while waiting:
        name = waiting.pop()
        file = _source_file(name)
        if file is None or name in found:  # None: an imported name that is a function or class, not a module
            continue
        found.add(name)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting.update(_with_parents([name, *imported_names(file.read_text("utf-8"), package)]))
    return found


def imported_names(source: str, package: str) -> set[str]:
    """Absolute dotted names that a module's source imports, anywhere in it.

    `from a.b import c` gives both `a.b` and `a.b.c`, because `c` may be a module.

    Args:
        source: the module's text.
        package: the package that the module is in (itself, for an `__init__.py`): where relative imports start.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names.add(origin)
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    return names


def _with_parents(names: Iterable[str]) -> set[str]:
    """Importing a.b.c runs a and a.b too."""
    return {name[:end] for name in names for end in (*_dots(name), len(name))}


def _dots(name: str) -> list[int]:
    return [position for position, letter in enumerate(name) if letter == "."]


def _source_file(name: str) -> Path | None:
    spec = _find_spec(name)
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


@functools.cache
def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """`importlib.util.find_spec`, but without importing the parent packages."""
    parent, _, _ = name.rpartition(".")
    if not parent:
        return importlib.util.find_spec(name) if name in FIRST_PARTY else None
    parent_spec = _find_spec(parent)
    if parent_spec is None or parent_spec.submodule_search_locations is None:
        return None
    return importlib.machinery.PathFinder.find_spec(name, parent_spec.submodule_search_locations)
