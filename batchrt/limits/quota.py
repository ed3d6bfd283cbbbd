"""The quota: how much one endpoint allows one key for one model, and the admission of requests to it.

A request is admitted when it fits all limits, no cool-down is in force, and the requests before it have been
admitted. Until then it waits without a slot in a FIFO queue; retries go first. Each event loop has one timer
that admits the next request when it is due, so that waiting requests neither poll nor have timers.
"""

from __future__ import annotations

import logging
import math
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import anyio

from batchrt.errors import ProviderError
from batchrt.limits.error_kinds import Failure, FailureKind, reason
from batchrt.limits.events import Admitted, Events, Listener, ProviderUp, Retried, Sent, TellingLock
from batchrt.limits.limiter import Limiter
from batchrt.limits.permit import Permit
from batchrt.limits.quota_statistics import QuotaStatistics
from batchrt.limits.retry_budget import RetryBudget, RetryQueue
from batchrt.limits.token_bucket import Period, Unit
from batchrt.limits.wait_queue import WaitQueue
from batchrt.messages import Usage
from batchrt.runtime.blocked_loops import Blockades, all_blocked, blocked_error, is_blocking
from batchrt.runtime.event_loop import LoopHandle, Signal

if TYPE_CHECKING:
    from batchrt.runtime.run import Strand

__all__ = ["LIMITS", "UNCHANGED", "Quota", "Unchanged", "check_limit"]

Unchanged: TypeAlias = Literal["unchanged"]
UNCHANGED: Final[Unchanged] = "unchanged"
"""Stands for a limit that is left as it is; `None` lifts a limit."""

LIMITS: Final[dict[str, tuple[Unit, Period]]] = {
    "requests_per_minute": ("requests", "minute"),
    "tokens_per_minute": ("tokens", "minute"),
    "requests_per_day": ("requests", "day"),
    "tokens_per_day": ("tokens", "day"),
}
"""The rate limits that can be given, by their names."""

_log: Final = logging.getLogger("batchrt")

_FIRST_ANSWERS: Final = 16
"""Answers after which headers about requests in flight are not looked for, if none came."""
_MOMENT: Final = 0.05
"""Seconds for which a request that may be sent waits for a slot of its run before the next may be sent."""


def check_limit(name: str, value: float | None) -> None:
    """Raise TypeError or ValueError for a value that cannot be the limit called `name`."""
    if value is None:
        return
    whole = name == "max_in_flight"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise TypeError(
            f"{name} must be a {'positive integer' if whole else 'number'} or None, not {value!r}"
        )
    if not 0 < value < math.inf:
        least = "at least 1" if whole else "more than 0"
        raise ValueError(f"{name} must be {least}, or None for no limit, not {value}")


