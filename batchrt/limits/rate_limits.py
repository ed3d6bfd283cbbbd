"""Rate limits that are known: requests and tokens per period, given by hand or told by the provider."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Final, NamedTuple

from batchrt.limits.counted_limit import AFTERWARDS, BEFOREHAND, REQUESTS, CountedLimit, likeliest
from batchrt.limits.events import BY_HAND
from batchrt.limits.permit import RequestAccount
from batchrt.limits.token_bucket import SECONDS, Period, TokenBucket, Unit, limit_name
from batchrt.limits.token_estimator import RunningMean

__all__ = ["KnownRateLimits", "RateLimitStatus"]

_MINUTE_AT_MOST: Final = 61.5
"""Seconds, at the most, until all of a minute's limit is back: some providers round up to whole seconds."""
_RESERVED_SECONDS: Final = 0.1
_RESERVED_SHARE: Final = 0.1
"""The reserve of a bucket that the provider tells, in seconds of its rate, and at the most as a share of its
capacity: requests arrive less evenly than they are sent."""
_FIRST_SECONDS: Final = 1.0
"""Seconds of a given limit that may be used at once, before the capacity of the provider's bucket is known;
that may be as little as a second's worth, and as much as a minute's."""
_MANY_REFUSALS: Final = 3
_MANY_SECONDS: Final = 30.0
_MANY_SHARE: Final = 0.01
"""Refusals within so many seconds, and their share of all requests, that show a limit which is not known."""
_REMEMBERED: Final = 16
"""Refusals whose time is remembered."""
_SLOW: Final = 0.05
"""The weight of the newest value in running averages."""
_ONE: Final = 0.95
"""One request, rounded as generously as durations are."""
_SILENCE: Final = 20
"""Answers in a row about a unit's other period, after which the limit told for this one is dropped. Providers
tell the period with less left, and one odd answer must not count for ever."""


class RateLimitStatus(NamedTuple):
    """The state of one limit when a request arrived, as its answer tells it.

    Attributes:
        unit: requests or tokens.
        limit: the amount allowed in the limit's period, which is not told.
        remaining: the amount left.
        reset: seconds until all of it is back; `None` if the answer does not say.
    """

    unit: Unit
    limit: float
    remaining: float
    reset: float | None


Changed = Callable[[str, "float | None", "float | None", str], object]


