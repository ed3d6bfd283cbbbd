"""The Ray cluster: joined or started by a program that hands rows to it, and left at its end."""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import ray
from ray import cloudpickle
from ray.exceptions import (
    ActorDiedError,
    ActorUnschedulableError,
    GetTimeoutError,
    RayError,
    RuntimeEnvSetupError,
)

from batchrt.config import RunConfig, cap_of
from batchrt.integrations.ray.coordinator import RayCarrier, coordinator_of_cluster
from batchrt.integrations.ray.row_pool import RowPool
from batchrt.integrations.ray.row_worker import Numbered, RowWorker, Settled

if TYPE_CHECKING:
    from batchrt.runnables.base import Runnable

__all__ = ["ClusterError", "joined_cluster", "start_workers"]

T = TypeVar("T")

_CALLS: Final = 6
"""Threads of a worker for its methods: one waits in `take`."""
_ROWS: Final = 2_048
_FEWEST_ROWS: Final = 64
"""Rows that a worker has at a time: those in flight, and some that follow on them."""
_PATIENCE: Final = 120.0
"""Seconds in which one worker must have started."""


class ClusterError(Exception):
    """A cluster that cannot be joined, or that cannot run the chain; the message says why."""


@contextmanager
def joined_cluster(address: str | None) -> Iterator[None]:
    """Join the cluster at `address`, or start one on this machine that ends with the block.

    Args:
        address: `auto`, `host:port` or `ray://host:port`; `None` for a cluster of this machine.

    Raises:
        ClusterError: there is none, or it has another version of Ray or Python.
    """
    # Ray sends no statistics of its use from a program whose user has not heard of them.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options["include_dashboard"] = False
    try:
        ray.init(address="local" if address is None else address, **options)
    except Exception as error:  # a node that does not start in time is one of no class of its own
        raise ClusterError(_first_line(error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def start_workers(chain: Runnable[Any, Any], config: RunConfig, workers: int | None = None) -> RowPool:
    """Start workers that run `chain`, and return the pool of them once one is ready.

    Args:
        chain: pickled without keys: each worker takes `OPENAI_API_KEY` from its own environment.
        config: of the run; `max_concurrency` is that of all workers together.
        workers: how many; `None` for one on each CPU of the cluster.

    Raises:
        TypeError: the chain cannot be pickled.
        ClusterError: no worker can be started, or load the chain.
    """
    pickled = cloudpickle.dumps(chain)
    number = workers or max(1, math.floor(ray.cluster_resources().get("CPU", 1)))
    actor = ray.remote(RowWorker).options(
        num_cpus=1 if workers is None else 0.5, max_concurrency=_CALLS, max_restarts=-1, max_task_retries=0
    )
    carrier = RayCarrier(coordinator_of_cluster())
    arguments = pickled, config, carrier, uuid.uuid4().hex
    handles = [_Handle(actor.remote(*arguments)) for _ in range(number)]
    _wait_for_one(handles)
    cap = cap_of(config)
    rows = _ROWS if cap is None else min(_ROWS, max(_FEWEST_ROWS, math.ceil(2 * cap / number)))
    return RowPool(handles, rows)


class _Handle:
    """The `WorkerHandle` of an actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def ready(self) -> Future[Any]:
        return _future(self.actor.ready.remote())

    def put(self, rows: Numbered) -> Future[Any]:
        return _future(self.actor.put.remote(rows))

    def take(self) -> Future[Settled]:
        return _future(self.actor.take.remote())

    def stop(self) -> Future[Any]:
        return _future(self.actor.stop.remote())

    def is_gone(self, error: Exception) -> bool:
        """Whether the actor will not be back: its start failed, or Ray itself has ended."""
        return isinstance(error, ActorDiedError | ActorUnschedulableError | RuntimeEnvSetupError) or not (
            isinstance(error, RayError)
        )


def _future(reference: Any) -> Future[Any]:
    future: Future[Any] = reference.future()
    return future


def _wait_for_one(handles: list[_Handle]) -> None:
    """Wait for the first worker.

    Raises:
        ClusterError: all of them failed, or none started in time.
    """
    waiting = {handle.actor.ready.remote(): handle for handle in handles}
    end, failure = time.monotonic() + _PATIENCE, None
    while waiting and time.monotonic() < end:
        done, _ = ray.wait(list(waiting), timeout=1.0)
        for reference in done:
            try:
                ray.get(reference, timeout=0)
            except GetTimeoutError:
                continue
            except RayError as error:
                failure = error
                del waiting[reference]
            else:
                return
    if failure is not None:
        raise ClusterError(f"no worker could load the chain: {_last_line(failure)}")
    raise ClusterError(f"no worker has started within {_PATIENCE:g} s: the cluster has no free CPU")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    """Return the last line of an actor's error, which is that of the exception in the worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
