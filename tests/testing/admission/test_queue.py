from __future__ import annotations

import json
import random
import threading
from typing import Any

import anyio
import httpx
import pytest

from batchrt.testing import Fault, FaultPlan, LogNormal, MockProvider, Queueing
from batchrt.testing.admission.queue import MockQueue
from batchrt.testing.admission.timeline import Timeline
from batchrt.testing.serving.wakeup import Wakeup
from tests.testing.test_provider import BODY, SCOPE, Connection
from tests.testing.virtual import Client, simulate


def test_queue_processes_its_capacity_in_order() -> None:
    """Three at a time, a second each: the n-th answer comes after n / 3 seconds, rounded up."""
    provider = MockProvider(latency=1.0, queueing=Queueing(capacity=3))

    async def main() -> list[tuple[int, float]]:
        client = Client(provider)
        done: list[tuple[int, float]] = []

        async def one(number: int) -> None:
            done.append((number, (await client.ask(f"{number}")).time))

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, number)
                await anyio.wait_all_tasks_blocked()
        return sorted(done)

    assert simulate(main) == [(number, 1.0 + number // 3) for number in range(10)]
    assert provider.log.snapshot().peak_in_flight == 10
    assert provider.verdict().accepted == 10


@pytest.mark.parametrize("seed", range(3))
def test_queue_agrees_with_the_recursion_of_a_multi_server_queue(seed: int) -> None:
    """Random arrivals and service times, checked against the recursion over the earliest free place."""
    provider = MockProvider(seed=seed, latency=LogNormal(1.0, 1.0), queueing=Queueing(capacity=4))
    twin = MockProvider(seed=seed, latency=LogNormal(1.0, 1.0))
    chance = random.Random(seed)
    arrivals = [0.0]
    for _ in range(200):
        arrivals.append(arrivals[-1] + chance.expovariate(3))

    async def main(provider: MockProvider) -> list[float]:
        client = Client(provider)
        done = [0.0] * len(arrivals)

        async def one(number: int) -> None:
            await anyio.sleep_until(arrivals[number])
            done[number] = (await client.ask(f"{number}")).time

        async with anyio.create_task_group() as group:
            for number in range(len(arrivals)):
                group.start_soon(one, number)
        return done

    alone = simulate(main, twin)
    service = [end - start for start, end in zip(arrivals, alone, strict=True)]
    free = [0.0] * 4
    expected = []
    for arrival, seconds in zip(arrivals, service, strict=True):
        start = max(arrival, free[0])
        expected.append(start + seconds)
        free = sorted([*free[1:], start + seconds])
    assert simulate(main, provider) == pytest.approx(expected)
    assert max(end - start for start, end in zip(alone, expected, strict=True)) > 1


def test_queue_adds_seconds_per_answered_token() -> None:
    """An answer of 8 tokens takes longer than one truncated to 2."""
    provider = MockProvider(latency=1.0, queueing=Queueing(capacity=1, seconds_per_token=0.5))

    async def main() -> list[float]:
        client = Client(provider)
        long, short = await client.ask("hi"), await client.ask("hi", max_tokens=2)
        tokens = long.document["usage"]["completion_tokens"]
        return [long.time - tokens / 2, short.time - long.time]

    assert simulate(main) == [1.0, 2.0]


def test_queue_capacity_may_change() -> None:
    """Lower: requests in progress stay. Higher: waiting ones start at that moment, without another event."""
    queueing = Queueing(capacity=[(0, 4), (10, 1), (100, 3)])
    provider = MockProvider(latency=30.0, queueing=queueing)

    async def main() -> list[float]:
        client = Client(provider)
        done: list[float] = []

        async def one(number: int) -> None:
            done.append(round((await client.ask(f"{number}")).time, 3))

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, number)
        return sorted(done)

    assert simulate(main) == [30, 30, 30, 30, 60, 90, 120, 130, 130, 150]


def test_queue_starts_waiting_requests_at_an_inexact_second() -> None:
    """Seconds that floats cannot represent cause no endless loop."""
    provider = MockProvider(latency=1.0, queueing=Queueing(capacity=[(0, 1), (1 / 3, 2), (2 / 3, 3)]))

    async def main() -> list[float]:
        await anyio.sleep(0.1)
        client = Client(provider)
        done: list[float] = []

        async def one(number: int) -> None:
            done.append((await client.ask(f"{number}")).time - 0.1)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one, number)
        return done

    assert simulate(main) == pytest.approx([1, 4 / 3, 5 / 3], abs=1e-4)


