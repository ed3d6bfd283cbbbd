"""Admission control: permits wait until their requests may be sent, on any number of event loops.

A request is admitted when it fits all limits, no cool-down is in force, and the requests before it have been
admitted. Until then it waits without a slot in a FIFO queue; retries go first. Each event loop has one timer
that admits the next request when it is due, so that waiting requests neither poll nor have timers.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Final

import anyio

from batchrt.errors import AuthenticationError, ProviderError
from batchrt.limits.events import Admitted, Events, ProviderUp, Sent, TellingLock
from batchrt.limits.limiter import Limiter
from batchrt.limits.permit import Permit, Waiting
from batchrt.limits.retry_budget import RetryBudget, RetryQueue
from batchrt.limits.wait_queue import WaitQueue
from batchrt.runtime.blocked_loops import Blockades, all_blocked, blocked_error, is_blocking
from batchrt.runtime.event_loop import LoopHandle, Signal

if TYPE_CHECKING:
    from batchrt.limits.shared.carrier import Carrier
    from batchrt.limits.shared.lease_keeper import LeaseKeeper, Wiring
    from batchrt.runtime.strand import Strand

__all__ = ["AdmissionControl"]

_MOMENT: Final = 0.05
"""Seconds for which a request that may be sent waits for a slot of its run before the next may be sent."""


class AdmissionControl:
    """Admit requests one after the other, each when its limits allow; the base of `Quota`.

    Invariants, under the lock:

    - A permit is granted exactly while it is charged to the limits and counted as in flight, and it ends
      once: it is answered, failed, abandoned, or withdrawn before it was sent.
    - While permits wait, a timer on some open event loop is set for the time at which the head of the
      queue is due, unless a request in flight has to end first.
    - No listener is called, and no slot is waited for, while the lock is held.

    Args:
        burst_seconds: see `Quota`.
        retry_budget: see `Quota`.
        shared: see `Quota`.
        shared_name: see `Quota`.

    Attributes:
        events: announces events to listeners.
        retries: the retry budget, and the requests that wait for it.
    """

    def __init__(
        self,
        burst_seconds: float | None,
        retry_budget: RetryBudget | None,
        shared: str | Carrier | None = None,
        shared_name: str = "default",
    ) -> None:
        self.events: Events = Events()
        self.retries: RetryQueue = RetryQueue(retry_budget, self.events, self._is_idle)
        self._lock = TellingLock(self.events)
        self._queue = WaitQueue(self._on_alarm)
        self._process = os.getpid()
        self._keeper: LeaseKeeper | None = None
        if shared is None:
            self._limiter = Limiter(burst_seconds, self.events)
        else:
            self._limiter = self._share(burst_seconds, shared, shared_name)
        # No request is held back until this is reset; see `Limiter.is_clear`. Most providers tell no limit
        # and refuse nothing, and to ask each limit in turn costs as much as all the rest of an admission.
        self._clear = False
        self._under_way: set[Permit] = set()
        self._loops: dict[object, LoopHandle] = {}
        self._latest_loop: LoopHandle | None = None
        self._blocking: dict[Permit, Blockades] = {}
        self._requests = 0

    def _share(self, burst_seconds: float | None, shared: str | Carrier, name: str) -> Limiter:
        """Return a limiter with leases, and make their keeper."""
        from batchrt.limits.shared.carrier import carrier_of
        from batchrt.limits.shared.lease_keeper import LeaseKeeper
        from batchrt.limits.shared.shared_limiter import SharedLimiter

        limiter = SharedLimiter(name, burst_seconds, self.events)
        self._keeper = LeaseKeeper(carrier_of(shared), name, limiter, self._wiring())
        return limiter

    def _wiring(self) -> Wiring:
        from batchrt.limits.shared.lease_keeper import Wiring

        return Wiring(self._lock, self.events, self._waiting, self._lease_changed, self._lease_refused)

    def _waiting(self) -> Waiting:
        return self._queue.waiting(self._limiter.expect)

    def _lease_changed(self, pauses: bool, now: float) -> None:  # noqa: FBT001  a callback
        """Grant what a new lease allows, and reject what cannot wait for a cool-down that began."""
        if pauses:
            self._queue.reject(lambda permit: self._limiter.hopeless(permit, now))
        self._queue.wake_soon()

    def _lease_refused(self, why: str) -> None:
        """Reject all that wait for a first lease, which no wait will bring."""
        said = f"nothing was sent: {why}; see the quota's `shared`"
        self._queue.reject(lambda _: AuthenticationError(said))

    def admit_nowait(self, permit: Permit, strand: Strand) -> bool:
        """Admit `permit` if nothing holds requests back; `False` if it takes `admit` to find out.

        This is the way of nearly all requests, and keeps the same records.
        """
        run, limiter = strand.run, self._limiter
        if (
            not (self._clear and strand.has_slot)
            or permit.auto
            or run.loop is not self._latest_loop
            or run.process != self._process
            or self.events.listeners
        ):
            return False
        now = run.now()
        with self._lock.silent:
            if not self._clear or self._queue:
                return False
            now = limiter.tick(now)
            limiter.clock = run.clock
            permit.loop = run.loop
            self._under_way.add(permit)
            limiter.charge_freely(permit, now)
            self._requests += 1
        return True

    async def admit(self, permit: Permit, strand: Strand) -> None:
        """Wait until `permit` may be sent, and return with a slot for it; it counts as sent.

        Raises:
            RateLimitError: the provider asked for a longer wait than the permit allows.
            OutageError: the provider was down for longer than the permit's patience.
            AuthenticationError: the store of a shared quota refuses this process.
        """
        run = strand.run
        if self._process != run.process:
            self._reset_after_fork()
        if not strand.has_slot:
            await strand.take()
        self._limiter.clock = run.clock
        permit.asked_at = now = run.now()
        permit.loop = loop = run.loop
        assert loop is not None
        if loop is not self._latest_loop:
            self._add_loop(loop, now)
        waited = False
        while not self._try_admit(permit, now):
            waited = True
            with self._lock:
                reason = self._limiter.reason(permit, now)
            try:
                await self._wait(permit, strand, now)
            finally:
                strand.item.add_wait(reason, strand.run.now() - now)
            taken = await self._take_soon(permit, strand)
            now = strand.run.now()
            if taken and self._begin(permit, now):
                break
            # Another request can use the permit now; this one comes next, once it has a slot.
            self._withdraw(permit, now)
            permit.again = True
            await strand.take()
            now = strand.run.now()
        if self.events.listeners:
            if waited:
                self.events.tell(Admitted(now - permit.asked_at, permit.tokens))
            self.events.tell(Sent(self._limiter.in_flight, permit.tokens))

    def _add_loop(self, loop: LoopHandle, now: float) -> None:
        """Remember an event loop, and forget the requests that closed loops left in flight or waiting."""
        self._latest_loop = loop
        if loop.token in self._loops:
            return
        with self._lock:
            self._loops = {token: other for token, other in self._loops.items() if other.is_open()}
            self._loops[loop.token] = loop
            self._queue.drop_closed()
            for permit in list(self._under_way):
                if permit.loop is not None and not permit.loop.is_open():
                    self.abandoned(permit, now)

    async def _take_soon(self, permit: Permit, strand: Strand) -> bool:
        """Return whether a slot is free within a moment; meanwhile `permit` stays granted."""
        try:
            if strand.slots.free > 0:
                await strand.take()
            else:
                with anyio.move_on_after(_MOMENT):
                    await strand.take()
        except BaseException:
            self._withdraw(permit, strand.run.now())
            raise
        return strand.has_slot

    def _begin(self, permit: Permit, now: float) -> bool:
        """Record that `permit`, which has waited, is sent; `False` if a pause has begun meanwhile."""
        with self._lock:
            limiter = self._limiter
            if limiter.is_quiet(limiter.tick(now)):
                return False
            permit.sent_at = limiter.now
            self._requests += 1
            # The log of refusals keeps the permit as evidence, and must not keep the run with it.
            permit.run = permit.signal = None
            limiter.found.sent(permit)
            return True

    def _reset_after_fork(self) -> None:
        """Forget the requests of the parent process: they do not end here, and its lock may be held."""
        self._process = os.getpid()
        self._lock = TellingLock(self.events)
        self._queue = WaitQueue(self._on_alarm)
        self._clear = False
        self._under_way.clear()
        self._blocking.clear()
        self.retries.reset_after_fork()
        self._limiter.forget_in_flight()
        if self._keeper is not None:
            self._keeper.begin_anew(self._wiring())

    def _try_admit(self, permit: Permit, now: float) -> bool:
        """Admit `permit` at once if it fits all limits and no request is ahead of it."""
        with self._lock:
            limiter = self._limiter
            now = limiter.tick(now)
            limiter.expect(permit)
            if permit.auto and limiter.concurrency.auto is None:
                limiter.concurrency.begin_auto()
                self._clear = False
            parked = not self._clear and limiter.waits_for_provider(permit)
            ahead = self._queue.is_ahead(permit, parked=parked)
            if not ahead or (not self._clear and limiter.due(permit, now, wanted=False) > now):
                error = limiter.hopeless(permit, now)
                if error is not None:
                    raise error
                return False  # `_wait` looks after the lease, once the permit is in the queue
            self._clear = self._clear or limiter.is_clear(now)
            self._under_way.add(permit)
            limiter.charge(permit, now)
            self._requests += 1
            limiter.found.sent(permit)
            if self._keeper is not None:
                self._keeper.poke(permit.loop, now)
        return True

    async def _wait(self, permit: Permit, strand: Strand, now: float) -> None:
        """Wait in the queue, without a slot, until `permit` is granted."""
        permit.run = strand.run.outermost
        permit.signal = signal = Signal()
        permit.granted = permit.withdrawn = False
        loop, blockades, wake = strand.run.loop, strand.run.blockades, self._queue.wake_soon
        assert loop is not None
        for blockade in blockades:
            blockade.watch(wake)
        with self._lock:
            waiters = self._queue.waiters_on(loop, strand.run.offset)
            first = self._queue.join(permit, parked=self._limiter.waits_for_provider(permit))
            if blockades:
                self._blocking[permit] = blockades
            # A permit behind others need not look at the queue, unless it is the only one on its loop.
            if first or waiters.waiting == 1 or blockades:
                self._pump(self._limiter.tick(now))
            elif self._keeper is not None:
                self._keeper.poke(loop, now)
        strand.wait_throttled()
        try:
            if not permit.granted and permit.error is None:
                await signal.wait()
        except BaseException:
            self._withdraw(permit, strand.run.now())
            raise
        finally:
            strand.release()
            for blockade in blockades:
                blockade.unwatch(wake)
            with self._lock:
                self._queue.leave(waiters)
                self._blocking.pop(permit, None)
        if permit.error is not None:
            error, permit.error = permit.error, None
            raise error

    def _on_alarm(self, now: float) -> None:
        with self._lock:
            self._pump(self._limiter.tick(now))

    def _withdraw(self, permit: Permit, now: float) -> None:
        """Take a permit out of the queue, or give back its grant."""
        with self._lock:
            permit.withdrawn = True
            self._queue.note_withdrawn()
            now = self._limiter.tick(now)
            if permit.granted:
                self._clear = False
                self._under_way.discard(permit)
                self._limiter.undo(permit, now)
            self._pump(now)

    def _pump(self, now: float) -> None:
        """Grant all permits that are due, and set the alarm for the next."""
        limiter, due = self._limiter, math.inf
        while (permit := self._queue.head()) is not None:
            due = limiter.due(permit, now, wanted=True)
            if due > now:
                break
            self._grant(self._queue.pop(), now)
            due = math.inf
        limiter.next_due = due
        if limiter.breaker.since is not None:
            due = min(due, self._probe(limiter.breaker.since, now))
        if self._blocking and due == math.inf:
            due = self._release_blocking(now)
        self._queue.wake_at(due)
        if self._keeper is not None:
            self._keeper.poke(self._latest_loop, now)

    def _release_blocking(self, now: float) -> float:
        """Release permits that wait for requests on event loops which their own sync calls block.

        A permit that only waits behind others is granted: the others could not use their turn. Return when
        to look again, for permits that wait for nothing but time.
        """
        due = math.inf
        for permit, blockades in list(self._blocking.items()):
            loops = [other.loop for other in self._under_way]
            waits = not permit.granted and is_blocking(blockades)
            if not (waits and all_blocked(loops, self._blocking.values())):
                continue
            when = self._limiter.due(permit, now, wanted=False)
            if now < when < math.inf:
                due = min(due, when)
                continue
            del self._blocking[permit]
            self._queue.take_out(permit)
            if when <= now:
                self._grant(permit, now)
            else:
                permit.reject(blocked_error("the provider's quota"))
        return due

    def _grant(self, permit: Permit, now: float) -> None:
        self._under_way.add(permit)
        self._limiter.charge(permit, now)
        if permit.signal is not None:
            permit.signal.set()

    def _probe(self, since: float, now: float) -> float:
        """Grant a half-open probe, if one is due, to a provider that is down; return when to look again."""
        limiter, queue = self._limiter, self._queue
        patience = queue.least_patience()
        if patience is not None and now - since >= patience:
            queue.reject_parked(lambda permit: limiter.hopeless(permit, now))
        probe = queue.next_probe()
        due = math.inf if probe is None else limiter.due(probe, now, wanted=True)
        if due <= now:
            self._grant(queue.pop_probe(), now)
        patience = queue.least_patience()
        if patience is None or limiter.breaker.probe_at == math.inf:
            return math.inf  # a probe in flight ends the wait, and no permit is rejected before
        return min(due, since + patience)

    def abandoned(self, permit: Permit, now: float) -> None:
        """Record that a request was given up: it may be billed all the same."""
        with self._lock:
            now = self._limiter.tick(now)
            self._limiter.abandoned(permit)
            self._end(permit, now, answered=False)

    def _end(
        self, permit: Permit, now: float, *, answered: bool, failure: ProviderError | None = None
    ) -> None:
        limiter = self._limiter
        self._under_way.discard(permit)
        permit.granted = False
        permit.loop = None
        limiter.ended(permit, now, answered=answered)
        if answered:
            seconds = limiter.breaker.answered(permit.sent_at, now)
            if seconds is not None:
                self._queue.unpark()
                limiter.pacing.start_slowly(limiter.in_flight + len(self._queue))
                if self.events.listeners:
                    self.events.tell(ProviderUp(seconds))
        else:
            self._clear = False
            if failure is not None and limiter.breaker.failed(permit.sent_at, now):
                self._went_down(failure)
        if permit.probes and limiter.breaker.since is not None:
            limiter.breaker.probe_failed(now)
        if self._queue:
            self._pump(now)
        self.retries.relieve()

    def check_can_wait(self, blockades: Blockades) -> None:
        """Raise BlockedEventLoopError if no answer can come while a sync call waits for one.

        Args:
            blockades: the sync calls that the waiting strand works for.
        """
        if not is_blocking(blockades):
            return
        with self._lock:
            loops = [*(permit.loop for permit in self._under_way), *self._queue.loops()]
        if all_blocked(loops, [blockades]):
            raise blocked_error("the retry budget")

    def _is_idle(self) -> bool:
        with self._lock:
            return not self._limiter.in_flight and not self._queue

    def _went_down(self, error: ProviderError) -> None:
        self._clear = False
        self._queue.park()
        self._limiter.went_down(error)
