"""What all tests share: quiet settings before TensorFlow is imported, the folder of real data, a browser, a disk to fill, and
the table of what was held to a limit."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fp_tfrs  # noqa: F401  settles Keras 2 and the log level before any test module imports TensorFlow

# Without a sandbox, since CI is root; the others keep Chromium's own services from looking for the network.
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets; tests that use it are marked `real_data`."""
    folder = os.environ.get("FP_TFRS_DATA_DIR")
    if not folder:
        pytest.skip("FP_TFRS_DATA_DIR is not set: no real data to read")
    if not Path(folder).is_dir():
        pytest.skip(f"FP_TFRS_DATA_DIR={folder} is no folder: no real data to read")
    return Path(folder)


@pytest.fixture(scope="session")
def beam_processes() -> None:
    """For tests of `beam.workers` above 1, which is refused where Python's path has a space; elsewhere they run."""
    if shlex.quote(sys.executable) != sys.executable:
        pytest.skip(f"Beam cannot start processes by {sys.executable}: its shell command does not quote the path")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of its own with the options of tmpfs given, e.g. size=64m or ro."""
    folder = tmp_path / "Platte ü"

    def mount(options: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here, as root alone may: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: a `playwright.sync_api.Browser`."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium to open a page with: apt-get install chromium")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def record_figure(record_property: Callable[[str, object], None]) -> Callable[[str, str, str], None]:
    """Notes a behaviour, what it came to and its limit, for the table at the end; call it before the assertion."""
    return lambda behaviour, figure, limit: record_property("figure", [behaviour, figure, limit])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each behaviour that a test has noted with `record_figure`."""
    rows = [
        [*value, "yes" if outcome == "passed" else "NO"]
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        for name, value in report.user_properties
        if name == "figure"
    ]
    if not rows:
        return
    terminalreporter.section("figures")
    table = [["behaviour", "figure", "limit", "met"], *sorted(rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        terminalreporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """TensorFlow's test cases have a context manager `test_session`, which its name makes a test that skips itself."""
    items[:] = [item for item in items if item.name != "test_session"]
