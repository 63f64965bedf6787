"""The set-up script, with stand-ins for uv, Python and the system's tools: no network, nothing installed."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from fp_tfrs.fingerprint import FIRST_PARTY, imported_names

PROJECT = Path(__file__).parent.parent
OLDER, FORWARD = "requirements.lock", "requirements-forward.lock"
TOOLS = [
    "sh",
    "cat",
    "cksum",
    "cp",
    "cut",
    "date",
    "dirname",
    "flock",
    "grep",
    "mkdir",
    "mktemp",
    "rm",
    "sed",
    "sleep",
    "tail",
]
UV = """
echo "$@" >>"$HOME/uv-calls"
case "$1 $2" in
"venv --python") mkdir -p .venv/bin && cp "$3" .venv/bin/python ;;
"python install") [ -n "$UV_HAS_PYTHON" ] || { echo "error: no connection" && exit 1; } ;;
"python find") echo "$HOME/python-from-uv" ;;
"pip install")
    [ -z "$UV_HANGS" ] || { echo >"$HOME/installing" && sleep 60; }
    [ -z "$UV_FAILS" ] || { echo "error: Failed to fetch: dns error" && exit 1; } ;;
esac
"""


class Machine:
    """A folder with a copy of the project's set-up, and a PATH that holds only what is put there."""

    def __init__(self, root: Path) -> None:
        self.project = root / "clöne with spaces"
        self.home = root / "home"
        self.bin = root / "bin"
        for folder in (self.project, self.home, self.bin):
            folder.mkdir()
        for name in ("bootstrap.sh", OLDER, FORWARD, "setup.py", "pyproject.toml"):
            shutil.copy(PROJECT / name, self.project)
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.put("uname", '[ "$1" = -s ] && echo Linux || echo x86_64')
        self.put("getconf", "echo glibc 2.28")
        self.put("g++", "")
        self.put("uv", UV)
        self.put_python("python3.10")

    def put(self, name: str, script: str) -> Path:
        """An executable `name` on PATH (an absolute name: there)."""
        file = self.bin / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    def put_python(self, name: str, version: str = "3.10") -> Path:
        """A Python; of the script's questions it answers which one it is, and that it is newer than 3.8."""
        file = self.bin / name
        return self.put(
            name,
            f'case "$1 $2" in "--version "*) echo Python {version}.0 ;; *venv*|*pip*) exit 1 ;; '
            f'*executable*) echo "{version} {file}"; case " $3 " in *" {version} "*) ;; *) exit 1 ;; esac ;; '
            f"*%d.%d*) echo {version} ;; esac",
        )

    def environment(self, **more: str) -> dict[str, str]:
        return {"PATH": str(self.bin), "HOME": str(self.home), **more}

    def set_up(self, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "bootstrap.sh"],
            cwd=self.project,
            env=self.environment(**more),
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
        )

    def uv_calls(self) -> list[str]:
        """The first two words of each call of uv since the last time."""
        file = self.home / "uv-calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [" ".join(line.split()[:2]) for line in lines]

    def is_finished(self) -> bool:
        return (self.project / ".venv/fp-tfrs-setup").exists()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


FULL = ["--version", "venv --python", "pip install", "pip install"]


def assert_one_sentence(run: subprocess.CompletedProcess[str], *words: str) -> None:
    assert run.returncode == 1, run.stderr
    last = run.stderr.splitlines()[-1]
    assert all(line.startswith("set-up: ") for line in run.stderr.splitlines())
    assert last.endswith(".")
    for word in words:
        assert word in last


def test_first_call_installs_and_second_does_nothing_at_once(machine):
    first = machine.set_up()
    assert first.returncode == 0, first.stderr
    assert machine.uv_calls() == FULL
    assert machine.is_finished()

    durations = []
    for _ in range(3):
        start = time.perf_counter()
        second = machine.set_up()
        durations.append(time.perf_counter() - start)
        assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert machine.uv_calls() == []
    assert min(durations) <= 0.1


@pytest.mark.parametrize("changed", [OLDER, "setup.py", "pyproject.toml"])
def test_what_changed_is_installed_again(machine, changed):
    machine.set_up()
    machine.uv_calls()
    with (machine.project / changed).open("a") as file:
        file.write("# changed\n")
    assert machine.set_up().returncode == 0
    assert machine.uv_calls() == (FULL if changed == OLDER else ["--version", "pip install"])
    assert machine.set_up().stderr == ""


