"""`max_concurrency="auto"`: as many requests at once as the provider answers best."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from batchrt import LimitChanged, Quota, RunnableLambda
from batchrt.limits.adaptive_concurrency import FIRST_LIMIT
from batchrt.limits.events import QuotaEvent
from batchrt.testing import MockProvider, Outage, Queueing, RateLimits
from tests.limits.quotas import is_idle, virtually
from tests.providers.mocked import LATENCY, Simulated, chat, simulate
from tests.runtime.harness import Watch

AUTO: Any = {"max_concurrency": "auto"}


def provider(capacity: Any, seed: int = 1, **options: Any) -> MockProvider:
    return MockProvider(seed=seed, latency=LATENCY, queueing=Queueing(capacity=capacity, **options))


def found(simulated: Simulated) -> int:
    assert simulated.statistics.max_concurrency is not None
    return simulated.statistics.max_concurrency


@pytest.mark.parametrize(("seed", "capacity"), [(1, 16), (2, 64)])
def test_auto_keeps_a_server_that_queues_busy(seed: int, capacity: int) -> None:
    """Nearly as fast as possible, in the end with a queue that is shorter than the capacity."""
    simulated = simulate(provider(capacity, seed), 60 * capacity // 2, cap="auto")
    assert not simulated.errors
    assert 0.7 * capacity <= found(simulated) <= 2 * capacity
    assert simulated.seconds <= 1.35 * 30 * 1.13
    assert simulated.verdict.peak_in_flight <= 8 * capacity, "it is found by doubling"


@pytest.mark.parametrize(("seed", "status", "wait"), [(1, 429, None), (2, 429, 1), (3, 503, 1)])
def test_auto_keeps_a_server_that_rejects_busy(seed: int, status: Any, wait: Any) -> None:
    """With a time to wait or without one, as a 429 or a 503."""
    capacity = 32
    made = provider(capacity, seed, max_waiting=0, full_status=status, retry_after=wait)
    simulated = simulate(made, 1500, cap="auto")
    assert not simulated.errors
    assert 0.5 * capacity <= found(simulated) <= 1.1 * capacity
    assert simulated.verdict.refused <= 0.06 * simulated.verdict.sent


def test_auto_finds_a_limit_by_a_refusal_or_two() -> None:
    """Growth is paced, so that the first request beside too many tells how many are not."""
    limits = RateLimits(max_parallel_requests=64, style="nginx")
    made = MockProvider(latency=1.0, refusal_latency=0.005, rate_limits=limits)
    simulated = simulate(made, 600, cap="auto")
    assert not simulated.errors
    assert simulated.verdict.rejected <= 10
    assert 60 <= found(simulated) <= 64
    assert simulated.seconds <= 1.3 * 600 / 64


def test_auto_announces_every_change_with_a_reason() -> None:
    """Each begins where the one before ended, and statistics show the last one."""

    async def main() -> None:
        model = chat(provider(16))
        events: list[QuotaEvent] = []
        assert model.quota.statistics().max_concurrency is None
        with model.quota.listening(events.append):
            await model.abatch([f"{number}" for number in range(400)], AUTO)
        changes = [event for event in events if isinstance(event, LimitChanged)]
        assert changes
        last = float(FIRST_LIMIT)
        for change in changes:
            assert change.name == "max_concurrency"
            assert change.before == last
            assert change.reason
            assert change.after is not None
            last = change.after
        assert model.quota.statistics().max_concurrency == last

    virtually("trio", main)


def test_auto_does_not_grow_while_the_server_fails() -> None:
    """Requests that fail fast are no reason to send more."""
    made = MockProvider(latency=LATENCY, outages=[Outage(0.5, 1e6, 500)])

    async def main() -> None:
        model = chat(made, max_retries=0, quota=Quota(retry_budget=None))
        await model.arun([f"{number}" for number in range(500)], AUTO)
        assert (model.quota.statistics().max_concurrency or 0) <= 16

    virtually("trio", main)
    assert made.verdict().peak_in_flight <= 16


def test_auto_is_shared_by_two_clients() -> None:
    """Together they are no more than one would be."""
    simulated = simulate(provider(24), 1200, runs=2, cap="auto")
    assert not simulated.errors
    assert found(simulated) <= 48
    assert simulated.verdict.peak_in_flight <= 8 * 24
    assert max(simulated.ended) - min(simulated.ended) < 0.3 * simulated.seconds


def test_auto_may_be_a_part_of_a_chain() -> None:
    """With the others under the run's own cap."""
    made = provider(16)
    watch = Watch()

    async def prepare(text: str) -> str:
        with watch:
            await anyio.sleep(0.1)
            return text

    async def main() -> None:
        model = chat(made)
        chain = RunnableLambda(prepare) | model.with_config({"max_concurrency": "auto"})
        await chain.abatch([f"{number}" for number in range(300)], {"max_concurrency": 100})
        assert model.quota.statistics().max_concurrency is not None
        assert is_idle(model.quota)

    virtually("trio", main)
    assert watch.peak <= 100
    assert made.verdict().peak_in_flight <= 100


@pytest.mark.parametrize("cap", [1, 3])
def test_auto_keeps_to_a_cap_around_it(cap: int) -> None:
    """The run's own, though the provider could do more."""
    made = provider(1000)

    async def main() -> None:
        model = chat(made)
        auto = model.with_config({"max_concurrency": "auto"})
        await auto.abatch([f"{number}" for number in range(60)], {"max_concurrency": cap})

    virtually("trio", main)
    assert made.verdict().peak_in_flight == cap


def test_auto_keeps_to_the_quota_s_max_in_flight() -> None:
    """`max_in_flight` is for everybody."""
    simulated = simulate(provider(1000), 200, cap="auto", max_in_flight=5)
    assert simulated.verdict.peak_in_flight == 5


def test_auto_does_not_cap_plain_functions() -> None:
    """Functions have no provider that could be asked too much."""
    watch = Watch()

    async def work(value: int) -> int:
        with watch:
            await anyio.sleep(1)
            return value

    async def main() -> None:
        assert await RunnableLambda(work).abatch(list(range(200)), AUTO) == list(range(200))

    virtually("trio", main)
    assert watch.peak == 200


def test_auto_does_not_hold_runs_with_a_cap_of_their_own() -> None:
    """A run with a cap of its own sends as many as that says."""
    made = provider(1000)

    async def main() -> None:
        model = chat(made)
        await model.abatch([f"a{number}" for number in range(5)], AUTO)
        await model.abatch([f"b{number}" for number in range(150)], {"max_concurrency": 60})

    virtually("trio", main)
    assert made.verdict().peak_in_flight == 60
