"""Admission: first come, first served, as fast as the limits allow, and nothing stays behind."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt import (
    BadRequestError,
    ConnectionFailedError,
    ProviderError,
    Quota,
    RateLimitError,
    RequestTimeoutError,
    RetryBudget,
    ServerError,
)
from batchrt.limits.cooldown import _DOUBLING
from batchrt.limits.events import Admitted, CooledDown, LimitChanged, QuotaEvent, Sent
from batchrt.limits.pacing import _AT_ONCE
from batchrt.limits.permit import Permit
from batchrt.limits.wait_queue import LoopWaiters
from batchrt.runtime.item import Item
from batchrt.runtime.strand import Strand
from tests.limits.quotas import BACKENDS, Counter, is_idle, usage_of, virtually
from tests.runtime.harness import in_thread, pause

on_both = pytest.mark.parametrize("backend", BACKENDS)


# In order


@on_both
def test_quota_is_first_come_first_served(backend: str) -> None:
    """A request a second, in the order in which they asked."""

    async def main() -> None:
        quota = Quota(requests_per_minute=60, burst_seconds=1)
        counter = Counter(quota)
        async with anyio.create_task_group() as group:
            for number in range(10):
                counter.start(group, number)
                await pause(2)
        assert counter.names == list(range(10))
        assert counter.times == pytest.approx(list(range(10)), abs=1e-5)
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_quota_sends_retries_first(backend: str) -> None:
    """Work that was begun is finished first; retries keep their order."""

    async def main() -> None:
        counter = Counter(Quota(requests_per_minute=60, burst_seconds=1))
        async with anyio.create_task_group() as group:
            for name in ("first", "new 1", "new 2"):
                counter.start(group, name)
                await pause(2)
            await anyio.sleep(0.1)
            counter.start(group, "again 1", again=True)
            await pause(2)
            counter.start(group, "again 2", again=True)
        assert counter.names == ["first", "again 1", "again 2", "new 1", "new 2"]

    virtually(backend, main)


@on_both
def test_quota_lets_no_request_pass_waiting_ones(backend: str) -> None:
    """A request that comes when there is room waits behind earlier ones."""

    async def main() -> None:
        counter = Counter(Quota(tokens_per_minute=600, burst_seconds=10))
        async with anyio.create_task_group() as group:
            counter.start(group, "first", tokens=90)
            await pause(2)
            counter.start(group, "large", tokens=100)
            await pause(2)
            for number in range(5):
                counter.start(group, number, tokens=1)
                await pause(2)
        assert counter.names == ["first", "large", 0, 1, 2, 3, 4]
        assert counter.times[1] == pytest.approx(9)

    virtually(backend, main)


@on_both
def test_quota_does_not_starve_large_requests(backend: str) -> None:
    """However many keep coming."""

    async def main() -> None:
        counter = Counter(Quota(tokens_per_minute=600, burst_seconds=10))
        async with anyio.create_task_group() as group:
            for number in range(100):
                counter.start(group, number, tokens=10)
            await pause(200)
            counter.start(group, "large", tokens=100)
            for number in range(300):
                await anyio.sleep(0.5)
                counter.start(group, f"later {number}", tokens=10)
        place = counter.names.index("large")
        assert place == 100
        assert counter.times[place] - counter.times[place - 1] == pytest.approx(10, abs=0.01)

    virtually(backend, main)


@on_both
def test_quota_sends_a_request_larger_than_the_bucket_when_it_is_full(backend: str) -> None:
    """And those behind wait until the debt is paid."""

    async def main() -> None:
        counter = Counter(Quota(tokens_per_minute=60, burst_seconds=10))
        async with anyio.create_task_group() as group:
            for name, tokens in (("a", 5), ("huge", 40), ("c", 1)):
                counter.start(group, name, tokens=tokens)
                await pause(2)
        assert counter.names == ["a", "huge", "c"]
        assert counter.times == pytest.approx([0, 5, 36], abs=1e-4)

    virtually(backend, main)


# As fast as the limits allow


@on_both
def test_quota_keeps_a_rate_exactly(backend: str) -> None:
    """200 a second from a bucket of one, and not the first two at once."""

    async def main() -> None:
        counter = Counter(Quota(requests_per_minute=12_000, burst_seconds=0.005))
        async with anyio.create_task_group() as group:
            for number in range(1001):
                counter.start(group, number, seconds=0.3)
        assert counter.times == pytest.approx([number / 200 for number in range(1001)], abs=1e-3)

    virtually(backend, main)


@on_both
@pytest.mark.parametrize(
    ("limits", "burst", "rate"),
    [
        ({"requests_per_minute": 600}, 1, 10),
        ({"requests_per_minute": 600}, 60, 10),
        ({"tokens_per_minute": 6000}, 1, 10),
        ({"requests_per_day": 86_400}, None, None),
        ({"requests_per_minute": 600, "tokens_per_minute": 3000}, 1, 5),
        ({"requests_per_minute": 300, "tokens_per_minute": 60_000, "requests_per_day": 10**9}, 1, 5),
    ],
)
def test_quota_keeps_to_the_tightest_limit(
    backend: str, limits: dict[str, Any], burst: float | None, rate: float | None
) -> None:
    """In any window: the bucket's capacity and the refill; and no less while requests wait."""

    async def main() -> None:
        counter = Counter(Quota(burst_seconds=burst, **limits))
        async with anyio.create_task_group() as group:
            for number in range(900):
                counter.start(group, number, tokens=10, seconds=1)
        times = counter.times
        if rate is None:
            assert times[-1] == 0, "a day's limit may be used up at once"
            return
        held = rate * (burst or 1)
        for first in (0, 1, 7, 100, 500):
            for number, at in enumerate(times[first:], 1):
                assert number <= held + rate * (at - times[first]) + 1.01
        assert times[-1] == pytest.approx((900 - held) / rate, abs=0.3)

    virtually(backend, main)