def test_a_moved_project_is_set_up_again(machine):
    machine.set_up()
    machine.uv_calls()
    machine.project = machine.project.rename(machine.project.with_name("elsewhere"))
    assert machine.set_up().returncode == 0
    assert machine.uv_calls() == FULL


def test_an_interrupted_installation_is_begun_anew(machine):
    process = subprocess.Popen(
        ["/bin/sh", "bootstrap.sh"],
        cwd=machine.project,
        env=machine.environment(UV_HANGS="1"),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not (machine.home / "installing").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (machine.project / ".venv/bin/python").exists()
    assert not machine.is_finished()
    (machine.project / ".venv/half-installed").touch()
    machine.uv_calls()

    assert machine.set_up().returncode == 0
    assert machine.uv_calls() == FULL
    assert not (machine.project / ".venv/half-installed").exists()


def test_two_calls_at_once_install_once(machine):
    calls = [
        subprocess.Popen(
            ["/bin/sh", "bootstrap.sh"], cwd=machine.project, env=machine.environment(), stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    assert [call.wait(timeout=30) for call in calls] == [0, 0]
    assert machine.uv_calls() == FULL


def test_a_failed_installation_names_cause_and_log_and_can_be_repeated(machine):
    failed = machine.set_up(UV_FAILS="1")
    assert_one_sentence(failed, "dns error", "build/setup.log", "check the network")
    assert not machine.is_finished()
    assert "dns error" in (machine.project / "build/setup.log").read_text()
    assert machine.set_up().returncode == 0


def test_a_python_that_does_not_start_is_passed_over(machine):
    machine.put("python3.10", "echo 'pyenv: python3.10: command not found' >&2; exit 127")
    machine.put_python("python3", version="3.12")
    real = machine.put_python(str(machine.home / ".pyenv/versions/3.10.4/bin/python"))
    run = machine.set_up()
    assert run.returncode == 0, run.stderr
    assert f"at {real}" in run.stderr


def test_without_python_3_10_uv_gets_one(machine):
    (machine.bin / "python3.10").unlink()
    machine.put_python(str(machine.home / "python-from-uv"))
    run = machine.set_up(UV_HAS_PYTHON="1")
    assert run.returncode == 0, run.stderr
    assert "python install" in machine.uv_calls()


@pytest.mark.parametrize(
    ("glibc", "pythons", "lane"),
    [
        ("2.38", ["3.13", "3.10"], OLDER),  # the forward lane's wheels are for 2.39
        ("2.39", ["3.10"], OLDER),
        ("2.39", ["3.11", "3.10"], FORWARD),
        ("2.41", ["3.14", "3.13"], FORWARD),
    ],
)
def test_glibc_and_python_decide_the_lane(machine, glibc, pythons, lane):
    (machine.bin / "python3.10").unlink()
    machine.put("getconf", f"echo glibc {glibc}")
    for version in pythons:
        machine.put_python(f"python{version}", version)
    run = machine.set_up()
    assert run.returncode == 0, run.stderr
    assert f"glibc {glibc}: the lane of {lane}\n" in run.stderr
    assert f"-r {lane}\n" in (machine.home / "uv-calls").read_text()


def test_a_named_python_decides_the_lane_and_a_finished_venv_keeps_it(machine):
    machine.put("getconf", "echo glibc 2.41")
    machine.put_python("python3.13", "3.13")
    assert OLDER in machine.set_up(FP_TFRS_PYTHON="python3.10").stderr
    assert machine.set_up().stderr == ""
    (machine.project / OLDER).write_text("six==1.17.0\n")
    assert FORWARD in machine.set_up().stderr
    assert machine.set_up().stderr == ""


def test_another_python_than_that_of_a_finished_venv_is_refused(machine):
    newer = machine.put_python("python3.13", "3.13")
    assert machine.set_up().returncode == 0
    assert machine.set_up(FP_TFRS_PYTHON="python3.10").stderr == ""
    assert_one_sentence(machine.set_up(FP_TFRS_PYTHON=str(newer)), "is Python 3.13, and .venv has 3.10", "rm -rf .venv")
    assert_one_sentence(machine.set_up(FP_TFRS_PYTHON="/nowhere"), "FP_TFRS_PYTHON=/nowhere does not start")


def test_a_newer_python_is_not_enough_for_an_older_system(machine):
    run = machine.set_up(FP_TFRS_PYTHON=str(machine.put_python("python3.13", "3.13")))
    assert_one_sentence(run, "FP_TFRS_PYTHON=", "no CPython 3.10 ", "glibc 2.28")


def test_no_python_3_10_and_none_to_be_had(machine):
    (machine.bin / "python3.10").unlink()
    assert_one_sentence(machine.set_up(), "no Python 3.10", "FP_TFRS_PYTHON", "build/setup.log")
    assert not (machine.project / ".venv").exists()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_wrong_fp_tfrs_python_is_refused(machine, is_there):
    python = machine.put_python("python3.12", version="3.12") if is_there else "/nonexistent"
    assert_one_sentence(machine.set_up(FP_TFRS_PYTHON=str(python)), f"FP_TFRS_PYTHON={python}", "3.10")


@pytest.mark.parametrize(
    ("tool", "answer", "words"),
    [
        ("getconf", "echo glibc 2.27", ["glibc 2.28 or newer", "has 2.27", "Debian"]),
        ("getconf", "exit 1", ["another C library", "Debian"]),
        ("uname", '[ "$1" = -s ] && echo Linux || echo aarch64', ["Linux on aarch64", "x86_64 only"]),
        ("uname", '[ "$1" = -s ] && echo Darwin || echo arm64', ["Darwin on arm64"]),
        ("g++", None, ["C++ compiler", "install g++"]),
    ],
)
def test_an_unfit_machine_is_refused_before_anything_is_made(machine, tool, answer, words):
    if answer is None:
        (machine.bin / tool).unlink()
    else:
        machine.put(tool, answer)
    assert_one_sentence(machine.set_up(), *words)
    assert not (machine.project / "build").exists()


def test_neither_uv_nor_python(machine):
    (machine.bin / "uv").unlink()
    machine.put("python3.10", "exit 127")
    machine.put("python3", "exit 127")
    assert_one_sentence(machine.set_up(), "neither uv nor a Python")


def test_uv_cannot_be_installed(machine):
    (machine.bin / "uv").unlink()
    machine.put_python("python3")
    assert_one_sentence(machine.set_up(), "uv could not be installed", "network", "build/setup.log")


def test_set_up_names_no_registry():
    for name in ("bootstrap.sh", "forward.sh", "Makefile", "setup.py", "pyproject.toml", OLDER, FORWARD):
        text = (PROJECT / name).read_text()
        assert "http://" not in text and "https://" not in text, name


def declared_requirements() -> list[Requirement]:
    arguments = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **given: arguments.update(given))
        runpy.run_path(str(PROJECT / "setup.py"))
    extras = [text for texts in arguments["extras_require"].values() for text in texts]
    return [Requirement(text) for text in [*arguments["install_requires"], *extras]]


@pytest.mark.parametrize(("lock", "pythons"), [(OLDER, ["3.10"]), (FORWARD, ["3.11", "3.12", "3.13"])])
def test_ranges_of_setup_py_admit_the_lock(lock, pythons):
    lines = [Requirement(line) for line in (PROJECT / lock).read_text().splitlines()]
    for python in pythons:
        environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.4"}
        here = [line for line in lines if line.marker is None or line.marker.evaluate(environment)]
        locked = {line.name: str(line.specifier).removeprefix("==") for line in here}
        assert len(locked) == len(here)  # no package twice
        for requirement in declared_requirements():
            if requirement.marker is None or requirement.marker.evaluate(environment):
                assert requirement.specifier.contains(locked[requirement.name.lower()]), (python, requirement)


def test_setup_py_declares_every_package_that_is_imported():
    declared = {requirement.name.lower() for requirement in declared_requirements()}
    distributions = {
        "absl": "absl-py",
        "dateutil": "python-dateutil",
        "google": "protobuf",
        "grpc": "grpcio",
        "markdown_it": "markdown-it-py",
        "sklearn": "scikit-learn",
        "tensorflow_serving": "tensorflow-serving-api",
        "yaml": "pyyaml",
    }
    imported = {
        name.split(".")[0]
        for package in FIRST_PARTY
        for file in (PROJECT / package).rglob("*.py")
        for name in imported_names(file.read_text("utf-8"), package)
    } - {*sys.stdlib_module_names, *FIRST_PARTY}
    assert {distributions.get(name, name.replace("_", "-")) for name in imported} <= declared
