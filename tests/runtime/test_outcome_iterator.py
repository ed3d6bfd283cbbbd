"""Outcomes handed over while a run goes on, and its graceful end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import pytest

from batchrt import (
    ChatOpenAI,
    DeadlineExceededError,
    ItemTimeoutError,
    Outcome,
    Price,
    Runnable,
    RunnableLambda,
    RunnableParallel,
    RunStoppedError,
    SpendingLimitError,
)
from tests.runtime.harness import (
    Boom,
    Watch,
    all_slots_come_back,
    check_over,
    config,
    in_thread,
    on_trio,
    pause,
    tasks,
    until,
)

pytestmark = pytest.mark.anyio


async def odd_fails(value: int) -> int:
    await pause(value % 3)
    if value % 2:
        raise Boom(value)
    return value


def statuses(outcomes: list[Outcome[Any]]) -> list[str]:
    return [outcome.status for outcome in outcomes]


class Doubles(Runnable[int, int]):
    """Double numbers in lists of up to 4; keep the lists."""

    max_batch_size = 4

    def __init__(self, gate: anyio.Event | None = None) -> None:
        self.lists: list[list[int]] = []
        self.gate = gate

    async def abatch_native(self, inputs: list[int]) -> list[int]:
        self.lists.append(inputs)
        if self.gate is not None:
            await self.gate.wait()
        await pause()
        return [2 * value for value in inputs]


@pytest.mark.parametrize("ordered", [True, False])
async def test_outcome_iterator_has_one_outcome_for_each_input(ordered: bool) -> None:
    """Failures are outcomes; the order is that of the inputs unless said otherwise."""
    outcomes = [
        outcome
        async for outcome in RunnableLambda(odd_fails).arun_iter(
            range(50), config(max_concurrency=5), ordered=ordered
        )
    ]
    indices = [outcome.index for outcome in outcomes]
    assert sorted(indices) == list(range(50))
    assert (indices == list(range(50))) is ordered
    for outcome in outcomes:
        assert outcome.output == (None if outcome.index % 2 else outcome.index)
        assert isinstance(outcome.error, Boom) is bool(outcome.index % 2)
        assert outcome.attempts == 1
        assert outcome.seconds >= 0


async def test_outcome_iterator_is_bounded_by_its_consumer() -> None:
    """A consumer that stops taking outcomes stops the run's pulling."""
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for pulled in itertools.count():  # noqa: UP028  counted
            yield pulled

    async def leaf(value: int) -> int:
        return value

    before = tasks()
    async with RunnableLambda(leaf).arun_iter(source(), config(max_concurrency=3)) as outcomes:
        await anext(outcomes)
        await pause(100)
        ahead = pulled
        assert ahead < 20
        await pause(100)
        assert pulled == ahead
        assert outcomes.statistics().pulled == pulled + 1
    assert tasks() == before


@pytest.mark.parametrize("ordered", [True, False])
async def test_outcome_iterator_stop_lets_items_in_flight_finish(ordered: bool) -> None:
    """No input is pulled after `stop`; what has a slot is done."""
    gate = anyio.Event()

    async def leaf(value: int) -> int:
        if value >= 3:
            await gate.wait()
        return value

    watch, before = Watch(), tasks()
    with all_slots_come_back():
        run = RunnableLambda(leaf).arun_iter(itertools.count(), config(max_concurrency=4), ordered=ordered)
        seen = [await anext(run) for _ in range(3)]
        await pause(20)
        assert run.statistics().in_flight == 4
        run.stop()
        run.stop()
        await pause(20)
        gate.set()
        seen += [outcome async for outcome in run]
    assert sorted(outcome.index for outcome in seen) == list(range(7))
    assert statuses(seen) == ["done"] * 7
    assert run.stopped
    assert run.ended is None
    told = run.statistics()
    assert (told.pulled, told.delivered, told.not_started, told.in_flight, told.waiting) == (7, 7, 0, 0, 0)
    await check_over(watch, before)