@on_both
def test_quota_keeps_a_days_limit_to_the_day(backend: str) -> None:
    """The used part comes back at a day's rate."""

    async def main() -> None:
        counter = Counter(Quota(requests_per_day=864))
        async with anyio.create_task_group() as group:
            for number in range(869):
                counter.start(group, number)
        assert counter.times[863] == 0
        assert counter.times[864:] == pytest.approx([100, 200, 300, 400, 500], abs=1e-3)

    virtually(backend, main)


@on_both
def test_quota_tries_a_bucket_of_unknown_size_at_twice_the_rate(backend: str) -> None:
    """A second's worth at once, and then so much that a full one is used up in its time."""

    async def main() -> None:
        counter = Counter(Quota(requests_per_minute=600))
        async with anyio.create_task_group() as group:
            for number in range(1500):
                counter.start(group, number)
        times = counter.times
        assert sum(at == 0 for at in times) == 10
        assert sum(at <= 30 for at in times) == pytest.approx(610, abs=3)
        assert sum(at <= 60 for at in times) == pytest.approx(10 + 590 + 600, abs=5)
        assert times[-1] == pytest.approx(60 + 31, abs=1.5)

    virtually(backend, main)


@on_both
def test_quota_keeps_as_many_in_flight_as_allowed(backend: str) -> None:
    """And the next goes when one has ended."""

    async def main() -> None:
        quota = Quota(max_in_flight=3)
        counter = Counter(quota)
        async with anyio.create_task_group() as group:
            for number in range(10):
                counter.start(group, number, seconds=1)
        assert counter.peak == 3
        assert counter.times == pytest.approx([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_quota_keeps_changed_limits_from_then_on(backend: str) -> None:
    """For requests that wait already, too, without a new request."""

    async def main() -> None:
        quota = Quota(requests_per_minute=60, burst_seconds=1)
        counter = Counter(quota)
        events: list[QuotaEvent] = []
        async with anyio.create_task_group() as group:
            for number in range(20):
                counter.start(group, number)
            await anyio.sleep(4.5)
            with quota.listening(events.append):
                quota.set_limits(requests_per_minute=600)
        assert counter.times[:5] == pytest.approx([0, 1, 2, 3, 4], abs=1e-4)
        assert counter.times[-1] < 6.5
        assert [event for event in events if isinstance(event, LimitChanged)] == [
            LimitChanged("requests_per_minute", 60, 600, "given by hand")
        ]
        assert quota.statistics().limits == {"requests_per_minute": 600}

    virtually(backend, main)


@on_both
def test_quota_uses_new_room_at_once(backend: str) -> None:
    """A raised `max_in_flight` admits waiting requests."""

    async def main() -> None:
        quota = Quota(max_in_flight=1)
        counter = Counter(quota)
        async with anyio.create_task_group() as group:
            for number in range(4):
                counter.start(group, number, seconds=10)
            await anyio.sleep(1)
            quota.set_limits(max_in_flight=4)
        assert counter.times == pytest.approx([0, 1, 1, 1])

    virtually(backend, main)


@pytest.mark.parametrize(
    "limit",
    [{"max_in_flight": 1}, {"requests_per_minute": 1}, {"tokens_per_day": 1}, {"requests_per_day": 1}],
)
@on_both
def test_quota_admits_waiting_requests_when_a_limit_is_lifted(backend: str, limit: dict[str, Any]) -> None:
    """At once; those that are not mentioned still hold."""

    async def main() -> None:
        quota = Quota(**limit)
        counter = Counter(quota)
        async with anyio.create_task_group() as group:
            for number in range(4):
                counter.start(group, number, seconds=10, tokens=1)
            await anyio.sleep(1)
            sent = len(counter.sent)
            assert sent < 4
            quota.set_limits()
            await anyio.sleep(1)
            assert len(counter.sent) == sent
            quota.set_limits(**dict.fromkeys(limit, None))
            await anyio.sleep(1e-3)
            assert len(counter.sent) == 4
        assert quota.statistics().limits == {}
        assert quota.statistics().used == {}
        quota.set_limits(**limit)
        assert quota.statistics().limits == limit

    virtually(backend, main)


@pytest.mark.parametrize(
    ("end", "more"), [("cancelled", 0), ("no connection", 0), ("answered", 1), ("bad request", 1)]
)
@on_both
def test_quota_slow_start_is_sped_up_by_answers_alone(backend: str, end: str, more: int) -> None:
    """By one request for each; a request that is given up says nothing about the provider."""

    async def main() -> None:
        counter = Counter(Quota(retry_budget=None))
        error = {
            "no connection": ConnectionFailedError("no"),
            "bad request": BadRequestError("no", status=400),
        }.get(end)
        with anyio.move_on_after(0.0001):
            await counter.send(seconds=0.01 if end == "cancelled" else 0, error=error)
        counter.sent.clear()
        async with anyio.create_task_group() as group:
            for number in range(500):
                counter.start(group, number, seconds=1)
        assert sum(at <= 0.0001 for at in counter.times) == _AT_ONCE - 1 + more
        assert counter.times[-1] > 0.05

    virtually(backend, main)


@on_both
def test_quota_slow_start_does_not_flood_a_provider_before_its_first_answer(backend: str) -> None:
    """Some at once, and ever more from the first reply on; later there is no bound."""

    async def main() -> None:
        silent = Counter(Quota())
        async with anyio.create_task_group() as group:
            for number in range(100):
                silent.start(group, number, seconds=1)
        assert sum(at < 0.15 for at in silent.times) == _AT_ONCE
        assert silent.times[-1] < 0.3, "a slow provider is no silent one"
        counter = Counter(Quota())
        async with anyio.create_task_group() as group:
            error = ServerError("broken", status=500)
            counter.start(group, "replied to soon", seconds=1e-5, error=error)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            for number in range(999):
                counter.start(group, number, seconds=0.1)
        assert sum(at == 0 for at in counter.times) == _AT_ONCE
        for doublings in (1, 2):
            sent = sum(at <= doublings * _DOUBLING + 1e-4 for at in counter.times)
            assert sent == pytest.approx(_AT_ONCE * 2**doublings, abs=2)
        assert counter.times[-1] <= 0.15
        counter.sent.clear()
        began = counter.now()
        async with anyio.create_task_group() as group:
            for number in range(1000):
                counter.start(group, number, seconds=0.1)
        assert counter.times[-1] == began

    virtually(backend, main)


# What it costs in the end


@on_both
def test_quota_settles_expected_tokens_by_usage(backend: str) -> None:
    """An answer that was shorter than expected makes room, a longer one takes it."""

    async def main() -> None:
        quota = Quota(tokens_per_minute=60, burst_seconds=60)
        counter = Counter(quota)
        await counter.send("short", tokens=50, usage=usage_of(50 - 40))
        assert quota.statistics().used["tokens_per_minute"] == pytest.approx(10 / 60)
        await counter.send("long", tokens=10, usage=usage_of(70))
        assert quota._limiter.rates._given["tokens", "minute"].bucket.level == pytest.approx(-20)
        await counter.send("unknown")
        assert counter.times == pytest.approx([0, 0, 20])

    virtually(backend, main)


REFUNDED: list[ProviderError] = [
    RateLimitError("x", status=429),
    ServerError("x", status=503),
    ServerError("x", status=500),
]


@on_both
@pytest.mark.parametrize("error", REFUNDED, ids=repr)
def test_quota_gives_tokens_of_a_failure_back(backend: str, error: ProviderError) -> None:
    """The request is not: it was one."""

    async def main() -> None:
        quota = Quota(tokens_per_minute=100, requests_per_minute=10, burst_seconds=60)
        await Counter(quota).send(tokens=60, error=error)
        used = quota.statistics().used
        assert used["tokens_per_minute"] == 0
        assert used["requests_per_minute"] == pytest.approx(0.1)
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_quota_charges_nothing_for_a_failed_connection(backend: str) -> None:
    """The request never reached the provider."""

    async def main() -> None:
        quota = Quota(tokens_per_minute=100, requests_per_minute=10, burst_seconds=60)
        await Counter(quota).send(tokens=60, error=ConnectionFailedError("refused"))
        assert quota.statistics().used == {"tokens_per_minute": 0, "requests_per_minute": 0}

    virtually(backend, main)


@on_both
def test_quota_keeps_the_charge_of_an_abandoned_request(backend: str) -> None:
    """A request that was given up, and one that timed out."""

    async def main() -> None:
        quota = Quota(tokens_per_minute=1000, requests_per_minute=10, burst_seconds=60)
        counter = Counter(quota)
        await counter.send(tokens=300, error=RequestTimeoutError("slow"))
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                counter.start(group, tokens=300, seconds=100)
                await pause()
                scope.cancel()
        used = quota.statistics().used
        assert used["tokens_per_minute"] == pytest.approx(0.6)
        assert used["requests_per_minute"] == pytest.approx(0.2)
        assert is_idle(quota)

    virtually(backend, main)


# Waiting requests


@pytest.mark.parametrize("count", [3000])
def test_quota_has_one_timer_for_thousands_of_waiting_requests(count: int) -> None:
    """One alarm for all of them, and no slot."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        quota = Quota(requests_per_minute=60, burst_seconds=1)
        counter = Counter(quota, slots=5)
        async with anyio.create_task_group() as group:
            for number in range(count):
                counter.start(group, number)
            await anyio.sleep(3.5)
            assert quota.statistics().waiting == count - 4
            assert len(loop._scheduled) <= 5
            assert counter.run.slots.free == 5
            assert counter.run.held == count - 4
            group.cancel_scope.cancel()
        assert is_idle(quota)
        assert counter.run.held == 0
        assert counter.run.slots.free == 5

    virtually("asyncio", main)


@on_both
def test_quota_clears_the_alarm_with_the_last_waiting_request(backend: str) -> None:
    """A loop that ends has nothing of a quota on it."""

    async def main() -> None:
        quota = Quota(requests_per_minute=1, burst_seconds=1)
        counter = Counter(quota)
        await counter.send()
        with anyio.move_on_after(1):
            await counter.send()
        assert not quota._queue._loops
        if backend == "asyncio":
            loop: Any = asyncio.get_running_loop()
            assert all(handle.cancelled() for handle in loop._scheduled if "_go_off" in repr(handle))

    virtually(backend, main)


@on_both
@pytest.mark.parametrize("limit", [{"max_in_flight": 1}, {"requests_per_minute": 60, "burst_seconds": 1}])
def test_quota_skips_a_withdrawn_request(backend: str, limit: dict[str, Any]) -> None:
    """Wherever in it they stood: the others go on in order."""

    async def main() -> None:
        quota = Quota(**limit)
        counter = Counter(quota)
        scopes: dict[int, anyio.CancelScope] = {}

        async def send(number: int) -> None:
            with anyio.CancelScope() as scopes[number]:
                await counter.send(number, seconds=1)

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(send, number)
                await pause(2)
            assert quota.statistics().waiting == 7
            for number in (1, 4, 7):
                scopes[number].cancel()
            await pause()
            assert quota.statistics().waiting == 4
        assert counter.names == [0, 2, 3, 5, 6]
        assert counter.times == pytest.approx([0, 1, 2, 3, 4], abs=1e-3)
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_quota_does_not_count_a_withdrawn_request_as_late(backend: str) -> None:
    """The refill while no request waits is bounded by the capacity."""

    async def main() -> None:
        counter = Counter(Quota(requests_per_minute=120, burst_seconds=0.1))
        await counter.send()
        with anyio.move_on_after(0.1):
            await counter.send()
        await anyio.sleep(5)
        async with anyio.create_task_group() as group:
            counter.start(group)
            counter.start(group)
        assert counter.times[2] - counter.times[1] == pytest.approx(0.5, abs=1e-3)

    virtually(backend, main)


@on_both
def test_quota_takes_a_grant_back_from_a_request_cancelled_before_its_slot(backend: str) -> None:
    """Its place is given back after a moment; it waits for the slot without one, until it is cancelled."""

    async def main() -> None:
        quota = Quota(max_in_flight=1, requests_per_minute=60, burst_seconds=2)
        counter, other = Counter(quota, slots=1), Counter(quota)
        slots = counter.run.slots
        async with anyio.create_task_group() as group:
            other.start(group, "first", seconds=1)
            await pause()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    counter.start(inner, "unlucky")
                    await pause()
                    # Somebody else has the slot when its turn comes.
                    group.start_soon(_occupy, slots, 5)
                    await anyio.sleep(2)
                    assert quota.statistics().in_flight == 0, "without a slot there is nothing in flight"
                    assert not counter.sent
                    scope.cancel()
            assert quota.statistics().in_flight == 0
            assert quota.statistics().used["requests_per_minute"] == 0
        await counter.send("next")
        assert counter.names == ["next"]
        assert is_idle(quota)
        assert slots.free == 1

    virtually(backend, main)


async def _occupy(slots: Any, seconds: float) -> None:
    await slots.take()
    await anyio.sleep(seconds)
    slots.give()


@on_both
def test_quota_admits_the_next_when_a_granted_request_leaves(backend: str) -> None:
    """At once where it is cancelled, and after a moment where it waits for a slot of its run."""

    async def main() -> None:
        quota = Quota(max_in_flight=1)
        counter, other = Counter(quota, slots=1), Counter(quota)
        async with anyio.create_task_group() as group:
            other.start(group, "first", seconds=1)
            await pause()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    counter.start(inner, "unlucky")
                    await pause()
                    group.start_soon(_occupy, counter.run.slots, 50)
                    await pause()
                    other.start(group, "patient")
                    await anyio.sleep(10)
                    assert other.names == ["first", "patient"]
                    scope.cancel()
        assert other.times == pytest.approx([0, 1], abs=0.1)
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_quota_takes_a_grant_back_from_a_request_cancelled_in_its_moment(backend: str) -> None:
    """While it is granted and waits for a slot of its run: the next is admitted then."""

    async def main() -> None:
        quota = Quota(max_in_flight=1)
        counter, other = Counter(quota, slots=1), Counter(quota)
        async with anyio.create_task_group() as group:
            other.start(group, "first", seconds=1)
            await pause()
            with anyio.move_on_after(1.02):
                async with anyio.create_task_group() as inner:
                    counter.start(inner, "unlucky")
                    await pause()
                    group.start_soon(_occupy, counter.run.slots, 5)
                    other.start(group, "next")
        assert other.times == pytest.approx([0, 1.02], abs=0.01)
        assert not counter.sent
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_quota_forgets_requests_of_the_parent_process(backend: str) -> None:
    """Those in flight and those that wait do not end in a fork, which may hold the lock."""

    async def main() -> None:
        quota = Quota(max_in_flight=1)
        counter = Counter(quota)
        async with anyio.create_task_group() as group:
            counter.start(group, "in flight", seconds=1000)
            counter.start(group, "waiting")
            await pause()
            lock = quota._lock
            quota._process = os.getpid() + 1
            await counter.send("of the child", seconds=1)
            assert counter.names == ["in flight", "of the child"]
            assert counter.now() == pytest.approx(1)
            assert quota._process == os.getpid()
            assert quota._lock is not lock
            assert (quota.statistics().in_flight, quota.statistics().waiting) == (0, 0)
            group.cancel_scope.cancel()

    virtually(backend, main)


@on_both
def test_quota_is_not_asked_in_a_cancelled_scope(backend: str) -> None:
    """Nothing is charged, and no request waits."""

    async def main() -> None:
        quota = Quota(requests_per_minute=60, burst_seconds=1)
        counter = Counter(quota, slots=1)
        await counter.send()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await counter.send()
        assert len(counter.sent) == 1
        assert is_idle(quota)
        assert counter.run.slots.free == 1

    virtually(backend, main)


# Cool-down


@on_both
def test_quota_sends_nothing_before_a_named_wait_is_over(backend: str) -> None:
    """One request was told, and all keep to it: waiting ones, new ones, and those of another run."""

    async def main() -> None:
        quota = Quota(requests_per_minute=60_000, burst_seconds=60)
        counter, other = Counter(quota), Counter(quota)
        events: list[QuotaEvent] = []
        await counter.send("heard")
        with quota.listening(events.append):
            async with anyio.create_task_group() as group:
                counter.start(group, "under way", seconds=3)
                await pause()
                await counter.send("refused", error=RateLimitError("slow", status=429, retry_after=7.5))
                assert quota.statistics().quiet_for == pytest.approx(7.5)
                other.start(group, "another run")
                await anyio.sleep(5)
                counter.start(group, "later")
        assert CooledDown(7.5, "RateLimitError (status 429)") in events
        assert counter.sent[-1].name == "later"
        assert counter.sent[-1].at == pytest.approx(7.5, abs=0.01)
        assert other.times == pytest.approx([7.5], abs=0.01)
        waited = [event.waited for event in events if isinstance(event, Admitted)]
        assert sorted(waited) == pytest.approx([2.5, 7.5], abs=0.01)
        assert quota.statistics().quiet_for == 0

    virtually(backend, main)


@on_both
def test_quota_keeps_the_longest_named_wait(backend: str) -> None:
    """A shorter one that comes later does not end it."""

    async def main() -> None:
        counter = Counter(Quota())
        await counter.send("heard")
        async with anyio.create_task_group() as group:
            counter.start(group, "a", error=RateLimitError("slow", status=429, retry_after=10.0))
            counter.start(group, "b", seconds=2, error=RateLimitError("slow", status=429, retry_after=1.0))
            await pause()
            counter.start(group, "c")
        assert counter.sent[-1].name == "c"
        assert counter.sent[-1].at == pytest.approx(10)

    virtually(backend, main)


@on_both
def test_quota_cooldown_outlasts_the_call_that_caused_it(backend: str) -> None:
    """It is the provider that asked, and not the call."""

    async def main() -> None:
        counter = Counter(Quota())

        async def meet() -> None:
            await counter.send("met", error=RateLimitError("slow", status=429, retry_after=10.0))
            await counter.send("met again", again=True)

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(meet)
                    await pause(20)
                    counter.start(group, "other")
                    await anyio.sleep(1)
                    scope.cancel()
        assert counter.names == ["met", "other"]
        assert counter.times == pytest.approx([0, 10])

    virtually(backend, main)


@on_both
def test_quota_holds_back_a_granted_request_when_a_cooldown_begins(backend: str) -> None:
    """It waited for its slot, and no request is sent until the cool-down ends."""

    async def main() -> None:
        quota = Quota(max_in_flight=2)
        counter, other = Counter(quota, slots=1), Counter(quota)
        async with anyio.create_task_group() as group:
            other.start(group, "long", seconds=3, error=RateLimitError("x", status=429, retry_after=20.0))
            other.start(group, "short", seconds=1)
            await pause()
            counter.start(group, "unlucky")
            await pause()
            group.start_soon(_occupy, counter.run.slots, 5)
            await anyio.sleep(2)
            assert quota.statistics().in_flight == 1
        assert counter.times == pytest.approx([23])
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_quota_probes_with_one_request_after_an_overload(backend: str) -> None:
    """A server that comes back does not get all waiting requests: each answer admits one more.

    Beyond as many as there were at the refusal they double every 25 ms.
    """

    async def main() -> None:
        counter = Counter(Quota())
        async with anyio.create_task_group() as group:
            error = ServerError("busy", status=503, retry_after=5.0)
            for number in range(8):
                counter.start(group, number, seconds=1, error=error)
            await anyio.sleep(2)
            counter.sent.clear()
            for number in range(20):
                counter.start(group, number, seconds=1)
        assert counter.times[:15] == pytest.approx([6, 7, 7, *[8] * 4, *[9] * 8])
        assert counter.times[15:] == sorted(counter.times[15:])
        assert 9 < counter.times[15] < counter.times[19] < 9.025

    virtually(backend, main)


@on_both
def test_quota_recovers_from_one_refusal_quickly(backend: str) -> None:
    """One is sent after the wait, and more as those are answered, or not refused for 25 ms."""

    async def main() -> None:
        counter = Counter(Quota())
        for number in range(5):
            await counter.send(number, seconds=0.5)
        await counter.send("met", error=RateLimitError("slow", status=429, retry_after=60.0))
        counter.sent.clear()
        async with anyio.create_task_group() as group:
            for number in range(6):
                counter.start(group, number, seconds=0.1)
        assert counter.times == pytest.approx([62.5, 62.525, 62.54, 62.55, 62.558, 62.565], abs=0.001)

    virtually(backend, main)


@pytest.mark.parametrize("wait", [float("nan"), float("inf"), 1e9, -1.0, 0.0, None])
@on_both
def test_quota_does_not_hang_on_any_named_wait(backend: str, wait: float | None) -> None:
    """An invalid wait is none, and one that is too long is cut to an hour, after which one request probes."""

    async def main() -> None:
        counter = Counter(Quota())
        await counter.send("met", error=RateLimitError("x", status=429, retry_after=wait))
        await counter.send("next")
        assert counter.times[1] <= 3600.001

    virtually(backend, main)


@pytest.mark.parametrize(("longest", "until"), [(120.0, 3600), (7200.0, 5000), (4000.0, 4000), (1e6, 5000)])
@on_both
def test_quota_cooldown_lasts_for_as_long_as_the_policy_would_wait(
    backend: str, longest: float, until: float
) -> None:
    """An hour at the most, or as long as the policy of the refused request allows."""

    async def main() -> None:
        quota = Quota()
        counter = Counter(quota)
        error = RateLimitError("slow", status=429, retry_after=5000.0)
        await counter.send(error=error, longest_quiet=longest)
        assert quota.statistics().quiet_for == pytest.approx(until)
        await counter.send(longest_quiet=math.inf)
        assert counter.times[1] == pytest.approx(until)

    virtually(backend, main)


# Several loops


def test_quota_is_shared_by_loops_in_threads() -> None:
    """Its numbers hold for all of them together, each goes on, and nothing stays behind."""
    quota = Quota(max_in_flight=3, retry_budget=RetryBudget())
    lock, under_way, peak, done = threading.Lock(), 0, 0, 0

    async def one(strand: Strand) -> None:
        nonlocal under_way, peak, done
        permit = Permit(10, answers=0)
        try:
            await quota.admit(permit, strand)
            with lock:
                under_way += 1
                peak = max(peak, under_way)
            await anyio.sleep(0.0005)
            with lock:
                under_way -= 1
                done += 1
            quota.answered(permit, None, strand.run.now())
        finally:
            if permit.granted:
                quota.abandoned(permit, strand.run.now())
            strand.close()

    async def main() -> None:
        counter = Counter(quota)
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(one, Strand(counter.run, Item(number), {}, counter.run.slots))

    def work(backend: str) -> None:
        anyio.run(main, backend=backend)

    threads = [
        threading.Thread(target=work, args=(backend,), daemon=True) for backend in ("asyncio", "trio") * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        in_thread(thread.join)
    assert done == 240
    assert peak <= 3
    assert is_idle(quota)


def test_quota_rate_is_shared_by_loops_in_threads() -> None:
    """A request that waits on one loop is admitted when one on another loop ends."""
    quota = Quota(requests_per_minute=60_000, burst_seconds=0.001)
    sent: list[int] = []

    async def main() -> None:
        counter = Counter(quota)
        async with anyio.create_task_group() as group:
            for number in range(40):
                counter.start(group, number)
        sent.extend(counter.names)

    threads = [
        threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": backend}, daemon=True)
        for backend in ("asyncio", "trio", "asyncio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        in_thread(thread.join)
    assert len(sent) == 120
    assert is_idle(quota)


def test_quota_forgets_a_closed_loop_with_waiting_requests() -> None:
    """Cancelled by the loop's end, they hold nothing."""
    quota = Quota(requests_per_minute=1, burst_seconds=1)

    async def main() -> None:
        counter = Counter(quota)
        await counter.send()
        task = asyncio.get_running_loop().create_task(counter.send())
        await pause()
        assert quota.statistics().waiting == 1
        del task

    asyncio.run(main())
    assert is_idle(quota)


# Options


@pytest.mark.parametrize(
    "name",
    ["requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day", "burst_seconds"],
)
def test_quota_limits_are_positive_and_finite(name: str) -> None:
    """An error says which is not, before anything is sent."""
    for value in (0, -1, float("nan"), float("inf")):
        given: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"{name} must be more than 0"):
            Quota(**given)
    for strange in ("60", True, [60]):
        given = {name: strange}
        with pytest.raises(TypeError, match=f"{name} must be a number"):
            Quota(**given)


def test_quota_max_in_flight_is_an_integer() -> None:
    """At least one, or nothing would ever be sent."""
    for value in (0, -1):
        with pytest.raises(ValueError, match="max_in_flight must be at least 1"):
            Quota(max_in_flight=value)
    for strange in (1.5, True, "1"):
        given: Any = strange
        with pytest.raises(TypeError, match="max_in_flight must be a positive integer"):
            Quota(max_in_flight=given)


def test_quota_is_unchanged_by_invalid_limits() -> None:
    """A mistake in one limit leaves the others as they were."""
    quota = Quota(requests_per_minute=60, max_in_flight=2)
    with pytest.raises(ValueError, match="max_in_flight"):
        quota.set_limits(requests_per_minute=5, max_in_flight=0)
    assert repr(quota) == "Quota(requests_per_minute=60, max_in_flight=2)"


@on_both
def test_quota_statistics_tell_the_state(backend: str) -> None:
    """Requests in flight and waiting, the used share of limits, and the cool-down."""

    async def main() -> None:
        quota = Quota(requests_per_minute=600, max_in_flight=2, retry_budget=None)
        counter = Counter(quota)
        sent: list[Sent] = []
        with quota.listening(lambda event: sent.append(event) if isinstance(event, Sent) else None):
            async with anyio.create_task_group() as group:
                for number in range(5):
                    counter.start(group, number, seconds=10)
                await pause()
                statistics = quota.statistics()
                assert (statistics.in_flight, statistics.waiting) == (2, 3)
                assert statistics.limits == {"requests_per_minute": 600, "max_in_flight": 2}
                assert statistics.used["requests_per_minute"] == pytest.approx(0.2)
                assert statistics.retry_tokens is None
                assert statistics.max_concurrency is None
                assert statistics.down_for is None
                await anyio.sleep(15)
                assert quota.statistics().in_flight == 2
                assert quota.statistics().used["requests_per_minute"] < 0.2
        assert len(sent) == 5
        assert all(1 <= event.in_flight <= 2 for event in sent)

    virtually(backend, main)


# Runs beside one another, and loops that end


@on_both
def test_quota_queue_gives_runs_turns(backend: str) -> None:
    """A single request that comes behind a batch is sent next, not last."""

    async def main() -> None:
        quota = Quota(max_in_flight=1)
        batch, single = Counter(quota), Counter(quota)
        async with anyio.create_task_group() as group:
            for number in range(50):
                batch.start(group, number, seconds=1)
            await pause()
            single.start(group, "single", seconds=1)
        assert single.times == pytest.approx([2])
        assert batch.times == pytest.approx([0, 1, *range(3, 51)])

    virtually(backend, main)


def test_quota_queue_forgets_permits_of_a_closed_loop() -> None:
    """And so do the requests that were under way there: neither holds anybody up."""
    quota = Quota(max_in_flight=1)

    async def leave_behind() -> None:
        counter = Counter(quota)
        loop = asyncio.get_running_loop()
        for name in ("under way", "waiting"):
            left.append(loop.create_task(counter.send(name, seconds=1000)))
        await anyio.sleep(0.01)
        assert counter.names == ["under way"]

    left: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_behind())
    loop.close()

    async def main() -> None:
        counter = Counter(quota)
        with anyio.fail_after(5):
            await counter.send("next")
        assert counter.names == ["next"]
        assert is_idle(quota)

    asyncio.run(main())
    for task in left:
        task._log_destroy_pending = False
        task.get_coro().close()


