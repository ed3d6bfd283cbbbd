"""The least time: a lower bound for any client, reached by one that knows the limits."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.testing import LogNormal, MockProvider, Noise, Queueing, RateLimits, Stranger
from batchrt.testing.faults.seeded import SeededDice
from tests.testing.virtual import Client, simulate

Ask = Callable[[int], Coroutine[Any, Any, Any]]


def at_rate(rate: float, burst: int, count: int) -> Callable[[Ask], Awaitable[None]]:
    """Send `burst` at once and the others at `rate`."""

    async def send(ask: Ask) -> None:
        async with anyio.create_task_group() as group:
            for number in range(count):
                await anyio.sleep_until(max(0, number - burst + 1) / rate)
                group.start_soon(ask, number)

    return send


def at_a_time(most: int, count: int) -> Callable[[Ask], Awaitable[None]]:
    """Keep `most` requests in flight."""

    async def send(ask: Ask) -> None:
        limiter = anyio.CapacityLimiter(most)

        async def one(number: int) -> None:
            async with limiter:
                await ask(number)

        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(one, number)

    return send


def slowness(
    provider: MockProvider, send: Callable[[Ask], Awaitable[None]], **options: Any
) -> tuple[float, int]:
    """Return a client's slowness, and the number of requests that were not accepted."""

    async def main() -> None:
        client = Client(provider)
        await send(lambda number: client.ask(f"{number}", **options))

    simulate(main)
    verdict = provider.verdict()
    return verdict.slowness, verdict.sent - verdict.accepted


@pytest.mark.parametrize(("rate", "expected"), [(10.0, 1.0), (5.0, 2.0)])
def test_oracle_least_seconds_of_a_rate_are_those_of_its_bucket(rate: float, expected: float) -> None:
    """Its content at once, then one after the other; half the rate takes twice as long."""
    limits = RateLimits(requests_per_minute=600, burst_seconds=2)
    provider = MockProvider(latency=0.3, rate_limits=limits)
    slow, refused = slowness(provider, at_rate(rate, 20, 1000))
    assert slow == pytest.approx(expected, rel=0.02)
    assert refused == 0
    # 980 after the first 20, and the latency of the last.
    assert provider.verdict().least_seconds == pytest.approx(98 + 0.3)


def test_oracle_least_seconds_follow_a_scheduled_rate() -> None:
    """Each piece counts; a limit of tokens by the settled cost."""

    async def send(ask: Ask) -> None:
        for number in range(115):
            await anyio.sleep_until(number / 10 if number < 95 else 10.5 + number - 95)
            await ask(number)

    for name, unit in (("requests", 1), ("tokens", 20)):
        limits: Any = {f"{name}_per_minute": [(0, 600 * unit), (10, 60 * unit)], "burst_seconds": 1}
        provider = MockProvider(answer=lambda _body: "x" * 64, rate_limits=RateLimits(**limits))
        assert slowness(provider, send)[1] == 0
        # 10 that it held, 100 until second 10, and 5 more in as many seconds.
        assert provider.verdict().least_seconds == pytest.approx(15)


@pytest.mark.parametrize(("most", "expected"), [(4, 1.0), (2, 2.0)])
@pytest.mark.parametrize(
    "options",
    [
        {"rate_limits": RateLimits(max_parallel_requests=4)},
        {"queueing": Queueing(capacity=4)},
        {"rate_limits": RateLimits(max_parallel_requests=6, stranger=Stranger(in_flight=2))},
    ],
    ids=["parallel", "queue", "stranger"],
)
def test_oracle_least_seconds_of_a_number_in_flight(
    options: dict[str, Any], most: int, expected: float
) -> None:
    """With all places occupied all the time."""
    provider = MockProvider(latency=0.5, **options)
    slow, refused = slowness(provider, at_a_time(most, 100))
    assert slow == pytest.approx(expected)
    assert refused == 0
    if "rate_limits" in options:
        [use] = provider.verdict().limits
        assert (use.name, use.per) == ("parallel_requests", "moment")
        assert use.used == pytest.approx(1 / expected, abs=0.01)