def test_queue_place_is_freed_by_a_disconnect() -> None:
    """While waiting as well as in progress, at once."""
    provider = MockProvider(latency=10.0, queueing=Queueing(capacity=1))

    async def main() -> list[float]:
        client = Client(provider)
        done: list[float] = []

        async def one(patience: float) -> None:
            with anyio.move_on_after(patience):
                done.append((await client.ask(f"{patience}")).time)

        async with anyio.create_task_group() as group:
            for patience in (4.0, 5.0, 100.0, 3.0, 101.0):
                group.start_soon(one, patience)
                await anyio.wait_all_tasks_blocked()
        return done

    # The first leaves at 4, the second is processed from 4 to 5, the fourth never.
    assert simulate(main) == [15, 25]
    seen = provider.log.snapshot()
    assert (seen.disconnects, seen.in_flight) == (3, 0)


def test_queue_and_service_share_the_read_timeout() -> None:
    """The client cannot tell one from the other."""
    provider = MockProvider(latency=4.0, queueing=Queueing(capacity=[(0, 1), (2, 1)]))

    async def main() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def one(patience: float) -> None:
            try:
                await Client(provider, timeout=patience).ask(f"{patience}")
                seen.append(("answered", anyio.current_time()))
            except httpx.ReadTimeout:
                seen.append(("late", anyio.current_time()))

        async with anyio.create_task_group() as group:
            for patience in (5.0, 7.0, 3.0, 11.5):
                group.start_soon(one, patience)
                await anyio.wait_all_tasks_blocked()
        return seen

    assert simulate(main) == [("late", 3), ("answered", 4), ("late", 7), ("answered", 11)]


@pytest.mark.parametrize(
    ("server", "status", "words"),
    [("openai", 503, "server_is_overloaded"), ("tei", 429, "Overloaded"), ("ollama", 503, "server busy")],
)
def test_queue_refuses_in_the_servers_words_when_full(server: Any, status: int, words: str) -> None:
    """At once, and without a charge."""
    provider = MockProvider(latency=9.0, server=server, queueing=Queueing(capacity=1, max_waiting=1))

    async def main() -> list[tuple[int, float, str]]:
        client = Client(provider)
        seen: list[tuple[int, float, str]] = []

        async def one(number: int) -> None:
            got = await client.ask(f"{number}")
            seen.append((got.status, got.time, json.dumps(got.document)))

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one, number)
                await anyio.wait_all_tasks_blocked()
        return seen

    first, second, third = simulate(main)
    assert (first[:2], second[:2], third[:2]) == ((status, 0), (200, 9), (200, 18))
    assert words in first[2]
    verdict = provider.verdict()
    assert (verdict.sent, verdict.accepted, verdict.refused, verdict.rejected) == (3, 2, 1, 0)


def test_queue_may_have_no_waiting_requests() -> None:
    """With `max_waiting=0`; status and wait as they were given."""
    queueing = Queueing(capacity=2, max_waiting=0, full_status=429, retry_after=2.5)
    provider = MockProvider(latency=1.0, queueing=queueing)

    async def main() -> list[tuple[int, str | None]]:
        client = Client(provider)
        seen: list[tuple[int, str | None]] = []

        async def one(number: int) -> None:
            got = await client.ask(f"{number}")
            seen.append((got.status, got.headers.get("retry-after")))

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(one, number)
        return seen

    assert sorted(simulate(main)) == [(200, None), (200, None), (429, "3"), (429, "3")]
    [cool_down] = provider.verdict().cool_downs
    assert (cool_down.start, cool_down.end) == (0, 3)


