"""The limits of a provider that are known: given by hand, or told by its answers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from batchrt.limits.events import BY_HAND
from batchrt.limits.token_bucket import SECONDS, Period, TokenBucket, Unit

__all__ = ["KnownRateLimits", "RateLimitStatus", "RequestAccount"]

_MINUTE_AT_MOST: Final = 61.5
"""Seconds until all of a minute's limit is back: some tell it in whole seconds."""
_RESERVED_SECONDS: Final = 0.1
"""What stays in a bucket that answers tell of: requests arrive less evenly than they are sent."""
_RESERVED_SHARE: Final = 0.1
_FIRST_SECONDS: Final = 1.0
"""How much of a limit that was given may be used at once, while nobody has said what the provider's bucket
holds; it may be as little as a second's, and as much as a minute's."""
_MANY_REFUSALS: Final = 3
_MANY_SECONDS: Final = 30.0
_MANY_SHARE: Final = 0.01
"""Refusals from which on the limits that are known cannot be all there are."""
_REMEMBERED: Final = 16
_SLOW: Final = 0.05
_ONE: Final = 0.95
"""A request, rounded as generously as durations are."""
_SILENCE: Final = 20
"""Answers that tell of a unit's other period only, after which what was told of this one is dropped: they
tell of the one with less left, and one strange answer is not to be believed for ever."""


class RateLimitStatus(NamedTuple):
    """What an answer says about one limit, as it was when the request arrived.

    Attributes:
        unit: what is limited.
        limit: how much there may be in the limit's period, which nobody tells.
        remaining: how much is left.
        reset: seconds until all of it is back; `None` if that is not said.
    """

    unit: Unit
    limit: float
    remaining: float
    reset: float | None


class RequestAccount:
    """What was charged for one request, and how things stood right after that.

    Attributes:
        input: tokens it is expected to take.
        output: tokens it is expected to be answered with.
        most: tokens it may be answered with; `None` if nothing says.
        sent_at: when it was sent.
        counted: what had been charged by then, this one included, in each way of counting.
    """

    __slots__ = ("counted", "input", "most", "output", "sent_at")

    def __init__(self, most: float | None = None) -> None:
        self.input: float = 0.0
        self.output: float = 0.0
        self.most: float | None = most
        self.sent_at: float = 0.0
        self.counted: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def tokens(self) -> float:
        """What it is expected to cost."""
        return self.input + self.output


_REQUESTS: Final = 0
_AFTERWARDS: Final = 1
_BEFOREHAND: Final = 2
"""Ways of counting: requests; tokens, those of answers when they are made; tokens, the most that an answer
may have when the request comes, corrected when it is answered, as OpenAI does."""


class _Limit:
    """A bucket, and in which way what goes into it is counted.

    Attributes:
        bucket: what is left.
        way: of counting.
        error: how far answers are off from what is expected by counting like that.
        newest: when the request was sent whose answer was heeded last.
        silent: answers since then that tell of another period.
    """

    __slots__ = ("bucket", "error", "newest", "silent", "way")

    def __init__(self, bucket: TokenBucket, way: int) -> None:
        self.bucket = bucket
        self.way = way
        self.error = 0.0
        self.newest = -math.inf
        self.silent = 0

    def amount(self, charge: RequestAccount) -> float:
        if self.way == _REQUESTS:
            return 1.0
        if self.way == _BEFOREHAND and charge.most is not None:
            return charge.input + charge.most
        return charge.input + charge.output


Changed = Callable[[str, "float | None", "float | None", str], object]


