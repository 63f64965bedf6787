"""What Beam's workers do and need: the same log by one process, by two, and by a job server's; and what is hard for them.

    python benchmarks/beam_workers.py                       # Globo's 3 M clicks, each way
    python benchmarks/beam_workers.py --only shuffles       # bytes and CPU seconds an event
    python benchmarks/beam_workers.py --only user catalogue # one user with a million events; a million items

In: the data of a run's configuration, or rows made here. Out: counts, seconds, and the most memory that each process has
had (VmHWM); it ends with an error if two ways differ in a single count or byte. Each way is a process of its own, watched
from here, so that none inherits another's memory. The job server is Beam's own; its worker is started by Beam's worker
pool (EXTERNAL), as those of Flink's and Spark's job servers are.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fp_tfrs  # noqa: F401  settles Keras 2 before TensorFlow is imported

# isort: split
import numpy as np

from fp_tfrs import config_file, schema, storage
from fp_tfrs.config import BeamConfig, DataConfig, dump, parse

LATEST_S = 4e9
TWO = BeamConfig(workers=2)
SECTIONS = ("ways", "shuffles", "user", "catalogue")
ROLES = {  # part of a command line → what the process is
    "sdk_worker": "worker",
    "local_job_service_main": "job server",
    "worker_pool_main": "worker pool",
}


class Outcome(NamedTuple):
    """What one way of working came to."""

    counts: dict[str, Any]  # the manifest without the files
    digests: dict[str, str]  # split → SHA-256 of its records, sorted
    seconds: float
    memory_mib: dict[str, list[int]]  # role → the most that each of its processes has had
    measured: dict[str, Any]


def process(data: DataConfig, beam: BeamConfig, folder: Path, *, measures_writes: bool = False) -> Outcome:
    """Preprocesses the log in a process of its own.

    Args:
        data: its log, and how it is read.
        beam: who works.
        folder: for what is written; made here.
        measures_writes: count the bytes that go through each shuffle and between stages.

    Raises:
        RuntimeError: it failed.
    """
    folder.mkdir(parents=True)
    command = [sys.executable, os.path.abspath(__file__), "--work", dump(data), dump(beam), str(folder)]
    start_s = time.monotonic()
    with open(folder / "log.txt", "w") as log:
        worker = subprocess.Popen([*command, *(["writes"] if measures_writes else [])], stdout=log, stderr=log)
        memory = _watch(worker)
    seconds = time.monotonic() - start_s
    if worker.returncode:
        raise RuntimeError((folder / "log.txt").read_text()[-3000:])
    measured = json.loads((folder / "measured.json").read_text())
    counts = json.loads((folder / "out" / "_MANIFEST.json").read_text())
    del counts["shards"]
    return Outcome(counts, digest_records(folder / "out"), seconds, memory, measured)


def digest_records(folder: Path) -> dict[str, str]:
    """Split → SHA-256 over its records in sorted order, each after its length: equal for equal multisets alone."""
    import tensorflow as tf

    digests = {}
    for split in schema.SPLITS:
        files = sorted(map(str, folder.glob(f"Split-{split}/*.gz")))
        digest = hashlib.sha256()
        for record in sorted(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator()):
            digest.update(len(record).to_bytes(8, "big") + record)
        digests[split] = digest.hexdigest()
    return digests


@contextlib.contextmanager
def job_server(folder: Path) -> Iterator[BeamConfig]:
    """Beam's own job server and a pool that starts workers for it; the section `beam` that leads there."""
    folder.mkdir(parents=True)
    port_file = folder / "port"
    pool_port = _free_port()
    # The pool starts `python`: that of this environment.
    environment = os.environ | {"PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}
    commands = (
        ["apache_beam.runners.portability.local_job_service_main", "--port_file", str(port_file)],
        ["apache_beam.runners.worker.worker_pool_main", "--service_port", str(pool_port)],
    )
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(folder / "log.txt", "w"))
        processes = []
        for command in commands:
            processes.append(
                subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=log)
            )
            stack.callback(_stop, processes[-1])
        while not port_file.exists():
            if any(process.poll() is not None for process in processes):
                raise RuntimeError((folder / "log.txt").read_text()[-3000:])
            time.sleep(0.1)
        yield BeamConfig(
            runner="PortableRunner",
            options={
                "job_endpoint": f"localhost:{port_file.read_text()}",
                "environment_type": "EXTERNAL",
                "environment_config": f"localhost:{pool_port}",
            },
        )


