"""The lease keeper: exchanges lease messages while requests use the quota, and stops when none do."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from batchrt.limits.events import Events, SharedQuotaAway, SharedQuotaBack, TellingLock
from batchrt.limits.permit import Waiting
from batchrt.limits.quota_statistics import SharedQuotaStatus
from batchrt.limits.shared.carrier import Carrier, CarrierAwayError, CarrierRefusedError
from batchrt.runtime.clock import common_offset
from batchrt.runtime.event_loop import LoopHandle

if TYPE_CHECKING:
    from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest
    from batchrt.limits.shared.shared_limiter import SharedLimiter

__all__ = ["LeaseKeeper", "Wiring"]

_LOG: Final = logging.getLogger("batchrt")
_BETWEEN_LOOKS: Final = 0.05
"""Seconds for which no other look is taken at the requests that wait: each costs as much as they are many."""
_LONGEST_SLEEP: Final = 0.5
"""Seconds after which the keeper looks by itself."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """The parts of a quota that a lease keeper works on.

    Attributes:
        lock: guards the limiter and the queue.
        events: announces that the carrier is away, or back.
        waiting: returns the requests that wait; under the lock.
        changed: called under the lock after a reply, with whether it began a cool-down, and the time.
        refused: called under the lock with the reason why the store refuses this process, which has never
            had a lease.
    """

    lock: TellingLock
    events: Events
    waiting: Callable[[], Waiting]
    changed: Callable[[bool, float], object]
    refused: Callable[[str], object]


class LeaseKeeper:
    """Keep the leases of one worker.

    A task on the event loop that uses the quota exchanges the messages, one at a time. It ends when the
    quota is idle, and with its loop; the next request starts another one.

    Args:
        carrier: takes messages to the coordinator.
        key: the name of the quota.
        limiter: has the leases.
        wiring: the quota's parts.

    Attributes:
        carrier: as given.
        away: why the carrier cannot be reached; empty if it can.
        away_since: when that began.
    """

    def __init__(self, carrier: Carrier, key: str, limiter: SharedLimiter, wiring: Wiring) -> None:
        self.carrier: Carrier = carrier
        self.away: str = ""
        self.away_since: float = 0.0
        self._key = key
        self._limiter = limiter
        self._wiring = wiring
        self._loop: LoopHandle | None = None
        self._task: object = None
        self._changed: anyio.Event | None = None
        self._sleeps_until = math.inf
        self._looked_at = -math.inf

    def begin_anew(self, wiring: Wiring) -> None:
        """Forget the task of the parent process, in one that was forked."""
        LeaseKeeper.__init__(self, self.carrier, self._key, self._limiter, wiring)

    def tell_given(self, given: Mapping[str, float | None]) -> None:
        """Publish limits that were set by hand."""
        self._limiter.leases.tell_given(given)

    def tell_in_flight(self, limit: int) -> None:
        """Publish the limit of requests in flight that answers tell."""
        self._limiter.leases.told_in_flight = limit

    def status(self, now: float) -> SharedQuotaStatus:
        """Return this process's part in the quota."""
        leases = self._limiter.leases
        return SharedQuotaStatus(
            name=self._key,
            carrier=self.carrier.name,
            workers=leases.workers,
            lease_left=max(0.0, leases.expires - now),
            shares={name: rate.held for name, rate in leases.rates.items()},
            max_in_flight=leases.in_flight,
            messages=leases.messages,
            waits_for=self.away and f"{self.carrier.name} ({self.away})",
        )

    def poke(self, loop: LoopHandle | None, now: float) -> None:
        """Look whether a message is due; under the lock.

        Args:
            loop: an event loop that uses the quota.
            now: the time.
        """
        if self._loop is not None and self._loop.is_open():
            if self._changed is None or now < self._looked_at + _BETWEEN_LOOKS:
                return
            self._looked_at = now
            if self._next(now) < self._sleeps_until:
                self._sleeps_until = -math.inf
                self._loop.call(self._wake)
        elif loop is not None and self._next(now) < math.inf:
            self._loop = loop
            loop.call(self._start)

    def _next(self, now: float) -> float:
        limiter = self._limiter
        return limiter.leases.next_message(self._wiring.waiting(), limiter.in_flight, now)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def _start(self) -> None:
        assert self._loop is not None
        loop = self._loop
        self._task = loop.start(self._run, Context(), "batchrt lease keeper", lambda: self._ended(loop))

    def _ended(self, loop: LoopHandle) -> None:
        with self._wiring.lock:
            if self._loop is loop:
                self._loop = self._task = self._changed = None

    async def _run(self) -> None:
        offset = common_offset()
        while True:
            with self._wiring.lock:
                now = self._limiter.tick(anyio.current_time() + offset)
                due = self._next(now)
                if due == math.inf:
                    farewell = self._limiter.leases.leave(now)
                    self._loop = self._changed = None
                    break
                self._changed, self._sleeps_until = anyio.Event(), due
            if due > now:
                with anyio.move_on_after(min(due - now, _LONGEST_SLEEP)):
                    await self._changed.wait()
            else:
                await self._renew(offset)
        if farewell is not None:
            with contextlib.suppress(Exception):  # then the lease ends by itself
                await self.carrier.exchange(self._key, farewell)

    async def _renew(self, offset: float) -> None:
        wiring, limiter = self._wiring, self._limiter
        with wiring.lock:
            self._changed = None
            sent_at = limiter.tick(anyio.current_time() + offset)
            request = limiter.leases.request(wiring.waiting(), limiter.in_flight, sent_at)
        try:
            reply = await self.carrier.exchange(self._key, request)
        except CarrierAwayError as error:
            if isinstance(error, CarrierRefusedError) and not limiter.leases.messages:
                with wiring.lock:
                    wiring.refused(f"{self.carrier.name} refuses this process ({error})")
            else:
                self._note_away(str(error), sent_at)
            return
        except Exception as error:  # noqa: BLE001  a task of the loop's own must not raise
            if not self.away:
                _LOG.exception("the carrier of a shared quota, %s, failed", self.carrier.name)
            self._note_away(repr(error), sent_at)
            return
        with wiring.lock:
            now = limiter.tick(anyio.current_time() + offset)
            self._note_back(now)
            self._take_up(request, reply, sent_at, now)

    def _take_up(self, request: LeaseRequest, reply: LeaseReply, sent_at: float, now: float) -> None:
        self._limiter.leases.apply(request, reply, sent_at, now)
        self._wiring.changed(self._limiter.heard(reply, now), now)

    def _note_away(self, why: str, since: float) -> None:
        first = not self.away
        self.away = why
        if first:
            self.away_since = since
            left = max(0.0, self._limiter.leases.expires - since)
            _LOG.warning(
                "the shared quota '%s' cannot be reached by %s (%s): requests are sent for another %.1f s at "
                "the most, as this process's lease allows, and then wait until it is back",
                *(self._key, self.carrier.name, why, left),
            )
            if self._wiring.events.listeners:
                self._wiring.events.tell(SharedQuotaAway(self.carrier.name, why, left))

    def _note_back(self, now: float) -> None:
        if self.away:
            seconds, self.away = now - self.away_since, ""
            _LOG.warning("the shared quota '%s' can be reached again, after %.1f s", self._key, seconds)
            if self._wiring.events.listeners:
                self._wiring.events.tell(SharedQuotaBack(self.carrier.name, seconds))