def test_outcome_iterator_stop_withdraws_items_between_attempts() -> None:
    """The sleep before another attempt is not waited for."""
    started = 0.0

    async def leaf(value: int) -> int:
        if value == 1:
            raise Boom
        await anyio.sleep(5)
        return value

    async def main() -> None:
        retried = RunnableLambda(leaf).with_retry(
            stop_after_attempt=9, exponential_jitter_params={"initial": 1000}
        )
        run = retried.arun_iter(range(3), config(max_concurrency=3))
        async with anyio.create_task_group() as group:
            group.start_soon(stop_after, run, 1)
            seen = [outcome async for outcome in run]
        assert statuses(seen) == ["done", "not started", "done"]
        assert isinstance(seen[1].error, RunStoppedError)
        assert anyio.current_time() - started < 6

    async def timed() -> None:
        nonlocal started
        started = anyio.current_time()
        await main()

    with all_slots_come_back():
        on_trio(timed)


async def stop_after(run: Any, seconds: float) -> None:
    await anyio.sleep(seconds)
    run.stop()


def test_outcome_iterator_withdrawn_item_keeps_its_record() -> None:
    """Its attempts and seconds; it was begun, and ended while it waited for another attempt."""

    async def leaf(value: int) -> int:
        if value == 0:
            raise Boom
        await anyio.sleep(5)
        return value

    async def main() -> None:
        retried = RunnableLambda(leaf).with_retry(
            stop_after_attempt=9, exponential_jitter_params={"initial": 2, "exp_base": 50, "jitter": 0}
        )
        run = retried.arun_iter(range(3), config(max_concurrency=2, window=2))
        async with anyio.create_task_group() as group:
            group.start_soon(stop_after, run, 3)
            withdrawn, done = [outcome async for outcome in run]
        assert statuses([withdrawn, done]) == ["cancelled", "done"]
        assert "while the item waited" in str(withdrawn.error)
        assert withdrawn.attempts == 2
        assert withdrawn.seconds == pytest.approx(3, abs=0.2)

    on_trio(main)


def test_outcome_iterator_stop_withdraws_items_that_come_to_wait_later() -> None:
    """An item in flight as `stop` was called, whose request is refused, is not waited for either."""

    async def leaf(value: int) -> int:
        await anyio.sleep(5)
        if value == 1:
            raise Boom
        return value

    async def main() -> list[Outcome[int]]:
        retried = RunnableLambda(leaf).with_retry(
            stop_after_attempt=9, exponential_jitter_params={"initial": 1000}
        )
        run = retried.arun_iter(range(3), config(max_concurrency=3))
        async with anyio.create_task_group() as group:
            group.start_soon(stop_after, run, 1)
            seen = [outcome async for outcome in run]
        assert anyio.current_time() < started + 6
        return seen

    started = 0.0

    async def timed() -> list[Outcome[int]]:
        nonlocal started
        started = anyio.current_time()
        return await main()

    assert statuses(on_trio(timed)) == ["done", "not started", "done"]


