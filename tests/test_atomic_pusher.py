"""The way from an evaluation to the serving root: what is pushed is what passed everything, and nothing else ever lies there."""

import contextlib
import itertools
import shutil
from types import SimpleNamespace

import pytest
from test_blessing import BETTER, SAME, WORSE, report
from tfx.components.evaluator import constants
from tfx.proto import pusher_pb2
from tfx.types import standard_artifacts
from tfx.utils import json_utils, proto_utils

from components import atomic_pusher
from fp_tfrs.data import drift
from fp_tfrs.errors import RunError
from fp_tfrs.evaluation import model_card
from fp_tfrs.evaluation.blessing import judge
from fp_tfrs.serving import push

CELLS = list(itertools.product((0.2, 0.09), (BETTER, WORSE, None), (True, False)))


@pytest.fixture
def folder(tmp_path):
    """An exported model and its card."""
    for name in ("model/Format-Serving/saved_model.pb", *(f"verdict/{name}" for name in model_card.FILES)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def statistics(monkeypatch):
    monkeypatch.setattr(drift, "summarise", lambda path: "statistics")


def artifact(kind, uri, is_blessed=None):
    made = kind()
    made.uri = str(uri)
    if is_blessed is not None:
        made.set_int_custom_property("blessed", int(is_blessed))
    return made


def run_pusher(folder, serving_root, is_blessed=True, is_healthy=True, model="model", baseline=None):
    """Runs TFX's contract: artifacts in, artifact out. Returns the pushed model's artifact.

    baseline: the version that the model was compared with; None: the newest, "": none.
    """
    if baseline is None:
        baseline = next(reversed(versions(serving_root)), "")
    if not (folder / model).exists():
        shutil.copytree(folder / "model", folder / model)
    context = atomic_pusher.Executor.Context(tmp_dir=str(folder / "temporary"), unique_id="1")
    executor = atomic_pusher.Executor(context)
    executor._context = SimpleNamespace(pipeline_info=None, pipeline_run_id=None)
    pushed = artifact(standard_artifacts.PushedModel, folder / "pushed")
    destination = pusher_pb2.PushDestination(
        filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=str(serving_root / "m"))
    )
    verdict = artifact(standard_artifacts.ModelBlessing, folder / "verdict", is_blessed)
    verdict.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, str(baseline))
    executor.Do(
        {
            "model": [artifact(standard_artifacts.Model, folder / model)],
            "model_blessing": [verdict],
            "infra_blessing": [artifact(standard_artifacts.InfraBlessing, folder / "infra", is_healthy)],
            "statistics": [artifact(standard_artifacts.ExampleStatistics, folder / "statistics")],
        },
        {"pushed_model": [pushed]},
        {
            "push_destination": proto_utils.proto_to_json(destination),
            "custom_config": json_utils.dumps({"keep": 5}),
        },
    )
    return pushed


def test_each_of_twelve_cells_pushes_or_leaves_the_disk_untouched(folder, statistics, record_figure):
    """{value passes, fails} × {better, worse, no baseline} × {answers as trained, does not}.

    Each cell runs once where there has been no push yet, and once where those of earlier cells are.
    """
    disk = folder / "disk"
    disk.mkdir()
    right = 0
    for number, (mrr, change, is_healthy) in enumerate(CELLS):
        verdict = judge(report(mrr, change, BETTER), {"mrr@20": 0.1})
        is_due = mrr == 0.2 and change is not WORSE and is_healthy
        is_right = True
        for root in (disk / f"serving {number}", disk / "serving of all"):
            before, n_before = state(disk), len(versions(root))
            pushed = run_pusher(folder, root, verdict.is_blessed, is_healthy, f"model {number}")
            assert pushed.get_int_custom_property("pushed") == is_due
            if is_due:
                is_right &= len(versions(root)) == n_before + 1
                assert (versions(root)[-1] / "saved_model.pb").read_text() == "model/Format-Serving/saved_model.pb"
            else:
                is_right &= state(disk) == before
        right += is_right
    record_figure(
        "blessing truth table", f"{right} of {len(CELLS)} cells", "12 cells, unblessed never in the serving root"
    )
    assert right == len(CELLS) == 12
    assert len(versions(disk / "serving of all")) == 2  # passes, answers, and is better or the first


def test_what_came_after_the_judgement_is_not_replaced_before_another_one(folder, statistics):
    """A run is killed before its push, another one pushes, and the first one goes on with the verdict that it had."""
    root = folder / "serving"
    run_pusher(folder, root, model="other")
    (other,) = versions(root)
    with pytest.raises(RunError, match=f"no earlier one, but since then {other} is served.*the same command compares"):
        run_pusher(folder, root, baseline="")
    assert versions(root) == [other] and (root / "m" / push.JUDGE_AGAIN).read_text().startswith(f"{other.name} ")
    run_pusher(folder, root, baseline=other)
    assert len(versions(root)) == 2


def test_a_rollback_that_the_push_had_to_wait_for_is_not_replaced(folder, statistics, monkeypatch):
    root, lock = folder / "serving", push.lock
    run_pusher(folder, root, model="other")
    (other,) = versions(root)
    rolled_back = root / "m" / str(int(other.name) + 1)

    @contextlib.contextmanager
    def wait(models):
        with lock(models):
            shutil.copytree(other, rolled_back)
            yield

    monkeypatch.setattr(push, "lock", wait)
    with pytest.raises(RunError, match=f"since then {rolled_back} is served"):
        run_pusher(folder, root, baseline=other)
    assert versions(root) == [other, rolled_back]


def test_a_push_that_fails_at_its_end_is_not_done_twice(folder, statistics, monkeypatch):
    root = folder / "serving"
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full"):
            patch.setattr(atomic_pusher.io_utils, "copy_dir", lambda source, target: _fail())
            run_pusher(folder, root, baseline="")
    pushed = run_pusher(folder, root, baseline="")
    assert [str(path) for path in versions(root)] == [pushed.get_string_custom_property("pushed_destination")]


def _fail():
    raise OSError("the disk is full")


def test_the_same_model_again_is_as_good(folder):
    assert judge(report(0.2, SAME, BETTER), {"mrr@20": 0.1}).is_blessed


def state(disk):
    """Every file and folder, hidden ones too, with its content; the times tell of a file that came and went."""
    return {
        path: (path.lstat().st_mtime_ns, None if path.is_dir() else path.read_bytes())
        for path in (disk, *disk.rglob("*"))
    }


def versions(serving_root):
    return sorted(path for path in serving_root.glob("m/*") if path.name.isdecimal())