def test_quota_grant_is_given_back_while_no_slot_is_free() -> None:
    """Another run is not held up by one whose slots are busy with something else."""

    async def main() -> None:
        quota = Quota(max_in_flight=1)
        slow, other = Counter(quota, slots=1), Counter(quota)
        async with anyio.create_task_group() as group:
            other.start(group, "first", seconds=1)
            await pause()
            slow.start(group, "slotless")
            await pause()
            group.start_soon(_occupy, slow.run.slots, 100)
            await pause()
            other.start(group, "second", seconds=1)
        assert other.times == pytest.approx([0, 1], abs=0.1)
        assert slow.times == pytest.approx([100], abs=0.1)
        assert is_idle(quota)

    virtually("trio", main)


# What is told


@on_both
def test_quota_calls_listeners_without_the_lock(backend: str) -> None:
    """One that waits for a thread that asks the quota something does not wait for ever."""

    async def main() -> None:
        quota = Quota(max_in_flight=1)
        counter = Counter(quota)
        seen: list[Any] = []

        def listen(event: QuotaEvent) -> None:
            asking = threading.Thread(target=lambda: seen.append((event, quota.statistics())))
            asking.start()
            asking.join(10)
            assert not asking.is_alive()

        with quota.listening(listen):
            async with anyio.create_task_group() as group:
                for number in range(3):
                    counter.start(group, number, seconds=1)
            await counter.send("met", error=RateLimitError("slow", status=429, retry_after=1.5))
        kinds = [type(event).__name__ for event, _ in seen]
        assert kinds.count("Sent") == 4
        assert kinds.count("CooledDown") == 1

    virtually(backend, main)


