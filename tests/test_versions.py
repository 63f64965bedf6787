"""Which versions are there and which is served: pruning, rollback and labels, also where a kill or another process comes between."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from fp_tfrs import storage
from fp_tfrs.errors import InputError
from fp_tfrs.serving import labels, metadata, pruning, push, rollback
from pipeline import cli

ROOT = Path(__file__).parents[1]
FILES = ("saved_model.pb", "variables/variables.index", "assets.extra/lineage.json")

# Repeats what the arguments say from the same start, each time killed one file operation later, and prints what was
# served after each kill; forks, since a new Python for each would take minutes.
KILLED = """
import itertools, json, os, shutil, sys
from fp_tfrs.serving import pruning, push, rollback
start, work, what = sys.argv[1:]
models = os.path.join(work, "m")
def act():
    if what == "prune":
        pruning.prune(models, 2)
    else:
        rollback.roll_back(models)
def see():
    return {name: push.digests(os.path.join(models, name)) for name in os.listdir(models) if name.isdecimal()}
for left in itertools.count():
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)
    child = os.fork()
    if not child:
        def deadly(call):
            def die_or_call(*args, **kwargs):
                global left
                left -= 1
                if left < 0:
                    os._exit(9)
                return call(*args, **kwargs)
            return die_or_call
        for module, name in ((shutil, "copyfile"), *((os, n) for n in ("mkdir", "fsync", "rename", "unlink", "rmdir"))):
            setattr(module, name, deadly(getattr(module, name)))
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = see()
    act()
    print(json.dumps({"is_killed": os.waitstatus_to_exitcode(status) == 9, "then": killed, "repeated": see(),
                      "hidden": sorted(n for n in os.listdir(models) if n.startswith("."))}))
    if os.waitstatus_to_exitcode(status) == 0:
        break
