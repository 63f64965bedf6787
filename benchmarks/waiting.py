"""What a user waits for before anything happens: the import, the help text, and the quickstart's whole run.

Each is a process of its own, warm: run once before it is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent
_BIN = Path(sys.executable).parent
_IMPORT = """
import sys, time
begin_s = time.perf_counter()
import fp_tfrs
print(time.perf_counter() - begin_s, "tensorflow" in sys.modules)
"""


def start_up(n_rounds: int) -> dict[str, Any]:
    """import_s and help_s: seconds of each round; imports_tensorflow: whether TensorFlow came with the import."""
    import_s, help_s, with_tensorflow = [], [], []
    for _ in range(n_rounds + 1):
        answer = subprocess.run(
            [sys.executable, "-c", _IMPORT], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        seconds, has_tensorflow = answer.stdout.split()
        import_s.append(float(seconds))
        with_tensorflow.append(has_tensorflow == "True")
        begin_s = time.perf_counter()
        subprocess.run([_BIN / "fp-tfrs", "--help"], cwd=PROJECT, stdout=subprocess.DEVNULL, check=True)
        help_s.append(time.perf_counter() - begin_s)
    return {"import_s": import_s[1:], "help_s": help_s[1:], "imports_tensorflow": any(with_tensorflow)}


def quickstart(n_rounds: int) -> list[float]:
    """Seconds of `make run` with nothing to install, each in a new folder."""
    environment = os.environ | {"PATH": os.pathsep.join([str(_BIN), os.environ["PATH"]])}
    seconds = []
    for _ in range(n_rounds):
        with tempfile.TemporaryDirectory(prefix="quickstart-") as root:
            begin_s = time.perf_counter()
            command = f"sh bootstrap.sh && fp-tfrs run --quiet --config configs/quickstart.yaml --root {root}"
            subprocess.run(command, shell=True, cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begin_s)
    return seconds
