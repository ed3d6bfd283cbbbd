"""The share of one worker in the run of a cluster: some of its slots, and some of its budget."""

from __future__ import annotations

import logging
import math
import uuid
from contextlib import suppress
from contextvars import copy_context
from typing import Final, Protocol

import anyio

from batchrt.config import RunConfig, cap_of
from batchrt.integrations.ray.budget_ledger import NOTHING, Amount, BudgetReply, BudgetRequest
from batchrt.limits.shared.carrier import CarrierAwayError
from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest
from batchrt.runtime.event_loop import LoopHandle

__all__ = ["RunCarrier", "RunShare", "SlotUser"]

ROUND: Final = 0.5
"""Seconds from one message about slots to the next."""
UNLIMITED: Final = 1e15
"""Tokens, or money, of a run without a limit: finite, so that sums and differences are numbers."""
PATIENCE: Final = 30.0
"""Seconds to ask again for budget while the coordinator is away or learns, before the rows are given up."""

_log: Final = logging.getLogger("batchrt")


class RunCarrier(Protocol):
    """Take messages to the coordinator of a cluster, a `Carrier` too; its calls raise `CarrierAwayError`."""

    @property
    def name(self) -> str:
        """Say which one it is."""

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        """Ask for slots."""

    async def exchange_budget(self, key: str, request: BudgetRequest) -> BudgetReply:
        """Ask for budget."""


class SlotUser(Protocol):
    """A run that takes slots."""

    def slots_taken(self) -> int:
        """Return how many slots are taken."""

    def rows_left(self) -> int:
        """Return how many rows have no outcome yet, whatever they wait for."""

    def allow(self, slots: int) -> None:
        """Take at most so many from now on."""


class RunShare:
    """Lease slots and budget of a run from its coordinator, for one worker.

    A slot lease that is not renewed ends: then no leaf is begun, and those under way are finished.

    Args:
        carrier: takes the messages.
        run: the run's key.
        config: of the whole run.
    """

    def __init__(self, carrier: RunCarrier, run: str, config: RunConfig) -> None:
        self._carrier = carrier
        self._run = run
        self._worker = uuid.uuid4().hex
        self._cap = cap_of(config)
        self._tokens, self._cost = config.get("max_tokens_total"), config.get("max_cost")
        self._granted = self._used = NOTHING
        self._lease: _SlotLease | None = None
        self._task: object = None

    @property
    def has_budget(self) -> bool:
        """Whether the run has a limit of spending."""
        return self._tokens is not None or self._cost is not None

    # Slots

    async def begin(self, user: SlotUser) -> None:
        """Wait for the first slots of `user`, a worker's run, and keep the lease from now on.

        To be called on one event loop, and again for each new run.
        """
        if self._cap is None:
            return
        if self._lease is not None:
            user.allow(self._lease.slots)
            return
        lease = self._lease = _SlotLease(self._carrier, f"slots of run {self._run}", self._worker, self._cap)
        user.allow(0)
        while not await lease.renew(user):  # noqa: ASYNC110  another process has what is waited for
            await anyio.sleep(ROUND)

        async def keep() -> None:
            while True:
                await anyio.sleep(ROUND)
                await lease.renew(user)

        # It ends with the loop, which is the process's.
        self._task = LoopHandle.current().start(keep, copy_context(), "batchrt slot lease", lambda: None)

    # Budget

    async def more_budget(self, spent: Amount) -> Amount | None:
        """Ask for more; return what may be spent from now on, or `None` if there is nothing left.

        Args:
            spent: by this worker in all.
        """
        limit = Amount(
            UNLIMITED if self._tokens is None else self._tokens,
            UNLIMITED if self._cost is None else self._cost,
        )
        with anyio.move_on_after(PATIENCE):
            while True:
                request = BudgetRequest(self._worker, limit, self._granted, spent, self._used, wants=True)
                try:
                    reply = await self._carrier.exchange_budget(f"budget of run {self._run}", request)
                except CarrierAwayError as error:
                    _log.warning("no budget can be leased now: %s", error)
                    await anyio.sleep(ROUND)
                    continue
                has_more, self._granted = reply.granted != self._granted, reply.granted
                self._used = reply.used
                if not reply.learning:
                    # The rest of earlier grants was too little for a request.
                    left = reply.granted.minus(spent)
                    return left if has_more and not left.is_empty else None
                await anyio.sleep(reply.learning)
        return None


class _SlotLease:
    """The slots of one worker, and until when it has them."""

    def __init__(self, carrier: RunCarrier, key: str, worker: str, cap: int) -> None:
        self._carrier = carrier
        self._key = key
        self._worker = worker
        self._cap = cap
        self._epoch = ""
        self._expires = -math.inf
        self.slots = 0

    async def renew(self, user: SlotUser) -> bool:
        """Exchange one message; return whether there is a lease."""
        sent, in_use = anyio.current_time(), user.slots_taken()
        request = LeaseRequest(
            worker=self._worker,
            epoch=self._epoch,
            in_flight=in_use,
            in_flight_wanted=min(self._cap, in_use + user.rows_left()),
            # Told each time: a coordinator that lost its state knows the cap with the first message.
            given={"max_in_flight": self._cap},
            answered=True,  # there is no server whose limits are unknown
        )
        reply = None
        with (
            suppress(CarrierAwayError),
            anyio.CancelScope(deadline=self._expires if self.slots else math.inf),
        ):
            reply = await self._carrier.exchange(self._key, request)
        if reply is not None:
            self._epoch, self._expires = reply.epoch, sent + reply.seconds
            self.slots = self._cap if reply.in_flight is None else reply.in_flight
            user.allow(self.slots)
        elif self.slots and anyio.current_time() >= self._expires:
            self.slots = 0
            user.allow(0)
        return reply is not None
