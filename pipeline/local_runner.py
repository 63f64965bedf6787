"""Runs the pipeline in this process, node after node, and says in plain lines what each did.

Lineage goes to `ROOT/metadata.sqlite` (MLMD), every log line of TFX to `ROOT/logs/`; the screen gets our lines only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import absl.logging
import tensorflow_transform as tft
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.pipeline import RunOptions

from fp_tfrs import schema, storage
from fp_tfrs.config import RunConfig, fingerprint
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.experiments.prepared import PreparedFiles
from fp_tfrs.progress import say
from pipeline import preflight, several_workers
from pipeline.pipeline import create_pipeline

METADATA_FILE = "metadata.sqlite"


@dataclass(frozen=True)
class NodeResult:
    """What one node of a run left."""

    is_cached: bool
    outputs: dict[str, metadata_store_pb2.Artifact]  # output key → artifact


def run_pipeline(run: RunConfig, root: str, last_node: str | None = None) -> dict[str, NodeResult]:
    """Runs every node that is not cached.

    Args:
        run: the configuration.
        root: folder of everything that the run writes; made if it is missing.
        last_node: id of the node to stop after; None = all.

    Returns:
        node id → what it left.

    Raises:
        InputError: the config, the log or the root cannot be used.
        RunError: a node failed.
    """
    if not storage.is_local(root):
        raise InputError(
            f"--root {root}: a run on this machine needs a folder of its disk; for an object store, compile"
        )
    root = os.path.abspath(root)
    if signs := sorted({*root} & {*"*?[]"}):
        raise InputError(
            f"--root {root}: TFX finds files by patterns, in which {' '.join(signs)} stands for others; choose another folder"
        )
    files = preflight.check_inputs(run)
    several_workers.make_safe()
    with _exclusive(root), _screen(root) as screen:
        lineage = metadata.sqlite_metadata_connection_config(os.path.join(root, METADATA_FILE))
        pipeline = create_pipeline(run, root, _log_fingerprint(files), lineage)
        names = [component.id for component in pipeline.components]
        screen.expect(len(names) if last_node is None else names.index(last_node) + 1)
        try:
            LocalDagRunner().run(pipeline, RunOptions(to_nodes=[last_node]) if last_node else None)
        except (InputError, RunError):
            raise
        except Exception as error:
            screen.note(traceback.format_exc())
            if _is_disk_full(error):
                raise RunError(
                    f"{screen.node} failed: No space left on device; make room for --root {root} and temporary files, and the "
                    "same command goes on"
                ) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RunError(f"{screen.node} failed: {reason} (details: {screen.log.name})") from error
    return _read_results(os.path.join(root, METADATA_FILE))


def _is_disk_full(error: BaseException | None) -> bool:
    """MLMD, which then cannot note that a node has failed, hides what the node had to say of it."""
    while error is not None:
        if "No space left on device" in str(error) or "disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def prepare_data(run: RunConfig, root: str) -> PreparedFiles:
    """Runs the nodes before training; raises as `run_pipeline`."""
    results = run_pipeline(run, root, "Transform")
    transform = results["Transform"].outputs
    transformed = tft.TFTransformOutput(transform["transform_graph"].uri)
    has_users = run.model.has_users
    return PreparedFiles(
        results["SessionExampleGen"].outputs["examples"].uri,
        transform["transformed_examples"].uri,
        transformed.vocabulary_file_by_name(schema.ITEM_VOCABULARY),
        transformed.vocabulary_file_by_name(schema.USER_VOCABULARY) if has_users else None,
    )


def _log_fingerprint(files: list[str]) -> str:
    """Changes when a file of the event log is added, removed, rewritten or resized."""
    return fingerprint(*(f"{path} {storage.size(path)} {storage.modified_ns(path)}" for path in files))


@contextlib.contextmanager
def _exclusive(root: str) -> Iterator[None]:
    """Holds the root's lock: two runs in one root would write over each other."""
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(os.path.join(root, "logs"), exist_ok=True)
            lock = stack.enter_context(open(os.path.join(root, ".lock"), "w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is working in --root {root}; wait for it, or name another root") from None
        except OSError as error:
            raise InputError(
                f"--root {root} cannot be written: {error.strerror}; name a folder that you may write"
            ) from error
        yield


class _Screen(logging.Handler):
    """Turns TFX's log into one line per node, and keeps the whole log in a file."""

    def __init__(self, log_path: str) -> None:
        super().__init__(logging.INFO)
        self.log = open(log_path, "w", encoding="utf-8")  # noqa: SIM115  (closed by _screen)
        self.node = "the pipeline"
        self._total = self._count = 0
        self._started_s = 0.0
        self._is_cached = False

    def expect(self, nodes: int) -> None:
        self._total = nodes

    def note(self, text: str) -> None:
        """Adds to the log file, if the disk has space: if not, it is for the node to say so."""
        with contextlib.suppress(OSError):
            self.log.write(text)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.log.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.note(f"{record.levelname} {message}\n")
        if record.msg == "Component %s is running.":
            self.node, self._started_s, self._is_cached = str(record.args[0]), time.monotonic(), False  # type: ignore[index]
            self._count += 1
            say(f"[{self._count}/{self._total}] {self.node}")
        elif message.startswith("A cached execution"):
            self._is_cached = True
        elif record.msg == "Component %s is finished.":
            did = "unchanged" if self._is_cached else f"done in {time.monotonic() - self._started_s:.1f} s"
            say(f"[{self._count}/{self._total}] {self.node}: {did}")


@contextlib.contextmanager
def _screen(root: str) -> Iterator[_Screen]:
    """Sends TFX's (absl's) and Beam's log to the root's log file for as long as the run lasts."""
    screen = _Screen(os.path.join(root, "logs", time.strftime("run-%Y%m%d-%H%M%S.log")))
    loggers = [logging.getLogger(name) for name in ("absl", "apache_beam", "tensorflow", "root")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [screen]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.INFO)  # a level set on the logger alone is undone when flags are parsed
    try:
        yield screen
    finally:
        absl.logging.set_verbosity(verbosity)
        for logger, handlers, level, propagate in before:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        screen.close()


def _read_results(metadata_path: str) -> dict[str, NodeResult]:
    """The newest run's nodes and outputs, from MLMD."""
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = metadata_path
    store = MetadataStore(connection)
    newest = max(store.get_contexts_by_type("pipeline_run"), key=lambda context: context.id)
    executions = store.get_executions_by_context(newest.id)
    events = store.get_events_by_execution_ids([execution.id for execution in executions])
    outputs = [event for event in events if event.type == metadata_store_pb2.Event.OUTPUT]
    artifacts = {a.id: a for a in store.get_artifacts_by_id([event.artifact_id for event in outputs])}
    results = {}
    for execution in executions:
        node = next(c.name for c in store.get_contexts_by_execution(execution.id) if c.type == "node").split(".", 1)[1]
        results[node] = NodeResult(
            execution.last_known_state == metadata_store_pb2.Execution.CACHED,
            {
                event.path.steps[0].key: artifacts[event.artifact_id]
                for event in outputs
                if event.execution_id == execution.id
            },
        )
    return results