def _stop(process: subprocess.Popen) -> None:
    process.send_signal(2)  # an interrupt lets the pool end its workers
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def _watch(process: subprocess.Popen) -> dict[str, list[int]]:
    """Waits for the process; role → the most memory, in MiB, that each process of that role had meanwhile."""
    peaks: dict[tuple[str, int], int] = {}
    while process.poll() is None:
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(OSError, ValueError, IndexError):
                program, _, rest = Path(f"/proc/{pid}/cmdline").read_text().partition("\0")
                role = next((role for part, role in ROLES.items() if part in rest and "python" in program), None)
                if pid == process.pid:
                    role = "driver"
                if role:
                    status = Path(f"/proc/{pid}/status").read_text()
                    parent = int(status.split("PPid:")[1].split()[0])
                    if (role, parent) not in peaks:  # else a fork of it that has not become another program yet
                        peaks[role, pid] = int(status.split("VmHWM:")[1].split()[0]) >> 10
        time.sleep(0.1)
    by_role = collections.defaultdict(list)
    for (role, _), peak in sorted(peaks.items()):
        by_role[role].append(peak)
    return dict(by_role)


def _descendants(pid: int) -> Iterator[int]:
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                yield child
                yield from _descendants(child)


def work(data: str, beam_section: str, folder: str, *, measures_writes: bool) -> None:
    """What a process of `process` does."""
    import apache_beam as beam

    from fp_tfrs.data.preprocess import preprocess
    from pipeline import several_workers

    several_workers.make_safe()
    written = _measure_writes() if measures_writes else {}
    section = parse(BeamConfig, beam_section)
    before = resource.getrusage(resource.RUSAGE_SELF)
    preprocess(
        parse(DataConfig, data),
        17,
        os.path.join(folder, "out"),
        os.path.join(folder, "dead.jsonl"),
        LATEST_S,
        lambda: beam.Pipeline(argv=section.arguments()),
        is_in_process=False,
    )
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    storage.write_text(os.path.join(folder, "measured.json"), json.dumps({"cpu_s": cpu_s, "written": written}))


def _measure_writes() -> dict[str, int]:
    """From now on: shuffle, or collection that is kept for a later stage → bytes, as Beam's runner on this machine gets them."""
    from apache_beam.runners.portability.fn_api_runner import execution

    written: dict[str, int] = {}
    names: dict[int, str] = {}
    get_buffer = execution.BundleContextManager.get_buffer

    def get(self: Any, buffer_id: bytes, transform_id: str) -> Any:
        buffer = get_buffer(self, buffer_id, transform_id)
        kind, name = execution.split_buffer_id(buffer_id)
        components = self.execution_context.pipeline_components
        of = components.transforms if kind == "group" else components.pcollections
        names[id(buffer)] = f"{kind} {of[name].unique_name}" if name in of else kind
        return buffer

    def counting(append: Any) -> Any:
        def count(self: Any, elements_data: bytes) -> None:
            name = names.get(id(self), "other")
            written[name] = written.get(name, 0) + len(elements_data)
            append(self, elements_data)

        return count

    execution.BundleContextManager.get_buffer = get
    for buffer in (execution.GroupingBuffer, execution.ListBuffer):
        buffer.append = counting(buffer.append)
    return written


