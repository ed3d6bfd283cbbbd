"""The limiter of a shared quota: all limits of one process, and its leases on those of all processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Final

from batchrt.errors import RateLimitError
from batchrt.limits.error_kinds import Failure, FailureKind, reason
from batchrt.limits.events import CooledDown, Events
from batchrt.limits.limiter import Limiter
from batchrt.limits.permit import Permit, RequestAccount
from batchrt.limits.rate_limits import KnownRateLimits, RateLimitStatus
from batchrt.limits.shared.lease_messages import LeaseReply, TellsLimit, unit_of
from batchrt.limits.shared.leases import Leases
from batchrt.limits.token_bucket import SECONDS, Unit, limit_name
from batchrt.messages import Usage

__all__ = ["SHARED", "SharedLimiter"]

_LOG: Final = logging.getLogger("batchrt")

SHARED: Final = "shared quota"
"""The reason for which requests wait while they have no lease."""
_NEWS: Final = 0.05
"""Seconds by which a cool-down that another worker has seen must be longer than one that is known."""


class _LeasedRateLimits(KnownRateLimits):
    """Hold requests within leased rate limits, and keep those that answers tell.

    A bucket of this process restrains no request once its limit is leased, since it does not see the
    requests of other processes.

    Args:
        burst_seconds: see `Quota`.
        limiter: the limiter that this belongs to.
    """

    def __init__(self, burst_seconds: float | None, limiter: SharedLimiter) -> None:
        self._limiter = limiter
        self._leases = limiter.leases
        super().__init__({}, burst_seconds, limiter.limit_changed)

    @property
    def paces(self) -> bool:
        """Whether any limit is known."""
        return bool(self.limited or self._leases.rates)

    def limits(self) -> dict[str, float]:
        """Return the known limits, by name: the lowest of given, told and leased ones."""
        found = super().limits()
        for name, rate in self._leases.rates.items():
            limit = rate.rate * SECONDS["day" if name.endswith("day") else "minute"]
            found[name] = min(found.get(name, math.inf), limit)
        return found

    def collect(self) -> None:
        """Choose the buckets that restrain requests: those of limits that are not leased."""
        self._collect()

    def _collect(self) -> None:
        leased = self._leases.rates
        self.limited = [limit for name, limit in self._likely() if name not in leased]

    def _amounts(self, account: RequestAccount) -> dict[str, float]:
        """Return the amount that a request takes of each leased limit."""
        tokens = account.input + (account.output if account.most is None else account.most)
        amounts = {name: 1.0 if unit_of(name) == "requests" else tokens for name in self._leases.rates}
        for name, limit in self._likely():
            if name in amounts:
                amounts[name] = limit.amount(account)
        return amounts

    def wait_for(self, account: RequestAccount, now: float, *, wanted: bool, late: float) -> float:
        """Return the seconds until a request fits; infinity if others have to end, or more be leased."""
        wait = super().wait_for(account, now, wanted=wanted, late=late)
        return max(wait, self._leases.wait_for(self._amounts(account), now))

    def tightest(self, account: RequestAccount) -> str | None:
        """Return the name of the limit that a request waits for longest."""
        if self._leases.wait_for(self._amounts(account), self._limiter.now) > 0:
            return SHARED
        return super().tightest(account)

    def charge(self, account: RequestAccount, now: float) -> None:
        """Charge a request that is sent."""
        super().charge(account, now)
        self._leases.charge(self._amounts(account), account.tokens, now)

    def settle(self, account: RequestAccount, tokens: float | None, *, request: bool = True) -> None:
        """Replace the expected tokens of a request by those that it had; see `KnownRateLimits`."""
        super().settle(account, tokens, request=request)
        for name, amount in self._amounts(account).items():
            if unit_of(name) == "requests":
                more = 0.0 if request else -1.0
            else:
                more = 0.0 if tokens is None else tokens - amount
            # A provider that is told no bound charges answers when they are made. What was expected too much
            # never left its bucket, whose refill since then may have been lost.
            sent_at = account.sent_at if account.most is None else self._limiter.now
            self._leases.settle(name, more, sent_at, self._limiter.now)

    def learn(
        self,
        limits_told: Sequence[RateLimitStatus],
        account: RequestAccount,
        now: float,
        *,
        cost: float | None = None,
        refused: bool = False,
    ) -> None:
        """Learn from the limits that an answer tells, and publish them."""
        super().learn(limits_told, account, now, cost=cost, refused=refused)
        for status in limits_told:
            period = self._period(status)
            ways = self._told.get((status.unit, period))
            if ways is not None and ways[0].newest == account.sent_at:
                bucket = ways[0].bucket
                told = TellsLimit(bucket.rate, bucket.capacity, status.remaining, 0.0)
                self._leases.tell_limit(limit_name(status.unit, period), told, account.sent_at)


class SharedLimiter(Limiter):
    """Decide when a request may be sent, by the limits of this process and its leases on shared ones.

    Args:
        name: the quota's.
        burst_seconds: see `Quota`.
        events: announces changes.

    Attributes:
        leases: this worker's shares.
    """

    __slots__ = ("_has_warned", "_leased", "_name", "leases")

    def __init__(self, name: str, burst_seconds: float | None, events: Events) -> None:
        super().__init__(burst_seconds, events)
        self._name = name
        self._has_warned = False
        self.leases: Leases = Leases(burst_seconds)
        self._leased = _LeasedRateLimits(burst_seconds, self)
        self.rates: KnownRateLimits = self._leased

    def due(self, permit: Permit, now: float, *, wanted: bool) -> float:
        """Return when a request may be sent; see `Limiter`. Infinity if a message has to come first."""
        if not self.leases.lets_in(self.in_flight, now):
            return math.inf
        self.expect(permit)  # what was expected when it began to wait may be wrong by now
        due = super().due(permit, now, wanted=wanted)
        return due if due < self.leases.expires else math.inf

    def is_clear(self, now: float) -> bool:  # noqa: ARG002  as in the base class
        """Return `False`: every request needs a lease."""
        return False

    def reason(self, permit: Permit, now: float) -> str:
        """Return the limit that a request waits for, as far as is known when it begins to wait."""
        if not self.leases.lets_in(self.in_flight, now):
            return SHARED
        return super().reason(permit, now)

    def forget_in_flight(self) -> None:
        """Forget requests in flight and leases, in a process that was forked."""
        super().forget_in_flight()
        self.leases.begin_anew()
        self._leased.collect()

    def answered(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """Learn from an answer, and publish the limits that it tells."""
        super().answered(permit, usage, now)
        self.leases.tell_answered()

    def failed(self, permit: Permit, failure: Failure, now: float, unit: Unit | None) -> bool:
        """Learn from a failure, and publish the cool-down that it begins."""
        prolonged = super().failed(permit, failure, now, unit)
        if failure.kind.overloaded:
            until = max(self.pacing.cooldown.until, self.found.pause_ends(now))
            if until > now:
                self.leases.tell_quiet(until, reason(failure.error))
        if failure.kind is FailureKind.RATE_LIMITED and not (permit.told or permit.parallel):
            self._warn_of_unknown_limit(unit)
        return prolonged

    def _warn_of_unknown_limit(self, unit: Unit | None) -> None:
        """Log once that limits found from refusals are not shared, unless a rate limit is known.

        Some providers tell limits only in successes: a refusal before the first of those shows nothing.
        """
        is_alone = self.leases.workers <= 1
        if self._has_warned or is_alone or not self.leases.answered or self.rates.limits():
            return
        self._has_warned = True
        _LOG.warning(
            "the provider refuses requests of the shared quota '%s', which %d workers use, and tells no rate "
            "limit: each worker searches for it by itself, which wastes much of the limit and has more "
            "requests refused; set %s_per_minute= on the Quota",
            *(self._name, self.leases.workers, unit or "requests"),
        )

    def heard(self, reply: LeaseReply, now: float) -> bool:
        """Take up the limits and the cool-down of a reply; return whether a cool-down is begun or longer."""
        self._leased.collect()
        cooldown = self.pacing.cooldown
        if reply.quiet <= cooldown.left(now) + _NEWS or now + reply.quiet <= self.leases.quiet_until + _NEWS:
            return False
        cause = RateLimitError(
            f"another process that shares the quota was refused, with a {reply.quiet_reason}",
            retry_after=reply.quiet,
        )
        if not cooldown.prolong(reply.quiet, cause, now):
            return False
        self._events.announce(CooledDown(reply.quiet, f"{reply.quiet_reason} in another process"), now)
        return True

    def limit_changed(self, name: str, before: float | None, after: float | None, reason: str) -> None:
        """Announce that a limit has changed, and publish one that was set by hand."""
        self._limit_changed(name, before, after, reason)
