"""Outcomes reported as items end, room for further inputs, counts, and outcomes left at an early end."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest

from batchrt import (
    OpenAIEmbeddings,
    Outcome,
    Runnable,
    RunnableLambda,
    RunnableRetry,
    RunStatistics,
)
from tests.runtime.harness import Boom, config, in_thread, on_trio, pause, tasks, until

pytestmark = pytest.mark.anyio


async def same(value: int) -> int:
    return value


async def same_text(text: str) -> str:
    return text


class Lists(Runnable[int, int]):
    """Return the numbers of lists of up to 4."""

    max_batch_size = 4

    async def abatch_native(self, inputs: list[int]) -> list[int]:
        await pause()
        return inputs


@pytest.mark.parametrize("ordered", [True, False])
async def test_outcome_iterator_on_outcome_has_each_outcome_as_it_ends(ordered: bool) -> None:
    """In the order of completion, and the same object that the iteration returns."""
    told: list[Outcome[int]] = []
    gate = anyio.Event()

    async def leaf(value: int) -> int:
        if value == 0:
            await gate.wait()
        if value == 3:
            gate.set()
        return value

    run = RunnableLambda(leaf).arun_iter(
        range(5), config(max_concurrency=2), ordered=ordered, on_outcome=told.append
    )
    seen = [outcome async for outcome in run]
    assert [outcome.index for outcome in told] != [0, 1, 2, 3, 4]
    assert sorted(map(id, told)) == sorted(map(id, seen))
    in_order = sorted(told, key=lambda each: each.index)
    assert seen == (in_order if ordered else told)


@pytest.mark.parametrize("step", [RunnableLambda(same), Lists()], ids=["items", "lists"])
async def test_outcome_iterator_on_outcome_may_stop_before_the_next_item(step: Runnable[int, int]) -> None:
    """The slot of the item that ended goes to no other: with one slot, nothing is sent after the fifth."""
    sent: list[int] = []

    async def leaf(value: int) -> int:
        sent.append(value)
        return value

    class Recorded(Lists):
        async def abatch_native(self, inputs: list[int]) -> list[int]:
            sent.extend(inputs)
            return inputs

    chain: Runnable[int, int] = Recorded() if isinstance(step, Lists) else RunnableLambda(leaf)

    def stop(outcome: Outcome[int]) -> None:
        if outcome.index == 4:
            run.stop()

    run = chain.arun_iter(itertools.count(), config(max_concurrency=1), on_outcome=stop)
    seen = [outcome async for outcome in run]
    most = 8 if isinstance(step, Lists) else 5
    assert sent == list(range(most))
    assert [outcome.index for outcome in seen if outcome.ok] == sent
    assert run.stopped


@pytest.mark.parametrize("step", [RunnableLambda(same), Lists()], ids=["items", "lists"])
async def test_outcome_iterator_on_outcome_that_raises_ends_the_run(step: Runnable[int, int]) -> None:
    """The iteration raises its error, and nothing is left running."""

    def fail(outcome: Outcome[int]) -> None:
        if outcome.index == 2:
            raise Boom(outcome.index)

    before = tasks()
    run = step.arun_iter(range(100), config(max_concurrency=1), on_outcome=fail)
    seen: list[int] = []
    with pytest.raises(Boom, match="2"):
        seen += [outcome.index async for outcome in run]
    assert tasks() == before
    assert run.statistics().pulled < 100


def test_outcome_iterator_callbacks_must_be_sync() -> None:
    """A coroutine would be true, and never awaited."""

    async def callback(*_: object) -> bool:
        return False

    unusable: Any = callback
    for name in ("room", "on_outcome"):
        options: dict[str, Any] = {name: unusable}
        with pytest.raises(TypeError, match=f"{name} must be sync"):
            RunnableLambda(same).arun_iter([1], **options)


@pytest.mark.parametrize("ordered", [True, False])
async def test_outcome_iterator_room_bounds_inputs_behind_a_slow_one(ordered: bool) -> None:
    """By a measure of the consumer's own: what was pulled and not taken back."""
    gate = anyio.Event()
    under_way: deque[int] = deque()
    pulled = most = 0

    def source() -> Iterator[int]:
        nonlocal pulled, most
        for value in range(100):
            under_way.append(value)
            pulled += 1
            most = max(most, pulled - under_way[0])
            yield value

    async def leaf(value: int) -> int:
        if value == 0:
            await gate.wait()
        await pause()
        return value

    run = RunnableLambda(leaf).arun_iter(
        source(),
        config(max_concurrency=3),
        ordered=ordered,
        room=lambda: not under_way or pulled - under_way[0] < 10,
    )
    seen = []

    async def consume() -> None:
        async for outcome in run:
            seen.append(outcome.index)
            under_way.remove(outcome.index)

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await until(lambda: pulled == 10)
        await pause(50)
        assert run.statistics().pulled == 10
        gate.set()
    assert sorted(seen) == list(range(100))
    assert most == 10


