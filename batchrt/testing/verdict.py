"""Verdict on a client: use of its quota, and waits kept, computed from the verdict log."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from batchrt.testing.admission.quota import MockQuota
from batchrt.testing.admission.schedules import Schedule
from batchrt.testing.admission.token_bucket import LimitName, MockTokenBucket, Period
from batchrt.testing.oracle import least_seconds
from batchrt.testing.verdict_log import (
    ACCEPTED,
    NOISE,
    OUTAGE,
    OVER_PARALLEL,
    QUEUE_FULL,
    REJECTED,
    RequestedWait,
    SentRequest,
    VerdictLog,
)

__all__ = ["CoolDown", "LimitUse", "Verdict", "judge"]

# Sums of floats differ slightly from the moment that they represent.
_TOLERANCE = 1e-6
_AFTER_SECONDS = 1.0

R = TypeVar("R", SentRequest, RequestedWait)


@dataclass(frozen=True, slots=True)
class LimitUse:
    """Use of one limit by one API key for one model.

    Attributes:
        key: 64 bits of the hash of the authorization, in hexadecimal; empty if there was none.
        model: the model's name.
        name: the unit of the limit.
        per: its period; "moment" for parallel requests, whose unit is one in flight for a second.
        spent: requests that were admitted, or their cost in tokens, as it was settled.
        allowed: the bucket's content at the start of the span plus the refill until its end, without a
            stranger's use.
        held: the part of `allowed` that the bucket held at the start.
        rejected: requests that this limit refused.
    """

    key: str
    model: str
    name: LimitName | Literal["parallel_requests"]
    per: Period | Literal["moment"]
    spent: float
    allowed: float
    held: float
    rejected: int

    @property
    def used(self) -> float:
        """The share of `allowed` that was spent."""
        return self.spent / self.allowed if self.allowed > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {**asdict(self), "used": self.used}


@dataclass(frozen=True, slots=True)
class CoolDown:
    """One API key's requests for one model while it was asked to wait, and right afterwards.

    Waits that overlap are one cool-down. The requests allowed after it are the quota's content at its end
    plus the refill of the second that followed; None without such a limit.

    Attributes:
        key: 64 bits of the hash of the authorization, in hexadecimal; empty if there was none.
        model: the model's name.
        start: when the first of the waits was asked for, in seconds since the first request.
        end: when the last of them was over.
        sent: requests that came in between, later than the wait that they broke was asked for.
        sent_after: requests that came in the second after the end.
        allowed_after: how many the quota allowed then.
        tokens_after: the most that those that came may cost, as known on their arrival.
        tokens_allowed_after: how much the quota allowed then.
    """

    key: str
    model: str
    start: float
    end: float
    sent: int
    sent_after: int
    allowed_after: float | None
    tokens_after: float
    tokens_allowed_after: float | None

    @property
    def is_kept(self) -> bool:
        """Whether no request was sent meanwhile, and afterwards no more than was allowed."""
        return (
            not self.sent
            and (self.allowed_after is None or self.sent_after <= self.allowed_after + _TOLERANCE)
            and (
                self.tokens_allowed_after is None
                or self.tokens_after <= self.tokens_allowed_after + _TOLERANCE
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {**asdict(self), "is_kept": self.is_kept}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Judgement of the requests of a span of time; only valid requests for a model count.

    The newest 250,000 of them at least are kept for it.

    Attributes:
        start: start of the span, in seconds since the provider's first request.
        end: its end.
        sent: requests that arrived in it.
        accepted: those that were admitted.
        rejected: those over the quota, the limit of parallel requests included.
        refused: those that found the queue full.
        failed: those that met an outage.
        noise: those that were refused at random.
        by_attempt: how many of them were the first of their body, the second, and so on. Equal bodies that
            are not retries of each other count as if they were.
        peak_in_flight: the most requests at once, of any kind and at any time since the log began.
        sent_in_waits: requests that came during a wait that their API key had been asked for, for their
            model, and later than it was asked for.
        limits: the use of each limit.
        cool_downs: the waits, in the order in which they began.
        lost: how many rows were requested and never answered with status 200, those in flight left out. A row
            is an input of an embedding or a prompt of a completion, in any list, and otherwise a request's
            body; equal ones are one.
        seconds: from the start until the last of the sent was over.
        least_seconds: a lower bound for all accepted requests, for a client that knows the server's limits:
            its buckets, parallel requests, capacity and latencies, and the client's own `max_concurrency`. It
            ignores outages and random refusals.
        noise_seconds: for how long random refusals asked to wait, in the span; of waits for one key and model
            that overlap each second counts once. A client that sends few requests at a time is asked more
            often.
        noise_row_seconds: for how long they asked at most on behalf of one row: the rest of that if no other
            row waits with it.
    """

    start: float
    end: float
    sent: int
    accepted: int
    rejected: int
    refused: int
    failed: int
    noise: int
    by_attempt: Mapping[int, int]
    peak_in_flight: int
    sent_in_waits: int
    limits: tuple[LimitUse, ...]
    cool_downs: tuple[CoolDown, ...]
    lost: int
    seconds: float
    least_seconds: float
    noise_seconds: float
    noise_row_seconds: float

    @property
    def slowness(self) -> float:
        """`seconds` as a multiple of the least possible, waits of random refusals included."""
        least = self.least_seconds + self.noise_seconds
        return self.seconds / least if least > 0 else 1.0

    @property
    def used(self) -> float | None:
        """The share of the limit that was used most, the one that bound; None without limits."""
        return max((limit.used for limit in self.limits), default=None)

    @property
    def refused_share(self) -> float:
        """The share of the sent that was over the quota or found the queue full."""
        return (self.rejected + self.refused) / self.sent if self.sent else 0.0

    @property
    def rejected_share(self) -> float:
        """The share of the sent that was over the quota."""
        return self.rejected / self.sent if self.sent else 0.0

    @property
    def retries(self) -> int:
        """The number of the sent that were not the first of their body."""
        return self.sent - self.by_attempt.get(1, 0)

    @property
    def retries_per_request(self) -> float:
        """The number of retries for each body that came for the first time."""
        return self.retries / max(1, self.by_attempt.get(1, 0))

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict and the derived shares as JSON types: keys are strings."""
        derived = (
            "slowness",
            "used",
            "rejected_share",
            "refused_share",
            "retries",
            "retries_per_request",
        )
        return {
            **{name: getattr(self, name) for name in (*(field.name for field in fields(self)), *derived)},
            "by_attempt": {str(attempt): count for attempt, count in self.by_attempt.items()},
            "limits": [limit.to_dict() for limit in self.limits],
            "cool_downs": [cool_down.to_dict() for cool_down in self.cool_downs],
        }


def judge(
    verdict_log: VerdictLog,
    quotas: Sequence[MockQuota],
    *,
    since: float | None,
    until: float | None,
    grace: float,
    peak_in_flight: int,
    capacity: Schedule | None = None,
    max_concurrency: int | None = None,
) -> Verdict:
    """Judge the requests from `since` to `until`, by default all.

    A request that comes within `grace` seconds after a wait was asked for counts as in flight then. A queue
    processes `capacity` requests at a time, and the client has at most `max_concurrency` in flight.
    """
    everything = list(verdict_log.sent())
    start = (everything[0].second if everything else 0.0) if since is None else since
    end = (everything[-1].second if everything else start) if until is None else until
    sent = [one for one in everything if start <= one.second <= end]
    outcomes = Counter(one.outcome for one in sent)
    by_quota = _grouped(quotas, sent)
    waits = _grouped(quotas, verdict_log.waits())
    noise_waits = [[wait for wait in each if wait.noise] for each in waits.values()]
    cool_downs = [
        cool_down
        for quota in quotas
        for cool_down in _cool_downs(quota, by_quota[quota.number], waits[quota.number], grace)
        if cool_down.end >= start and cool_down.start <= end
    ]
    return Verdict(
        start=start,
        end=end,
        sent=len(sent),
        accepted=outcomes[ACCEPTED],
        rejected=sum(count for outcome, count in outcomes.items() if outcome >= OVER_PARALLEL),
        refused=outcomes[QUEUE_FULL],
        failed=outcomes[OUTAGE],
        noise=outcomes[NOISE],
        by_attempt=MappingProxyType(dict(sorted(Counter(one.attempt for one in sent).items()))),
        peak_in_flight=peak_in_flight,
        sent_in_waits=sum(cool_down.sent for cool_down in cool_downs),
        limits=_limit_uses(quotas, by_quota, start, end),
        cool_downs=tuple(sorted(cool_downs, key=lambda cool_down: cool_down.start)),
        lost=_lost_rows(sent),
        seconds=max((one.ended for one in sent if one.ended < math.inf), default=start) - start,
        least_seconds=least_seconds(
            sent, quotas, start=start, capacity=capacity, max_concurrency=max_concurrency
        ),
        noise_seconds=_seconds_within(noise_waits, start, end),
        noise_row_seconds=_longest_row(
            wait for each in noise_waits for wait in each if start <= wait.asked <= end
        ),
    )


def _grouped(quotas: Sequence[MockQuota], records: Iterable[R]) -> dict[int, list[R]]:
    """Return the records of each quota, by its number."""
    grouped: dict[int, list[R]] = {quota.number: [] for quota in quotas}
    for record in records:
        grouped[record.quota].append(record)
    return grouped


def _limit_uses(
    quotas: Sequence[MockQuota], by_quota: Mapping[int, Sequence[SentRequest]], start: float, end: float
) -> tuple[LimitUse, ...]:
    """Return the use of each bucket, then that of each limit of parallel requests."""
    buckets = (
        _bucket_use(quota, index, by_quota[quota.number], start, end)
        for quota in quotas
        for index in range(len(quota.buckets))
    )
    parallel = (
        _parallel_use(quota, places, by_quota[quota.number], start, end)
        for quota in quotas
        if (places := quota.free_parallel()) is not None
    )
    return (*buckets, *parallel)


def _seconds_within(waits: Iterable[Sequence[RequestedWait]], start: float, end: float) -> float:
    return math.fsum(
        max(0.0, min(until, end) - max(asked, start)) for each in waits for asked, until in _merged(each)
    )


def _longest_row(waits: Iterable[RequestedWait]) -> float:
    seconds: dict[tuple[int, int], float] = {}
    for wait in waits:
        row = wait.quota, wait.row
        seconds[row] = seconds.get(row, 0.0) + wait.until - wait.asked
    return max(seconds.values(), default=0.0)


def _lost_rows(sent: Sequence[SentRequest]) -> int:
    asked: set[tuple[int, int]] = set()
    answered: set[tuple[int, int]] = set()
    for one in sent:
        rows = answered if one.answered or one.ended == math.inf else asked
        rows.update((one.quota, row) for row in one.rows)
    return len(asked - answered)


def _parallel_use(
    quota: MockQuota, places: Schedule, sent: Sequence[SentRequest], start: float, end: float
) -> LimitUse:
    accepted = [one for one in sent if one.outcome == ACCEPTED]
    return LimitUse(
        key=_name(quota),
        model=quota.model,
        name="parallel_requests",
        per="moment",
        spent=math.fsum(max(0.0, min(one.ended, end) - one.second) for one in accepted),
        allowed=places.area(start, end),
        held=0.0,
        rejected=sum(1 for one in sent if one.outcome == OVER_PARALLEL),
    )


def _bucket_use(
    quota: MockQuota, index: int, sent: Sequence[SentRequest], start: float, end: float
) -> LimitUse:
    bucket = quota.buckets[index]
    accepted = [one for one in sent if one.outcome == ACCEPTED]
    held = bucket.left_before(start)
    return LimitUse(
        key=_name(quota),
        model=quota.model,
        name=bucket.name,
        per=bucket.per,
        spent=float(len(accepted)) if bucket.name == "requests" else math.fsum(one.spent for one in accepted),
        allowed=held + bucket.refill(start, end) - bucket.background_taken(start, end),
        held=held,
        rejected=sum(1 for one in sent if one.outcome == REJECTED + index),
    )


def _name(quota: MockQuota) -> str:
    return f"{quota.key:016x}" if quota.key else ""


def _cool_downs(
    quota: MockQuota, sent: Sequence[SentRequest], waits: Sequence[RequestedWait], grace: float
) -> list[CoolDown]:
    asked = [wait.asked for wait in waits]
    # The latest end of all waits that had been asked for, at each of them.
    ends = list(accumulate((wait.until for wait in waits), max))
    spans = _merged(waits)
    starts = [start for start, _ in spans]
    broken = [0] * len(spans)
    for one in sent:
        # A request that comes in the same moment cannot know of the wait.
        known = bisect_left(asked, one.second - grace)
        if known and ends[known - 1] > one.second + _TOLERANCE:
            broken[bisect_right(starts, one.second) - 1] += 1
    seconds = [one.second for one in sent]
    return [
        _cool_down(quota, span, broken[index], _sent_after(sent, seconds, span[1]))
        for index, span in enumerate(spans)
    ]


def _merged(waits: Sequence[RequestedWait]) -> list[tuple[float, float]]:
    spans: list[tuple[float, float]] = []
    for wait in waits:
        if spans and wait.asked < spans[-1][1] - _TOLERANCE:
            spans[-1] = (spans[-1][0], max(spans[-1][1], wait.until))
        else:
            spans.append((wait.asked, wait.until))
    return spans


def _sent_after(sent: Sequence[SentRequest], seconds: Sequence[float], end: float) -> Sequence[SentRequest]:
    return sent[
        bisect_left(seconds, end - _TOLERANCE) : bisect_left(seconds, end + _AFTER_SECONDS - _TOLERANCE)
    ]


def _cool_down(
    quota: MockQuota, span: tuple[float, float], broken: int, after: Sequence[SentRequest]
) -> CoolDown:
    start, end = span
    return CoolDown(
        key=_name(quota),
        model=quota.model,
        start=start,
        end=end,
        sent=broken,
        sent_after=len(after),
        allowed_after=_allowed(quota.buckets, "requests", end),
        tokens_after=math.fsum(one.reserved for one in after),
        tokens_allowed_after=_allowed(quota.buckets, "tokens", end),
    )


def _allowed(buckets: Sequence[MockTokenBucket], name: LimitName, end: float) -> float | None:
    return min(
        (
            max(0.0, bucket.left_before(end)) + bucket.refill(end, end + _AFTER_SECONDS)
            for bucket in buckets
            if bucket.name == name
        ),
        default=None,
    )