class KnownRateLimits:
    """Keep the token buckets that a request must fit into.

    Invariants: a told bucket holds no more than the provider's did when the newest answered request
    arrived, less all that was charged since, plus the refill. Each request is charged to every bucket once,
    and settled once. Where a unit is counted in two ways, both buckets are kept and the one whose
    predictions differ less from the headers is used.

    The prior art is the token bucket and the RateLimit header fields (draft-ietf-httpapi-ratelimit-headers).

    Args:
        limits: the given limits: requests and tokens, per minute or day.
        burst_seconds: how many seconds of a minute's limit may be used at once; `None` to find it out.
        changed: called when a limit changes, with its name, the values before and after, and the reason.

    Attributes:
        limited: the limits that requests must fit into.
        stale: the given limits have changed, and `limited` follows with the next request.
    """

    def __init__(
        self, limits: Mapping[tuple[Unit, Period], float], burst_seconds: float | None, changed: Changed
    ) -> None:
        self.limited: Sequence[CountedLimit] = ()
        self._limits = dict(limits)
        self._burst_seconds = burst_seconds
        self._changed = changed
        self._given: dict[tuple[Unit, Period], CountedLimit] = {}
        self._told: dict[tuple[Unit, Period], list[CountedLimit]] = {}
        self._episodes: deque[_Episode] = deque(maxlen=_REMEMBERED)
        self._counted = (0.0, 0.0, 0.0)
        self._outstanding = [0.0, 0.0, 0.0]
        self._refused = self._sent = 0
        self._episode_at = -math.inf
        self._latency, self._share = RunningMean(), RunningMean()
        self.stale: bool = bool(limits)

    def set_limits(self, limits: Mapping[tuple[Unit, Period], float | None]) -> None:
        """Replace given limits; `None` lifts one."""
        for name, limit in limits.items():
            before = self._limits.get(name)
            if before != limit:
                reason = "lifted by hand" if limit is None else BY_HAND
                self._changed(limit_name(*name), before, limit, reason)
            if limit is None:
                self._limits.pop(name, None)
                self._given.pop(name, None)
            else:
                self._limits[name] = limit
        self.stale = True

    def given(self) -> dict[str, float]:
        """Return the given limits, by name."""
        return {limit_name(*key): limit for key, limit in self._limits.items()}

    @property
    def paces(self) -> bool:
        """Whether any limit is known."""
        return bool(self.limited)

    def limits(self) -> dict[str, float]:
        """Return the known limits, by name: the lower one of given and told."""
        found = self.given()
        for name, limit in self.told().items():
            found[name] = min(found.get(name, math.inf), limit)
        return found

    def told(self) -> dict[str, float]:
        """Return the told limits, by name."""
        return {limit_name(*key): ways[0].bucket.limit for key, ways in self._told.items()}

    def used(self, now: float) -> dict[str, float]:
        """Return the share of each limit that is used up, by name."""
        found: dict[str, float] = {}
        for name, limit in self._likely():
            limit.bucket.advance(now)
            found[name] = max(found.get(name, 0.0), limit.bucket.used)
        return found

    def _renew(self, now: float) -> None:
        self.stale = False
        for (unit, period), limit in self._limits.items():
            rate = limit / SECONDS[period]
            given = self._given.get((unit, period))
            if given is None:
                way = REQUESTS if unit == "requests" else BEFOREHAND
                bucket = self._new(unit, period, rate, now)
                bucket.outstanding = self._outstanding[way]
                self._given[unit, period] = CountedLimit(bucket, way)
            elif given.bucket.rate != rate:
                bucket = given.bucket
                bucket.advance(now)
                scale = rate / bucket.rate
                bucket.rate, bucket.capacity = rate, max(1.0, bucket.capacity * scale)
                bucket.level, bucket.stock = min(bucket.level * scale, bucket.capacity), bucket.stock * scale
        self._collect()

    def _new(self, unit: Unit, period: Period, rate: float, now: float) -> TokenBucket:
        whole = rate * SECONDS[period]
        if period == "day":
            return TokenBucket(unit, period, rate=rate, capacity=whole, now=now)
        if self._burst_seconds is not None:
            return TokenBucket(
                unit, period, rate=rate, capacity=max(1.0, rate * self._burst_seconds), now=now
            )
        first = max(1.0, rate * _FIRST_SECONDS)
        bucket = TokenBucket(unit, period, rate=rate, capacity=first, now=now, stock=max(0.0, whole - first))
        if (unit, period) in self._told:
            bucket.trust()
        return bucket

    def _likely(self) -> Iterator[tuple[str, CountedLimit]]:
        """Iterate over the given limits and the likeliest of the told ones, with their names."""
        told = ((key, likeliest(ways)) for key, ways in self._told.items())
        return ((limit_name(*key), limit) for key, limit in chain(self._given.items(), told))

    def _collect(self) -> None:
        self.limited = [limit for _, limit in self._likely()]

    def wait_for(self, account: RequestAccount, now: float, *, wanted: bool, late: float) -> float:
        """Return the seconds until a request fits; infinity if others have to end first.

        For `wanted` and `late` see `TokenBucket.advance`.
        """
        if self.stale:
            self._renew(now)
        longest = 0.0
        for limit in self.limited:
            limit.bucket.advance(now, wanted=wanted, late=late)
            wait = limit.bucket.wait_for(limit.amount(account))
            longest = max(longest, wait)
        return longest

    def tightest(self, account: RequestAccount) -> str | None:
        """Return the name of the limit that a request waits for longest; `None` if it fits into all."""
        waits = [(limit.bucket.wait_for(limit.amount(account)), limit.bucket) for limit in self.limited]
        seconds, bucket = max(waits, key=itemgetter(0), default=(0.0, None))
        return None if bucket is None or seconds <= 0 else limit_name(bucket.unit, bucket.period)

    def charge(self, account: RequestAccount, now: float) -> None:
        """Charge a request that is sent."""
        self.count(account, now)
        if self.limited:
            for limit in self._all():
                limit.bucket.charge(limit.amount(account))
                limit.bucket.outstanding = self._outstanding[limit.way]

    def count(self, account: RequestAccount, now: float) -> None:
        """Count a request that is sent: limits that are told later begin with that."""
        self._sent += 1
        requests, afterwards, beforehand = self._counted
        entered, most, outstanding = account.input, account.most, self._outstanding
        account.sent_at = now
        outstanding[AFTERWARDS] += account.output
        if most is None:
            outstanding[BEFOREHAND] += account.output
            most = 0.0
        account.counted = self._counted = requests + 1, afterwards + entered, beforehand + entered + most

    def count_settled(self, account: RequestAccount, tokens: float | None) -> None:
        """Replace the expected tokens of a request by those that it had, if that is known."""
        requests, afterwards, beforehand = self._counted
        output, outstanding = account.output, self._outstanding
        outstanding[AFTERWARDS] -= output
        if account.most is None:
            outstanding[BEFOREHAND] -= output
        if tokens is None:
            self._counted = requests, afterwards + output, beforehand
        else:
            more = tokens - account.input
            self._counted = requests, afterwards + more, beforehand + more - (account.most or 0.0)

    def _all(self) -> Iterator[CountedLimit]:
        """Yield the limits in use, and the other ways of counting them."""
        yield from self.limited
        for ways in self._told.values():
            if len(ways) > 1:
                yield from (way for way in ways if way not in self.limited)

    def settle(self, account: RequestAccount, tokens: float | None, *, request: bool = True) -> None:
        """Replace the expected tokens of a request by those that it had.

        Args:
            account: the request's.
            tokens: the tokens it had; `None` if that is not known: they stay as expected.
            request: whether the request itself counts.
        """
        self.count_settled(account, tokens)
        if not request:
            requests, afterwards, beforehand = self._counted
            self._counted = requests - 1, afterwards, beforehand
        if not self.limited:
            return
        for limit in self._all():
            bucket = limit.bucket
            if limit.way != REQUESTS:
                bucket.outstanding = self._outstanding[limit.way]
                if tokens is not None:
                    bucket.charge(tokens - limit.amount(account))
            elif not request:
                bucket.charge(-1.0)

    def undo(self, account: RequestAccount) -> None:
        """Give back the charge for a request that was not sent after all."""
        self._sent -= 1
        self.settle(account, 0.0, request=False)

    def forget_outstanding(self) -> None:
        """Forget requests in flight."""
        self._outstanding = [0.0, 0.0, 0.0]
        for limit in self._all():
            limit.bucket.outstanding = 0.0

    # Limits that answers tell

    def answered(self, account: RequestAccount, now: float, output: float) -> None:
        """Record the latency of an answer, and its share of the request's tokens."""
        if not self.limited:
            return  # there is no bucket to weigh
        self._latency.add(now - account.sent_at)
        self._share.add(output / max(account.input + output, 1.0))
        seconds = self._latency.value * self._share.value
        for limit in self._all():
            bucket = limit.bucket
            if limit.way != REQUESTS and seconds > 0:
                bucket.weight = min(1.0, bucket.capacity / (4 * bucket.rate * seconds))

    def learn(
        self,
        limits_told: Sequence[RateLimitStatus],
        account: RequestAccount,
        now: float,
        *,
        cost: float | None = None,
        refused: bool = False,
    ) -> None:
        """Correct the buckets by the limits that an answer tells.

        Args:
            limits_told: the limits it tells.
            account: the request's, which is settled.
            now: the time.
            cost: the tokens it had, if that is known.
            refused: whether it was refused, and so not charged by the provider.
        """
        if self.stale:
            self._renew(now)
        for status in limits_told:
            if cost is not None and status.unit == "tokens" and status.limit < cost:
                continue  # the request that was just let in contradicts it
            period = self._period(status)
            self._forget_silent(status.unit, period)
            rate = status.limit / SECONDS[period]
            capacity, remaining = status.limit, status.remaining
            ways = self._told.get((status.unit, period))
            if status.reset is not None:
                if ways is not None and not remaining:
                    # There may be a debt, which headers do not show.
                    capacity = ways[0].bucket.capacity
                    remaining = min(remaining, capacity - status.reset * rate)
                else:
                    capacity = max(1.0, min(capacity, remaining + status.reset * rate))
            if ways is None:
                ways = self._first_told(status.unit, period, rate, capacity, now)
            elif account.sent_at < ways[0].newest:
                continue  # a later state is known already
            level = remaining + (now - account.sent_at) * rate
            for limit in ways:
                self._correct(limit, rate, capacity, level, account, now, refused=refused)
            if len(ways) > 1 and likeliest(ways) not in self.limited:
                self._collect()

    def _forget_silent(self, unit: Unit, period: Period) -> None:
        """Drop the limit of the unit's other period, if answers tell of it no more."""
        other: Period = "day" if period == "minute" else "minute"
        ways = self._told.get((unit, other))
        if ways is not None:
            ways[0].silent += 1
            if ways[0].silent >= _SILENCE:
                del self._told[unit, other]
                self._collect()
        told = self._told.get((unit, period))
        if told is not None:
            told[0].silent = 0

    def _first_told(
        self, unit: Unit, period: Period, rate: float, capacity: float, now: float
    ) -> list[CountedLimit]:
        counting = (REQUESTS,) if unit == "requests" else (BEFOREHAND, AFTERWARDS)
        ways = [
            CountedLimit(TokenBucket(unit, period, rate=rate, capacity=capacity, now=now, level=0.0), way)
            for way in counting
        ]
        for limit in ways:
            limit.bucket.outstanding = self._outstanding[limit.way]
        self._told[unit, period] = ways
        given = self._given.get((unit, period))
        if given is not None and self._burst_seconds is None:
            given.bucket.trust()
        self._collect()
        self._changed(limit_name(unit, period), None, ways[0].bucket.limit, "told by the provider")
        return ways

    def _period(self, status: RateLimitStatus) -> Period:
        # A minute's limit is all back within a minute, unless there is a debt; the part of a day's limit
        # that is used comes back at the day's rate.
        if status.reset is None or status.reset <= _MINUTE_AT_MOST:
            return "minute"
        rate, lacks = status.limit / SECONDS["day"], status.limit - status.remaining
        comes_back = status.reset * rate
        # At least the request itself is used.
        fits = comes_back >= _ONE and abs(lacks - comes_back) <= _SLOW * lacks + 1.0 + rate
        return "day" if fits else "minute"

    def _correct(  # noqa: PLR0917  the values of one header set
        self,
        limit: CountedLimit,
        rate: float,
        capacity: float,
        level: float,
        account: RequestAccount,
        now: float,
        *,
        refused: bool,
    ) -> None:
        bucket = limit.bucket
        bucket.advance(now)
        limit.newest = account.sent_at
        if bucket.rate != rate:
            if limit.way != AFTERWARDS:
                name = limit_name(bucket.unit, bucket.period)
                after = rate * SECONDS[bucket.period]
                self._changed(name, bucket.limit, after, "changed by the provider")
            bucket.rate, bucket.capacity = rate, capacity
        elif capacity < bucket.capacity:
            bucket.capacity = capacity
        else:
            bucket.capacity += (capacity - bucket.capacity) * _SLOW
        if bucket.period == "minute":
            bucket.reserve = min(rate * _RESERVED_SECONDS, bucket.capacity * _RESERVED_SHARE)
        level -= self._counted[limit.way] - account.counted[limit.way]
        if refused and limit.way != REQUESTS:
            # It was given back here, and the provider never charged it.
            level -= account.input + (account.most or 0.0 if limit.way == BEFOREHAND else 0.0)
        level = min(level, bucket.capacity) - bucket.outstanding
        limit.error += (abs(level - bucket.level) - limit.error) * _SLOW
        bucket.level = level

    # Refusals

    def refuse(
        self, account: RequestAccount, now: float, wait: float, unit: Unit | None, *, told: bool
    ) -> bool:
        """Record that a request was refused for `wait` seconds; return whether a known limit explains it.

        Args:
            account: the request's, which is settled.
            now: the time.
            wait: seconds that the provider asks to wait; 0 for none.
            unit: the limit that was exceeded, if the reply says.
            told: whether the refusal told the state of the limits.
        """
        self._refused += 1
        if account.sent_at >= self._episode_at:
            self._episode_at = now
            self._episodes.append(_Episode(now, self._sent - self._refused, self._refused))
        known = list(map(likeliest, self._told.values())) if self._told else list(self._given.values())
        found = [] if told else [limit for limit in known if unit is None or limit.bucket.unit == unit]
        if found and wait > 0:
            tightest = min(found, key=lambda limit: limit.bucket.level / limit.bucket.capacity)
            tightest.bucket.exhausted(tightest.amount(account), wait)
        return bool(known) and not self._contradicted(now)

    def _contradicted(self, now: float) -> bool:
        """Whether requests are refused though they fit all known limits."""
        recent = [episode for episode in self._episodes if episode.time >= now - _MANY_SECONDS]
        if len(recent) < _MANY_REFUSALS:
            return False
        refused, let_in = self._refused - recent[0].refused, self._sent - self._refused - recent[0].let_in
        return refused > _MANY_SHARE * (let_in + refused)


class _Episode(NamedTuple):
    """The time of a refusal, and how many requests had been let in and refused by then."""

    time: float
    let_in: int
    refused: int
