"""What goes on for long keeps its memory: 200 epochs of a training, 10,000 calls of an export; each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_dataset import write
from test_training_processes import N_ITEMS, make_job, walks
from test_upgrade import unpack

pytestmark = pytest.mark.long

RESIDENT = """
import os, resource, sys

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
"""
TRAIN = (
    RESIDENT
    + """
from pipeline.training_job import TrainingJob, run_job

def note(line):
    if line.startswith("epoch") and "left" in line:
        print(resident())

run_job(TrainingJob.from_json(open(sys.argv[1]).read()), note)
"""
)
SERVE = (
    RESIDENT
    + """
from fp_tfrs.serving.saved_model import SavedModel, read_catalogue

model, items = SavedModel(sys.argv[1]), read_catalogue(sys.argv[1])
for call in range(12_000):
    start = call % len(items)
    session = (items[start:] + items[:start])[: call % 12]
    answer = model.recommend([session], [[0] * len(session)], ["u"])
    assert len(answer.item_id) == 1
    if call % 1_000 == 999:
        print(resident())
"""
)


def memory_of(code, *arguments):
    """What the process has said of its memory, in bytes."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-3_000:]
    return list(map(int, done.stdout.split()))


def describe(first, last):
    return f"{last / first - 1:+.1%} of {first >> 20} MiB"


def test_memory_after_20_epochs_is_that_after_200(tmp_path, record_figure):
    (tmp_path / "items").write_text("".join(f"item{k:02d}\n" for k in range(N_ITEMS)))
    paths = [write(tmp_path / split, walks(split, count)) for split, count in (("train", 100), ("valid", 20))]
    job = make_job((paths, tmp_path), tmp_path / "run", "one_device", max_epochs=200, patience=200)
    (tmp_path / "job.json").write_text(job.to_json())
    memory = memory_of(TRAIN, tmp_path / "job.json")
    assert len(memory) == 200
    record_figure("memory over 200 epochs, after the 20th", describe(memory[19], memory[-1]), "below +5 %")
    assert max(memory[20:]) < 1.05 * memory[19]


def test_memory_after_10000_calls_is_that_before(tmp_path, record_figure):
    memory = memory_of(SERVE, unpack("export.tar.gz", tmp_path / "1"))
    record_figure("memory over 10,000 calls of an export", describe(memory[1], memory[-1]), "below +2 %")
    assert max(memory[2:]) < 1.02 * memory[1]
