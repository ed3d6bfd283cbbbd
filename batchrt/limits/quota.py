"""What one endpoint allows one key for one model, and the queue of those who want to use it.

A request is let in when it fits into every limit that is known, when nobody asked to be left alone, and
when those who came before it are through. Who has to wait does so without a slot, in a queue, first come
first served; those who were sent before and failed go first. One alarm for each event loop lets the first
in when its time has come: nobody polls, and nobody who waits has a timer.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import anyio

from batchrt.errors import ConnectionFailedError, OutageError, ProviderError
from batchrt.limits.adaptive_concurrency import AdaptiveConcurrency
from batchrt.limits.circuit_breaker import CircuitBreaker
from batchrt.limits.cooldown import CoolDown, HalfOpen, Ramp, SlowStart, longest_quiet
from batchrt.limits.error_kinds import Failure, FailureKind, reason, shorten
from batchrt.limits.events import (
    BY_HAND,
    Admitted,
    CooledDown,
    Events,
    LimitChanged,
    Listener,
    ProviderDown,
    ProviderUp,
    Retried,
    Sent,
    TellingLock,
)
from batchrt.limits.found_limits import FoundLimits, Wave
from batchrt.limits.permit import Permit
from batchrt.limits.rate_limits import KnownRateLimits
from batchrt.limits.refusal_log import UNKNOWN
from batchrt.limits.retry_budget import RetryBudget
from batchrt.limits.retry_queue import RetryQueue
from batchrt.limits.token_bucket import Period, Unit
from batchrt.limits.token_estimator import TokenEstimator
from batchrt.limits.wait_queue import WaitQueue
from batchrt.messages import Usage
from batchrt.runtime.blocked_loops import Blockades, all_blocked, blocked_error, is_blocking
from batchrt.runtime.clock import Clock
from batchrt.runtime.event_loop import LoopHandle, Signal

if TYPE_CHECKING:
    from batchrt.runtime.strand import Strand

__all__ = ["LIMITS", "UNCHANGED", "LimitStatus", "Quota", "QuotaStatistics", "Unchanged", "check_limit"]

Unchanged: TypeAlias = Literal["unchanged"]
Source: TypeAlias = Literal["given", "told", "found"]
"""Stands for a limit that is not mentioned; `None` says that there is to be none."""
UNCHANGED: Final[Unchanged] = "unchanged"

LIMITS: Final[dict[str, tuple[Unit, Period]]] = {
    "requests_per_minute": ("requests", "minute"),
    "tokens_per_minute": ("tokens", "minute"),
    "requests_per_day": ("requests", "day"),
    "tokens_per_day": ("tokens", "day"),
}
"""The limits that can be given, by their names."""

_log: Final = logging.getLogger("batchrt")

_AT_ONCE: Final = 16
"""Requests that are sent at once to a provider about which nothing is known."""
_BARE_SHARE: Final = 4
_SEVERAL: Final = 4
_SECOND: Final = 1.0
_FIRST_ANSWERS: Final = 16
_LATELY: Final = 60.0
_MOMENT: Final = 0.05
"""Seconds for which a request that may be sent waits for a slot of its run before the next may be sent."""
_DOUBLING: Final = 0.025
"""How many requests are sent to a provider that has not answered yet, and the seconds in which that
doubles: who has a limit says so within a round trip, and need not be flooded to."""


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """Tell which limit holds, and why.

    Attributes:
        name: as in `QuotaStatistics.limits`.
        limit: how much is allowed in the limit's period; of `max_in_flight`, at once.
        source: `given` by hand, `told` by the provider's answers, or `found` from its refusals.
        since: seconds since it changed last; `None` if it never did.
        reason: why it changed.
    """

    name: str
    limit: float
    source: Source
    since: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class QuotaStatistics:
    """Tell how a quota stands.

    Attributes:
        in_flight: requests under way.
        waiting: requests that wait to be sent.
        limits: by name, of those that are known: how many are allowed in the limit's period, and as
            `max_in_flight` how many at once.
        used: by name, the share of the limit that is used up right now, 0 to 1.
        quiet_for: seconds for which nobody sends, since the provider asked to be left alone.
        max_concurrency: what `"auto"` has found; `None` where nobody asked for that.
        down_for: seconds for which there was no answer; `None` if there are answers.
        retry_tokens: what is left of the retry budget; `None` without one.
        requests: requests that were sent, since the quota was made; this and what follows are counters,
            for a monitoring system to scrape.
        answers: those that were answered with a success.
        tokens: tokens that answers said they were billed.
        refusals: those that were refused because there was too much for now.
        retries: those that were sent, or will be, in place of one that failed.
        sources: where each limit comes from, since when, and why; those that were found as well.
    """

    in_flight: int
    waiting: int
    limits: Mapping[str, float]
    used: Mapping[str, float]
    quiet_for: float
    max_concurrency: int | None
    down_for: float | None
    retry_tokens: float | None
    requests: int = 0
    answers: int = 0
    tokens: int = 0
    refusals: int = 0
    retries: int = 0
    sources: tuple[LimitStatus, ...] = ()


def check_limit(name: str, value: float | None) -> None:
    """Raise TypeError or ValueError for what cannot be the limit called `name`."""
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
    """Say how much may be sent to a provider, and see to it.

    Every model asks the quota of its endpoint, key and model name, which all clients, runs and threads of
    the process share that name the same. An own one may be given to a model (`ChatOpenAI(…, quota=…)`), or
    to several, which then share it. Safe to use from any event loop and thread.

    What the provider says in its answers (`x-ratelimit-…`) corrects what is known here, and is enough by
    itself: limits are given where it does not say, or where less is to be used than it allows. They belong
    to the quota, and so to all who share it, for as long as it lives: the latest word counts, whether a
    model's constructor or `set_limits` says it, and `None` lifts what was given.

    Args:
        requests_per_minute: requests that may be sent in a minute.
        tokens_per_minute: tokens, of prompts and answers together. What an answer will cost is expected
            from what others did, and settled when it is there.
        requests_per_day: likewise for a day.
        tokens_per_day: likewise for a day.
        max_in_flight: requests that may be under way at once.
        burst_seconds: how many seconds of a minute's limits may be used at once: 60 as OpenAI has it, 1 for
            a server that counts by seconds; a bucket of one request is the least. `None` finds it out:
            a second's worth at first, and then twice the rate until the provider says what it has.
        retry_budget: how many retries there may be; `None` for no bound.
        follow_headers: take in what answers say.

    Attributes:
        events: tells those who listen.
        follow_headers: whether answers are taken in.
        retries: pays for other attempts.

    Raises:
        ValueError, TypeError: for a limit that makes no sense.
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
        given = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "requests_per_day": requests_per_day,
            "tokens_per_day": tokens_per_day,
        }
        check_limit("burst_seconds", burst_seconds)
        self.events: Events = Events()
        self._changes: dict[tuple[Source, str], tuple[float, str]] = {}
        self._now = 0.0
        self.follow_headers = follow_headers
        self._lock = TellingLock(self.events)
        self._line = WaitQueue(self._look)
        self._process = os.getpid()
        self._max_in_flight: int | None = None
        self._allowance = KnownRateLimits({}, burst_seconds, self._tell_limit)
        self.set_limits(**given, max_in_flight=max_in_flight)
        self.retries: RetryQueue = RetryQueue(retry_budget, self.events, self._is_idle)
        self._costs = TokenEstimator()
        self._found = FoundLimits(self._tell_limit, self._crowded, self._reopen)
        self._told_in_flight: int | None = None
        self._downtime = CircuitBreaker()
        self._adaptive: AdaptiveConcurrency | None = None
        self._ramp: Ramp | None = None
        self._half_open: HalfOpen | None = None
        self._clock = Clock()
        self._in_flight = 0
        self._under_way: set[Permit] = set()
        self._loops: dict[object, LoopHandle] = {}
        self._blocking: dict[Permit, Blockades] = {}
        self._began = False
        self._start: SlowStart | None = None
        self._answered_at = -math.inf
        self._reached = False
        self._requests = self._answers = self._tokens = self._refusals = self._retried = 0
        self._last_failure = ""
        self._cooling = CoolDown()
        self._due = math.inf

    def __repr__(self) -> str:
        return f"Quota({', '.join(f'{name}={value:g}' for name, value in self._limits().items())})"

    def set_limits(
        self,
        *,
        requests_per_minute: float | Unchanged | None = UNCHANGED,
        tokens_per_minute: float | Unchanged | None = UNCHANGED,
        requests_per_day: float | Unchanged | None = UNCHANGED,
        tokens_per_day: float | Unchanged | None = UNCHANGED,
        max_in_flight: int | Unchanged | None = UNCHANGED,
    ) -> None:
        """Have other limits from now on, for all who share this; what is not mentioned stays as it is.

        `None` lifts a limit that was given. What the provider tells of its own limits is kept to all the
        same. Listeners are told (`LimitChanged`), and the log, where there was another limit before.

        Raises:
            ValueError, TypeError: for a limit that makes no sense; then nothing is changed.
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
            before = self._given_limits()
            if max_in_flight != UNCHANGED:
                self._set_max_in_flight(max_in_flight)
            self._allowance.set_limits({LIMITS[name]: given[name] for name in given if name in LIMITS})
            self._line.rouse()
        for name, value in given.items():
            if name in before and value != before[name]:
                said = f"{before[name]:g}", "none" if value is None else f"{value:g}"
                _log.info("%s of a quota that others may share was %s, and is %s now", name, *said)

    def _set_max_in_flight(self, most: int | None) -> None:
        before, self._max_in_flight = self._max_in_flight, most
        if before != most:
            reason = "lifted by hand" if most is None else BY_HAND
            self._tell_limit("max_in_flight", before, most, reason)

    def _given_limits(self) -> dict[str, float]:
        found = self._allowance.given()
        return found if self._max_in_flight is None else {**found, "max_in_flight": self._max_in_flight}

    def _limits(self) -> dict[str, float]:
        """Return the limits that hold, by name."""
        found = self._allowance.limits()
        return found if self._max_in_flight is None else {**found, "max_in_flight": self._max_in_flight}

    def listening(self, listener: Listener) -> AbstractContextManager[None]:
        """Have `listener` told of everything that happens here, within the block.

        It is called soon, on whatever thread it happens, and should be quick; no lock is held meanwhile.
        """
        return self.events.listening(listener)

    def statistics(self) -> QuotaStatistics:
        """Return how things stand; on an event loop as of now, elsewhere as of the last request."""
        with self._lock:
            now = max(self._now, self._line.now() or self._now)
            down = self._downtime.since
            return QuotaStatistics(
                in_flight=self._in_flight,
                waiting=len(self._line),
                limits=self._limits(),
                used=self._allowance.used(now),
                quiet_for=self._cooling.left(now),
                max_concurrency=None if self._adaptive is None else self._adaptive.limit,
                down_for=None if down is None else now - down,
                retry_tokens=self.retries.left,
                requests=self._requests,
                answers=self._answers,
                tokens=self._tokens,
                refusals=self._refusals,
                retries=self._retried,
                sources=tuple(self._sources(now)),
            )

    def _sources(self, now: float) -> Iterator[LimitStatus]:
        found = self._found
        given, told = self._allowance.given(), self._allowance.told()
        if self._max_in_flight is not None:
            given["max_in_flight"] = self._max_in_flight
        if self._told_in_flight is not None:
            told["max_in_flight"] = self._told_in_flight
        inferred: dict[str, float] = {}
        if found.rate.base is not None:
            inferred["requests_per_minute"] = 60 * found.rate.base
        if found.in_flight.limit is not None:
            inferred["max_in_flight"] = found.in_flight.limit
        sources: tuple[tuple[Source, dict[str, float]], ...] = (
            ("given", given),
            ("told", told),
            ("found", inferred),
        )
        for source, limits in sources:
            for name, limit in limits.items():
                at, why = self._changes.get((source, name), (None, ""))
                yield LimitStatus(name, limit, source, None if at is None else now - at, why)

    # In

    async def admit(self, permit: Permit, strand: Strand) -> None:
        """Wait until `permit` may be sent, and return with a slot for it; it counts as sent.

        Raises:
            RateLimitError: the provider asked to be left alone for longer than the permit will wait.
            OutageError: it was down for longer than the permit will wait.
        """
        if self._process != os.getpid():
            self._begin_anew()
        await strand.take()
        self._clock = strand.run.clock
        now = strand.run.now()
        loop = strand.run.loop
        assert loop is not None
        permit.loop, permit.run = loop, strand.run.outermost
        if loop.token not in self._loops:
            self._meet(loop, strand.run.now())
        permit.asked_at = now
        waited = False
        while not self._enter(permit, now):
            waited = True
            reason = self._reason(permit, now)
            try:
                await self._wait(permit, strand, now)
            finally:
                strand.item.add_wait(reason, strand.run.now() - now)
            taken = await self._take_soon(permit, strand)
            now = strand.run.now()
            if taken and self._begin(permit, now):
                break
            # The place is for a request that can use it; this one comes next, once it has a slot.
            self._withdraw(permit, now)
            permit.again = True
            await strand.take()
            now = strand.run.now()
        if self.events.listeners:
            if waited:
                self.events.tell(Admitted(now - permit.asked_at, permit.tokens))
            self.events.tell(Sent(self._in_flight, permit.tokens))

    def _reason(self, permit: Permit, now: float) -> str:
        """Return what `permit` waits for, as far as is known when it begins to wait."""
        with self._lock:
            if self._cooling.until > now:
                return "cool-down"
            if self._waits_for_provider(permit):
                return "outage"
            if self._crowded_until(permit, now) > now:
                return "max_in_flight" if not permit.auto else "max_concurrency"
            return self._allowance.tightest(permit) or self._found.holds(self._in_flight) or "slow start"

    def _meet(self, loop: LoopHandle, now: float) -> None:
        """Remember an event loop, and forget what those that have ended left under way or waiting."""
        with self._lock:
            self._loops = {token: other for token, other in self._loops.items() if other.is_open()}
            self._loops[loop.token] = loop
            self._line.drop_closed()
            for permit in list(self._under_way):
                if permit.loop is not None and not permit.loop.is_open():
                    self.abandoned(permit, now)

    async def _take_soon(self, permit: Permit, strand: Strand) -> bool:
        """Return whether a slot is there within a moment; meanwhile the place of `permit` is kept."""
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
            if self._cooling.until > self._tick(now):
                return False
            permit.sent_at = self._now
            self._requests += 1
            self._found.sent(permit)
            return True

    def _begin_anew(self) -> None:
        """Forget what is under way in the process that this one was forked from: it does not end here."""
        self._process = os.getpid()
        self._lock = TellingLock(self.events)
        self._line = WaitQueue(self._look)
        self._in_flight = 0
        self._under_way.clear()
        self._blocking.clear()
        self._ramp = None
        self.retries.begin_anew()
        self._allowance.forget_outstanding()

    def expect(self, permit: Permit) -> bool:
        """Note in `permit` what it is expected to cost; return whether that is more than a guess."""
        permit.input, permit.output = self._costs.expect(
            permit.size, answers=permit.answers, most=permit.most
        )
        return self._costs.known or permit.most is not None or not permit.answers

    def _enter(self, permit: Permit, now: float) -> bool:
        """Let `permit` in if there is nothing to wait for."""
        with self._lock:
            now = self._tick(now)
            self.expect(permit)
            if permit.auto and self._adaptive is None:
                self._adaptive = AdaptiveConcurrency(self._tell_concurrency)
            ahead = self._line.is_ahead(permit, parked=self._waits_for_provider(permit))
            if not ahead or self._obstacle(permit, now, wanted=False) > now:
                error = self._hopeless(permit, now)
                if error is not None:
                    raise error
                return False
            self._grant(permit, now)
            self._requests += 1
            self._found.sent(permit)
        return True

    def _tick(self, now: float) -> float:
        # Loops whose time is virtual may be behind what is known already.
        self._now = now = max(now, self._now)
        return now

    def _waits_for_provider(self, permit: Permit) -> bool:
        """Whether `permit` is one of those who wait for a provider that is down, instead of trying."""
        return self._downtime.since is not None and permit.patience > 0

    def _hopeless(self, permit: Permit, now: float) -> ProviderError | None:
        """Return why `permit` will not wait, if it will not."""
        too_long = self._cooling.too_long(now, permit.longest_quiet, self._clock.wall)
        if too_long is not None:
            return too_long
        down = self._downtime.since
        late = down is not None and permit.patience > 0 and now - down >= permit.patience
        # If somebody looks right now, that may be the end of it.
        if down is not None and late and self._downtime.is_known(now) and self._downtime.look_at < math.inf:
            return OutageError(
                f"the provider has been down for {now - down:.0f} s ({self._downtime.failures} requests in a "
                f"row without an answer{self._last_words()}), and nothing was sent any more; try again when "
                "it is back",
                seconds=now - down,
            )
        return None

    def _obstacle(self, permit: Permit, now: float, *, wanted: bool) -> float:  # noqa: PLR0911  a list
        """Return when `permit` may be sent as far as is known: `now` at once, infinity when others end."""
        if (due := self._crowded_until(permit, now)) > now:
            return due
        if self._cooling.until > now:
            return self._cooling.until
        if self._waits_for_provider(permit):
            return self._downtime.look_at
        if self._ramp is not None and not self._ramp.lets_in(self._in_flight):
            return math.inf
        if self._half_open is not None and (due := self._half_open.due(now)) > now:
            return due
        found = self._found.lets_in_at(permit, self._in_flight, now, wanted=wanted)
        if found > now:
            return found
        late = min(now - self._due, 1.0) if self._due < now else 0.0
        wait = self._allowance.wait_for(permit, now, wanted=wanted, late=late)
        if wait > 0:
            return now + wait
        return now if self._start is None or self._allowance.paces else self._start_due(self._start, now)

    def _crowded_until(self, permit: Permit, now: float) -> float:
        """Return when one more may be in flight: `now`, or infinity when another has to end."""
        for most in (self._max_in_flight, self._told_in_flight):
            if most is not None and self._in_flight >= most:
                return math.inf
        if not permit.auto or self._adaptive is None:
            return now
        limit = self._adaptive.limit
        if self._in_flight >= limit:
            self._adaptive.wanted = True
            return math.inf
        return max(now, self._found.apart(limit)) if self._in_flight == limit - 1 else now

    def _start_due(self, start: SlowStart, now: float) -> float:
        """Return when the next request may be sent where no limit is known yet."""
        if start.is_over(now):
            self._start = None
            return now
        return start.due(now)

    def _grant(self, permit: Permit, now: float) -> None:
        if not self._began:
            self._began, self._start = True, SlowStart(_AT_ONCE, now)
        if self._start is not None:
            self._start.sent()
        if self._half_open is not None:
            self._half_open.sent()
        self._in_flight += 1
        self._under_way.add(permit)
        permit.granted = True
        permit.looks = self._waits_for_provider(permit)
        if permit.looks:
            self._downtime.look()
        self._allowance.charge(permit, now)
        self._found.granted(now)
        if self._adaptive is not None:
            self._adaptive.sent(self._in_flight)

    async def _wait(self, permit: Permit, strand: Strand, now: float) -> None:
        """Wait in the queue until `permit` is granted; without a slot."""
        permit.signal = signal = Signal()
        permit.granted = permit.withdrawn = False
        loop, blockades, rouse = strand.run.loop, strand.run.blockades, self._line.rouse
        assert loop is not None
        for blockade in blockades:
            blockade.watch(rouse)
        with self._lock:
            desk = self._line.desk(loop, strand.run.offset)
            first = self._line.join(permit, parked=self._waits_for_provider(permit))
            if blockades:
                self._blocking[permit] = blockades
            # Behind others there is nothing to find out, unless nobody on this loop looks.
            if first or desk.waiting == 1 or blockades:
                self._pump(self._tick(now))
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
                blockade.unwatch(rouse)
            with self._lock:
                self._line.leave(desk)
                self._blocking.pop(permit, None)
        if permit.error is not None:
            error, permit.error = permit.error, None
            raise error

    def _look(self, now: float) -> None:
        with self._lock:
            self._pump(self._tick(now))

    def _withdraw(self, permit: Permit, now: float) -> None:
        """Take out of the queue what does not wait any more, or give back what was granted to it."""
        with self._lock:
            permit.withdrawn = True
            self._line.tidy()
            now = self._tick(now)
            if permit.granted:
                permit.granted = False
                self._in_flight -= 1
                self._under_way.discard(permit)
                self._allowance.undo(permit)
                self._found.withdrawn()
                if permit.looks:
                    self._downtime.looked(now)
            self._pump(now)

    def _pump(self, now: float) -> None:
        """Let in whoever may, and set the alarm for the next."""
        due = math.inf
        while (permit := self._line.head()) is not None:
            due = self._obstacle(permit, now, wanted=True)
            if due > now:
                break
            self._let_in(self._line.pop(), now)
            due = math.inf
        self._due = due
        if self._downtime.since is not None:
            due = min(due, self._let_look(self._downtime.since, now))
        if self._blocking and due == math.inf:
            due = self._let_blocking_go(now)
        self._line.look_at(due)

    def _let_blocking_go(self, now: float) -> float:
        """Let those go who wait for requests on event loops that their own sync calls keep from running.

        Who only waits behind others is let in: those who could not go on there have no use for their turn.
        Return when to look again, for those who wait for nothing but time.
        """
        due = math.inf
        for permit, blockades in list(self._blocking.items()):
            loops = [each.loop for each in self._under_way]
            waits = not permit.granted and is_blocking(blockades)
            if not (waits and all_blocked(loops, self._blocking.values())):
                continue
            when = self._obstacle(permit, now, wanted=False)
            if now < when < math.inf:
                due = min(due, when)
                continue
            del self._blocking[permit]
            self._line.take_out(permit)
            if when <= now:
                self._let_in(permit, now)
            else:
                permit.withdrawn, permit.error = True, blocked_error("the provider's quota")
                if permit.signal is not None:
                    permit.signal.set()
        return due

    def _let_in(self, permit: Permit, now: float) -> None:
        self._grant(permit, now)
        if permit.signal is not None:
            permit.signal.set()

    def _let_look(self, since: float, now: float) -> float:
        """Have one of those who wait for a provider that is down look; return when there is more to do."""
        patience = self._line.least_patience()
        if patience is not None and now - since >= patience:
            self._line.turn_away_parked(lambda permit: self._hopeless(permit, now))
        looker = self._line.looker()
        if looker is not None and self._obstacle(looker, now, wanted=True) <= now:
            self._let_in(self._line.pop_looker(), now)
        patience = self._line.least_patience()
        if patience is None or self._downtime.look_at == math.inf:
            return math.inf  # while one looks nobody is turned away, and its end is heard of
        return min(max(self._downtime.look_at, self._cooling.until), since + patience)

    # Out

    def answered(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """Note an answer, and what it cost."""
        with self._lock:
            now = self._tick(now)
            self._reached = True
            self._answers += 1
            self._tokens += 0 if usage is None else usage.total_tokens
            tokens = None if usage is None else float(usage.total_tokens)
            self._allowance.settle(permit, tokens)
            produced = permit.output if usage is None else float(usage.output_tokens)
            self._allowance.answered(permit, now, produced)
            self._found.answered(permit, now)
            if usage is not None:
                self._costs.learn(permit.size, permit.answers, usage)
            if permit.told:
                self._allowance.learn(permit.told, permit, now, cost=tokens)
            if self._adaptive is not None and permit.auto:
                self._adaptive.answered(permit.sent_at, now, produced)
            self.retries.repay()
            self._end(permit, now, answered=True)

    @property
    def may_be_parallel(self) -> bool:
        """Whether answers may tell how many requests may be in flight: the first ones do, if any does."""
        return self._answers < _FIRST_ANSWERS or self._told_in_flight is not None or self._refusals > 0

    def told_in_flight(self, limit: int) -> None:
        """Keep to a number of requests in flight that an answer tells."""
        with self._lock:
            before = self._told_in_flight
            if limit != before:
                self._told_in_flight = limit
                self._tell_limit("max_in_flight", before, limit, "told by the provider")

    def failed(self, permit: Permit, failure: Failure, now: float, *, unit: Unit | None = None) -> None:
        """Record that the request of `permit` failed.

        Args:
            permit: the request.
            failure: the error and its kind.
            now: the time.
            unit: the limit that was exceeded, if the reply says.
        """
        error, kind = failure.error, failure.kind
        with self._lock:
            now = self._tick(now)
            self._reached = self._reached or error.status is not None
            unheard = isinstance(error, ConnectionFailedError)
            cost = None if kind.billed else 0.0
            self._allowance.settle(permit, cost, request=not unheard)
            if permit.told:
                refused = kind is FailureKind.RATE_LIMITED
                self._allowance.learn(permit.told, permit, now, refused=refused)
            permit.verdict = UNKNOWN
            if kind.overloaded:
                self._refusals += 1
                self._refused(permit, failure, now, unit)
            elif self._adaptive is not None and permit.auto and kind.outage:
                self._adaptive.failed()
            answered = not kind.overloaded and not kind.outage
            # A wrong address is no outage: waiting does not help.
            down = kind.outage and not self.has_wrong_address(kind)
            self._end(permit, now, answered=answered, failure=error if down else None)

    def _refused(self, permit: Permit, failure: Failure, now: float, unit: Unit | None) -> None:
        """Draw the conclusions from a 429, or a 503 that says overloaded."""
        if self._adaptive is not None and permit.auto:
            self._adaptive.failed()
        if not failure.refused:
            # It may be the outage that it looks like: the budget and the breaker see to it.
            self._crowded(Wave(self._in_flight - 1, 0.0, now, permit.sent_at), permit)
            return
        error, asked, parallel = failure.error, failure.wait, permit.parallel
        wait = min(asked, longest_quiet(permit.longest_quiet))
        leads = self._cooling.is_new(permit.sent_at, now)
        explained = failure.kind is FailureKind.RATE_LIMITED and self._allowance.refuse(
            permit, now, wait, unit, told=bool(permit.told)
        )
        found = self._found
        found.refused(permit, now, wait, leads=leads, parallel=parallel, explained=explained)
        if leads:
            wait = found.pause(now, wait, self._clock.random)
            self._hold_back(failure, now, explained=explained or parallel)
        if asked > 0 and self._cooling.prolong(max(asked, wait), error, now, permit.longest_quiet):
            self._line.turn_away(lambda waiting: self._hopeless(waiting, now))
            self._tell_pause(self._cooling.left(now), error, named=True)
        elif asked <= 0 and leads:
            self._tell_pause(wait, error, named=False)

    def _hold_back(self, failure: Failure, now: float, *, explained: bool) -> None:
        """Begin anew with few requests after a refusal, unless it is known why it came."""
        self._ramp = self._half_open = None
        if explained or self._found.rate.bucket is not None:
            return
        wait = failure.wait
        if wait <= 0:
            self._ramp = Ramp(_BARE_SHARE * self._in_flight)
        elif failure.kind is not FailureKind.RATE_LIMITED:
            self._ramp = Ramp(self._in_flight)
        elif not self._found.is_certain:
            span = max(wait, _SECOND)
            enough = _BARE_SHARE * self._in_flight
            at_first = self._at_first(wait, span, now)
            self._half_open = HalfOpen(wait, enough, now + wait, at_first=at_first, span=span)

    def _at_first(self, wait: float, span: float, now: float) -> float:
        """Return how many requests may be sent in the first `span` seconds after a named wait."""
        # A bucket that was full at first, and emptied before anything was answered, shows nothing.
        let_in = self._found.log.let_in_within(span, now) if self._found.latency else 0.0
        if wait < span:
            return max(1.0, let_in / 2)
        return math.inf if let_in >= _SEVERAL else 1.0

    def _crowded(self, wave: Wave, permit: Permit | None = None) -> None:
        """Let "auto" send fewer: that so many were in flight may be the reason of a refusal."""
        if self._adaptive is not None and (permit is None or permit.auto):
            self._adaptive.rejected(wave.sent_at, wave.at, wave.beside, wave.wait)

    def _reopen(self) -> None:
        self._ramp = Ramp(_BARE_SHARE * self._in_flight)

    def _tell_pause(self, seconds: float, error: ProviderError, *, named: bool) -> None:
        self.events.announce(CooledDown(seconds, reason(error), named), self._now)

    def abandoned(self, permit: Permit, now: float) -> None:
        """Note that nobody waits for the answer any more: the request may be billed all the same."""
        with self._lock:
            now = self._tick(now)
            self._allowance.settle(permit, None)
            permit.verdict = UNKNOWN
            self._end(permit, now, answered=False)

    def _end(
        self,
        permit: Permit,
        now: float,
        *,
        answered: bool,
        failure: ProviderError | None = None,
    ) -> None:
        self._in_flight -= 1
        self._under_way.discard(permit)
        self._found.ended()
        permit.granted = False
        if self._half_open is not None and self._half_open.ended(permit.sent_at, answered=answered):
            self._half_open = None
        if answered:
            self._answered_at = now
            if self._start is not None:
                self._start.answered()
            if self._ramp is not None and self._ramp.answered():
                self._ramp = None
            seconds = self._downtime.answered(permit.sent_at, now)
            if seconds is not None:
                self._line.unpark()
                self._ramp = Ramp(self._in_flight + len(self._line))
                if self.events.listeners:
                    self.events.tell(ProviderUp(seconds))
        elif failure is not None and self._downtime.failed(permit.sent_at, now):
            self._went_down(failure)
        if permit.looks and self._downtime.since is not None:
            self._downtime.looked(now)
        if self._line:
            self._pump(now)
        self.retries.relieve()

    def check_can_wait(self, blockades: Blockades) -> None:
        """Raise BlockedEventLoopError if no answer can come while a sync call waits for one.

        Args:
            blockades: the calls that whoever would wait works for.
        """
        if not is_blocking(blockades):
            return
        with self._lock:
            loops = [*(permit.loop for permit in self._under_way), *self._line.loops()]
        if all_blocked(loops, [blockades]):
            raise blocked_error("the retry budget")

    def _is_idle(self) -> bool:
        with self._lock:
            return not self._in_flight and not self._line

    # Another attempt

    def serves(self, since: float, now: float) -> bool:
        """Whether the provider answered, or has let in, other requests since then."""
        return self._answered_at > since or self._found.log.has_let_in(now)

    def has_served(self, now: float) -> bool:
        """Whether the provider answered anything within the last minute."""
        return now - self._answered_at < _LATELY

    def is_down(self) -> bool:
        """Whether the provider gives no answers."""
        return self._downtime.since is not None

    def has_wrong_address(self, kind: FailureKind) -> bool:
        """Whether `kind` blames the address, and no request was ever answered there: waiting is no use."""
        return kind.wrong_address and not self._reached

    def silent_since(self, moment: float) -> bool:
        """Whether it has not answered anybody since then."""
        return self._downtime.answered_at < moment

    def report_down(self, error: ProviderError, now: float) -> None:
        """Have the provider count as down: all attempts of a request failed, and nobody else was answered."""
        with self._lock:
            if self._downtime.begin(self._tick(now)):
                self._went_down(error)

    def _went_down(self, error: ProviderError) -> None:
        self._last_failure = shorten(str(error))
        self._line.park()
        down = ProviderDown(self._downtime.failures, reason(error), self._last_failure)
        self.events.announce(down, self._now)

    def _last_words(self) -> str:
        return f", the last: {self._last_failure}" if self._last_failure else ""

    def tell_retry(self, error: ProviderError, wait: float, attempt: int) -> None:
        """Count another attempt that there will be, and tell those who listen."""
        with self._lock:
            self._retried += 1
        if self.events.listeners:
            left = self._cooling.left(self._now)
            self.events.tell(Retried(reason(error), max(wait, left), attempt))

    # What listeners are told

    def _tell_limit(self, name: str, before: float | None, after: float | None, reason: str) -> None:
        source: Source = "given" if reason.endswith("by hand") else "found"
        if reason.endswith("by the provider"):
            source = "told"
        self._changes[source, name] = self._now, reason
        self.events.announce(LimitChanged(name, before, after, reason), self._now)

    def _tell_concurrency(self, before: float, after: float, reason: str) -> None:
        self._tell_limit("max_concurrency", before, after, reason)