def test_oracle_least_seconds_exclude_the_time_in_a_queue() -> None:
    """A waiting request is not processed: the places decide, however many arrive at once."""
    provider = MockProvider(latency=0.5, queueing=Queueing(capacity=[(0, 4), (5, 2)]))
    assert slowness(provider, at_a_time(100, 100))[0] == pytest.approx(1.0)
    assert provider.verdict().least_seconds == pytest.approx(5 + 60 * 0.5 / 2)


def test_oracle_least_seconds_respect_the_clients_cap() -> None:
    """Its own `max_concurrency` does not count as slowness."""
    provider = MockProvider(latency=0.5, rate_limits=RateLimits(requests_per_minute=6000))
    slow, _ = slowness(provider, at_a_time(2, 100))
    assert slow == pytest.approx(50)
    assert provider.verdict(max_concurrency=2).slowness == pytest.approx(1.0)


def test_oracle_least_seconds_exclude_a_strangers_part() -> None:
    """Six of ten a second are the stranger's, the client has the others."""
    limits = RateLimits(requests_per_minute=600, burst_seconds=1, stranger=Stranger(requests_per_minute=360))
    slow, refused = slowness(MockProvider(rate_limits=limits), at_rate(4.0, 1, 400))
    assert slow == pytest.approx(1.0, abs=0.05)
    assert refused <= 4


def test_oracle_least_seconds_ignore_noise_except_its_waits() -> None:
    """The requested waits, counted once where they overlap."""
    provider = MockProvider(latency=0.5, noise=Noise(share=[(0, 1), (0.5, 0)], wait=3.0))

    async def main() -> None:
        client = Client(provider)
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(client.ask, f"{number}")
        await anyio.sleep(3)
        await client.ask("0")
        await client.ask("1")

    simulate(main)
    verdict = provider.verdict()
    assert (verdict.noise, verdict.noise_seconds, verdict.least_seconds) == (5, 3.0, 0.5)
    assert verdict.noise_row_seconds == 3.0
    assert verdict.slowness == pytest.approx(4 / 3.5)
    assert verdict.lost == 3


@given(
    seed=st.integers(0, 10**6),
    rate=st.sampled_from([60, 600, [(0, 600), (5, 60), (15, 1200)]]),
    burst=st.sampled_from([0.5, 5.0]),
    parallel=st.sampled_from([None, 2, [(0, 8), (4, 1), (9, 3)]]),
    capacity=st.sampled_from([None, 1, [(0, 2), (3, 5)]]),
    stranger=st.sampled_from([None, Stranger(requests_per_minute=240, in_flight=[(0, 0), (2, 1)])]),
    cap=st.integers(1, 20),
)
def test_oracle_least_seconds_are_a_lower_bound(
    seed: int, rate: Any, burst: float, parallel: Any, capacity: Any, stranger: Any, cap: int
) -> None:
    """For any server and any client."""
    provider = MockProvider(
        seed=seed,
        latency=LogNormal(0.4, 0.8),
        queueing=None if capacity is None else Queueing(capacity=capacity, max_waiting=2),
        rate_limits=RateLimits(
            requests_per_minute=rate, burst_seconds=burst, max_parallel_requests=parallel, stranger=stranger
        ),
    )

    async def send(ask: Ask) -> None:
        dice = SeededDice(seed)

        async def try_it(number: int) -> None:
            for _ in range(4):
                await anyio.sleep(dice.below(100) / 50)
                await ask(number)

        await at_a_time(cap, 25)(try_it)

    slow, _ = slowness(provider, send)
    assert slow >= 1 - 1e-9
    assert provider.verdict(max_concurrency=cap).slowness >= 1 - 1e-9
    assert provider.verdict().least_seconds < math.inf