def test_queue_place_is_freed_after_any_fault() -> None:
    """Faults of every kind wait their turn like answers."""
    faults = FaultPlan.everything(1.0, stall_seconds=5, max_consecutive=None)
    provider = MockProvider(latency=1.0, queueing=Queueing(capacity=2), faults=faults)

    async def main() -> None:
        client = Client(provider)

        async def one(number: int) -> None:
            # The client's reaction to the faults is irrelevant here.
            try:
                await client.ask(f"{number}")
            except (httpx.HTTPError, ValueError):
                return

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(one, number)

    simulate(main)
    assert len(provider.log.snapshot().by_fault) > 15
    queue = provider._controller._queue
    assert queue is not None
    assert (queue._served, len(queue._waiting)) == (0, 0)


@pytest.mark.anyio
async def test_queue_works_on_any_asgi_server() -> None:
    """Turns and disconnects are noticed without the connection extension."""
    faults = FaultPlan(script=[Fault.STALL(seconds=3600)])
    provider = MockProvider(queueing=Queueing(capacity=1), faults=faults)
    stalled, waiting, impatient = connections = [Connection(BODY) for _ in range(3)]
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for connection in connections:
                group.start_soon(provider, SCOPE, connection.receive, connection.send)
                await anyio.wait_all_tasks_blocked()
            impatient.left.set()
            seen = await provider.log.wait_for(lambda seen: seen.disconnects == 1)
            assert (seen.in_flight, seen.by_status) == (2, {})
            stalled.left.set()
    assert [len(connection.sent) for connection in connections] == [0, 2, 0]
    assert waiting.sent[0]["status"] == 200
    assert provider.log.snapshot().disconnects == 2


def test_queue_works_on_a_socket() -> None:
    """Two places, and twenty clients that each get their answer."""
    provider = MockProvider(latency=0.001, queueing=Queueing(capacity=2, max_waiting=100))

    async def main(base_url: str) -> list[int]:
        statuses: list[int] = []
        async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=30) as client:

            async def one() -> None:
                statuses.append((await client.post("/chat/completions", content=BODY)).status_code)

            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(one)
        return statuses

    with provider.serve() as server:
        assert anyio.run(main, server.base_url) == [200] * 20
    assert provider.log.snapshot().in_flight == 0


@pytest.mark.anyio
async def test_queue_turn_may_come_from_another_thread() -> None:
    """A provider in two event loops has one queue."""
    queue = MockQueue(Queueing(capacity=1), Timeline(), threading.RLock())
    first, second = queue.join(0.0), queue.join(0.0)
    thread = threading.Thread(target=queue.leave, args=(first, 1.0))

    async def idle() -> None:
        thread.start()
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        assert not await second.wait_turn(idle)
    thread.join()
    assert second.started


@pytest.mark.anyio
async def test_queue_wakeup_of_a_closed_loop_is_dropped() -> None:
    """It does not raise in the thread that gave the turn."""
    called: list[int] = []

    async def make() -> Wakeup:
        return Wakeup(lambda: called.append(1))

    wakeups: list[Wakeup] = []

    def elsewhere() -> None:
        wakeups.append(anyio.run(make))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    wakeups[0]()
    assert called == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capacity": 0}, "capacity must be a whole number above 0"),
        ({"capacity": 1.5}, "capacity must be a whole number above 0"),
        ({"capacity": 1, "max_waiting": -1}, "max_waiting must not be negative"),
        ({"capacity": 1, "seconds_per_token": -1}, "seconds_per_token must be seconds >= 0"),
        ({"capacity": 1, "full_status": 500}, "full_status must be 429, 503 or None"),
        ({"capacity": 1, "retry_after": 0}, "retry_after must be seconds > 0"),
        ({"capacity": 1, "style": "abacus"}, "style must be one of"),
        ({"capacity": 1, "counts": "bytes"}, "counts must be requests or inputs"),
    ],
)
def test_queue_rejects_invalid_arguments(options: dict[str, Any], words: str) -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match=words):
        Queueing(**options)


