"""The limiter: every limit of one quota, and when the next request fits them all."""

from __future__ import annotations

import math
from typing import Final

from batchrt.errors import ConnectionFailedError, OutageError, ProviderError
from batchrt.limits.circuit_breaker import CircuitBreaker
from batchrt.limits.concurrency_limits import ConcurrencyLimits
from batchrt.limits.cooldown import longest_quiet
from batchrt.limits.error_kinds import Failure, FailureKind, reason, shorten
from batchrt.limits.events import CooledDown, Events, LimitChanged, ProviderDown
from batchrt.limits.found_limits import FoundLimits
from batchrt.limits.pacing import Pacing
from batchrt.limits.permit import Permit
from batchrt.limits.quota_statistics import LimitStatus, Source, limit_statuses
from batchrt.limits.rate_limits import KnownRateLimits
from batchrt.limits.refusal_log import UNKNOWN
from batchrt.limits.refusal_wave import Wave
from batchrt.limits.token_bucket import Unit
from batchrt.limits.token_estimator import TokenEstimator
from batchrt.messages import Usage
from batchrt.runtime.clock import Clock

__all__ = ["Limiter"]

_LATELY: Final = 60.0
"""Seconds for which an answer shows that the provider is up."""


class Limiter:
    """Decide when a request may be sent, and learn from its outcome.

    It knows neither event loops nor queues: the quota calls it with the time, under its lock. A request
    passes when it fits into all of the limits; in the order in which they are asked: requests in flight,
    the cool-down, the circuit breaker, the recovery after a refusal, limits found from refusals, token
    buckets of limits that are known, and the slow start where none is.

    Args:
        burst_seconds: see `Quota`.
        events: announces changes.

    Attributes:
        rates: token buckets of limits that were given or told.
        found: limits found from refusals.
        concurrency: limits of requests in flight.
        breaker: whether the provider is down.
        pacing: cool-down, recovery and slow start.
        tokens: estimates tokens.
        in_flight: requests in flight.
        now: the latest time that was seen.
        next_due: when the first in the queue is due; it may be let in a little late.
        reached: whether the provider has ever answered anything, if only with an error.
    """

    __slots__ = (
        "_answered_at",
        "_changes",
        "_events",
        "_last_failure",
        "breaker",
        "clock",
        "concurrency",
        "found",
        "in_flight",
        "next_due",
        "now",
        "pacing",
        "rates",
        "reached",
        "tokens",
    )

    def __init__(self, burst_seconds: float | None, events: Events) -> None:
        self.rates: KnownRateLimits = KnownRateLimits({}, burst_seconds, self._limit_changed)
        self.found: FoundLimits = FoundLimits(self._limit_changed, self._crowded, self._acquit, self._reopen)
        self.concurrency: ConcurrencyLimits = ConcurrencyLimits(self._limit_changed)
        self.breaker: CircuitBreaker = CircuitBreaker()
        self.pacing: Pacing = Pacing()
        self.tokens: TokenEstimator = TokenEstimator()
        self.clock: Clock = Clock()
        self.in_flight: int = 0
        self.now: float = 0.0
        self.next_due: float = math.inf
        self.reached: bool = False
        self._answered_at = -math.inf
        self._last_failure = ""
        self._events = events
        self._changes: dict[tuple[Source, str], tuple[float, str]] = {}

    def tick(self, now: float) -> float:
        """Return the time, which never goes back: loops with virtual time may be behind others."""
        self.now = max(self.now, now)
        return self.now

    # Whether a request fits

    def due(self, permit: Permit, now: float, *, wanted: bool) -> float:  # noqa: PLR0911  a list
        """Return when a request may be sent, as far as is known.

        `now` is at once, infinity when another has to end first. For `wanted` see `TokenBucket.advance`.
        """
        if (due := self.concurrency.due(permit, self.in_flight, now, self.found)) > now:
            return due
        pacing = self.pacing
        if pacing.cooldown.until > now:
            return pacing.cooldown.until
        if self.waits_for_provider(permit):
            # A half-open probe keeps to known limits, too.
            return max(self.breaker.probe_at, now + self.rates.wait_for(permit, now, wanted=wanted, late=0.0))
        if (due := self.found.pause_ends(now)) > now:
            return due
        if not self.found.is_on_trial and (due := pacing.recovery_due(self.in_flight, now)) > now:
            return due
        if (due := self.found.lets_in_at(permit, self.in_flight, now, wanted=wanted)) > now:
            return due
        late = min(now - self.next_due, 1.0) if self.next_due < now else 0.0
        wait = self.rates.wait_for(permit, now, wanted=wanted, late=late)
        if wait > 0:
            return now + wait
        return now if self.rates.paces else pacing.start_due(now)

    def is_clear(self, now: float) -> bool:
        """Whether nothing holds requests back, and nothing will before a failure or a limit is learned of.

        Until then `due` is at once for every request that does not run under `max_concurrency="auto"`.
        """
        return (
            self.breaker.since is None
            and not (self.rates.paces or self.rates.stale)
            and not self.concurrency.limited
            and self.pacing.is_over(now)
            and self.found.is_clear(now)
        )

    def is_quiet(self, now: float) -> bool:
        """Whether a refusal has begun a cool-down or a pause that is not over."""
        return self.pacing.cooldown.until > now or self.found.pause_ends(now) > now

    def waits_for_provider(self, permit: Permit) -> bool:
        """Whether a request waits for a provider that is down, instead of failing."""
        return self.breaker.since is not None and permit.patience > 0

    def reason(self, permit: Permit, now: float) -> str:
        """Return the limit that a request waits for, as far as is known when it begins to wait."""
        if self.pacing.cooldown.until > now:
            return "cool-down"
        if self.waits_for_provider(permit):
            return "outage"
        if self.concurrency.due(permit, self.in_flight, now, self.found) > now:
            return "max_in_flight" if not permit.auto else "max_concurrency"
        return self.rates.tightest(permit) or self.found.holds(self.in_flight) or "slow start"

    def hopeless(self, permit: Permit, now: float) -> ProviderError | None:
        """Return the error of a request that would have to wait for longer than it will, if it would."""
        too_long = self.pacing.cooldown.too_long(now, permit.longest_quiet, self.clock.wall)
        if too_long is not None:
            return too_long
        breaker, down = self.breaker, self.breaker.since
        if down is None or not 0 < permit.patience <= now - down:
            return None
        # A probe in flight may end the outage.
        if not breaker.is_recent(now) or breaker.probe_at == math.inf:
            return None
        last = f", the last: {self._last_failure}" if self._last_failure else ""
        return OutageError(
            f"the provider has been down for {now - down:.0f} s ({breaker.failures} requests in a "
            f"row without an answer{last}), and nothing was sent any more; try again when it is back",
            seconds=now - down,
        )

    def expect(self, permit: Permit) -> bool:
        """Estimate the tokens of a request; return whether the estimate is more than a guess."""
        tokens = self.tokens
        permit.input, permit.output = tokens.expect(permit.size, answers=permit.answers, most=permit.most)
        return permit.most is not None or not permit.answers or tokens.known

    def charge(self, permit: Permit, now: float) -> None:
        """Charge a request that may be sent to all limits."""
        self.pacing.sent(now)
        self.in_flight += 1
        permit.granted = True
        if self.waits_for_provider(permit):
            permit.probes = True
            self.breaker.probe_sent()
        else:
            permit.probes = False
        self.rates.charge(permit, now)
        self.found.granted(now)
        if self.concurrency.auto is not None:
            self.concurrency.auto.sent(self.in_flight, now)

    def charge_freely(self, permit: Permit, now: float) -> None:
        """Do as `charge`, and record that the request is sent, while `is_clear`."""
        permit.input, permit.output = self.tokens.expect(
            permit.size, answers=permit.answers, most=permit.most
        )
        self.in_flight += 1
        permit.granted = True
        self.rates.count(permit, now)
        self.found.granted(now)
        self.found.sent(permit)

    def undo(self, permit: Permit, now: float) -> None:
        """Give back the charge for a request that was not sent after all."""
        permit.granted = False
        self.in_flight -= 1
        self.rates.undo(permit)
        self.found.withdrawn()
        if permit.probes:
            self.breaker.probe_failed(now)

    def forget_in_flight(self) -> None:
        """Forget requests in flight, in a process that was forked: they do not end here."""
        self.in_flight = 0
        self.pacing.stop_slow_start()
        self.rates.forget_outstanding()

    # The outcome of a request

    def answered(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """Learn from an answer."""
        self.reached = True
        tokens = None if usage is None else float(usage.total_tokens)
        self.rates.settle(permit, tokens)
        output = permit.output if usage is None else float(usage.output_tokens)
        self.rates.answered(permit, now, output)
        self.found.answered(permit, now)
        if usage is not None:
            self.tokens.learn(permit.size, permit.answers, usage)
        if permit.told:
            self.rates.learn(permit.told, permit, now, cost=tokens)
        if self.concurrency.auto is not None and permit.auto:
            self.concurrency.auto.answered(permit.sent_at, now, output, permit.held)

    def answered_freely(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """Do as `answered` and `ended`, while `is_clear` and the answer tells no limits."""
        self.reached = True
        self._answered_at = now
        if usage is None:
            self.rates.count_settled(permit, None)
        else:
            self.rates.count_settled(permit, float(usage.total_tokens))
            self.tokens.learn(permit.size, permit.answers, usage)
        self.found.answered(permit, now)
        self.found.ended()
        self.in_flight -= 1

    def failed(self, permit: Permit, failure: Failure, now: float, unit: Unit | None) -> bool:
        """Learn from a failure; return whether it begins a cool-down or makes it longer.

        `unit` is that of the limit which was exceeded, if the reply says.
        """
        error, kind = failure.error, failure.kind
        self.reached = self.reached or error.status is not None
        never_sent = isinstance(error, ConnectionFailedError)
        self.rates.settle(permit, None if kind.billed else 0.0, request=not never_sent)
        if permit.told:
            refused = kind is FailureKind.RATE_LIMITED
            self.rates.learn(permit.told, permit, now, refused=refused)
        permit.verdict = UNKNOWN
        auto = self.concurrency.auto
        is_noise = failure.refused and self.found.is_certain
        if auto is not None and permit.auto and (kind.overloaded or kind.outage) and not is_noise:
            auto.failed()
        return kind.overloaded and self._refused(permit, failure, now, unit)

    def _refused(self, permit: Permit, failure: Failure, now: float, unit: Unit | None) -> bool:
        """Learn from a 429, or a 503 that says overloaded; return as `failed` does."""
        if not failure.refused:
            # It may be an outage, for the retry budget and the circuit breaker to handle.
            if permit.auto:
                most = self.in_flight - 1
                self._crowded(Wave(most, most, 0.0, 0.0, now, permit.sent_at))
            return False
        cooldown, found, parallel = self.pacing.cooldown, self.found, permit.parallel
        wait = min(failure.wait, longest_quiet(permit.longest_quiet))
        leads = cooldown.is_new(permit.sent_at, now)
        explained = failure.kind is FailureKind.RATE_LIMITED and self.rates.refuse(
            permit, now, wait, unit, told=bool(permit.told)
        )
        found.refused(permit, now, wait, leads=leads, parallel=parallel, explained=explained)
        if leads:
            wait = found.pause(now, wait, self.clock.random)
            self.pacing.refused(
                failure, self.in_flight, now, found, explained=explained or parallel, pause=wait
            )
        if failure.wait <= 0:
            if leads:
                self._announce_pause(wait, failure, named=False)
            return False
        if not cooldown.prolong(max(failure.wait, wait), failure.error, now, permit.longest_quiet):
            return False
        self._announce_pause(cooldown.left(now), failure, named=True)
        return True

    def _announce_pause(self, seconds: float, failure: Failure, *, named: bool) -> None:
        self._events.announce(CooledDown(seconds, reason(failure.error), named), self.now)

    def abandoned(self, permit: Permit) -> None:
        """Settle a request that was given up."""
        self.rates.settle(permit, None)
        permit.verdict = UNKNOWN

    def ended(self, permit: Permit, now: float, *, answered: bool) -> None:
        """Record that a request is no longer in flight."""
        self.in_flight -= 1
        self.found.ended()
        if answered:
            self._answered_at = now
        self.pacing.ended(permit.sent_at, self.in_flight, now, answered=answered)

    def went_down(self, error: ProviderError) -> None:
        """Announce an outage, of which `error` is the latest sign."""
        self._last_failure = shorten(str(error))
        down = ProviderDown(self.breaker.failures, reason(error), self._last_failure)
        self._events.announce(down, self.now)

    # State

    def serves(self, since: float, now: float) -> bool:
        """Whether the provider answered, or has let in, other requests since then."""
        return self._answered_at > since or self.found.log.has_let_in(now)

    def has_served(self, now: float) -> bool:
        """Whether the provider answered anything within the last minute."""
        return now - self._answered_at < _LATELY

    def given(self) -> dict[str, float]:
        """Return the limits that were set by hand, by name."""
        return _with_in_flight(self.rates.given(), self.concurrency.given)

    def limits(self) -> dict[str, float]:
        """Return the limits that apply, by name."""
        return _with_in_flight(self.rates.limits(), self.concurrency.given)

    def statuses(self, now: float) -> tuple[LimitStatus, ...]:
        """Return each limit with its source, time and reason."""
        rate, in_flight = self.found.rate.base, self.found.in_flight.limit
        found = {} if rate is None else {"requests_per_minute": 60 * rate}
        limits: dict[Source, dict[str, float]] = {
            "given": self.given(),
            "told": _with_in_flight(self.rates.told(), self.concurrency.told),
            "found": _with_in_flight(found, in_flight),
        }
        return tuple(limit_statuses(limits, self._changes, now))

    def _limit_changed(self, name: str, before: float | None, after: float | None, reason: str) -> None:
        source: Source = "given" if reason.endswith("by hand") else "found"
        if reason.endswith("by the provider"):
            source = "told"
        self._changes[source, name] = self.now, reason
        self._events.announce(LimitChanged(name, before, after, reason), self.now)

    def _crowded(self, wave: Wave) -> None:
        self.concurrency.crowded(wave)

    def _acquit(self, wait: float) -> None:
        self.concurrency.acquit()
        if wait <= 0:
            self.pacing.hurry(self.in_flight, self.now)

    def _reopen(self) -> None:
        self.pacing.reopen(self.in_flight)


def _with_in_flight(limits: dict[str, float], in_flight: int | None) -> dict[str, float]:
    return limits if in_flight is None else {**limits, "max_in_flight": in_flight}
