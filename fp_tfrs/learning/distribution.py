"""The devices that a training runs on: the configuration's `training.distribution` → `Devices`, which `training.py` trains on.

Data-parallel: every device has all weights and, of each batch, every n-th session; gradients are summed (`replicas.py`). So
losses and weights are those of one device, but for rounding and dropout, whose masks each device draws for itself.

    one_device      this process and the first device; nothing of this module happens
    mirrored        all devices of this machine, in this process
    multi_worker    all devices of several processes, which the environment variable TF_CONFIG names
"""

from __future__ import annotations

import functools
import json
import os
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

import numpy as np
import pydantic
import tensorflow as tf

from fp_tfrs.errors import InputError, RunError

Value = TypeVar("Value")

_EXAMPLE = '{"cluster": {"chief": ["host0:2222"], "worker": ["host1:2222"]}, "task": {"type": "chief", "index": 0}}'


class _Cluster(pydantic.BaseModel):
    """Addresses, host:port; the chief may be a job of its own or the first worker."""

    model_config = pydantic.ConfigDict(extra="forbid")
    chief: tuple[str, ...] = pydantic.Field((), max_length=1)
    worker: tuple[str, ...] = ()


class _Task(pydantic.BaseModel):
    type: Literal["chief", "worker"]
    index: int = pydantic.Field(ge=0)


class Membership(pydantic.BaseModel):
    """What TF_CONFIG says: the processes, and which of them this one is. Its other keys are others' business."""

    cluster: _Cluster
    task: _Task

    @property
    def is_chief(self) -> bool:
        """Whether this is the one process that writes."""
        return self.task.type == "chief" or (not self.cluster.chief and self.task.index == 0)

    @property
    def n_processes(self) -> int:
        return len(self.cluster.chief) + len(self.cluster.worker)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Membership:
        n_tasks = len(getattr(self.cluster, self.task.type))
        if self.task.index >= n_tasks:
            raise ValueError(
                f"task {self.task.type} {self.task.index} is not in the cluster, which has {n_tasks} of them"
            )
        return self


def read_membership() -> Membership:
    """What the environment says of this process.

    Raises:
        InputError: TF_CONFIG is missing, or names no cluster that can train together.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise InputError(
            "training.distribution: multi_worker needs the environment variable TF_CONFIG in each process, as a TFJob of "
            f"Kubernetes sets it: {_EXAMPLE}; or choose mirrored for the devices of one machine"
        )
    try:
        return Membership.model_validate_json(text)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        raise InputError(
            f"TF_CONFIG{f', {place}' if place else ''}: {reason}; it should look like {_EXAMPLE}"
        ) from None


class Devices:
    """Devices that train one model together.

    Args:
        strategy: TensorFlow's
        is_chief: whether this process is the one that writes
        n_processes: how many there are; all must call the methods in the same order

    Attributes:
        is_chief: as above
        n_replicas: devices of all processes, each with a share of every batch
    """

    def __init__(self, strategy: tf.distribute.Strategy, is_chief: bool = True, n_processes: int = 1):
        self.is_chief = is_chief
        self.n_replicas: int = strategy.num_replicas_in_sync
        self._strategy, self._n_processes = strategy, n_processes

    @property
    def has_strategy(self) -> bool:
        """Whether a model made in the scope has variables that are not ordinary ones."""
        return self._strategy is not tf.distribute.get_strategy()

    def scope(self) -> AbstractContextManager[Any]:
        """Where model and optimizer are to be made."""
        return self._strategy.scope()

    def check_batch_size(self, batch_size: int) -> None:
        """Raises InputError if a full batch cannot be shared out equally."""
        if batch_size % self.n_replicas:
            nearest = max(round(batch_size / self.n_replicas), 1) * self.n_replicas
            raise InputError(
                f"training.batch_size {batch_size} cannot be shared out equally among {self.n_replicas} devices; "
                f"{nearest} can"
            )

    def share_out(self, batches: tf.data.Dataset) -> Any:
        """The batches as `fit` takes them: of each batch, one of several devices gets every n-th session, none if there are too
        few. All are padded alike."""
        if not self.has_strategy:
            return batches
        n_replicas = self.n_replicas

        def of_process(context: tf.distribute.InputContext) -> tf.data.Dataset:
            n_local = n_replicas // context.num_input_pipelines
            first = context.input_pipeline_id * n_local

            def shares(batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
                replicas = tf.data.Dataset.range(first, first + n_local)
                return replicas.map(lambda k: {name: values[k::n_replicas] for name, values in batch.items()})

            return batches.flat_map(shares).prefetch(tf.data.AUTOTUNE)

        return self._strategy.distribute_datasets_from_function(of_process)

    def agree(self, value: Value) -> Value:
        """The chief's value, of what JSON can say, in every process; none goes on before all have asked."""
        if self._n_processes == 1:
            return value
        said = np.frombuffer(json.dumps(value).encode() if self.is_chief else b"", np.uint8)
        size = int(self._sum(np.array([len(said)]))[0])
        heard = self._sum(said if self.is_chief else np.zeros(size, np.uint8))
        return json.loads(heard.astype(np.uint8).tobytes())

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of the processes' arrays."""

        def of_replica(context: tf.distribute.ValueContext) -> tf.Tensor:
            is_first = context.replica_id_in_sync_group % (self.n_replicas // self._n_processes) == 0
            return tf.constant(values if is_first else np.zeros_like(values), tf.int32)

        shares = self._strategy.experimental_distribute_values_from_function(of_replica)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None).numpy()


@functools.cache
def devices_of(distribution: Literal["one_device", "mirrored", "multi_worker"]) -> Devices:
    """The devices of a training; once for each kind and process.

    Raises:
        InputError: multi_worker, and TF_CONFIG is not as it should be.
        RunError: multi_worker, and TensorFlow has been used in this process before.
    """
    if distribution == "one_device":
        return Devices(tf.distribute.get_strategy())
    if distribution == "mirrored":
        return Devices(tf.distribute.MirroredStrategy())
    member = read_membership()
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise RunError(
            "training.distribution: multi_worker is for processes that do nothing else, which fp-tfrs run and "
            f"fp-tfrs train-worker start ({error}); choose mirrored or one_device here"
        ) from error
    return Devices(strategy, member.is_chief, member.n_processes)
