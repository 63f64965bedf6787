"""Whatever foreign bytes say, readers take them, or refuse them with one sentence; rows that cannot be used become dead letters.

`make test` gives each reader a few cases. The long test works for FP_TFRS_FUZZ_MINUTES (30) or until it has had a million
cases, whichever is first, and prints how many each reader had.
"""

import contextlib
import os
import resource
import signal
import time
import traceback
from collections.abc import Iterator

import fuzzed_data
import fuzzed_data_sets
import fuzzed_logs
import fuzzed_records
import fuzzed_results
import fuzzed_serving
import hypothesis
import pytest

PARSERS = {
    **fuzzed_data.PARSERS,
    **fuzzed_logs.PARSERS,
    **fuzzed_data_sets.PARSERS,
    **fuzzed_records.PARSERS,
    **fuzzed_results.PARSERS,
    **fuzzed_serving.PARSERS,
}
CASE_S = 20  # of processor time; a case that takes more hangs
MOST_MEMORY = 6 << 30  # that all of them may add, TensorFlow's own included


class Hang(Exception):
    """A case took more than CASE_S."""


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Interrupts what hangs."""

    def stop(*_: object) -> None:
        raise Hang(f"more than {CASE_S} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CASE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fuzz(parser: fuzzed_data.Parser, cases: int, seed: int | None = None) -> tuple[int, int]:
    """Gives the parser these many cases; returns how many it had and how many it took."""
    n_cases = n_taken = 0

    @hypothesis.settings(
        max_examples=cases,
        derandomize=seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(parser.cases)
    def run(case: object) -> None:
        nonlocal n_cases, n_taken
        n_cases += 1
        with watched():
            n_taken += bool(parser.check(case))

    (run if seed is None else hypothesis.seed(seed)(run))()
    return n_cases, n_taken


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    yield
    fuzzed_serving.open_things.close()


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Makes a blow-up a MemoryError of ours, rather than everybody's."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.e2e if name in fuzzed_serving.PARSERS else ()) for name in PARSERS]
)
def test_foreign_input_is_taken_or_refused_with_a_sentence(name, tmp_path):
    _, n_taken = fuzz(PARSERS[name](tmp_path), 25)
    assert n_taken, "no case was a good one: the fuzzing sees the first check only"


@pytest.mark.long
def test_a_million_cases_or_half_an_hour(tmp_path, capsys):
    budget_s = 60 * float(os.environ.get("FP_TFRS_FUZZ_MINUTES", "30"))
    seed = int(os.environ.get("FP_TFRS_FUZZ_SEED", "1"))
    chunk, total, findings = 100, 0, []
    with limited_memory():
        for place, (name, make) in enumerate(PARSERS.items()):
            folder = tmp_path / str(place)
            folder.mkdir()
            parser, n_cases, n_taken, start_s = make(folder), 0, 0, time.monotonic()
            while time.monotonic() - start_s < budget_s / len(PARSERS) and n_cases < 1_000_000 / len(PARSERS):
                try:
                    found = fuzz(parser, chunk, seed)
                except Exception as error:  # noqa: BLE001  (whatever it is, it is a finding)
                    findings.append(f"{name}, FP_TFRS_FUZZ_SEED={seed}: {''.join(traceback.format_exception(error))}")
                    break
                n_cases, n_taken, seed = n_cases + found[0], n_taken + found[1], seed + 1
            case_ms = (time.monotonic() - start_s) / max(n_cases, 1) * 1_000
            line = f"{name:<22} {n_cases:>9,} cases, {n_taken / max(n_cases, 1):>5.1%} taken, {case_ms:>7.2f} ms each"
            total += n_cases
            with capsys.disabled():
                print(line, flush=True)
    with capsys.disabled():
        print(f"{total:,} cases, {len(findings)} findings")
    assert not findings, "\n".join(findings)