@on_both
def test_quota_statistics_tell_the_source_of_a_limit(backend: str) -> None:
    """Given by hand, told or found; since when, and why."""

    async def main() -> None:
        quota = Quota(requests_per_minute=6000, max_in_flight=50)
        counter = Counter(quota)
        sources = {status.name: status for status in quota.statistics().sources}
        assert {name: (one.limit, one.source) for name, one in sources.items()} == {
            "requests_per_minute": (6000, "given"),
            "max_in_flight": (50, "given"),
        }
        await counter.send("first", seconds=0.5)
        quota.told_in_flight(7)
        await anyio.sleep(2)
        await counter.send("second")
        told = next(one for one in quota.statistics().sources if one.source == "told")
        assert (told.name, told.limit, told.reason) == ("max_in_flight", 7, "told by the provider")
        assert told.since == pytest.approx(2.0, abs=0.1)

    virtually(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_quota_keeps_its_rate_though_timers_are_late(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refill of the time by which an alarm was late is not cut off at the bucket's capacity."""
    wake_at = LoopWaiters.wake_at
    monkeypatch.setattr(LoopWaiters, "wake_at", lambda self, due: wake_at(self, due + 0.05))

    async def main() -> None:
        counter = Counter(Quota(requests_per_minute=600, burst_seconds=0.1))
        async with anyio.create_task_group() as group:
            for _ in range(21):
                counter.start(group)
        assert counter.times[-1] == pytest.approx(2.0, abs=0.11)

    virtually(backend, main)


# Where nothing holds requests back


async def past_the_start(counter: Counter) -> None:
    """Send requests until the cold start is over."""
    await counter.send()
    await anyio.sleep(1)
    await counter.send()
    assert counter.quota._clear


@on_both
@pytest.mark.parametrize("change", ["set", "told", "refused", "down"])
def test_quota_holds_requests_back_from_the_moment_that_something_does(backend: str, change: str) -> None:
    """However many were let in before without a question."""

    async def main() -> None:
        quota = Quota()
        counter = Counter(quota)
        await past_the_start(counter)
        async with anyio.create_task_group() as group:
            if change == "set":
                quota.set_limits(max_in_flight=2)
            elif change == "told":
                quota.told_in_flight(2)
            elif change == "refused":
                await counter.send(error=RateLimitError("slow down", retry_after=3.0))
            else:
                for _ in range(10):
                    await counter.send(error=ConnectionFailedError("refused"))
            sent = len(counter.sent)
            for number in range(4):
                counter.start(group, number, seconds=5, patience=60.0)
            await anyio.sleep(0.5)
            let_in = {"set": 2, "told": 2, "refused": 0, "down": 0}[change]
            assert len(counter.sent) - sent == let_in
            if change == "down":
                group.cancel_scope.cancel()
        if change != "down":
            assert len(counter.sent) - sent == 4
            assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_quota_counts_requests_that_nothing_holds_back(backend: str) -> None:
    """Sent, answered, in flight, their tokens; a cancelled one leaves nothing behind."""

    async def main() -> None:
        quota = Quota()
        counter = Counter(quota)
        await past_the_start(counter)
        before = quota.statistics()
        async with anyio.create_task_group() as group:
            for number in range(30):
                counter.start(group, number, tokens=10, seconds=1, usage=usage_of(10, 5), answers=1)
            await anyio.sleep(0.5)
            assert quota.statistics().in_flight == 30
        after = quota.statistics()
        assert (after.requests - before.requests, after.answers - before.answers) == (30, 30)
        assert after.tokens - before.tokens == 30 * 15
        with anyio.move_on_after(0.5):
            await counter.send(seconds=5)
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_quota_tells_listeners_of_requests_that_nothing_holds_back(backend: str) -> None:
    """A listener that comes later hears of the next request."""

    async def main() -> None:
        quota = Quota()
        counter = Counter(quota)
        await past_the_start(counter)
        heard: list[QuotaEvent] = []
        with quota.listening(heard.append):
            await counter.send()
        assert [type(event) for event in heard] == [Sent]

    virtually(backend, main)
