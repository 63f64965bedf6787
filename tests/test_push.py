"""Push: at no time does a numeric folder lack a file, whatever kills the pusher and however many push at once."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf

from fp_tfrs.errors import InputError, RunError
from fp_tfrs.serving import pruning
from fp_tfrs.serving import push as push_module
from fp_tfrs.serving.push import LOCK_NAME, digests

ROOT = Path(__file__).parents[1]

VOCABULARY = "a\nb\n"
ADDED = {"assets.extra/lineage.json": "ü"}

# Dies before the n-th of the calls that bring a file or folder to its place.
KILLED_PUSH = """
import json, os, pathlib, shutil, signal, sys
from fp_tfrs.serving.push import push
left = int(sys.argv[1])
def deadly(call):
    def die_or_call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return die_or_call
shutil.copyfile, os.mkdir, os.fsync, os.rename = map(deadly, (shutil.copyfile, os.mkdir, os.fsync, os.rename))
pathlib.Path.write_text = deadly(pathlib.Path.write_text)
push(sys.argv[2], sys.argv[3], "m", json.loads(sys.argv[4]))
"""
PUSHES = """
import sys
from fp_tfrs.serving import pruning, push
root, keep, *models = sys.argv[1:]
for model in models:
    print(push.push(model, root, "m"))
    if keep:
        pruning.prune(f"{root}/m", int(keep))
"""


class Tiny(tf.Module):
    """Multiplies by a variable, and needs a file of its own besides."""

    def __init__(self, vocabulary: Path):
        self.weight = tf.Variable(0.0)
        self.vocabulary = tf.saved_model.Asset(str(vocabulary))

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def __call__(self, x):
        return self.weight * x, tf.io.read_file(self.vocabulary)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The module and where it is exported."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "vocabulary").write_text(VOCABULARY)
    module = Tiny(folder / "vocabulary")
    tf.saved_model.save(module, folder / "model")
    (folder / "model/assets.extra").mkdir()
    (folder / "model/assets.extra/expectations.json").write_bytes(os.urandom(2_000))
    return module, folder / "model"


@pytest.fixture
def model_dir(tiny, tmp_path):
    return export(tiny, tmp_path / "model mit ümlaut", 1.0)


def export(tiny, folder: Path, weight: float) -> Path:
    """An export with a weight of its own; copied but for the variables, which takes a tenth of the time."""
    module, exported = tiny
    module.weight.assign(weight)
    shutil.copytree(exported, folder)
    tf.train.Checkpoint(root=module).write(folder / "variables/variables")
    return folder


def load_weight(version: Path) -> float:
    """The weight of a version, by loading and calling it."""
    product, vocabulary = tf.saved_model.load(version)(tf.constant(1.0))
    assert vocabulary.numpy().decode() == VOCABULARY
    return float(product)


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
    assert len(digests(pushed)) == 6


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
    models = push(model_dir, tmp_path, "m", ADDED).parent
    whole, n_swept, appeared = digests(next(models.glob("[0-9]*"))), 0, []
    for kills in itertools.count():
        before = versions(models)
        process = start(KILLED_PUSH, kills, model_dir, tmp_path, json.dumps(ADDED))
        process.communicate()
        found = versions(models)
        assert before.items() <= found.items()
        assert all(files == whole for files in found.values())
        assert [load_weight(models / str(version)) for version in found] == [1.0] * len(found)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        appeared.append(len(found) - len(before))
        n_swept += len(leftovers(models)) > 0
        push(model_dir, tmp_path, "m", ADDED)
        assert leftovers(models) == []
        pruning.prune(models, 1)  # so that there are few to load
    figure = f"{kills} kills: every version whole and loadable, {n_swept} leftovers swept"
    record_figure("push killed at every file", figure, "every file")
    assert kills > 2 * len(whole) + 1  # each file is copied and confirmed; then the rename
    assert appeared == [0] * (kills - 1) + [1]  # killed after the rename: the version is there, and stays
    assert n_swept > len(whole)


def leftovers(models: Path) -> list[str]:
    """What is there besides versions and the lock."""
    return sorted(path.name for path in models.iterdir() if not path.name.isdecimal() and path.name != LOCK_NAME)


def test_four_processes_pushing_at_once_give_each_its_own_whole_version(tiny, tmp_path, record_figure):
    sources = [export(tiny, tmp_path / f"model {weight}", weight) for weight in range(50)]
    names = push_by_four(sources, tmp_path)
    weight_of = {version: load_weight(tmp_path / "m" / str(version)) for version in versions(tmp_path / "m")}
    figure = f"{len(weight_of)} versions that load, {len(set(weight_of.values()))} of them with a model of their own"
    record_figure("50 pushes by 4 processes at once", figure, "50")
    assert names == sorted(weight_of)
    assert sorted(weight_of.values()) == list(range(50))


def test_four_processes_that_push_and_prune_at_once_leave_the_newest_whole(model_dir, tmp_path):
    names = push_by_four([model_dir] * 16, tmp_path, keep=2)
    assert len(set(names)) == 16
    found = versions(tmp_path / "m")
    assert sorted(found) == names[-2:]
    assert all(files == digests(model_dir) for files in found.values())


def push_by_four(sources, root, keep=""):
    """The numbers of the versions that four processes, which share out the models, have pushed at once."""
    processes = [start(PUSHES, root, keep, *sources[number::4]) for number in range(4)]
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
    assert [path.name for path in (tmp_path / "m").iterdir()] == [LOCK_NAME]


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
