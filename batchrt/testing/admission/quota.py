"""Quota of one API key for one model: the buckets of its limits together."""

from __future__ import annotations

from typing import NamedTuple

from batchrt.testing.admission.rate_limits import RateLimits
from batchrt.testing.admission.schedules import Schedule, Scripted
from batchrt.testing.admission.token_bucket import (
    BackgroundLoad,
    BucketLevel,
    LimitName,
    MockTokenBucket,
    Period,
)
from batchrt.testing.endpoints.replies import TokenCharge

__all__ = ["MockQuota", "Shortage"]


class Shortage(NamedTuple):
    """The reason why a request is over its quota.

    Attributes:
        bucket_index: which of the quota's buckets is short for longest.
        bucket: that bucket.
        level: its level.
        requested: how much of it was requested.
        wait: seconds until all buckets have enough; None if one never will.
    """

    bucket_index: int
    bucket: MockTokenBucket
    level: BucketLevel
    requested: float
    wait: float | None


class MockQuota:
    """The limits of one API key for one model.

    Attributes:
        key: 64 bits of the hash of the request's authorization; 0 if there was none.
        model: the model's name.
        number: the quota's number in the provider.
        buckets: one for each limit.
        in_flight: the number of requests in flight.
    """

    __slots__ = ("_others", "_parallel", "_settles", "buckets", "in_flight", "key", "model", "number")

    def __init__(self, key: int, model: str, number: int, limits: RateLimits | None) -> None:
        self.key: int = key
        self.model: str = model
        self.number: int = number
        self.buckets: tuple[MockTokenBucket, ...] = () if limits is None else _buckets(limits)
        self.in_flight: int = 0
        parallel = None if limits is None else limits.max_parallel_requests
        self._parallel = None if parallel is None else Schedule(parallel)
        stranger = None if limits is None else limits.stranger
        self._others = Schedule(0 if stranger is None else stranger.in_flight)
        self._settles = limits is not None and limits.settle

    def parallel(self, second: float) -> int | None:
        """Return how many requests may be in flight; None without such a limit."""
        return None if self._parallel is None else int(self._parallel.at(second))

    def free_parallel(self) -> Schedule | None:
        """Return how many requests may be in flight besides a stranger's; None without such a limit."""
        return None if self._parallel is None else self._parallel.minus(self._others)

    def parallel_left(self, second: float) -> int | None:
        """Return how many more requests may be in flight besides a stranger's; None without a limit."""
        most = self.parallel(second)
        return None if most is None else max(0, most - self.in_flight - int(self._others.at(second)))

    def shortage(self, charge: TokenCharge, now: float) -> Shortage | None:
        """Return the reason to refuse a request; None if it fits."""
        worst: Shortage | None = None
        for index, bucket in enumerate(self.buckets):
            amount = _amount(bucket, charge.reserved)
            wait: float | None = bucket.wait_for(amount, now)
            if bucket.never_fits(amount, now):
                return Shortage(index, bucket, bucket.level(now), amount, None)
            if wait and (worst is None or wait > (worst.wait or 0.0)):
                worst = Shortage(index, bucket, bucket.level(now), amount, wait)
        return worst

    def take(self, charge: TokenCharge, now: float) -> None:
        """Charge an admitted request; `free` when it is over."""
        self.in_flight += 1
        for bucket in self.buckets:
            bucket.take(_amount(bucket, charge.reserved), now)

    def free(self) -> None:
        """Record that a request is over."""
        self.in_flight -= 1

    def settle(self, charge: TokenCharge, now: float, *, answered: bool) -> float:
        """Correct the charge of tokens to the outcome; return the final charge."""
        if not self._settles:
            return charge.reserved
        spent = charge.spent if answered else 0
        for bucket in self.buckets:
            if bucket.name == "tokens":
                bucket.take(spent - charge.reserved, now)
        return spent

    def levels(self, now: float) -> dict[LimitName, BucketLevel]:
        """Return the levels of requests and tokens: of several buckets, the one with least left."""
        found: dict[LimitName, BucketLevel] = {}
        for bucket in self.buckets:
            level = bucket.level(now)
            if bucket.name not in found or level.left < found[bucket.name].left:
                found[bucket.name] = level
        return found


def _amount(bucket: MockTokenBucket, tokens: float) -> float:
    return 1.0 if bucket.name == "requests" else tokens


def _buckets(limits: RateLimits) -> tuple[MockTokenBucket, ...]:
    given: tuple[tuple[LimitName, Period, Scripted | None], ...] = (
        ("requests", "minute", limits.requests_per_minute),
        ("tokens", "minute", limits.tokens_per_minute),
        ("requests", "day", limits.requests_per_day),
        ("tokens", "day", limits.tokens_per_day),
    )
    stranger = limits.stranger
    amounts: dict[LimitName, float] = {"requests": 1.0, "tokens": stranger.tokens if stranger else 0.0}
    return tuple(
        MockTokenBucket(
            name,
            per,
            limit,
            limits.burst_seconds,
            background=BackgroundLoad(Schedule(stranger.requests_per_minute), amounts[name])
            if stranger and amounts[name]
            else None,
        )
        for name, per, limit in given
        if limit is not None
    )