@pytest.mark.parametrize("step", [RunnableLambda(same), Lists()], ids=["items", "lists"])
async def test_outcome_iterator_room_that_never_comes_is_no_deadlock(step: Runnable[int, int]) -> None:
    """One input, or list, is pulled after the other: nothing else could make room."""
    run = step.arun_iter(range(20), config(max_concurrency=3), room=lambda: False)
    assert [outcome.output async for outcome in run] == list(range(20))


@pytest.mark.parametrize("end", ["aclose", "cancel"])
@pytest.mark.parametrize("ordered", [True, False])
async def test_outcome_iterator_take_ready_after_an_early_end(ordered: bool, end: str) -> None:
    """Outcomes that were ready are there, also behind an input that was cut off; that one is not."""

    async def leaf(value: int) -> int:
        if value == 2:
            await anyio.sleep_forever()
        return value

    before = tasks()
    run = RunnableLambda(leaf).arun_iter(range(4), config(max_concurrency=3), ordered=ordered)
    first = await anext(run)
    assert first.index == 0

    async def wait() -> None:
        async for outcome in run:
            taken.append(outcome.index)

    taken: list[int] = []
    async with anyio.create_task_group() as group:
        if end == "cancel":
            group.start_soon(wait)
        await until(lambda: run.statistics().in_flight == 1)
        await pause(20)
        if end == "aclose":
            await run.aclose()
        group.cancel_scope.cancel()
    taken += [outcome.index for outcome in run.take_ready()]
    assert taken == [1, 3]
    assert run.take_ready() == []
    assert run.statistics().delivered == 3
    assert tasks() == before
    with pytest.raises(StopAsyncIteration):
        await anext(run)


async def test_outcome_iterator_take_ready_does_not_wait() -> None:
    """Before the run, and while it goes on; the iteration continues with the rest."""
    gate = anyio.Event()

    async def leaf(value: int) -> int:
        if value == 4:
            await gate.wait()
        return value

    run = RunnableLambda(leaf).arun_iter(range(6), config(max_concurrency=4))
    assert run.take_ready() == []
    first = await anext(run)
    await pause(20)
    ready = run.take_ready()
    assert [outcome.index for outcome in (first, *ready)] == [0, 1, 2, 3]
    assert run.take_ready() == []
    gate.set()
    assert [outcome.index async for outcome in run] == [4, 5]
    assert run.take_ready() == []


def test_outcome_iterator_take_ready_in_sync_code() -> None:
    """After `close` it has what was ready and not returned."""

    def main() -> None:
        done = threading.Event()

        async def leaf(value: int) -> int:
            if value == 5:
                done.set()
                await anyio.sleep_forever()
            return value

        run = RunnableLambda(leaf).run_iter(range(10))
        first = next(run)
        assert done.wait(60)
        run.close()
        assert [outcome.index for outcome in (first, *run.take_ready())] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
        assert list(run) == []

    in_thread(main)


