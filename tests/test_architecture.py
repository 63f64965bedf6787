"""The house's rules: which room may import which, and how large and how named a module may be."""

import ast
import graphlib
import itertools
from pathlib import Path

import pytest

from fp_tfrs.fingerprint import FIRST_PARTY, imported_names

PROJECT = Path(__file__).parent.parent
MOST_LINES = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}

CONTRACT = ["fp_tfrs.schema", "fp_tfrs.errors", "fp_tfrs.config"]
SHARED = [
    *CONTRACT,
    *(f"fp_tfrs.{name}" for name in ("methods", "storage", "progress", "fingerprint", "parquet", "processes")),
]
# The library's rooms in the data's order: each may import those before it, and none after it.
ROOMS = [
    "datasets",
    "simulation",
    "data",
    "towers",
    "learning",
    "tuning",
    "serving",
    "evaluation",
    "experiments",
    "demo",
]
# A room → the only first-party rooms that it may import.
ONLY = {
    "fp_tfrs.schema": [],
    "fp_tfrs.errors": [],
    "fp_tfrs.config": ["fp_tfrs.schema", "fp_tfrs.errors", "fp_tfrs.config"],
    **{
        f"fp_tfrs.{room}": [*SHARED, "fp_tfrs.config_file", *(f"fp_tfrs.{other}" for other in ROOMS[: i + 1])]
        for i, room in enumerate(ROOMS)
    },
    "fp_tfrs.datasets": [*CONTRACT, "fp_tfrs.datasets", "fp_tfrs.progress", "fp_tfrs.parquet", "fp_tfrs.storage"],
    "fp_tfrs.data.sessions": CONTRACT,
    "fp_tfrs.data.transform": ["fp_tfrs.schema"],
    "fp_tfrs.towers": [*CONTRACT, "fp_tfrs.towers"],
    "fp_tfrs.learning.losses": [*CONTRACT, "fp_tfrs.learning.replicas"],
    "fp_tfrs.learning.replicas": [],
    "fp_tfrs.learning.next_item": [*CONTRACT, "fp_tfrs.learning.negative_sampling"],
    "fp_tfrs.learning.negative_sampling": [],
    "fp_tfrs.learning.lazy_adam": [],
    "fp_tfrs.learning.metrics": [*CONTRACT, "fp_tfrs.learning.scoring"],
    "fp_tfrs.learning.scoring": [],
    "fp_tfrs": ["fp_tfrs"],
    "components": ["components", "fp_tfrs"],
}
# A room → what it never imports.
NEVER = {
    "fp_tfrs": ["tfx", "keras"],
    "components": ["keras"],
    "pipeline": ["keras"],
    # what runs on Beam's workers
    **{
        f"fp_tfrs.{room}": ["tensorflow"]
        for room in (
            "parquet",
            "data.sources",
            "data.events",
            "data.sessions",
            "data.histories",
            "data.unclicked",
            "data.preprocess",
            "data.manifest",
            "data.soft_labels",
            "simulation",
        )
    },
    "fp_tfrs.learning.model": ["fp_tfrs.learning.training"],
}


def modules() -> dict[str, Path]:
    found = {}
    for package in FIRST_PARTY:
        for file in sorted((PROJECT / package).rglob("*.py")):
            parts = file.relative_to(PROJECT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


class DropTypeImports(ast.NodeTransformer):
    """What is imported for type checkers only is never imported."""

    def visit_If(self, node: ast.If) -> ast.AST:
        return ast.Pass() if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)


def imports_of(name: str, is_module_level_only: bool = False) -> set[str]:
    """The modules that `name` imports; a first-party one without the names taken from it."""
    file = MODULES[name]
    tree = DropTypeImports().visit(ast.parse(file.read_text("utf-8")))
    if is_module_level_only:
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    names = imported_names(ast.unparse(tree), package)
    # `from package import module` uses the module; the package itself is not what is meant
    first_party = {found for found in names if found.split(".")[0] in FIRST_PARTY}
    known = {found for found in first_party if found in MODULES}
    packages = {found for found in known if any(other.startswith(f"{found}.") for other in first_party & known)}
    return (names - first_party) | (known - packages)


def is_within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def test_the_tree_is_found():
    assert {"fp_tfrs", "fp_tfrs.config", "fp_tfrs.towers", "components", "pipeline"} <= set(MODULES)
    assert "fp_tfrs.schema" in imports_of("fp_tfrs.config.data")


@pytest.mark.parametrize("room", ONLY)
def test_a_room_imports_only_what_it_may(room):
    wrong = [
        f"{name} imports {imported}"
        for name in MODULES
        if is_within(name, room)
        for imported in imports_of(name)
        if imported.split(".")[0] in FIRST_PARTY and not any(is_within(imported, allowed) for allowed in ONLY[room])
    ]
    assert wrong == []


@pytest.mark.parametrize("room", NEVER)
def test_a_room_never_imports_these(room):
    wrong = [
        f"{name} imports {imported}"
        for name in MODULES
        if is_within(name, room)
        for imported in imports_of(name)
        if any(is_within(imported, forbidden) for forbidden in NEVER[room])
    ]
    assert wrong == []


def test_imports_have_no_circles():
    graph = {
        name: {other for other in imports_of(name, is_module_level_only=True) if other != name} for name in MODULES
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_module_is_two_rooms_in_one():
    files = itertools.chain(MODULES.values(), *(sorted((PROJECT / d).rglob("*.py")) for d in ("tests", "benchmarks")))
    lengths = {str(file.relative_to(PROJECT)): len(file.read_text("utf-8").splitlines()) for file in files}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_every_module_says_what_it_is():
    assert [name for name, file in MODULES.items() if not ast.get_docstring(ast.parse(file.read_text("utf-8")))] == []


def test_no_vague_names():
    assert [name for name in MODULES if VAGUE_NAMES & set(name.rsplit(".", 1)[-1].split("_"))] == []
