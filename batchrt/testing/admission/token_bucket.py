"""Token bucket of requests or tokens that refills continuously, with a history of its level."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import count
from typing import Literal, NamedTuple, TypeAlias

from batchrt.testing.admission.schedules import Schedule, Scripted

__all__ = ["BackgroundLoad", "BucketLevel", "LimitName", "MockTokenBucket", "Period"]

LimitName: TypeAlias = Literal["requests", "tokens"]
Period: TypeAlias = Literal["minute", "day"]

_KEEP = 1_000_000  # changes
_PERIOD_SECONDS: dict[Period, float] = {"minute": 60.0, "day": 86_400.0}
# Sums of floats differ slightly from the whole numbers that they represent.
_TOLERANCE = 1e-6


class BucketLevel(NamedTuple):
    """The limit of a bucket, the rest in it, and the seconds until it is full."""

    limit: float
    left: float
    until_full: float


class BackgroundLoad(NamedTuple):
    """Another client's use of a bucket: `amount` at a time, so many times a minute.

    It takes nothing if less than `amount` is left.
    """

    per_minute: Schedule
    amount: float


class MockTokenBucket:
    """The rest of one limit, shared with `background`.

    The newest `keep` changes at least are kept for `left_before`, twice as many at most. Times are seconds
    since the provider's first request and do not decrease; the rest is below 0 while there is debt.

    Attributes:
        name: the unit of the limit.
        per: its period.
    """

    __slots__ = (
        "_background",
        "_background_seconds",
        "_held",
        "_keep",
        "_left",
        "_levels",
        "_limit",
        "_now",
        "_times",
        "name",
        "per",
    )

    def __init__(
        self,
        name: LimitName,
        per: Period,
        limit: Scripted,
        burst_seconds: float,
        keep: int = _KEEP,
        *,
        background: BackgroundLoad | None = None,
    ) -> None:
        self.name: LimitName = name
        self.per: Period = per
        self._limit = Schedule(limit)
        # A share of the limit, so that the size follows a limit that changes.
        self._held = burst_seconds / _PERIOD_SECONDS[per] if per == "minute" else 1.0
        self._keep = keep
        self._background = background
        self._background_seconds = array("d")
        self._times = array("d")
        self._levels = array("d")
        self._now = 0.0
        self._left = self._size(self._limit.at(0.0))

    def _size(self, limit: float) -> float:
        return max(1.0, limit * self._held)

    def _level_at(
        self, left: float, since: float, until: float, background_taken: array[float] | None = None
    ) -> float:
        if self._background is not None:
            amount = self._background.amount
            for second in self._background_times(self._background, since, until):
                left, since = self._plus_refill(left, since, second), second
                if left >= min(amount, self._size(self._limit.at(second))) - _TOLERANCE:
                    left -= amount
                    if background_taken is not None:
                        background_taken.append(second)
        return self._plus_refill(left, since, until)

    @staticmethod
    def _background_times(background: BackgroundLoad, since: float, until: float) -> Iterator[float]:
        """Yield the seconds after `since`, up to `until`, of the background's requests: evenly at each rate.

        They are counted from second 0, so that they do not depend on the time of the call.
        """
        schedule = background.per_minute
        for number in count(max(1, int(schedule.area(0.0, since) / 60.0))):
            second = schedule.second_of(60.0 * number)
            if second > until:
                return
            if second > since:
                yield second

    def _plus_refill(self, left: float, since: float, until: float) -> float:
        for seconds, limit in self._limit.pieces(since, until):
            left = min(self._size(limit), left + seconds * limit / _PERIOD_SECONDS[self.per])
        return left

    def _advance(self, now: float) -> None:
        now = max(now, self._now)
        self._left = self._level_at(self._left, self._now, now, self._background_seconds)
        self._now = now
        if len(self._background_seconds) >= 2 * self._keep:
            del self._background_seconds[: self._keep]

    def wait_for(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` fits, 0 if it does.

        More than the bucket's size fits when it is full. The background's future use is not counted: a
        provider does not know it either.
        """
        self._advance(now)
        limit = self._limit.at(self._now)
        lacks = min(amount, self._size(limit)) - self._left
        return 0.0 if lacks <= _TOLERANCE else lacks * _PERIOD_SECONDS[self.per] / limit

    def never_fits(self, amount: float, now: float) -> bool:
        """Return whether `amount` is more than the whole limit."""
        return amount > self._limit.at(now)

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, or return it to the bucket if it is negative."""
        self._advance(now)
        self._left = min(self._left - amount, self._size(self._limit.at(self._now)))
        if self._times and self._times[-1] == self._now:
            self._levels[-1] = self._left
            return
        self._times.append(self._now)
        self._levels.append(self._left)
        if len(self._times) >= 2 * self._keep:
            del self._times[: self._keep], self._levels[: self._keep]

    def level(self, now: float) -> BucketLevel:
        """Return the bucket's level."""
        self._advance(now)
        limit = self._limit.at(self._now)
        lacks = max(0.0, self._size(limit) - self._left)
        left = max(0.0, self._left + _TOLERANCE)
        return BucketLevel(limit, left, lacks * _PERIOD_SECONDS[self.per] / limit)

    def left_before(self, second: float) -> float:
        """Return the rest at a past `second`, before the requests of that moment."""
        index = bisect_left(self._times, second) - 1
        if index >= 0:
            return self._level_at(self._levels[index], self._times[index], second)
        return self._level_at(self._size(self._limit.at(0.0)), 0.0, second)

    def background_taken(self, since: float, until: float) -> float:
        """Return the background's use after `since`, up to `until`."""
        if self._background is None:
            return 0.0
        later: array[float] = array("d")
        self._level_at(self._left, self._now, max(self._now, until), later)
        meals = bisect_right(self._background_seconds, until) - bisect_right(self._background_seconds, since)
        return self._background.amount * (meals + len(later) - bisect_right(later, since))

    def refill_time(self, amount: float, since: float) -> float:
        """Return the seconds in which the limit adds `amount`; infinity if it never does."""
        return self._limit.second_of(amount * _PERIOD_SECONDS[self.per], since) - since

    def refill(self, since: float, until: float) -> float:
        """Return the refill between the two seconds, regardless of the bucket's size."""
        return self._limit.area(since, until) / _PERIOD_SECONDS[self.per]
