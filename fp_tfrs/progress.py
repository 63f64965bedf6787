"""Progress of long work, on stderr, so that stdout holds results only.

A terminal gets a bar with rate and time left (tqdm); anything else gets a plain line every few seconds and one at the
end; quiet gets the line at the end only.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm
from typing_extensions import Self

LINE_EVERY_S = 5.0

_is_quiet = False


def set_quiet(is_quiet: bool) -> None:
    """What `say` and each new `Progress` do from now on in this process."""
    global _is_quiet
    _is_quiet = is_quiet


def say(text: str) -> None:
    """A line about what is going on, on stderr; nothing when quiet."""
    if not _is_quiet:
        tqdm.write(text, file=sys.stderr)


class Progress:
    """Counts work that is done, as a context manager.

    Args:
        total: units of work to do; None where that is not known.
        label: what is being done, e.g. "reading events".
        unit: what is counted, in the plural, e.g. "rows".
    """

    def __init__(self, total: int | None, label: str, unit: str) -> None:
        self._total = total
        self._label = label
        self._unit = unit
        self._is_quiet = _is_quiet
        self._done = 0
        self._start_s = time.monotonic()
        self._printed_s = self._start_s
        has_bar = sys.stderr.isatty() and not self._is_quiet
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", unit_scale=True, leave=False) if has_bar else None

    def __enter__(self) -> Self:
        return self

    def advance(self, n: int = 1) -> None:
        """`n` more units are done."""
        self._done += n
        if self._bar is not None:
            self._bar.update(n)
            return
        now_s = time.monotonic()
        if not self._is_quiet and now_s - self._printed_s >= LINE_EVERY_S:
            self._printed_s = now_s
            self._print(self._so_far(now_s - self._start_s))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        duration_s = time.monotonic() - self._start_s
        if self._bar is not None:
            self._bar.close()
        ending = "done" if kind is None else "stopped"
        rate = f", {_number(self._done / duration_s)} {self._unit}/s" if duration_s >= 1 else ""
        self._print(f"{self._label}: {ending} ({self._done:,} {self._unit} in {_duration(duration_s)}{rate})")

    def _so_far(self, duration_s: float) -> str:
        rate = self._done / duration_s
        if self._total is None:
            return f"{self._label}: {self._done:,} {self._unit} ({_number(rate)} {self._unit}/s)"
        share = self._done / self._total if self._total else 1.0
        left = f", {_duration(max(self._total - self._done, 0) / rate)} left" if rate else ""
        return (
            f"{self._label}: {share:.0%} ({self._done:,} of {self._total:,} {self._unit}, "
            f"{_number(rate)} {self._unit}/s{left})"
        )

    @staticmethod
    def _print(line: str) -> None:
        tqdm.write(line, file=sys.stderr)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"