class KnownRateLimits:
    """Keep the buckets that a request must fit into.

    Args:
        limits: what was given: requests and tokens, for a minute or a day.
        burst_seconds: how many seconds of a minute's limit may be used at once; `None` to find it out.
        changed: is told of limits that change: name, before, after, why.
    """

    def __init__(
        self, limits: Mapping[tuple[Unit, Period], float], burst_seconds: float | None, changed: Changed
    ) -> None:
        self.limited: Sequence[_Limit] = ()
        self._limits = dict(limits)
        self._burst_seconds = burst_seconds
        self._changed = changed
        self._given: dict[tuple[Unit, Period], _Limit] = {}
        self._told: dict[tuple[Unit, Period], list[_Limit]] = {}
        self._episodes: deque[_Episode] = deque(maxlen=_REMEMBERED)
        self._counted = (0.0, 0.0, 0.0)
        self._outstanding = [0.0, 0.0, 0.0]
        self._refused = 0
        self._sent = 0
        self._episode_at = -math.inf
        self._latency = _Mean()
        self._share = _Mean()
        self._stale = bool(limits)

    def set_limits(self, limits: Mapping[tuple[Unit, Period], float | None]) -> None:
        """Have other limits from now on; `None` lifts one that was given."""
        for name, limit in limits.items():
            before = self._limits.get(name)
            if before != limit:
                reason = "lifted by hand" if limit is None else BY_HAND
                self._changed(_name(*name), before, limit, reason)
            if limit is None:
                self._limits.pop(name, None)
                self._given.pop(name, None)
            else:
                self._limits[name] = limit
        self._stale = True

    def given(self) -> dict[str, float]:
        """Return the limits that were given, by name."""
        return {_name(*key): limit for key, limit in self._limits.items()}

    @property
    def paces(self) -> bool:
        """Whether there is a limit that is known."""
        return bool(self.limited)

    def limits(self) -> dict[str, float]:
        """Return the limits that are known, by name: the lower one of what was given and what was told."""
        found = self.given()
        for name, limit in self.told().items():
            found[name] = min(found.get(name, math.inf), limit)
        return found

    def told(self) -> dict[str, float]:
        """Return the limits that answers tell, by name."""
        return {_name(*key): ways[0].bucket.limit for key, ways in self._told.items()}

    def used(self, now: float) -> dict[str, float]:
        """Return the share of each limit that is used up, by name."""
        found: dict[str, float] = {}
        told = {key: _likeliest(ways) for key, ways in self._told.items()}
        for limits in (self._given, told):
            for key, limit in limits.items():
                limit.bucket.advance(now)
                found[_name(*key)] = max(found.get(_name(*key), 0.0), limit.bucket.used)
        return found

    def _renew(self, now: float) -> None:
        self._stale = False
        for (unit, period), limit in self._limits.items():
            rate = limit / SECONDS[period]
            given = self._given.get((unit, period))
            if given is None:
                way = _REQUESTS if unit == "requests" else _BEFOREHAND
                bucket = self._new(unit, period, rate, now)
                bucket.outstanding = self._outstanding[way]
                self._given[unit, period] = _Limit(bucket, way)
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

    def _collect(self) -> None:
        self.limited = [*self._given.values(), *map(_likeliest, self._told.values())]

    def wait_for(self, charge: RequestAccount, now: float, *, wanted: bool, late: float) -> float:
        """Return the seconds until a request fits; infinity if others have to end first.

        For `wanted` and `late` see `TokenBucket.advance`.
        """
        if self._stale:
            self._renew(now)
        longest = 0.0
        for limit in self.limited:
            limit.bucket.advance(now, wanted=wanted, late=late)
            wait = limit.bucket.wait_for(limit.amount(charge))
            longest = max(longest, wait)
        return longest

    def tightest(self, charge: RequestAccount) -> str | None:
        """Return the name of the limit that a request waits for longest; `None` if it fits into all."""
        waits = [(limit.bucket.wait_for(limit.amount(charge)), limit.bucket) for limit in self.limited]
        seconds, bucket = max(waits, key=itemgetter(0), default=(0.0, None))
        return None if bucket is None or seconds <= 0 else _name(bucket.unit, bucket.period)

    def charge(self, charge: RequestAccount, now: float) -> None:
        """RequestAccount a request that is sent."""
        self._sent += 1
        requests, afterwards, beforehand = self._counted
        charge.sent_at = now
        charge.counted = self._counted = (
            requests + 1,
            afterwards + charge.input,
            beforehand + charge.input + (charge.most or 0.0),
        )
        self._await(charge, 1)
        if not self.limited:
            return
        for limit in self._all():
            limit.bucket.charge(limit.amount(charge))
            limit.bucket.outstanding = self._outstanding[limit.way]

    def _await(self, charge: RequestAccount, sign: int) -> None:
        """Note what is charged over there only when the answer is made, or that this is done."""
        self._outstanding[_AFTERWARDS] += sign * charge.output
        if charge.most is None:
            self._outstanding[_BEFOREHAND] += sign * charge.output

    def _all(self) -> Iterator[_Limit]:
        """Give what is looked at, and what would be if it turned out to be likelier."""
        yield from self.limited
        for ways in self._told.values():
            if len(ways) > 1:
                yield from (way for way in ways if way not in self.limited)

    def settle(self, charge: RequestAccount, tokens: float | None, *, request: bool = True) -> None:
        """RequestAccount what it cost in the end.

        Args:
            charge: what was charged.
            tokens: what it cost; `None` if that is not known, and stays as it was expected.
            request: the request itself counts.
        """
        cost = charge.tokens if tokens is None else tokens
        requests, afterwards, beforehand = self._counted
        self._counted = (
            requests - (not request),
            afterwards + cost - charge.input,
            beforehand + (0.0 if tokens is None else cost - charge.input - (charge.most or 0.0)),
        )
        self._await(charge, -1)
        if not self.limited:
            return
        for limit in self._all():
            bucket = limit.bucket
            if limit.way != _REQUESTS:
                bucket.outstanding = self._outstanding[limit.way]
                if tokens is not None:
                    bucket.charge(tokens - limit.amount(charge))
            elif not request:
                bucket.charge(-1.0)

    def undo(self, charge: RequestAccount) -> None:
        """Give back what was charged for a request that was not sent after all."""
        self._sent -= 1
        self.settle(charge, 0.0, request=False)

    def forget_outstanding(self) -> None:
        """Note that nothing is under way any more, whatever becomes of it."""
        self._outstanding = [0.0, 0.0, 0.0]
        for limit in self._all():
            limit.bucket.outstanding = 0.0

    # What answers tell

    def answered(self, charge: RequestAccount, now: float, output: float) -> None:
        """Note how long an answer took, and how much of its cost it was."""
        if not self.limited:
            return  # there is nothing to fit it into
        self._latency.add(now - charge.sent_at)
        self._share.add(output / max(charge.input + output, 1.0))
        seconds = self._latency.value * self._share.value
        for limit in self._all():
            bucket = limit.bucket
            if limit.way != _REQUESTS and seconds > 0:
                bucket.weight = min(1.0, bucket.capacity / (4 * bucket.rate * seconds))

    def learn(
        self,
        limits_told: Sequence[RateLimitStatus],
        charge: RequestAccount,
        now: float,
        *,
        cost: float | None = None,
        refused: bool = False,
    ) -> None:
        """Correct what is known by what an answer says.

        Args:
            limits_told: what it says.
            charge: the request's, which is settled.
            now: the time.
            cost: tokens that it cost, if that is known.
            refused: it did not take anything itself.
        """
        if self._stale:
            self._renew(now)
        for status in limits_told:
            if cost is not None and status.unit == "tokens" and status.limit < cost:
                continue  # what was just let in contradicts it
            period = self._period(status)
            self._forget_silent(status.unit, period)
            rate = status.limit / SECONDS[period]
            capacity, remaining = status.limit, status.remaining
            ways = self._told.get((status.unit, period))
            if status.reset is not None:
                if ways is not None and not remaining:
                    # There may be a debt, which is not said.
                    capacity = ways[0].bucket.capacity
                    remaining = min(remaining, capacity - status.reset * rate)
                else:
                    capacity = max(1.0, min(capacity, remaining + status.reset * rate))
            if ways is None:
                ways = self._first_told(status.unit, period, rate, capacity, now)
            elif charge.sent_at < ways[0].newest:
                continue  # what was said later is known already
            level = remaining + (now - charge.sent_at) * rate
            for limit in ways:
                self._correct(limit, rate, capacity, level, charge, now, refused=refused)
            if len(ways) > 1 and _likeliest(ways) not in self.limited:
                self._collect()

    def _forget_silent(self, unit: Unit, period: Period) -> None:
        """Drop what was told of another period, if nothing is told of it any more."""
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
    ) -> list[_Limit]:
        counting = (_REQUESTS,) if unit == "requests" else (_BEFOREHAND, _AFTERWARDS)
        ways = [
            _Limit(TokenBucket(unit, period, rate=rate, capacity=capacity, now=now, level=0.0), way)
            for way in counting
        ]
        for limit in ways:
            limit.bucket.outstanding = self._outstanding[limit.way]
        self._told[unit, period] = ways
        given = self._given.get((unit, period))
        if given is not None and self._burst_seconds is None:
            given.bucket.trust()
        self._collect()
        self._changed(_name(unit, period), None, ways[0].bucket.limit, "told by the provider")
        return ways

    def _period(self, status: RateLimitStatus) -> Period:
        # A minute's limit is all back within a minute, unless there is a debt; and what is lacking of a
        # day's comes back at a day's rate.
        if status.reset is None or status.reset <= _MINUTE_AT_MOST:
            return "minute"
        rate, lacks = status.limit / SECONDS["day"], status.limit - status.remaining
        comes_back = status.reset * rate
        # The request itself lacks, if nothing else does.
        fits = comes_back >= _ONE and abs(lacks - comes_back) <= _SLOW * lacks + 1.0 + rate
        return "day" if fits else "minute"

    def _correct(  # noqa: PLR0917  what was read
        self,
        limit: _Limit,
        rate: float,
        capacity: float,
        level: float,
        charge: RequestAccount,
        now: float,
        *,
        refused: bool,
    ) -> None:
        bucket = limit.bucket
        bucket.advance(now)
        limit.newest = charge.sent_at
        if bucket.rate != rate:
            if limit.way != _AFTERWARDS:
                name = _name(bucket.unit, bucket.period)
                after = rate * SECONDS[bucket.period]
                self._changed(name, bucket.limit, after, "changed by the provider")
            bucket.rate, bucket.capacity = rate, capacity
        elif capacity < bucket.capacity:
            bucket.capacity = capacity
        else:
            bucket.capacity += (capacity - bucket.capacity) * _SLOW
        if bucket.period == "minute":
            bucket.reserve = min(rate * _RESERVED_SECONDS, bucket.capacity * _RESERVED_SHARE)
        level -= self._counted[limit.way] - charge.counted[limit.way]
        if refused and limit.way != _REQUESTS:
            # It was given back here, and never taken over there.
            level -= charge.input + (charge.most or 0.0 if limit.way == _BEFOREHAND else 0.0)
        level = min(level, bucket.capacity) - bucket.outstanding
        limit.error += (abs(level - bucket.level) - limit.error) * _SLOW
        bucket.level = level

    # What refusals tell

    def refuse(
        self, charge: RequestAccount, now: float, wait: float, unit: Unit | None, *, told: bool
    ) -> bool:
        """Record that a request was refused for `wait` seconds; return whether a known limit explains it.

        Args:
            charge: the request's, which is settled.
            now: the time.
            wait: what the provider asked for; 0 for nothing.
            unit: what there is too much of, if that was said.
            told: the refusal said how the limits stand.
        """
        self._refused += 1
        if charge.sent_at >= self._episode_at:
            self._episode_at = now
            self._episodes.append(_Episode(now, self._sent - self._refused, self._refused))
        known = list(map(_likeliest, self._told.values())) if self._told else list(self._given.values())
        found = [] if told else [limit for limit in known if unit is None or limit.bucket.unit == unit]
        if found and wait > 0:
            tightest = min(found, key=lambda limit: limit.bucket.level / limit.bucket.capacity)
            tightest.bucket.exhausted(tightest.amount(charge), wait)
        return bool(known) and not self._contradicted(now)

    def _contradicted(self, now: float) -> bool:
        """Whether requests are refused though they fit into everything that is known."""
        recent = [episode for episode in self._episodes if episode.time >= now - _MANY_SECONDS]
        if len(recent) < _MANY_REFUSALS:
            return False
        refused, let_in = self._refused - recent[0].refused, self._sent - self._refused - recent[0].let_in
        return refused > _MANY_SHARE * (let_in + refused)


class _Episode(NamedTuple):
    """A moment at which the provider refused: when, and how many had been let in and refused by then."""

    time: float
    let_in: int
    refused: int


def _likeliest(ways: Sequence[_Limit]) -> _Limit:
    return min(ways, key=lambda limit: limit.error)


class _Mean:
    """A mean of the first values, and then one that follows."""

    __slots__ = ("_count", "value")

    def __init__(self) -> None:
        self._count = 0
        self.value = 0.0

    def add(self, value: float) -> None:
        self._count += 1
        self.value += (value - self.value) * max(_SLOW, 1 / self._count)


def _name(unit: Unit, period: Period) -> str:
    return f"{unit}_per_{period}"
