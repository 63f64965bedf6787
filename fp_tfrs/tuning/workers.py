"""A search's trials in processes of their own: this one has the oracle, the others ask it, as keras-tuner's workers ask its chief.

In: a `SearchJob`. Out: a tuner whose `search` keeps `tuner.workers` processes of this module running, answers them on the
loopback interface until they have nothing left to try, and fails as soon as one of them fails. They end when this process
ends, however it ends. keras-tuner's own chief would stay for a minute after the last trial, and for ever after a worker
that has died.

A worker trains once and makes place for a new one: TensorFlow keeps about 50 MB of every training until its process ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import keras_tuner
import tensorflow as tf
from keras_tuner import protos
from keras_tuner.distribute.oracle_chief import OracleServicer
from keras_tuner.engine.trial import Trial

from fp_tfrs import storage
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.processes import command_of
from fp_tfrs.progress import say
from fp_tfrs.tuning.search import SearchJob, SessionTuner, describe_trial

_LOOPBACK = "127.0.0.1"
_LOG_TAIL = 2000  # characters
_INPUT_ERROR, _HAS_TRAINED = 2, 3  # a worker's exit codes


class ParentTuner(SessionTuner):
    """Has the trials run by `tuner.workers` processes of this machine."""

    def run_trials(self) -> None:
        """Waits until the workers have tried everything.

        Raises:
            InputError: one of them cannot read the data.
            RunError: one of them has failed.
        """
        n_workers = self._job.run.tuner.workers
        with tempfile.TemporaryDirectory(prefix="fp-tfrs-") as folder, contextlib.ExitStack() as stack:
            job_path = os.path.join(folder, "job.json")
            storage.write_text(job_path, self._job.to_json())
            port = stack.enter_context(_serving(self.oracle, self._job))
            logs = [os.path.join(folder, f"worker{k}.log") for k in range(n_workers)]

            def start(number: int) -> subprocess.Popen[bytes]:
                return stack.enter_context(_worker(number, n_workers, port, job_path, logs[number]))

            running = {number: start(number) for number in range(n_workers)}
            while running:
                for number, worker in list(running.items()):
                    if worker.poll() is None:
                        continue
                    if worker.returncode == _HAS_TRAINED:
                        running[number] = start(number)
                    else:
                        _check_end(worker.returncode, logs[number])
                        del running[number]
                time.sleep(0.1)


class _Servicer(OracleServicer):
    """keras-tuner's, which also tells the user of each trial."""

    def __init__(self, oracle: keras_tuner.Oracle, job: SearchJob) -> None:
        super().__init__(oracle)
        self._job = job

    def EndTrial(self, request: Any, context: Any) -> Any:
        response = super().EndTrial(request, context)
        say(describe_trial(self.oracle, request.trial.trial_id, self._job))
        return response


@contextlib.contextmanager
def _serving(oracle: keras_tuner.Oracle, job: SearchJob) -> Iterator[int]:
    """Answers workers; gives the port."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    protos.get_service_grpc().add_OracleServicer_to_server(_Servicer(oracle, job), server)
    port = server.add_insecure_port(f"{_LOOPBACK}:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def _worker(number: int, n_workers: int, port: int, job_path: str, log_path: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone at the end of the block. It reads this end of a pipe to notice when we are gone."""
    environment = {
        **os.environ,
        "KERASTUNER_TUNER_ID": f"worker{number}",
        "KERASTUNER_ORACLE_IP": _LOOPBACK,
        "KERASTUNER_ORACLE_PORT": str(port),
        "no_grpc_proxy": _LOOPBACK,
    }
    command = command_of(__name__, job_path, str(n_workers))
    with open(log_path, "ab") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _check_end(code: int, log: str) -> None:
    if code:
        said = storage.read_text(log).strip()
        if code == _INPUT_ERROR:
            raise InputError(said.rpartition("\n")[2])
        raise RunError(f"a worker of the search ended with code {code}: {said[-_LOG_TAIL:]}")


class _Worker(SessionTuner):
    """Asks for trials until it has trained, or there are none."""

    def pre_create_trial(self) -> None:
        if self.has_trained:
            sys.exit(_HAS_TRAINED)
        time.sleep(0.2)  # who is told to wait asks again

    def on_trial_end(self, trial: Trial) -> None:
        self.oracle.end_trial(trial)


def _work(job_path: str, n_workers: int) -> None:
    """What a worker does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    n_threads = max(1, (os.cpu_count() or 1) // n_workers)
    tf.config.threading.set_intra_op_parallelism_threads(n_threads)
    tf.config.threading.set_inter_op_parallelism_threads(n_threads)
    try:
        _Worker(SearchJob.from_json(storage.read_text(job_path)), is_worker=True).run_trials()
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(_INPUT_ERROR)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # sys.stdin's own lock would be in the way of ending well
    os._exit(1)  # wherever the other threads are: nobody would ever answer them


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]))
