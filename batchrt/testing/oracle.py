"""Oracle: a lower bound of the time that a client with full knowledge of the limits needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchrt.testing.admission.quota import MockQuota
from batchrt.testing.admission.schedules import Schedule
from batchrt.testing.admission.token_bucket import MockTokenBucket
from batchrt.testing.verdict_log import ACCEPTED, SentRequest

__all__ = ["least_seconds"]

_ROUNDS = 100  # of the fixed-point iteration in `_refilled`


def least_seconds(
    sent: Sequence[SentRequest],
    quotas: Sequence[MockQuota],
    *,
    start: float,
    capacity: Schedule | None,
    max_concurrency: int | None,
) -> float:
    """Return a lower bound of the seconds from `start` until all accepted requests of `sent` are answered.

    Each limit is a bound by itself, and the largest holds. A bucket gives out no more than it held and got. A
    limit of parallel requests, a queue's `capacity` and a client's `max_concurrency` bound the requests at a
    time, each of which took as long as it did. The last request that a bucket admits still has to be
    answered, as fast as the fastest was.
    """
    worked = [one for one in sent if one.outcome == ACCEPTED and one.ended < math.inf]
    if not worked:
        return 0.0
    bounds = [max(one.ended - one.began for one in worked)]
    for quota in quotas:
        own = [one for one in worked if one.quota == quota.number]
        if own:
            bounds += _bounds(quota, own, start)
    if capacity is not None:
        bounds.append(_seconds(capacity, _work(worked, sized=True), start))
    if max_concurrency is not None:
        bounds.append(_work(worked) / max_concurrency)
    return max(bounds)


def _bounds(quota: MockQuota, own: Sequence[SentRequest], start: float) -> list[float]:
    fastest = min(one.ended - one.began for one in own)
    bounds = []
    for bucket in quota.buckets:
        spent = float(len(own)) if bucket.name == "requests" else math.fsum(one.spent for one in own)
        bounds.append(_refilled(bucket, spent, start) + fastest)
    parallel = quota.free_parallel()
    if parallel is not None:
        bounds.append(_seconds(parallel, _work(own), start))
    return bounds


def _work(worked: Sequence[SentRequest], *, sized: bool = False) -> float:
    return math.fsum((one.ended - one.began) * (one.size if sized else 1) for one in worked)


def _seconds(places: Schedule, work: float, start: float) -> float:
    return places.second_of(work, start) - start


def _refilled(bucket: MockTokenBucket, spent: float, start: float) -> float:
    """Return the seconds until a bucket has given out `spent` besides the background's use."""
    held = bucket.left_before(start)
    seconds = 0.0
    for _ in range(_ROUNDS):
        lacks = spent + bucket.background_taken(start, start + seconds) - held
        needed = bucket.refill_time(lacks, start) if lacks > 0 else 0.0
        if needed <= seconds:
            break
        seconds = needed
    return seconds
