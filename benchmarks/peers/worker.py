"""A side of the comparison as a process that does what it is told, line by line: JSON in, JSON out.

A process stays for all rounds of a cell, so that reading data and tracing are paid once and told apart; while another side
works it waits for a line and takes no time. Standard library alone: both sides' Pythons import this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

PROJECT = Path(__file__).parent.parent.parent


class Side(Protocol):
    """What a side's process can be asked for; each answer is plain JSON."""

    def facts(self) -> dict[str, Any]:
        """n_targets, n_steps of an epoch; n_valid_targets, n_items, n_parameters."""

    def train(self, n_steps: int, least_s: float) -> dict[str, Any]:
        """So many steps, an epoch's or fewer, and again until it has taken least_s: seconds, n_targets."""

    def load(self, n_steps: int, least_s: float) -> dict[str, Any]:
        """The same batches without training."""

    def evaluate(self) -> dict[str, Any]:
        """All validation targets ranked over the whole catalogue: seconds, n_targets, mrr."""

    def multiply(self, n_rows: int) -> dict[str, Any]:
        """The three products of a step's logits alone: seconds, flop."""


def serve(make: Callable[[Mapping[str, Any]], Side]) -> None:
    """Makes the side that the first line of stdin describes and answers the others. Whatever else prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = make(json.loads(sys.stdin.readline()))
    print(json.dumps(side.facts()), file=answers, flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        answer = getattr(side, name)(**arguments)
        print(json.dumps({**answer, "peak_mib": memory_mib("VmHWM")}), file=answers, flush=True)


def memory_mib(name: str) -> int:
    """Memory of this process: VmRSS, what it has, or VmHWM, the most that it had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{name}:")[1].split()[0]) >> 10


class Worker:
    """A side's process, seen from the program that compares.

    Args:
        python: the side's Python.
        module: its program, which calls `serve`.
        description: what it is to be.
        log: what it prints goes there.

    Raises:
        RuntimeError: it ended; with the end of its log. From any call.
    """

    def __init__(self, python: str, module: str, description: Mapping[str, Any], log: Path):
        self._log = log
        with open(log, "w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [python, "-m", module],
                cwd=PROJECT,
                env=os.environ | {"OMP_NUM_THREADS": str(description["threads"])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self._say(description)
        self.facts: dict[str, Any] = self._hear()

    def ask(self, name: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one question of `Side`."""
        self._say([name, arguments])
        return self._hear()

    def _say(self, question: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_hear` says why

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"{self._log} ends with\n{self._log.read_text(encoding='utf-8')[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
