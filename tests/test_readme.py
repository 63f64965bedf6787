"""The README does what it says: its tower works when it is put where the README says, and its fragments of YAML are valid."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fp_tfrs.config import RunConfig

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text("utf-8")
# What the fragments leave out: they are said to belong to the file that "Train on your own log" shows.
WHOLE = yaml.safe_load(re.search(r"```yaml\n(name: my.*?)```", README, re.DOTALL)[1])


def section(title):
    return re.search(rf"\n## {title}\n(.*?)\n## ", README, re.DOTALL)[1]


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def merged(base, changes):
    both = dict(base)
    for key, value in changes.items():
        # A source is written whole: its fields depend on its format.
        is_section = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "source"
        both[key] = merged(base[key], value) if is_section else value
    return both


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_fragment_of_yaml_is_valid_in_the_whole(text):
    RunConfig.model_validate(
        merged(WHOLE, yaml.safe_load(text))
    )  # refuses unknown fields and what does not go together


def insert(path, before, text):
    """Puts the text in front of the only place where `before` stands."""
    content = path.read_text("utf-8")
    assert content.count(before) == 1, (path, before)
    path.write_text(content.replace(before, text + before), "utf-8")


def test_the_readmes_tower_is_a_tower(tmp_path):
    """Put into a copy of the library, it passes the project's own tests of towers: causality, padding, a step of training."""
    text = section("Add a tower")
    tower, config, registry = blocks("python", text)
    lines = [line for line in (tower + config + registry).splitlines() if line.strip()]
    assert len(lines) <= 20
    shutil.copytree(PROJECT / "fp_tfrs", tmp_path / "fp_tfrs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__", "golden"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    towers, sections = tmp_path / "fp_tfrs" / "towers", tmp_path / "fp_tfrs" / "config" / "towers.py"
    (tmp_path / re.search(r"`(fp_tfrs/towers/\w+\.py)`:\n\n```python", text)[1]).write_text(tower, "utf-8")
    insert(sections, "def _name_the_default", config + "\n\n")
    insert(sections, ",\n    pydantic.Field(discriminator", " " + re.search(r"`(\| \w+)`", text)[1])
    insert(towers / "__init__.py", "\nTOWERS = {", "from fp_tfrs.towers.decayed_mean import DecayedMeanTower\n")
    insert(towers / "__init__.py", '    "sdm": SdmTower,', registry)
    command = re.search(r"`pytest (tests/\S+ -k \w+)`", text)[1].split()
    command[-1] += " and (fp_metric or full_softmax)"  # every method would take minutes
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *command],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
