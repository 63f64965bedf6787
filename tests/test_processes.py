"""Processes that run a module of the project: where they find modules, what they are given."""

import json
import subprocess
import sys

import pytest

from fp_tfrs.processes import command_of


@pytest.mark.parametrize("name", ["random", "queue", "runpy", "numpy"])
def test_what_lies_in_the_working_directory_is_not_run(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("open('was run', 'w').close()\n")
    command = command_of("fp_tfrs.serving.probe", str(tmp_path / "no export"))
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not (tmp_path / "was run").exists()
    assert run.returncode == 1, run.stderr
    assert "no export" in json.loads(run.stdout.splitlines()[-1])["message"]


def test_places_that_are_no_text_are_passed_over_as_python_does(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    run = subprocess.run(command_of("this"), capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "Zen" in run.stdout, run.stderr