def write_busy_user(path: Path, n_events: int) -> DataConfig:
    """A log of 2,000 users with a session of 10 clicks, and one with `n_events` clicks and as many impressions in 30 days."""
    rng = np.random.default_rng(7)
    start_s, span_s = 1_700_000_000, 30 * 86_400
    others = np.repeat(np.arange(2_000), 10)
    n = 2 * n_events + len(others)
    busy_s = rng.integers(start_s, start_s + span_s, 2 * n_events)
    others_s = rng.integers(start_s, start_s + span_s, 2_000)[others] + np.tile(np.arange(10), 2_000)
    columns = {
        "user": ["busy"] * 2 * n_events + [f"user_{k}" for k in others],
        "item": [f"item_{k}" for k in rng.integers(0, n_events // 20, n)],
        "time": [*busy_s.tolist(), *others_s.tolist()],
        "is_click": [0] * n_events + [1] * (n - n_events),
        "dwell_s": rng.exponential(30, n).round(1).tolist(),
    }
    gap_s = 4 * span_s / n_events  # sessions of 50 clicks on average
    return _write_log(path, columns, sessions={"gap_s": gap_s, "same_time": "hash"}, history={}, unclicked={})


def write_large_catalogue(path: Path, n_items: int) -> DataConfig:
    """A log in which each of `n_items` items is clicked three times."""
    rng = np.random.default_rng(7)
    item = np.repeat(np.arange(n_items), 3)
    rng.shuffle(item)
    columns = {
        "user": [f"user_{k}" for k in rng.integers(0, len(item) // 10, len(item))],
        "item": [f"item_of_a_large_catalogue_{k:010d}" for k in item],
        "time": rng.integers(1_700_000_000, 1_700_000_000 + 30 * 86_400, len(item)).tolist(),
        "is_click": [1] * len(item),
        "dwell_s": rng.exponential(30, len(item)).round(1).tolist(),
    }
    return _write_log(path, columns, sessions={"gap_s": 86_400})


def _write_log(path: Path, columns: Mapping[str, Sequence[Any]], **data: Any) -> DataConfig:
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join(columns) + "\n")
        file.writelines(",".join(map(str, row)) + "\n" for row in zip(*columns.values(), strict=True))
    return DataConfig(
        source={"format": "csv", "files": (str(path),)},
        columns={
            "user_id": "user",
            "item_id": "item",
            "timestamp": "time",
            "feedback": {"is_click": "bool", "dwell_s": "float"},
        },
        click_when=({"column": "is_click", "op": "==", "value": True},),
        false_positive_when=({"column": "dwell_s", "op": "<", "value": 10},),
        **data,
    )


def compare_ways(data: DataConfig, folder: Path) -> dict[str, Outcome]:
    """The log as each way of working has it.

    Raises:
        RuntimeError: they differ, in a count or in a byte of a record.
    """
    outcomes = {
        "one process": process(data, BeamConfig(), folder / "one"),
        "two processes": process(data, TWO, folder / "two"),
    }
    with job_server(folder / "server") as section:
        outcomes["job server"] = process(data, section, folder / "served")
    first, *others = outcomes.values()
    for way, other in zip(list(outcomes)[1:], others):
        if (other.counts, other.digests) != (first.counts, first.digests):
            raise RuntimeError(
                f"{way}: {other.counts} {other.digests}, but one process: {first.counts} {first.digests}"
            )
    return outcomes


def format_outcomes(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A table in Markdown: what every way took, in MiB for each of its processes."""
    roles = ("driver", "job server", "worker")
    lines = ["| | rows | s | " + " | ".join(f"{role}, MiB" for role in roles) + " |", "| --- " * 6 + "|"]
    for way, outcome in outcomes.items():
        memory = [", ".join(f"{peak:,}" for peak in outcome.memory_mib.get(role, ())) for role in roles]
        lines.append(f"| {way} | {outcome.counts['rows']:,} | {outcome.seconds:.0f} | " + " | ".join(memory) + " |")
    return lines


def format_shuffles(outcome: Outcome) -> list[str]:
    """Bytes that an event costs in each shuffle and between stages, and its CPU time."""
    rows = outcome.counts["rows"]
    written = sorted(outcome.measured["written"].items(), key=lambda entry: -entry[1])
    lines = ["| written | bytes an event |", "| --- | --- |"]
    lines += [f"| {name} | {n_bytes / rows:.2f} |" for name, n_bytes in written if n_bytes / rows >= 0.005]
    return [*lines, "", f"{outcome.measured['cpu_s'] / rows * 1e6:.0f} µs of CPU an event"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/datasets/globo.yaml", help="a run whose log is read")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--size", type=int, default=1_000_000, help="of the busy user, and of the catalogue")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="beam-workers-") as name:
        folder = Path(name)
        for section in arguments.only:
            if section == "user":
                found = {"busy user": process(write_busy_user(folder / "u.csv", arguments.size), TWO, folder / "user")}
            elif section == "catalogue":
                data = write_large_catalogue(folder / "c.csv", arguments.size)
                found = {"large catalogue": process(data, TWO, folder / "catalogue")}
            elif section == "ways":
                found = compare_ways(config_file.load(arguments.config).data, folder / "ways")
                print(f"all equal: {json.dumps(found['one process'].counts)}")
            else:
                data = config_file.load(arguments.config).data
                outcome = process(data, BeamConfig(), folder / "shuffles", measures_writes=True)
                print("\n".join(format_shuffles(outcome)), flush=True)
                continue
            print("\n".join(format_outcomes(found)), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:5], measures_writes="writes" in sys.argv)
    else:
        main()
