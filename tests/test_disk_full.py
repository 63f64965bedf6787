"""A disk that is full while a node works, whichever node that is: a sentence, nothing published, and a next run that goes on.

Each run is on a small file system of its own (tmpfs), which is filled to the last byte when the node's executor starts.
"""

import contextlib
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from test_pipeline import CONFIG, NODES, versions, write_config

pytestmark = pytest.mark.long

IN_ORDER = [*NODES[:8], "ServingProbe", "Evaluator", "Pusher"]
RUN = """
import contextlib, os, sys
from tfx.orchestration.portable import launcher
from pipeline import cli

node, filler = sys.argv[1:3]
execute = launcher.Launcher._run_executor

def execute_on_a_full_disk(self, execution_info):
    if self._pipeline_node.node_info.id == node:
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    return execute(self, execution_info)

launcher.Launcher._run_executor = execute_on_a_full_disk
sys.exit(cli.main(sys.argv[3:]))
"""


def select(root, query, *values):
    """Rows of MLMD's database, which has to be sound."""
    with contextlib.closing(sqlite3.connect(root / "metadata.sqlite")) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        return database.execute(query, values).fetchall()


def states_of(root, node):
    """How MLMD has the node's executions, newest last; 3 is COMPLETE, 5 CACHED."""
    return [
        state
        for (state,) in select(
            root,
            "select last_known_state from Execution join Association on Execution.id = execution_id "
            "join Context on Context.id = context_id where Context.name = ? order by Execution.id",
            f"tiny.{node}",
        )
    ]


def published(root):
    """The output folders that MLMD has as artifacts, of whatever execution, and does not have as unfinished or gone.

    States 1, 3, 4 and 5 are PENDING, MARKED_FOR_DELETION, DELETED and ABANDONED; 2 is LIVE.
    """
    rows = select(root, "select uri from Artifact where state is null or state not in (1, 3, 4, 5)")
    return {Path(uri) for (uri,) in rows}


def output_folders(root, node=None):
    """The folders on the disk that executions have made for their artifacts, of one node or of all."""
    return set((root / "artifacts").glob(f"{node or '*'}/[!.]*/*"))


def test_a_full_disk_in_any_node_publishes_nothing_and_the_next_run_goes_on(disk, tmp_path, record_figure):
    small_disk = disk("size=64m")
    root, filler = small_disk / "root", small_disk / "filler"
    values = CONFIG | {"training": CONFIG["training"] | {"max_epochs": 2}}
    arguments = ["run", "--config", str(write_config(tmp_path, values)), "--root", str(root)]
    said, done = {}, []
    for node in [*IN_ORDER, ""]:
        command = [sys.executable, "-c", RUN, node, str(filler), *arguments]
        run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        filler.unlink(missing_ok=True)
        # The node that failed before works anew: nothing that it had left is taken for its output.
        did = ["unchanged"] * (len(done) - 1) + ["done"] * bool(done)
        found = re.findall(r"^\[\d+/11\] (\w+): (done|unchanged)", run.stderr, re.MULTILINE)
        assert found == list(zip(done, did, strict=True)), run.stderr
        if not node:
            break
        said[node] = (run.returncode, run.stderr.splitlines()[-1])
        assert not {3, 5} & set(states_of(root, node)), node
        assert output_folders(root, node) == set(), node
        assert published(root) == output_folders(root), node
        assert {path.parts[-3] for path in published(root)} == set(done), node
        assert versions(root) == []
        done.append(node)
    assert run.returncode == 0, run.stderr
    assert len(versions(root)) == 1
    assert published(root) == output_folders(root)
    failed = [node for node, (code, line) in said.items() if code in (1, 2) and "No space left on device" in line]
    figure = f"{len(failed)} of {len(NODES)} nodes say so, publish nothing, and succeed in the next run"
    record_figure("disk full", figure, "all")
    assert failed == IN_ORDER