def test_queue_place_is_held_by_a_stall() -> None:
    """The next request waits for the stalled one."""
    faults = FaultPlan(script=[Fault.STALL(seconds=60)])
    provider = MockProvider(latency=1.0, queueing=Queueing(capacity=1), faults=faults)

    async def main() -> float:
        client = Client(provider)
        async with anyio.create_task_group() as group:

            async def first() -> None:
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.ask("first")

            group.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            second = await client.ask("second")
        return second.time

    assert simulate(main) == 62


def embed_lists(provider: MockProvider, *sizes: int) -> list[tuple[int, float]]:
    """Send lists of these lengths at once, in this order; return status and time of each."""

    async def main() -> list[tuple[int, float]]:
        client, got = Client(provider), [(0, 0.0)] * len(sizes)

        async def one(place: int) -> None:
            body = {"model": "m", "input": [f"{place}-{text}" for text in range(sizes[place])]}
            answer = await client.post("/v1/embeddings", body)
            got[place] = answer.status, answer.time

        async with anyio.create_task_group() as group:
            for place in range(len(sizes)):
                group.start_soon(one, place)
                await anyio.wait_all_tasks_blocked()
        return got

    return simulate(main)


def test_queue_may_count_inputs() -> None:
    """As Infinity's: a request is admitted whole while there is room; 8 inputs at a time, in order."""
    queueing = Queueing(capacity=8, max_waiting=10, counts="inputs")
    provider = MockProvider(server="infinity", latency=1.0, queueing=queueing, dimensions=2)
    # 8 are processed; 9, and then 8 more, may wait; the queue of 17 is full.
    assert embed_lists(provider, 8, 9, 8, 1) == [(200, 1), (200, 2), (200, 3), (429, 0)]
    # Two lists share the places, and one that is larger than all of them is processed alone.
    assert [time - 3 for _, time in embed_lists(provider, 4, 4, 20)] == [-2, -2, -1]
    verdict = provider.verdict()
    assert (verdict.refused, verdict.refused_share) == (1, 1 / 7)


def test_queue_of_inputs_frees_all_places_of_a_request() -> None:
    """Waiting or in progress."""
    queueing = Queueing(capacity=4, max_waiting=4, counts="inputs")
    provider = MockProvider(latency=10.0, queueing=queueing, dimensions=2)

    async def main() -> list[int]:
        client = Client(provider)

        async def one(second: float, size: int, patience: float) -> int:
            await anyio.sleep_until(second)
            body = {"model": "m", "input": [f"{second}"] * size}
            with anyio.move_on_after(patience):
                return (await client.post("/v1/embeddings", body)).status
            return 0

        seen: list[int] = []
        async with anyio.create_task_group() as group:

            async def note(*arguments: float) -> None:
                seen.append(await one(arguments[0], int(arguments[1]), arguments[2]))

            for arguments in ((0, 4, 5), (1, 4, 2), (2, 1, 99), (4, 4, 99), (5.5, 4, 99)):
                group.start_soon(note, *arguments)
        return seen

    # The third finds the queue full; the second has left before the fourth comes, the first before the fifth.
    assert simulate(main) == [503, 0, 0, 200, 200]


@pytest.mark.parametrize(("status", "reason"), [(429, "Too Many Requests"), (503, "Service Temporarily")])
def test_queue_may_refuse_as_nginx(status: Any, reason: str) -> None:
    """`limit_conn`: a page, and no wait."""
    queueing = Queueing(capacity=1, max_waiting=0, full_status=status, style="nginx")
    provider = MockProvider(latency=1.0, queueing=queueing, refusal_latency=0.25)

    async def main() -> Any:
        client, seen = Client(provider), []

        async def one(number: int) -> None:
            seen.append(await client.ask(f"{number}"))

        async with anyio.create_task_group() as group:
            group.start_soon(one, 1)
            group.start_soon(one, 2)
        return seen[0]

    refused = simulate(main)
    assert (refused.status, refused.time) == (status, 0.25)
    assert f"<title>{status} {reason}".encode() in refused.raw
    assert "retry-after" not in refused.headers
