"""Push: at no time does a numeric folder lack a file, whatever kills the pusher and however many push at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fp_tfrs.errors import InputError, RunError
from fp_tfrs.serving import push as push_module
from fp_tfrs.serving.push import digests

ROOT = Path(__file__).parents[1]

# Dies, without any clean-up, before the n-th of the system calls that bring a file or folder to its place.
KILLED_PUSH = """
import os, shutil, sys
from fp_tfrs.serving.push import push
left = int(sys.argv[1])
def deadly(call):
    def die_or_call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*args, **kwargs)
    return die_or_call
shutil.copyfile, os.mkdir, os.fsync, os.rename = map(deadly, (shutil.copyfile, os.mkdir, os.fsync, os.rename))
push(sys.argv[2], sys.argv[3], "m")
"""
PUSHES = """
import sys
from fp_tfrs.serving import pruning, push
for _ in range(int(sys.argv[3])):
    print(push.push(sys.argv[1], sys.argv[2], "m"))
    if sys.argv[4:]:
        pruning.prune(f"{sys.argv[2]}/m", int(sys.argv[4]))
"""


@pytest.fixture
def model_dir(tmp_path):
    model = tmp_path / "model mit ümlaut"
    for name in ("saved_model.pb", "variables/variables.index", "assets/vocabulary", "assets.extra/expectations.json"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(os.urandom(2_000))
    return model


def push(*arguments) -> Path:
    return Path(push_module.push(*arguments))


def versions(models: Path) -> dict[int, dict[str, str]]:
    return {int(path.name): digests(path) for path in models.iterdir() if path.name.isdecimal()}


def start(code: str, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def test_the_pushed_version_equals_the_model_and_is_named_by_the_time(model_dir, tmp_path):
    before_s = int(time.time())
    pushed = push(model_dir, tmp_path / "new" / "serving", "m")
    assert pushed.parent == tmp_path / "new" / "serving" / "m"
    assert before_s <= int(pushed.name) <= time.time()
    assert digests(pushed) == digests(model_dir)
    assert len(digests(pushed)) == 4


def test_what_is_known_only_when_a_model_is_pushed_is_in_the_version_and_verified(model_dir, tmp_path):
    pushed = push(model_dir, tmp_path, "m", {"assets.extra/lineage.json": "first ü", "new/file": ""})
    again = push(pushed, tmp_path, "m", {"assets.extra/lineage.json": "second"})
    assert (pushed / "assets.extra/lineage.json").read_text("utf-8") == "first ü"
    assert (again / "assets.extra/lineage.json").read_text() == "second"
    of_model, of_version = digests(model_dir), digests(again)
    assert of_version.keys() - of_model.keys() == {"assets.extra/lineage.json", "new/file"}
    assert of_model.items() <= of_version.items()


def test_versions_only_grow_and_none_is_rewritten(model_dir, tmp_path):
    future = tmp_path / "m" / str(10**12)
    future.mkdir(parents=True)
    assert push(model_dir, tmp_path, "m").name == str(10**12 + 1)
    assert push(model_dir, tmp_path, "m").name == str(10**12 + 2)
    assert not any(future.iterdir())


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_version_taken_meanwhile_by_a_foreign_pusher_is_left_alone(model_dir, tmp_path, monkeypatch, is_empty):
    copy = push_module._copy

    def copy_and_be_overtaken(source, stage, additions):
        copy(source, stage, additions)
        foreign = stage.parent / stage.name.split(".")[1]
        foreign.mkdir()
        if not is_empty:
            (foreign / "theirs").touch()

    monkeypatch.setattr(push_module, "_copy", copy_and_be_overtaken)
    pushed = push(model_dir, tmp_path, "m")
    assert digests(pushed) == digests(model_dir)
    assert digests(pushed.with_name(str(int(pushed.name) - 1))).keys() == (set() if is_empty else {"theirs"})


def test_killed_at_every_file_boundary_nothing_incomplete_shows_and_the_next_push_sweeps(
    model_dir, tmp_path, record_figure
):
    whole, kills, n_versions = digests(model_dir), 0, 0
    while True:
        process = start(KILLED_PUSH, kills, model_dir, tmp_path)
        process.communicate()
        found = versions(tmp_path / "m") if (tmp_path / "m").exists() else {}
        assert all(files == whole for files in found.values())
        if process.returncode == 0:
            break
        assert process.returncode == 9
        n_versions = len(found)
        kills += 1
    record_figure("push killed at every file", f"{kills} kills: every version whole, leftovers swept", "every file")
    assert kills > 12  # 4 files and 4 folders made, 8 confirmed, and the rename
    assert n_versions == 1  # killed after the rename: the version is there, and stays
    assert len(found) == 2
    assert sorted(path.name for path in (tmp_path / "m").glob(".*")) == [push_module.LOCK_NAME]


def test_four_processes_pushing_at_once_give_each_its_own_whole_version(model_dir, tmp_path, record_figure):
    names = push_by_four(model_dir, tmp_path, 13, 13, 12, 12)
    found = versions(tmp_path / "m")
    n_whole = sum(files == digests(model_dir) for files in found.values())
    record_figure("50 pushes by 4 processes at once", f"{n_whole} whole versions", "50")
    assert names == sorted(found) and len(found) == n_whole == 50


def test_four_processes_that_push_and_prune_at_once_leave_the_newest_whole(model_dir, tmp_path):
    names = push_by_four(model_dir, tmp_path, 4, 4, 4, 4, keep=2)
    assert len(set(names)) == 16
    found = versions(tmp_path / "m")
    assert sorted(found) == names[-2:]
    assert all(files == digests(model_dir) for files in found.values())


def push_by_four(model_dir, root, *counts, keep=""):
    """The numbers of the versions that four processes have pushed at once, so many each."""
    processes = [start(PUSHES, model_dir, root, count, *([keep] if keep else [])) for count in counts]
    lines = [line for process in processes for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * 4
    return sorted(int(Path(line).name) for line in lines)


def test_a_full_disk_or_a_source_that_changes_leaves_nothing(model_dir, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(push_module.shutil, "copyfile", full)
        with pytest.raises(RunError, match="No space left"):
            push(model_dir, tmp_path, "m")
    copy = push_module._copy
    monkeypatch.setattr(push_module, "_copy", lambda *way: (copy(*way), (model_dir / "late").touch()))
    with pytest.raises(RunError, match="changed while it was pushed"):
        push(model_dir, tmp_path, "m")
    assert [path.name for path in (tmp_path / "m").iterdir()] == [push_module.LOCK_NAME]


def test_bad_places_are_named(model_dir, tmp_path):
    with pytest.raises(InputError, match="no saved_model.pb"):
        push(tmp_path, tmp_path / "serving", "m")
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", "/proc/serving"):
        with pytest.raises(InputError, match="cannot write to the serving root"):
            push(model_dir, root, "m")


def test_a_push_that_hangs_does_not_hang_the_next_for_ever(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(push_module, "LOCK_WAIT_S", 0.1)
    with push_module.lock(tmp_path / "m"), pytest.raises(RunError, match="another push"):
        push(model_dir, tmp_path, "m")
