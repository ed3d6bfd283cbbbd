"""The coordinator of a Ray cluster: one actor that leases the cluster's limits to the workers."""

from __future__ import annotations

import math
import time
from typing import Any, Final

import anyio
import ray
from ray.exceptions import RayError

from batchrt.integrations.ray.budget_ledger import BudgetLedger, BudgetReply, BudgetRequest
from batchrt.limits.shared.carrier import CarrierAwayError
from batchrt.limits.shared.coordinator import Coordinator
from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest
from batchrt.limits.shared.ledger import LEASE_SECONDS
from batchrt.runtime.event_loop import Signal

__all__ = ["CoordinatorActor", "RayCarrier", "coordinator_of_cluster"]

NAMESPACE: Final = "batchrt"
NAME: Final = "limits 1"
"""The actor's name. The number is that of the messages: jobs with others have a coordinator of their own."""
PATIENCE: Final = 2.0
"""Seconds to wait for a reply; a lease lasts three."""


class CoordinatorActor:
    """Answer the lease requests of a cluster's workers.

    Ray starts it anew, without its state, where it died. It then learns the leases from its workers, and
    grants nothing new before all earlier ones have ended.
    """

    def __init__(self) -> None:
        was_lost = ray.get_runtime_context().was_current_actor_reconstructed
        self._coordinator = Coordinator(learns=was_lost)
        self._learns_until = time.monotonic() + LEASE_SECONDS if was_lost else -math.inf
        self._budgets: dict[str, BudgetLedger] = {}

    def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        """Handle a lease request for the quota `key`."""
        return self._coordinator.exchange(key, request, time.monotonic())

    def exchange_budget(self, key: str, request: BudgetRequest) -> BudgetReply:
        """Handle a request for the budget `key`."""
        if key not in self._budgets:
            self._budgets[key] = BudgetLedger(self._learns_until)
        return self._budgets[key].exchange(request, time.monotonic())


def coordinator_of_cluster() -> Any:
    """Return the handle of the cluster's coordinator, which is started if there is none.

    It is detached: quotas are those of keys and models, which several jobs may use at a time. It takes no CPU
    from Ray, and a few kilobytes for each quota.
    """
    actor = ray.remote(CoordinatorActor)
    return actor.options(
        name=NAME,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
    ).remote()


class RayCarrier:
    """Take lease requests to the coordinator of the cluster; see `Carrier`.

    Args:
        actor: its handle.
    """

    def __init__(self, actor: Any) -> None:
        self.name: str = "the coordinator of the Ray cluster"
        self._actor = actor

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        """Let the coordinator handle `request`.

        Raises:
            CarrierAwayError: it died and is not back yet, or cannot be reached.
        """
        reply: LeaseReply = await ask(self._actor.exchange, key, request)
        return reply

    async def exchange_budget(self, key: str, request: BudgetRequest) -> BudgetReply:
        """Let the coordinator handle `request`, likewise."""
        reply: BudgetReply = await ask(self._actor.exchange_budget, key, request)
        return reply


async def ask(method: Any, *arguments: Any) -> Any:
    """Call a method of an actor, without blocking the event loop, and return its reply.

    Raises:
        CarrierAwayError: there was none in time.
    """
    signal = Signal()
    try:
        future = method.remote(*arguments).future()
        future.add_done_callback(lambda _: signal.set())
        with anyio.move_on_after(PATIENCE):
            await signal.wait()
        if not future.done():
            raise CarrierAwayError(f"no reply within {PATIENCE:g} s")
        return future.result()
    except RayError as error:
        raise CarrierAwayError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