def embeddings(handle: Callable[[list[str]], httpx.Response], **options: Any) -> OpenAIEmbeddings:
    """Return a model that is asked through `handle`."""

    def respond(request: httpx.Request) -> httpx.Response:
        given = json.loads(request.content)["input"]
        return handle(given if isinstance(given, list) else [given])

    transport = httpx.MockTransport(respond)
    return OpenAIEmbeddings("m", base_url="http://mock/v1", transport=transport, **options)


def vectors(texts: list[str], **more: Any) -> httpx.Response:
    data = [{"index": place, "embedding": [1.0, 2.0]} for place in range(len(texts))]
    return httpx.Response(200, json={"data": data, **more})


@pytest.mark.parametrize("in_a_chain", [False, True])
def test_outcome_iterator_statistics_count_lists(in_a_chain: bool) -> None:
    """Lists, the different inputs in them, attempts of a list once, and tokens that no answer counts."""
    asked: list[int] = []

    def handle(texts: list[str]) -> httpx.Response:
        asked.append(len(texts))
        return httpx.Response(500) if len(asked) == 1 else vectors(texts)

    async def main() -> RunStatistics:
        model: Runnable[Any, Any] = embeddings(handle, max_batch_size=4)
        chain = RunnableLambda(same_text) | model if in_a_chain else model
        run = chain.arun_iter(["a", "a", "b", "c", "d" * 40, "e"], config(max_concurrency=1))
        assert all([outcome.ok async for outcome in run])
        return run.statistics()

    told = on_trio(main)
    assert told.retries == 1
    assert told.lists == 2
    assert told.list_inputs == 5
    assert len(asked) == 3
    assert 10 < told.estimated_tokens < 30


def test_outcome_iterator_statistics_count_retries_of_items() -> None:
    """Of nested runs too."""

    async def main() -> RunStatistics:
        failed: set[int] = set()

        async def once(value: int) -> int:
            if value not in failed:
                failed.add(value)
                raise Boom
            return value

        retried: Runnable[int, int] = RunnableRetry(RunnableLambda(once), wait_exponential_jitter=False)

        async def outer(value: int) -> list[int]:
            return await retried.abatch([value, value + 1])

        run = RunnableLambda(outer).arun_iter([0, 10, 20])
        assert all([outcome.ok async for outcome in run])
        return run.statistics()

    assert on_trio(main).retries == 6


@pytest.mark.parametrize("step", [RunnableLambda(same), Lists()], ids=["items", "lists"])
def test_outcome_iterator_stop_in_sync_code_loses_no_input(step: Runnable[int, int]) -> None:
    """An input that the calling thread is about to return has an outcome like every other one."""
    asked, stopped = threading.Event(), threading.Event()
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for value in itertools.count():
            if value == 6:
                asked.set()
                assert stopped.wait(60)
                time.sleep(0.05)  # the run would end without it meanwhile
            pulled.append(value)
            yield value

    def main() -> None:
        run = step.run_iter(source(), config(max_concurrency=2))

        def stop() -> None:
            assert asked.wait(60)
            run.stop()
            stopped.set()

        thread = threading.Thread(target=stop)
        thread.start()
        seen = list(run)
        thread.join()
        assert pulled == list(range(7))
        assert [outcome.index for outcome in seen] == pulled
        assert seen[-1].status == "not started"
        assert run.statistics().pulled == 7

    in_thread(main)


def test_outcome_iterator_interrupt_of_the_inputs_in_sync_code_ends_the_run() -> None:
    """It is raised in the calling thread, whose own it is; what was ready is left."""

    def source() -> Iterator[int]:
        yield 0
        yield 1
        raise KeyboardInterrupt

    def main() -> None:
        run = RunnableLambda(same).run_iter(source(), config(max_concurrency=1))
        seen = []
        with pytest.raises(KeyboardInterrupt):
            for outcome in run:
                seen.append(outcome.index)
        assert seen + [outcome.index for outcome in run.take_ready()] == [0, 1]
        assert list(run) == []

    in_thread(main)