def refusing(seconds: float) -> ChatOpenAI:
    """Return a model that answers one request a `seconds`, by its given limit."""

    async def answer(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(1)
        body = {
            "choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
        return httpx.Response(200, json=body)

    return ChatOpenAI(
        "m",
        base_url="http://mock/v1",
        api_key="k",
        transport=httpx.MockTransport(answer),
        requests_per_minute=60 / seconds,
    )


@pytest.mark.parametrize("nested", ["plain", "fork", "nested", "one"])
def test_outcome_iterator_stop_withdraws_throttled_items(nested: str) -> None:
    """Those in a quota's wait queue are withdrawn, whatever they wait in; those in flight finish."""

    async def main() -> None:
        model = refusing(600)
        chain: Runnable[Any, Any] = model
        if nested == "fork":
            chain = RunnableParallel(a=RunnableLambda(same), b=model)
        elif nested == "nested":

            async def several(value: str) -> Any:
                return await model.abatch([value])

            chain = RunnableLambda(several)
        elif nested == "one":

            async def one(value: str) -> Any:
                return await model.ainvoke(value)

            chain = RunnableLambda(one)
        started = anyio.current_time()
        before = tasks()
        run = chain.arun_iter(map(str, range(10)), config(max_concurrency=5))
        async with anyio.create_task_group() as group:
            group.start_soon(stop_after, run, 0.5)
            seen = [outcome async for outcome in run]
        assert anyio.current_time() - started < 2
        # Which of them is sent first is Trio's order of tasks.
        assert sorted(statuses(seen)) == ["done"] + ["not started"] * (len(seen) - 1)
        assert 2 <= len(seen) <= 10
        assert run.statistics().not_started == len(seen) - 1
        assert tasks() == before

    with all_slots_come_back():
        on_trio(main)


async def test_outcome_iterator_stop_from_another_thread() -> None:
    """`stop` may be called from any thread."""
    started = anyio.Event()

    async def leaf(value: int) -> int:
        started.set()
        await pause(3)
        return value

    run = RunnableLambda(leaf).arun_iter(itertools.count(), config(max_concurrency=2))
    seen = [await anext(run)]
    thread = threading.Thread(target=run.stop)
    thread.start()
    seen += [outcome async for outcome in run]
    thread.join()
    assert [outcome.index for outcome in seen] == list(range(len(seen)))
    assert run.stopped


async def test_outcome_iterator_stop_from_another_thread_withdraws_items_that_wait_later() -> None:
    """A request in flight at the time of `stop` that is refused then does not wait out its pause."""
    sent, stopped = anyio.Event(), anyio.Event()

    async def refuse(_: httpx.Request) -> httpx.Response:
        sent.set()
        await stopped.wait()
        return httpx.Response(429, headers={"retry-after": "100"}, json={"error": {"message": "slow down"}})

    model = ChatOpenAI("m", base_url="http://x/v1", api_key="k", transport=httpx.MockTransport(refuse))
    run = model.arun_iter(["a"])
    seen: list[Outcome[Any]] = []

    async def consume() -> None:
        seen.extend([outcome async for outcome in run])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await sent.wait()
            await anyio.to_thread.run_sync(run.stop)
            stopped.set()
    assert [type(outcome.error) for outcome in seen] == [RunStoppedError]


async def test_outcome_iterator_stop_lets_nested_items_in_flight_finish() -> None:
    """Items of an iterator in a leaf are at work by their own strands, not by that of the outer run."""
    gate = anyio.Event()

    async def inner(value: int) -> int:
        await gate.wait()
        return value

    async def outer(kind: str) -> list[str]:
        leaf = RunnableLambda(inner)
        chain = {"leaf": leaf, "fork": RunnableParallel(a=leaf, b=leaf), "list": Doubles(gate)}[kind]
        run = chain.arun_iter(itertools.count(), config(max_concurrency=2))
        seen: list[Outcome[Any]] = []

        async def consume() -> None:
            seen.extend([outcome async for outcome in run])

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await until(lambda: run.statistics().in_flight >= 1)
            run.stop()
            await pause(3)
            gate.set()
        return statuses(seen)

    for kind in ("leaf", "fork", "list"):
        gate = anyio.Event()
        with anyio.fail_after(30):
            found = [outcome async for outcome in RunnableLambda(outer).arun_iter([kind])]
        assert found[0].error is None
        assert "done" in (found[0].output or [])


@pytest.mark.parametrize("place", ["leaf", "source"])
@pytest.mark.parametrize("ordered", [True, False])
async def test_outcome_iterator_stop_within_items_that_never_wait(place: str, ordered: bool) -> None:
    """`stop` may interrupt any code of the run, as a signal handler does, and no loop has to turn before."""
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for value in itertools.count():
            pulled += 1
            if place == "source" and value == 50:
                run.stop()
            yield value

    async def leaf(value: int) -> int:
        if place == "leaf" and value == 50:
            run.stop()
        return value

    run = RunnableLambda(leaf).arun_iter(source(), config(max_concurrency=8), ordered=ordered)
    with anyio.fail_after(30):
        seen = [outcome async for outcome in run]
    assert sorted(outcome.index for outcome in seen) == list(range(pulled))
    assert run.stopped


async def test_outcome_iterator_stop_before_its_start() -> None:
    """Nothing is pulled, and nothing runs."""
    run = RunnableLambda(odd_fails).arun_iter(itertools.count())
    run.stop()
    assert run.stopped
    assert [outcome async for outcome in run] == []
    assert run.statistics().pulled == 0


async def test_outcome_iterator_stop_does_not_wait_for_async_inputs() -> None:
    """A source that is long in coming is cancelled and closed."""
    closed = False

    async def source() -> AsyncIterator[int]:
        nonlocal closed
        try:
            yield 0
            await anyio.sleep_forever()
        finally:
            closed = True

    run = RunnableLambda(odd_fails).arun_iter(source(), config(max_concurrency=2))
    seen = [await anext(run)]
    run.stop()
    seen += [outcome async for outcome in run]
    assert statuses(seen) == ["done"]
    assert closed


async def test_outcome_iterator_tells_of_inputs_pulled_ahead() -> None:
    """An async input that was pulled and has no slot yet is an outcome too."""
    gate, pulled = anyio.Event(), []

    async def source() -> AsyncIterator[int]:
        for value in itertools.count():
            pulled.append(value)
            yield value

    async def leaf(value: int) -> int:
        await gate.wait()
        return value

    async def consume() -> None:
        seen.extend([outcome async for outcome in run])

    seen: list[Outcome[int]] = []
    run = RunnableLambda(leaf).arun_iter(source(), config(max_concurrency=2))
    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await until(lambda: len(pulled) == 3)
        await pause(20)
        run.stop()
        gate.set()
    assert statuses(seen) == ["done", "done", "not started"]


async def test_outcome_iterator_raises_the_error_of_its_inputs() -> None:
    """It is not an item's; what was done before is handed over first."""

    def source() -> Iterator[int]:
        yield 0
        raise Boom

    run = RunnableLambda(odd_fails).arun_iter(source(), config(max_concurrency=1))
    assert (await anext(run)).output == 0
    with pytest.raises(Boom):
        await anext(run)


@pytest.mark.parametrize("ordered", [True, False])
def test_outcome_iterator_ends_at_a_deadline(ordered: bool) -> None:
    """The deadline is told and not raised; what it cut off has its error."""

    async def leaf(value: int) -> int:
        await anyio.sleep(1000 if value == 1 else 1)
        return value

    async def main() -> None:
        keys = config(max_concurrency=2, deadline=3.5, window=100)
        run = RunnableLambda(leaf).arun_iter(itertools.count(), keys, ordered=ordered)
        seen = [outcome async for outcome in run]
        assert isinstance(run.ended, DeadlineExceededError)
        assert not run.stopped
        found = {outcome.index: outcome.status for outcome in seen}
        assert found == {0: "done", 1: "cancelled", 2: "done", 3: "done", 4: "cancelled"}
        assert len(seen) == 5

    on_trio(main)


def test_outcome_iterator_ends_at_a_limit_of_spending() -> None:
    """The limit is told and not raised; costs and what was spent are there."""

    async def main() -> None:
        keys = config(max_concurrency=1, max_cost=100, prices=Price(1e6, 2e6))
        run = refusing(0.01).bind(max_tokens=5).arun_iter(["a" * 30] * 20, keys)
        seen = [outcome async for outcome in run]
        assert isinstance(run.ended, SpendingLimitError)
        done = [outcome for outcome in seen if outcome.ok]
        assert 1 <= len(done) < 20
        assert all(outcome.cost == 20 for outcome in done)
        assert run.statistics().cost == 20 * len(done)
        assert run.statistics().tokens == 15 * len(done)
        assert {outcome.status for outcome in seen} <= {"done", "cancelled", "not started"}

    on_trio(main)


async def test_outcome_iterator_packs_lists_of_inputs_as_they_are_pulled() -> None:
    """A native step by itself gets full lists; few inputs are pulled ahead."""
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for pulled in range(1, 1001):  # noqa: UP028  counted
            yield pulled

    step = Doubles()
    before = tasks()
    async with step.arun_iter(source(), config(max_concurrency=2, window=16)) as run:
        first = await anext(run)
        assert (first.index, first.output) == (0, 2)
        await pause(200)
        assert pulled <= 25
        rest = [outcome async for outcome in run]
    assert [outcome.output for outcome in rest] == [2 * value for value in range(2, 1001)]
    assert [len(each) for each in step.lists] == [4] * 250
    assert tasks() == before


async def test_outcome_iterator_stop_of_lists() -> None:
    """Lists in flight finish; inputs that were pulled and not sent are told of."""
    gate = anyio.Event()
    step, seen = Doubles(gate), []
    run = step.arun_iter(itertools.count(), config(max_concurrency=2), ordered=False)

    async def consume() -> None:
        seen.extend([outcome async for outcome in run])

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await until(lambda: len(step.lists) == 2)
        await pause(20)
        told = run.statistics()
        assert (told.in_flight, told.waiting) == (8, 1)
        run.stop()
        gate.set()
    seen.sort(key=lambda outcome: outcome.index)
    assert [outcome.index for outcome in seen] == list(range(9))
    assert statuses(seen) == ["done"] * 8 + ["not started"]
    assert run.statistics().waiting == 0


def test_outcome_iterator_sends_lists_of_slow_async_inputs() -> None:
    """A list that is not full waits a second for more inputs."""
    started = 0.0
    step = Doubles()

    async def source() -> AsyncIterator[int]:
        for value in range(6):
            yield value
        await anyio.sleep(100)
        yield 6

    async def main() -> None:
        run = step.arun_iter(source(), config(max_concurrency=2))
        seen = [await anext(run) for _ in range(6)]
        assert anyio.current_time() - started < 2
        seen += [outcome async for outcome in run]
        assert [outcome.output for outcome in seen] == [0, 2, 4, 6, 8, 10, 12]

    async def timed() -> None:
        nonlocal started
        started = anyio.current_time()
        await main()

    on_trio(timed)
    assert step.lists == [[0, 1, 2, 3], [4, 5], [6]]


async def test_outcome_iterator_withdraws_items_that_wait_for_a_list() -> None:
    """In a chain, items of the list in flight finish, and those in the queue are withdrawn."""
    gate = anyio.Event()
    step, seen = Doubles(gate), []
    chain = RunnableLambda(same) | step
    run = chain.arun_iter(itertools.count(), config(max_concurrency=1, window=20))

    async def consume() -> None:
        seen.extend([outcome async for outcome in run])

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await until(lambda: step.lists)
        await pause(50)
        assert len(step.lists) == 1
        run.stop()
        await pause(20)
        gate.set()
    count = len(step.lists[0])
    assert statuses(seen) == ["done"] * count + ["not started"] * (len(seen) - count)
    assert len(step.lists) == 1


async def same(value: int) -> int:
    return value


def test_outcome_iterator_in_sync_code() -> None:
    """`run_iter` pulls in the calling thread, can be stopped, and closed."""
    threads = set()

    def source() -> Iterator[int]:
        for value in itertools.count():
            threads.add(threading.get_ident())
            yield value

    def main() -> None:
        with RunnableLambda(odd_fails).run_iter(source(), config(max_concurrency=2)) as run:
            seen = [next(run) for _ in range(3)]
            run.stop()
            seen += list(run)
        assert [outcome.index for outcome in seen] == list(range(len(seen)))
        assert run.stopped
        assert run.ended is None
        assert run.statistics().pulled == len(seen)
        assert threads == {threading.get_ident()}
        other = RunnableLambda(odd_fails).run_iter(range(10))
        assert next(other).output == 0
        other.close()
        assert list(other) == []

    in_thread(main)


class Costly(Doubles):
    """Doubles, of which 6 has no cost."""

    def cost(self, value: int) -> float:
        if value == 6:
            raise Boom
        return 1.0


def test_outcome_iterator_stop_of_lists_of_async_inputs() -> None:
    """Inputs gathered for the next list are told of; one that is wrong by itself is its own outcome."""

    async def source() -> AsyncIterator[int]:
        for value in range(9):
            yield value
        await anyio.sleep_forever()

    async def main() -> None:
        step = Costly()
        run = step.arun_iter(source(), config(max_concurrency=1))
        seen = [await anext(run) for _ in range(8)]
        run.stop()
        seen += [outcome async for outcome in run]
        assert statuses(seen) == ["done"] * 6 + ["failed", "done", "not started"]
        assert step.lists == [[0, 1, 2, 3], [4, 5, 7]]

    on_trio(main)


def test_outcome_iterator_bounds_a_list_by_the_timeout() -> None:
    """The inputs of a list that takes longer have its error."""

    class Slow(Doubles):
        async def abatch_native(self, inputs: list[int]) -> list[int]:
            await anyio.sleep(100 if 0 in inputs else 1)
            return inputs

    async def main() -> None:
        run = Slow().arun_iter(iter(range(8)), config(max_concurrency=2, timeout=5))
        seen = [outcome async for outcome in run]
        assert statuses(seen) == ["failed"] * 4 + ["done"] * 4
        assert all(isinstance(outcome.error, ItemTimeoutError) for outcome in seen[:4])

    on_trio(main)