class Quota:
    """Admit requests to a provider within its limits.

    Every model uses the quota of its endpoint, key and model name, which is shared by all clients, runs and
    threads of the process. A model may be given a quota of its own (`ChatOpenAI(…, quota=…)`), and several
    models may share one. Safe to use from any event loop and thread.

    The provider's rate limit headers (`x-ratelimit-…`) correct the limits that are known here, and suffice
    by themselves: give limits where a provider sends no headers, or to use less than it allows. Limits
    belong to the quota, and so to all models that share it: the latest value counts, from a model's
    constructor or from `set_limits`, and `None` lifts a limit.

    Invariants, under the quota's lock:

    - A permit is granted exactly while it is charged to the limits and counted as in flight, and it ends
      once: in `answered`, `failed`, `abandoned`, or withdrawn before it was sent.
    - While permits wait, a timer on some open event loop is set for the time at which the head of the
      queue is due, unless a request in flight has to end first.
    - No listener is called, and no slot is waited for, while the lock is held.

    The prior art is the token bucket, AIMD and CUBIC for limits that are found, the circuit breaker with
    half-open probes, and AWS's retry token bucket.

    Args:
        requests_per_minute: requests that may be sent in a minute.
        tokens_per_minute: tokens of prompts and answers together. An answer's tokens are estimated from
            earlier answers, and settled when it arrives.
        requests_per_day: likewise for a day.
        tokens_per_day: likewise for a day.
        max_in_flight: requests that may be in flight at once.
        burst_seconds: how many seconds of a minute's limits may be used at once: 60 as OpenAI has it, 1 for
            a server that counts by seconds; a bucket holds at least one request. `None` finds it out: a
            second's worth at first, and then twice the rate until the provider tells the bucket's size.
        retry_budget: bounds the number of retries; `None` for no bound.
        follow_headers: use the rate limit headers of answers.

    Attributes:
        events: announces events to listeners.
        follow_headers: whether rate limit headers are used.
        retries: the retry budget, and the requests that wait for it.

    Raises:
        ValueError, TypeError: for an invalid limit.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        requests_per_day: float | None = None,
        tokens_per_day: float | None = None,
        max_in_flight: int | None = None,
        burst_seconds: float | None = None,
        retry_budget: RetryBudget | None = RetryBudget(),  # noqa: B008  it is immutable
        follow_headers: bool = True,
    ) -> None:
        check_limit("burst_seconds", burst_seconds)
        self.events: Events = Events()
        self.follow_headers = follow_headers
        self._lock = TellingLock(self.events)
        self._queue = WaitQueue(self._on_alarm)
        self._process = os.getpid()
        self._limiter = Limiter(burst_seconds, self.events)
        self.set_limits(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            requests_per_day=requests_per_day,
            tokens_per_day=tokens_per_day,
            max_in_flight=max_in_flight,
        )
        self.retries: RetryQueue = RetryQueue(retry_budget, self.events, self._is_idle)
        self._under_way: set[Permit] = set()
        self._loops: dict[object, LoopHandle] = {}
        self._blocking: dict[Permit, Blockades] = {}
        self._requests = self._answers = self._tokens = self._refusals = self._retried = 0

    def __repr__(self) -> str:
        limits = self._limiter.limits().items()
        return f"Quota({', '.join(f'{name}={value:g}' for name, value in limits)})"

    def set_limits(
        self,
        *,
        requests_per_minute: float | Unchanged | None = UNCHANGED,
        tokens_per_minute: float | Unchanged | None = UNCHANGED,
        requests_per_day: float | Unchanged | None = UNCHANGED,
        tokens_per_day: float | Unchanged | None = UNCHANGED,
        max_in_flight: int | Unchanged | None = UNCHANGED,
    ) -> None:
        """Replace limits from now on, for all models that share this quota; others stay as they are.

        `None` lifts a limit. Limits that the provider tells apply all the same. A change is announced to
        listeners (`LimitChanged`), and logged where there was another limit before.

        Raises:
            ValueError, TypeError: for an invalid limit; then nothing is changed.
        """
        given = {
            name: value
            for name, value in (
                ("requests_per_minute", requests_per_minute),
                ("tokens_per_minute", tokens_per_minute),
                ("requests_per_day", requests_per_day),
                ("tokens_per_day", tokens_per_day),
                ("max_in_flight", max_in_flight),
            )
            if value != UNCHANGED
        }
        for name, value in given.items():
            check_limit(name, value)
        with self._lock:
            before = self._limiter.given()
            if max_in_flight != UNCHANGED:
                self._limiter.concurrency.set_given(max_in_flight)
            self._limiter.rates.set_limits({LIMITS[name]: given[name] for name in given if name in LIMITS})
            self._queue.wake_soon()
        for name, value in given.items():
            if name in before and value != before[name]:
                said = f"{before[name]:g}", "none" if value is None else f"{value:g}"
                _log.info("%s of a quota that others may share was %s, and is %s now", name, *said)

    def listening(self, listener: Listener) -> AbstractContextManager[None]:
        """Call `listener` for each event within the block.

        It is called soon, on the thread on which the event happens, and should be quick; no lock is held.
        """
        return self.events.listening(listener)

    def statistics(self) -> QuotaStatistics:
        """Return the state; on an event loop as of now, elsewhere as of the last request."""
        with self._lock:
            limiter = self._limiter
            now = max(limiter.now, self._queue.now() or limiter.now)
            down, auto = limiter.breaker.since, limiter.concurrency.auto
            return QuotaStatistics(
                in_flight=limiter.in_flight,
                waiting=len(self._queue),
                limits=limiter.limits(),
                used=limiter.rates.used(now),
                quiet_for=limiter.pacing.cooldown.left(now),
                max_concurrency=None if auto is None else auto.limit,
                down_for=None if down is None else now - down,
                retry_tokens=self.retries.left,
                requests=self._requests,
                answers=self._answers,
                tokens=self._tokens,
                refusals=self._refusals,
                retries=self._retried,
                sources=limiter.statuses(now),
            )

    # Admission

    async def admit(self, permit: Permit, strand: Strand) -> None:
        """Wait until `permit` may be sent, and return with a slot for it; it counts as sent.

        Raises:
            RateLimitError: the provider asked for a longer wait than the permit allows.
            OutageError: the provider was down for longer than the permit's patience.
        """
        if self._process != os.getpid():
            self._reset_after_fork()
        await strand.take()
        self._limiter.clock = strand.run.clock
        now = strand.run.now()
        loop = strand.run.loop
        assert loop is not None
        permit.loop, permit.run = loop, strand.run.outermost
        if loop.token not in self._loops:
            self._add_loop(loop, strand.run.now())
        permit.asked_at = now
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
        """Record that `permit`, which has waited, is sent; `False` if a cool-down has begun meanwhile."""
        with self._lock:
            limiter = self._limiter
            if limiter.pacing.cooldown.until > limiter.tick(now):
                return False
            permit.sent_at = limiter.now
            self._requests += 1
            limiter.found.sent(permit)
            return True

    def _reset_after_fork(self) -> None:
        """Forget the requests of the parent process: they do not end here, and its lock may be held."""
        self._process = os.getpid()
        self._lock = TellingLock(self.events)
        self._queue = WaitQueue(self._on_alarm)
        self._under_way.clear()
        self._blocking.clear()
        self.retries.reset_after_fork()
        self._limiter.forget_in_flight()

    def expect(self, permit: Permit) -> bool:
        """Estimate the tokens of `permit`; return whether the estimate is more than a guess."""
        return self._limiter.expect(permit)

    def _try_admit(self, permit: Permit, now: float) -> bool:
        """Admit `permit` at once if it fits all limits and no request is ahead of it."""
        with self._lock:
            limiter = self._limiter
            now = limiter.tick(now)
            limiter.expect(permit)
            if permit.auto and limiter.concurrency.auto is None:
                limiter.concurrency.begin_auto()
            ahead = self._queue.is_ahead(permit, parked=limiter.waits_for_provider(permit))
            if not ahead or limiter.due(permit, now, wanted=False) > now:
                error = limiter.hopeless(permit, now)
                if error is not None:
                    raise error
                return False
            self._under_way.add(permit)
            limiter.charge(permit, now)
            self._requests += 1
            limiter.found.sent(permit)
        return True

    async def _wait(self, permit: Permit, strand: Strand, now: float) -> None:
        """Wait in the queue, without a slot, until `permit` is granted."""
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
        """Take a permit out of the queue, or give back what was granted to it."""
        with self._lock:
            permit.withdrawn = True
            self._queue.note_withdrawn()
            now = self._limiter.tick(now)
            if permit.granted:
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
        if probe is not None and limiter.due(probe, now, wanted=True) <= now:
            self._grant(queue.pop_probe(), now)
        patience = queue.least_patience()
        if patience is None or limiter.breaker.probe_at == math.inf:
            return math.inf  # a probe in flight ends the wait, and no permit is rejected before
        return min(max(limiter.breaker.probe_at, limiter.pacing.cooldown.until), since + patience)

    # The end of a request

    def answered(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """Record an answer, and its usage."""
        with self._lock:
            now = self._limiter.tick(now)
            self._answers += 1
            self._tokens += 0 if usage is None else usage.total_tokens
            self._limiter.answered(permit, usage, now)
            self.retries.repay()
            self._end(permit, now, answered=True)

    @property
    def may_be_parallel(self) -> bool:
        """Whether to look in answers for a limit of requests in flight: the first ones have it, if any."""
        told = self._limiter.concurrency.told
        return self._answers < _FIRST_ANSWERS or told is not None or self._refusals > 0

    def told_in_flight(self, limit: int) -> None:
        """Keep to a limit of requests in flight that an answer tells."""
        with self._lock:
            self._limiter.concurrency.set_told(limit)

    def failed(self, permit: Permit, failure: Failure, now: float, *, unit: Unit | None = None) -> None:
        """Record that the request of `permit` failed.

        Args:
            permit: the request.
            failure: the error and its kind.
            now: the time.
            unit: the limit that was exceeded, if the reply says.
        """
        kind, limiter = failure.kind, self._limiter
        with self._lock:
            now = limiter.tick(now)
            self._refusals += kind.overloaded
            if limiter.failed(permit, failure, now, unit):
                self._queue.reject(lambda waiting: limiter.hopeless(waiting, now))
            answered = not kind.overloaded and not kind.outage
            # A wrong address is no outage: waiting does not help.
            down = kind.outage and not self.has_wrong_address(kind)
            self._end(permit, now, answered=answered, failure=failure.error if down else None)

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
        limiter.ended(permit, now, answered=answered)
        if answered:
            seconds = limiter.breaker.answered(permit.sent_at, now)
            if seconds is not None:
                self._queue.unpark()
                limiter.pacing.ramp_up(limiter.in_flight + len(self._queue))
                if self.events.listeners:
                    self.events.tell(ProviderUp(seconds))
        elif failure is not None and limiter.breaker.failed(permit.sent_at, now):
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

    # Retries

    def serves(self, since: float, now: float) -> bool:
        """Whether the provider answered, or has let in, other requests since then."""
        return self._limiter.serves(since, now)

    def has_served(self, now: float) -> bool:
        """Whether the provider answered anything within the last minute."""
        return self._limiter.has_served(now)

    def is_down(self) -> bool:
        """Whether the provider is down."""
        return self._limiter.breaker.since is not None

    def has_wrong_address(self, kind: FailureKind) -> bool:
        """Whether `kind` blames the address, and no request was ever answered there: waiting is no use."""
        return kind.wrong_address and not self._limiter.reached

    def silent_since(self, moment: float) -> bool:
        """Whether the provider has answered no request that was sent since then."""
        return self._limiter.breaker.answered_at < moment

    def report_down(self, error: ProviderError, now: float) -> None:
        """Declare the provider down: all attempts of a request failed, and no other was answered."""
        with self._lock:
            if self._limiter.breaker.open(self._limiter.tick(now)):
                self._went_down(error)

    def _went_down(self, error: ProviderError) -> None:
        self._queue.park()
        self._limiter.went_down(error)

    def tell_retry(self, error: ProviderError, wait: float, attempt: int) -> None:
        """Count a retry that will be made, and announce it."""
        with self._lock:
            self._retried += 1
        if self.events.listeners:
            left = self._limiter.pacing.cooldown.left(self._limiter.now)
            self.events.tell(Retried(reason(error), max(wait, left), attempt))