"""


def write_versions(models: Path, *versions: int, lineage: str = '{"pipeline": "p"}') -> None:
    for version in versions:
        for name in FILES:
            path = models / str(version) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(lineage if name.endswith("lineage.json") else f"{name} of {version}")


def contents(models: Path) -> dict[int, str]:
    """Whole versions by their number: whose files each has."""
    found = {}
    for number in map(int, filter(str.isdecimal, os.listdir(models))):
        assert set(storage.list_tree(models / str(number))) == set(FILES)
        found[number] = (models / str(number) / "saved_model.pb").read_text().rpartition(" ")[2]
    return found


@pytest.fixture
def models(tmp_path):
    write_versions(tmp_path / "serving" / "m", 5, 20, 100)
    return tmp_path / "serving" / "m"


def killed(models, tmp_path, what):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, models.parent, tmp_path / "work", what],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    return list(map(json.loads, done.stdout.splitlines()))


def test_the_newest_versions_stay_by_number_not_by_name(models):
    assert pruning.prune(models, 3) == []
    assert pruning.prune(models, 2) == [5]
    assert contents(models) == {20: "20", 100: "100"}
    write_versions(models, 101, 102, 103)
    assert pruning.prune(models, 1) == [20, 100, 101, 102]
    assert contents(models) == {103: "103"}


def test_what_is_no_version_of_ours_is_left_alone(models):
    (models / "7").mkdir()  # somebody else's, or half of one
    (models / "notes").mkdir()
    assert pruning.prune(models, 2) == [5]
    assert {"7", "notes"} < set(os.listdir(models))


def test_a_version_that_is_read_or_has_a_label_stays_until_it_is_not(models):
    labels.label(str(models), {"stable": 20})
    held = storage.hold(models / "5" / "saved_model.pb")
    assert pruning.prune(models, 1) == []
    held.close()
    assert pruning.prune(models, 1) == [5]
    labels.label(str(models), {"stable": 100})
    assert pruning.prune(models, 1) == [20]


def test_a_version_that_gets_a_label_while_the_pruning_waits_stays(models, monkeypatch):
    lock = push.lock

    @contextlib.contextmanager
    def wait(folder):
        monkeypatch.setattr(push, "lock", lock)
        labels.label(str(models), {"stable": 5})
        with lock(folder):
            yield

    monkeypatch.setattr(push, "lock", wait)
    assert pruning.prune(models, 1) == [20]
    assert contents(models) == {5: "5", 100: "100"}


def test_two_models_that_get_labels_at_once_both_have_them(models, monkeypatch):
    other = models.parent / "other"
    write_versions(other, 8)
    read_text, threads = storage.read_text, []

    def read_slowly(path):
        found = read_text(path) if storage.exists(path) else ""
        if not threads:
            threads.append(threading.Thread(target=labels.label, args=(str(other), {"stable": 8})))
            threads[0].start()
            threads[0].join(0.3)  # it has to wait
        return found

    monkeypatch.setattr(storage, "read_text", read_slowly)
    labels.label(str(models), {"stable": 20})
    threads[0].join()
    assert (labels.read(str(models)), labels.read(str(other))) == ({"stable": 20}, {"stable": 8})


def test_labels_for_a_mistyped_model_make_no_folder(models):
    with pytest.raises(InputError, match="has no version"):
        labels.label(f"{models}x", {"stable": 5})
    assert os.listdir(models.parent) == ["m"]


def test_a_pruning_killed_at_any_file_leaves_whole_versions_alone_and_a_push_sweeps(models, tmp_path):
    whole = {str(version): push.digests(models / str(version)) for version in (5, 20, 100)}
    kept = {version: whole[version] for version in ("20", "100")}
    outcomes = killed(models, tmp_path, "prune")
    # rename, its fsync, 3 files, 3 folders; Python 3.13's rmtree does one thing more
    assert sum(outcome["is_killed"] for outcome in outcomes) in (8, 9)
    for outcome in outcomes:
        assert outcome["then"] in (whole, kept)
        assert outcome["repeated"] == kept
    work = tmp_path / "work" / "m"
    os.rename(work / "20", work / f".20.1{push.STAGE_SUFFIX}")
    pushed = Path(push.push(models / "100", work.parent, "m")).name
    assert sorted(os.listdir(work)) == [push.LOCK_NAME, "100", pushed]


def test_a_rollback_killed_at_any_file_serves_the_one_or_the_other_whole(models, tmp_path):
    before = {str(version): push.digests(models / str(version)) for version in (5, 20, 100)}
    outcomes = killed(models, tmp_path, "rollback")
    assert sum(outcome["is_killed"] for outcome in outcomes) > 10
    n_with = 0
    for outcome in outcomes:
        new = [files for version, files in outcome["then"].items() if version not in before]
        assert len(outcome["then"]) == 3 + len(new) and before.items() <= outcome["then"].items()
        assert all(files["saved_model.pb"] == before["20"]["saved_model.pb"] for files in new)
        assert all(files.keys() == before["20"].keys() for files in new)
        n_with += len(new)
        assert outcome["hidden"] == [push.LOCK_NAME]
        newest = outcome["repeated"][max(outcome["repeated"], key=int)]
        # a repeated one goes one back again, where the killed one was done
        assert newest["saved_model.pb"] == before["5" if new else "20"]["saved_model.pb"]
    assert n_with == 2  # killed between the rename and its fsync, and not at all


def test_a_rollback_is_a_new_version_with_the_earlier_ones_files_that_says_so(models):
    before_s = int(time.time())
    done = rollback.roll_back(str(models))
    assert (done.version, done.instead_of) == (20, 100)
    new = int(Path(done.version_dir).name)
    assert new >= before_s and contents(models) == {5: "5", 20: "20", 100: "100", new: "20"}
    lineage = json.loads(Path(done.version_dir, metadata.LINEAGE_FILE).read_text())
    assert lineage == {"pipeline": "p", "rollback": {"version": 20, "instead_of": 100}}


def test_each_rollback_goes_one_further_back_and_never_to_what_was_left(models):
    rollback.roll_back(str(models))
    assert rollback.roll_back(str(models)).version == 5
    with pytest.raises(InputError, match=r"before version \d+, which is 5 again.*has the versions 5, 20, 100, "):
        rollback.roll_back(str(models))
    assert rollback.roll_back(str(models), 100).version == 100
    assert rollback.roll_back(str(models)).version == 20
    newest = max(contents(models))
    write_versions(models, newest + 1)
    assert rollback.roll_back(str(models)).version == 20  # which was served when that one came, and not 100
    assert rollback.roll_back(str(models), newest + 1).version == newest + 1
    assert rollback.roll_back(str(models), newest).version == 20  # a rollback stands for its version


def test_a_rollback_whose_own_version_is_gone_is_one_to_go_back_to(models):
    done = rollback.roll_back(str(models))
    new = int(Path(done.version_dir).name)
    write_versions(models, new + 1)
    assert pruning.prune(models, 2) == [5, 20, 100]
    again = rollback.roll_back(str(models))
    assert (again.version, again.instead_of) == (20, new + 1)
    assert contents(models)[int(Path(again.version_dir).name)] == "20"


def test_a_rollback_names_what_stands_against_it(models, tmp_path):
    with pytest.raises(InputError, match="--to 6: .* has the versions 5, 20, 100"):
        rollback.roll_back(str(models), 6)
    with pytest.raises(InputError, match="--to 100 is what is served already"):
        rollback.roll_back(str(models), 100)
    for folder in (tmp_path, models / "100", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="has no pushed versions; give the folder that has them"):
            rollback.roll_back(str(folder))
    labels.label(str(models), {"stable": 100})
    with pytest.raises(InputError, match=r"served by labels \(stable=100\); move them with fp-tfrs label"):
        rollback.roll_back(str(models))
    assert contents(models) == {5: "5", 20: "20", 100: "100"}


def test_labels_are_a_servers_configuration_of_these_versions_alone(models, tmp_path):
    labels.label(str(models), {"stable": 20, "canary": 100})
    path = Path(labels.label(str(models), {"stable": 100, "canary": 5}))
    assert path == tmp_path / "serving" / "models.config"
    write_versions(models.parent / "other", 8)
    labels.label(str(models.parent / "other"), {"stable": 8})
    write_versions(models, 200)
    labels.label(str(models), {"stable": 200, "canary": 200})
    config = text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig())
    ours, others = config.model_config_list.config
    assert (ours.name, ours.base_path, ours.model_platform) == ("m", "/models/m", "tensorflow")
    assert dict(ours.version_labels) == {"stable": 200, "canary": 200}
    assert list(ours.model_version_policy.specific.versions) == [200]
    assert (others.name, dict(others.version_labels)) == ("other", {"stable": 8})


def test_the_file_of_labels_is_the_one_that_deploy_shows(tmp_path):
    """Which a server, or what stands in for one, is started with in `test_deploy_serving.py`."""
    shown, config = (
        (ROOT / "deploy" / "serving" / "canary.config").read_text(),
        model_server_config_pb2.ModelServerConfig,
    )
    shown = text_format.Parse(shown, config())
    (model,) = shown.model_config_list.config
    write_versions(tmp_path / model.name, *model.version_labels.values())
    written = labels.label(str(tmp_path / model.name), dict(model.version_labels))
    assert text_format.Parse(Path(written).read_text(), config()) == shown


def test_the_commands_say_what_they_did_or_why_not(models, capsys):
    assert cli.main(["rollback", "--model", os.path.relpath(models)]) == 0
    assert capsys.readouterr().out.endswith(": version 20 again, in place of 100\n")
    assert cli.main(["label", "--model", f"{models}/", "stable=20", "canary=100"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  stable = 20", "  canary = 100"]
    for arguments, said in (
        (["rollback", "--to", "v5"], "--to v5: give the number of a version"),
        (["rollback"], "move them with fp-tfrs label"),
        (["label", "stable"], "stable: give each label once, as name=version"),
        (["label", "stable=5", "stable=20"], "stable=20: give each label once"),
        (["label", "stable=7"], "stable=7: "),
        (["label", "\udcff=5"], "'\\udcff=5' is not UTF-8, as labels are"),
    ):
        assert cli.main([*arguments, "--model", str(models)]) == 2
        assert said in capsys.readouterr().err
    (models.parent / "models.config").write_text("model_config_list: 3")
    assert cli.main(["label", "stable=5", "--model", str(models)]) == 2
    assert "models.config is no ModelServerConfig: " in capsys.readouterr().err


def test_in_an_object_store_what_says_that_a_version_is_whole_goes_first(models, monkeypatch):
    url, order = f"file://{models}", []
    remove_tree = storage.remove_tree
    monkeypatch.setattr(
        storage, "remove_tree", lambda path: (order.append(push.list_complete(models)), remove_tree(path))
    )
    os.remove(models / "5" / "saved_model.pb")  # a pruning was killed here
    write_versions(models, 300)
    assert pruning.prune(url, 2) == [20]
    assert order == [[20, 100, 300], [100, 300]]
    assert contents(models) == {100: "100", 300: "300"}
    done = rollback.roll_back(url)
    assert (done.version, done.instead_of) == (100, 300) and done.version_dir.startswith(f"{url}/")
    assert contents(models)[max(contents(models))] == "100"
