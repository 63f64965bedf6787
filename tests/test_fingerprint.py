"""On a made-up fp_tfrs in a folder of its own, so that what is found is known by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fp_tfrs import fingerprint

PROJECT = Path(__file__).parent.parent
FILES = {
    "fp_tfrs/__init__.py": "",
    "fp_tfrs/model.py": "import os\nimport numpy\nfrom fp_tfrs.losses import Hinge\nfrom fp_tfrs import towers\n",
    "fp_tfrs/losses.py": "class Hinge: ...\n",
    "fp_tfrs/towers/__init__.py": "def build():\n    from .narm import Narm\n",
    "fp_tfrs/towers/narm.py": "from .. import items\nraise SystemExit('imported')\n",
    "fp_tfrs/items.py": "import fp_tfrs.model\n",
    "fp_tfrs/alone.py": "raise SystemExit('imported')\n",
    "pipeline/__init__.py": "",
    "pipeline/run.py": "import fp_tfrs.alone as a\n",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def ask(tree: Path, expression: str) -> str:
    """Evaluates it over the made-up packages: the module under test is loaded from its file, under another name."""
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("under_test", {os.fspath(PROJECT / "fp_tfrs/fingerprint.py")!r})
module = importlib.util.module_from_spec(spec)
sys.modules["under_test"] = module
spec.loader.exec_module(module)
print(eval({expression!r}, vars(module)))
"""
    # -S leaves the installed project out
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=tree, capture_output=True, check=True, text=True)
    return run.stdout.strip()


def test_follows_every_kind_of_import_and_imports_nothing(tree):
    assert ask(tree, "sorted(modules_of('fp_tfrs.model'))") == str(
        ["fp_tfrs", "fp_tfrs.items", "fp_tfrs.losses", "fp_tfrs.model", "fp_tfrs.towers", "fp_tfrs.towers.narm"]
    )
    assert ask(tree, "sorted(modules_of('pipeline.run'))") == str(
        ["fp_tfrs", "fp_tfrs.alone", "pipeline", "pipeline.run"]
    )


@pytest.mark.parametrize("changed", list(FILES))
def test_changes_exactly_with_the_code_that_is_reached(tree, changed):
    before = ask(tree, "code_fingerprint('fp_tfrs.model')")
    assert len(before) == 16
    with (tree / changed).open("a") as file:
        file.write("x = 1\n")
    is_reached = changed.startswith("fp_tfrs") and "alone" not in changed
    assert (ask(tree, "code_fingerprint('fp_tfrs.model')") != before) == is_reached


def test_does_not_depend_on_folder_or_order(tree, tmp_path_factory):
    here = ask(tree, "code_fingerprint('fp_tfrs.model', 'pipeline.run')")
    elsewhere = tree.rename(tmp_path_factory.mktemp("other") / "tree")
    assert ask(elsewhere, "code_fingerprint('pipeline.run', 'fp_tfrs.model')") == here


@pytest.mark.parametrize("name", ["fp_tfrs.no_such_module", "numpy", "no_such_package"])
def test_an_unknown_module_is_an_error(name):
    with pytest.raises(ModuleNotFoundError, match=name):
        fingerprint.code_fingerprint(name)


def test_the_real_package():
    assert {"fp_tfrs", "fp_tfrs.config", "fp_tfrs.schema"} <= fingerprint.modules_of("fp_tfrs.config")
