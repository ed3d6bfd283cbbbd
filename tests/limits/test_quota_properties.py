"""Whatever happens to requests in whatever order: no more than is allowed, and nothing stays behind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrt import (
    ConnectionFailedError,
    ProviderError,
    Quota,
    RateLimitError,
    RequestTimeoutError,
    RetryBudget,
    ServerError,
)
from batchrt.limits.error_kinds import Failure
from batchrt.limits.permit import Permit
from batchrt.limits.rate_limits import RateLimitStatus
from batchrt.runtime.item import Item
from batchrt.runtime.strand import Strand
from tests.limits.quotas import BACKENDS, Counter, is_idle, usage_of, virtually
from tests.runtime.harness import tasks


class Plan(NamedTuple):
    """The outcome of one request.

    Attributes:
        at: when it comes.
        tokens: what it costs.
        seconds: how long it takes.
        given_up: seconds after which its caller leaves, if at all.
        error: how it fails, if it does.
        again: it was sent before.
        patience: for a provider that is down.
    """

    at: float
    tokens: int
    seconds: float
    given_up: float | None
    error: ProviderError | None
    again: bool
    patience: float


def _errors() -> st.SearchStrategy[ProviderError | None]:
    wait = st.sampled_from([None, 0.0, 0.3, 2.0, 7.0])
    return st.one_of(
        st.none(),
        st.none(),
        st.builds(lambda seconds: RateLimitError("x", status=429, retry_after=seconds), wait),
        st.builds(lambda seconds: ServerError("x", status=503, retry_after=seconds), wait),
        st.builds(lambda: ServerError("x", status=500)),
        st.builds(lambda: ConnectionFailedError("x")),
        st.builds(lambda: RequestTimeoutError("x")),
    )


PLANS = st.lists(
    st.builds(
        Plan,
        at=st.sampled_from([0.0, 0.0, 0.1, 1.0, 3.0]),
        tokens=st.integers(0, 60),
        seconds=st.sampled_from([0.0, 0.2, 1.0, 4.0]),
        given_up=st.one_of(st.none(), st.none(), st.sampled_from([0.0, 0.1, 0.5, 2.0, 6.0])),
        error=_errors(),
        again=st.booleans(),
        patience=st.sampled_from([0.0, 0.0, 5.0, 100.0]),
    ),
    max_size=40,
)
QUOTAS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "requests_per_minute": st.sampled_from([None, 30, 120, 600]),
        "tokens_per_minute": st.sampled_from([None, 600, 6000]),
        "max_in_flight": st.sampled_from([None, 1, 2, 5]),
        "burst_seconds": st.sampled_from([0.1, 1, 10, 60]),
    }
)


async def carry_out(counter: Counter, plans: Sequence[Plan]) -> None:
    """Send all requests, as they are planned; those that are turned away are done."""

    async def one(number: int, plan: Plan) -> None:
        await anyio.sleep(plan.at)
        with anyio.CancelScope() as scope:
            if plan.given_up is not None:
                scope.deadline = anyio.current_time() + plan.given_up
            try:
                await counter.send(
                    number,
                    tokens=plan.tokens,
                    seconds=plan.seconds,
                    error=plan.error,
                    again=plan.again,
                    patience=plan.patience,
                )
            except ProviderError:
                assert plan.patience

    async with anyio.create_task_group() as group:
        for number, plan in enumerate(plans):
            group.start_soon(one, number, plan)


@pytest.mark.parametrize("backend", BACKENDS)
@given(options=QUOTAS, plans=PLANS, slots=st.sampled_from([None, 1, 3]))
def test_quota_is_empty_after_all_requests_ended(
    backend: str, options: dict[str, Any], plans: list[Plan], slots: int | None
) -> None:
    """However requests end, and wherever they were: the next is let in as if nothing had been."""

    async def main() -> None:
        quota = Quota(**options)
        counter = Counter(quota, slots=slots)
        before = tasks()
        await carry_out(counter, plans)
        assert is_idle(quota)
        assert counter.run.held == 0
        assert counter.run.slots.free == (slots or float("inf"))
        assert sum(quota._limiter.rates._outstanding) == pytest.approx(0)
        assert counter.peak <= (options["max_in_flight"] or len(plans) + 1)
        await anyio.sleep(600)
        began = counter.now()
        await counter.send("afterwards", tokens=1)
        assert counter.times[-1] == began
        assert tasks() == before

    virtually(backend, main)


AN_OUTAGE = [
    Plan(0.0, 0, 0.0, None, ServerError("x", status=500), again=False, patience=0.0) for _ in range(11)
]


@pytest.mark.parametrize("backend", BACKENDS)
@given(options=QUOTAS, plans=PLANS)
@example(
    options={
        "requests_per_minute": 30,
        "tokens_per_minute": None,
        "max_in_flight": None,
        "burst_seconds": 0.1,
    },
    plans=[*AN_OUTAGE, Plan(0.0, 0, 0.0, None, None, again=False, patience=5.0)],
)
def test_quota_sends_no_more_in_any_window_than_the_bucket_allows(
    backend: str, options: dict[str, Any], plans: list[Plan]
) -> None:
    """From any request to any later one: the capacity, and the refill meanwhile."""
    rate = (options["requests_per_minute"] or 0) / 60

    async def main() -> None:
        counter = Counter(Quota(**options))
        # One that came to nobody is given back, and may fit in addition.
        heard = [
            plan._replace(error=None) if isinstance(plan.error, ConnectionFailedError) else plan
            for plan in plans
        ]
        await carry_out(counter, heard)
        times = counter.times
        assert times == sorted(times)
        if not rate:
            return
        capacity = max(1.0, rate * options["burst_seconds"])
        for first, start in enumerate(times):
            for number, at in enumerate(times[first:], 1):
                assert number <= capacity + rate * (at - start) + 0.001

    virtually(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    starts=st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=1, max_size=30),
    errors=st.lists(
        st.sampled_from([None, RateLimitError("x", status=429), RateLimitError("x", retry_after=7.0)]),
        min_size=30,
        max_size=30,
    ),
)
def test_quota_sends_something_every_two_minutes_whatever_is_refused(
    backend: str, starts: list[float], errors: list[ProviderError | None]
) -> None:
    """Refusals that have nothing to do with the pace, at no latency, do not end the work."""

    async def main() -> None:
        counter = Counter(Quota())
        await carry_out(
            counter,
            [
                Plan(at, 0, 0.0, None, error, again=False, patience=0.0)
                for at, error in zip(starts, errors, strict=False)
            ],
        )
        gaps = [after - before for before, after in itertools.pairwise(counter.times)]
        assert max(gaps, default=0) <= 121

    virtually(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15)
@given(
    refused=st.lists(st.one_of(st.just(True), st.booleans()), min_size=10, max_size=60),
    gap=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    latency=st.sampled_from([0.0, 0.05, 0.5]),
    wait=st.sampled_from([None, 0.05, 0.3, 2.0]),
)
@example(refused=[True] * 23 + [False, True, True], gap=0.01, latency=0.0, wait=None)
@example(refused=[True, True, True, False] * 15, gap=0.0, latency=0.5, wait=2.0)
def test_quota_leaves_what_refusals_told_behind_within_minutes(
    backend: str, refused: list[bool], gap: float, latency: float, wait: float | None
) -> None:
    """Refusals of any kind, also of everything that was sent: a rate that they told grows out of the way.

    The lowest rate, of one request a minute, is doubled in a minute at first, and then ever faster.
    """
    seconds, last = time_after(backend, refused, gap, latency, wait)
    assert seconds <= 480
    assert last <= 45


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15)
@given(
    number=st.integers(10, 60),
    gap=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    latency=st.sampled_from([0.0, 0.05, 0.5]),
    wait=st.sampled_from([None, 0.05, 0.3, 2.0]),
)
@example(number=51, gap=0.0, latency=0.05, wait=0.3)
@example(number=18, gap=0.01, latency=0.0, wait=2.0)
@example(number=58, gap=0.1, latency=0.5, wait=None)
def test_quota_is_at_full_pace_a_minute_after_all_was_refused(
    backend: str, number: int, gap: float, latency: float, wait: float | None
) -> None:
    """Where nothing was let in, nothing was told."""
    seconds, last = time_after(backend, [True] * number, gap, latency, wait)
    assert seconds <= 60
    assert last <= 4, "twenty in flight would take a second"


def time_after(
    backend: str, refused: list[bool], gap: float, latency: float, wait: float | None
) -> tuple[float, float]:
    """Return how long 600 requests take after some that were `refused` or not, and the last 200 of them."""

    async def main() -> tuple[float, float]:
        counter = Counter(Quota())
        error = RateLimitError("x", status=429, retry_after=wait)
        plans = [
            Plan(number * gap, 0, latency, None, error if each else None, again=False, patience=0.0)
            for number, each in enumerate(refused)
        ]
        await carry_out(counter, plans)
        began = counter.now()
        counter.sent.clear()

        async def send() -> None:
            for _ in range(30):
                await counter.send(seconds=0.1)

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(send)
        times = counter.times
        return times[-1] - began, times[-1] - times[-200]

    return virtually(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
@given(plans=PLANS, waits=st.lists(st.floats(0.1, 20), min_size=1, max_size=4))
def test_quota_sends_nothing_during_a_cooldown(backend: str, plans: list[Plan], waits: list[float]) -> None:
    """Whatever else is going on."""

    async def main() -> None:
        quota = Quota(requests_per_minute=6000, burst_seconds=60)
        counter = Counter(quota)
        quiet: list[tuple[float, float]] = []

        async def refuse(number: int, wait: float) -> None:
            await anyio.sleep(0.7 * number)
            strand = Strand(counter.run, Item(0), {}, counter.run.slots)
            permit = Permit(0, answers=0)
            await quota.admit(permit, strand)
            now = counter.run.now()
            error = RateLimitError("x", status=429, retry_after=wait)
            quota.failed(permit, Failure.of(error), now)
            quiet.append((counter.now(), wait))
            strand.close()

        async with anyio.create_task_group() as group:
            for number, wait in enumerate(waits):
                group.start_soon(refuse, number, wait)
            calm = [plan._replace(error=None) for plan in plans]
            group.start_soon(carry_out, counter, calm)
        for start, wait in quiet:
            assert not [at for _, at in counter.sent if start + 1e-9 < at < start + wait - 1e-6]
        assert is_idle(quota)

    virtually(backend, main)


@given(
    plans=PLANS,
    told=st.lists(
        st.builds(
            RateLimitStatus,
            unit=st.sampled_from(["requests", "tokens"]),
            limit=st.floats(0.001, 1e15),
            remaining=st.floats(0, 1e15),
            reset=st.one_of(st.none(), st.floats(1e-9, 86_400)),
        ),
        min_size=1,
        max_size=40,
    ),
)
def test_quota_numbers_stay_finite_for_any_headers(plans: list[Plan], told: list[RateLimitStatus]) -> None:
    """Nothing becomes NaN, and later headers replace earlier ones."""

    async def main() -> None:
        quota = Quota()
        run = Counter(quota).run
        for number, status in enumerate(told):
            strand = Strand(run, Item(0), {}, run.slots)
            permit = Permit(40, most=10.0)
            with anyio.move_on_after(5):
                await quota.admit(permit, strand)
                permit.told = [status._replace(remaining=min(status.remaining, status.limit))]
                quota.answered(permit, usage_of(10, 10), run.now())
            assert permit.granted is False
            strand.close()
            for limit in quota._limiter.rates._all():
                bucket = limit.bucket
                values = (bucket.level, bucket.rate, bucket.capacity, bucket.reserve)
                assert all(abs(value) < 1e20 for value in values), (number, status)
                assert bucket.capacity > 0
                assert bucket.rate > 0
        assert is_idle(quota)

    virtually("asyncio", main)


@given(
    st.lists(st.sampled_from(["answered", "failed", "refused", "timeout"]), max_size=60),
    st.floats(0, 30),
)
def test_quota_retry_budget_is_spent_once_and_repaid_by_answers(events: list[str], capacity: float) -> None:
    """The tokens left are the first ones less the cost of retries, plus the repayments."""

    async def main() -> None:
        quota = Quota(retry_budget=RetryBudget(capacity=capacity))
        counter = Counter(quota)
        errors: dict[str, ProviderError] = {
            "failed": ServerError("x", status=500),
            "refused": RateLimitError("x", status=429, retry_after=0.01),
            "timeout": RequestTimeoutError("x"),
        }
        costs = {"failed": 5.0, "refused": 0.0, "timeout": 10.0}
        left = capacity
        for event in events:
            if event == "answered":
                await counter.send()
                left = min(left + 1, capacity)
            else:
                afforded = quota.retries.afford(Failure.of(errors[event]))
                assert afforded == (left >= costs[event]) or not capacity
                left -= costs[event] if afforded else 0
            assert quota.statistics().retry_tokens == pytest.approx(left)

    virtually("asyncio", main)
