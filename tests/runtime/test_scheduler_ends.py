"""How a run ends: errors, cancellations, interrupts, time; and that nothing of it is left."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
import trio
from trio.testing import MockClock

from batchrt import (
    ChatOpenAI,
    DeadlineExceededError,
    ItemTimeoutError,
    Quota,
    Runnable,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    SpendingLimitError,
    StrayCancelledError,
)
from batchrt.runtime.batch import Job
from batchrt.runtime.item import Item
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from tests.runtime.harness import (
    Boom,
    Watch,
    all_slots_come_back,
    check_over,
    config,
    on_trio,
    pause,
    tasks,
    until,
)

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


def leaf_of(watch: Watch, rounds: int = 2) -> RunnableLambda[Any, Any]:
    async def leaf(value: Any) -> Any:
        with watch:
            await pause(rounds)
        return value

    return RunnableLambda(leaf)


async def test_scheduler_stopped_before_it_begins_carries_nothing() -> None:
    """As by a consumer that closes its iterator at once; there is no error."""
    carried: list[int] = []

    async def carry(value: int, strand: Strand) -> int:
        carried.append(value)
        await pause(1)
        return value

    def deliver(item: Item, output: Any, error: Exception | None) -> bool:
        carried.append(output)
        return True

    before = tasks()
    scheduler = Job.of(Step(carry), [1, 2, 3], config(max_concurrency=2)).open(deliver, fail_fast=True)
    scheduler.stop()
    await scheduler.run()
    assert carried == []
    assert tasks() == before


async def test_scheduler_first_error_comes_as_itself_when_all_has_ended() -> None:
    """The first error comes as itself when all has ended."""
    watch, before, error = Watch(), tasks(), Boom()

    async def leaf(value: int) -> None:
        with watch:
            if value == 7:
                await pause(3)
                raise error
            await anyio.sleep_forever()

    with all_slots_come_back(), pytest.raises(Boom) as caught:
        await RunnableLambda(leaf).abatch(range(20), config(max_concurrency=10))
    assert caught.value is error
    assert caught.value.__notes__ == ["batchrt: item 7 failed; the rest was cancelled"]
    await check_over(watch, before)


async def test_scheduler_error_that_cannot_take_a_note_comes_without() -> None:
    """An error that cannot take a note comes without."""

    @dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    async def fail(value: int) -> None:
        raise FrozenError(value)

    with pytest.raises(FrozenError):
        await RunnableLambda(fail).abatch([1, 2])


async def test_scheduler_error_while_others_clean_up_does_not_take_the_firsts_place() -> None:
    """An error while others clean up does not take the firsts place."""
    first = Boom("first")

    async def leaf(value: int) -> None:
        if value == 0:
            await pause(2)
            raise first
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("second")

    with pytest.raises(Boom) as caught:
        await RunnableLambda(leaf).abatch(range(3))
    assert caught.value is first


async def test_scheduler_exceptions_that_are_returned_are_values() -> None:
    """Exceptions that are returned are values."""
    error = Boom()

    async def give(_: object) -> Boom:
        return error

    assert await RunnableLambda(give).abatch([1, 2]) == [error, error]
    result = await RunnableLambda(give).arun([1])
    assert result.outputs == [error]
    assert result.errors == {}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_scheduler_interrupt_in_leaf_ends_run_whatever_is_tolerated(kind: type[BaseException]) -> None:
    """An interrupt in a leaf ends the run whatever is tolerated."""
    watch, before, error = Watch(), tasks(), kind()

    async def leaf(value: int) -> None:
        with watch:
            if value == 3:
                await pause(2)
                raise error
            await anyio.sleep_forever()

    with pytest.raises(kind) as caught:
        await RunnableLambda(leaf).abatch(range(5), return_exceptions=True)
    assert caught.value is error
    await check_over(watch, before)


async def _several(count: int) -> AsyncIterator[int]:
    for value in range(count):
        await pause(2)
        yield value


async def _endless() -> AsyncIterator[int]:
    while True:
        yield 1
        await anyio.sleep_forever()


@pytest.mark.parametrize("how", ["abatch", "async inputs", "ainvoke", "fork", "lists", "stream"])
def test_scheduler_ctrl_c_on_trio_comes_as_itself(how: str) -> None:
    """Trio raises it in the main task, inside of the run's nursery."""

    class Lists(Runnable[int, int]):
        async def abatch_native(self, inputs: list[int]) -> list[int]:
            await anyio.sleep_forever()
            return inputs

    leaf: Runnable[float, Any] = RunnableLambda(anyio.sleep)

    async def main() -> None:
        signal.raise_signal(signal.SIGINT)  # raised at the next checkpoint
        if how == "abatch":
            await leaf.abatch([1e6] * 3)
        elif how == "async inputs":
            await leaf.abatch(_endless())
        elif how == "stream":
            await anext(leaf.abatch_iter([1e6] * 3))
        else:
            chains = {
                "ainvoke": leaf,
                "fork": RunnableParallel(a=leaf, b=leaf),
                "lists": RunnableParallel(a=Lists(), b=Lists()),
            }
            await chains[how].ainvoke(1e6)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trio.run(_unprotected, main)
    finally:
        signal.signal(signal.SIGINT, previous)


@trio.lowlevel.enable_ki_protection
async def _unprotected(main: Any) -> None:
    await main()


@pytest.mark.parametrize("tolerant", [False, True])
async def test_scheduler_cancellation_gets_through_whatever_is_tolerated(tolerant: bool) -> None:
    """A cancellation gets through whatever is tolerated."""
    watch, before = Watch(), tasks()

    async def forever(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    async def main() -> None:
        await RunnableLambda(forever).abatch(range(50), config(max_concurrency=5), return_exceptions=tolerant)
        pytest.fail("the cancellation was swallowed")

    with all_slots_come_back():
        async with anyio.create_task_group() as group:
            group.start_soon(main)
            await until(lambda: watch.active == 5)
            group.cancel_scope.cancel()
    await check_over(watch, before)
    assert watch.entered == 5


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_scheduler_asyncios_own_cancellation_gets_through(how: str) -> None:
    """Asyncios own cancellation gets through."""
    watch = Watch()

    async def forever(_: object) -> None:
        with watch:
            await asyncio.Event().wait()

    async def call() -> None:
        await RunnableLambda(forever).abatch(range(9), config(max_concurrency=3), return_exceptions=True)

    async def expire(bound: asyncio.Timeout) -> None:
        await until(lambda: watch.active == 3)
        bound.reschedule(asyncio.get_running_loop().time())

    async def main() -> None:
        before = tasks()
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as bound, anyio.create_task_group() as group:
                    group.start_soon(expire, bound)
                    await call()
        else:
            task = asyncio.create_task(call())
            await until(lambda: watch.active == 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await check_over(watch, before)
        assert watch.entered == 3

    asyncio.run(main())


def test_scheduler_leaves_may_use_asyncios_own_timeouts_and_groups() -> None:
    """They cancel the task they run in, which is a worker with other items to carry."""

    async def leaf(value: int) -> int:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            pass

        async def fail() -> None:
            raise Boom

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(asyncio.Event().wait())
        except* Boom:
            pass
        return value

    async def main() -> None:
        assert await RunnableLambda(leaf).abatch(range(20), config(max_concurrency=2)) == list(range(20))

    asyncio.run(main())


def test_scheduler_stray_cancellation_is_the_error_of_its_item_alone() -> None:
    """A stray cancellation is the error of its item alone."""

    async def leaf(value: int) -> int:
        if value == 1:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        await pause(2)
        return value

    async def main() -> None:
        chain = RunnableLambda(leaf)
        outputs: list[Any] = await chain.abatch(range(3), return_exceptions=True)
        assert [outputs[0], outputs[2]] == [0, 2]
        assert type(outputs[1]) is StrayCancelledError
        assert isinstance(outputs[1].__cause__, asyncio.CancelledError)
        for call in (chain.abatch(range(3)), chain.ainvoke(1)):
            with pytest.raises(StrayCancelledError):
                await call

    asyncio.run(main())
    with pytest.raises(StrayCancelledError):
        RunnableLambda(leaf).invoke(1)


def test_scheduler_stray_cancellation_from_the_inputs_is_raised_as_one() -> None:
    """A stray cancellation from the inputs is raised as one."""

    async def source() -> AsyncIterator[int]:
        yield 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main() -> None:
        with pytest.raises(StrayCancelledError):
            await leaf_of(Watch()).abatch(source(), return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["waits", "returns", "swallows", "later"])
@pytest.mark.parametrize("cap", [1, 3])
@pytest.mark.parametrize("kind", [range, _several])
def test_scheduler_item_that_cancels_its_own_task_harms_no_other(how: str, cap: int, kind: Any) -> None:
    """A worker's task is put right between items, and while it waits for the next."""
    watch = Watch()

    async def leaf(value: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        with watch:
            if value == 1 and how == "later":
                asyncio.get_running_loop().call_later(0.002, task.cancel)
            elif value == 1:
                task.cancel()
            if value == 1 and how == "swallows":
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            elif how != "returns" or value != 1:
                await pause(3)
        return value

    async def main() -> None:
        before = tasks()
        with all_slots_come_back():
            outputs: list[Any] = await RunnableLambda(leaf).abatch(
                kind(6), config(max_concurrency=cap), return_exceptions=True
            )
        wrong = [value for value, output in enumerate(outputs) if output != value]
        if how != "later":  # then it meets whatever the task is at
            assert wrong == ([1] if how == "waits" else [])
        assert len(wrong) <= 1
        assert all(isinstance(outputs[value], StrayCancelledError) for value in wrong)
        await check_over(watch, before)

    asyncio.run(main())


@pytest.mark.parametrize("what", ["scope", "cancelled scope", "deadline", "group"])
@pytest.mark.parametrize("how", ["plain", "timeout", "fork", "map"])
async def test_scheduler_item_that_leaves_a_scope_open_harms_no_other(what: str, how: str) -> None:
    """A worker's task goes on with the next item as if nothing had been, and a group's tasks have ended."""
    before = tasks()

    async def leaf(value: int) -> int:
        if value == 1:
            if what == "group":
                group = anyio.create_task_group()
                await group.__aenter__()
                group.start_soon(anyio.sleep_forever)
            else:
                soon = anyio.current_time() + 0.001
                scope = anyio.CancelScope(deadline=soon if what == "deadline" else math.inf)
                scope.__enter__()
                if what == "cancelled scope":
                    scope.cancel()
        await anyio.sleep(0.005)
        return value

    async def other(_: int) -> None:
        await pause(2)

    chain: Any = RunnableLambda(leaf)
    inputs: list[Any] = list(range(4))
    timeout = config(timeout=100) if how == "timeout" else config()
    if how == "fork":
        chain = RunnableParallel(a=chain, b=other)
    if how == "map":
        chain, inputs = chain.map(), [[value] for value in inputs]
    for cap in (1, 2):
        with all_slots_come_back():
            outputs = await chain.abatch(
                inputs, config(max_concurrency=cap, **timeout), return_exceptions=True
            )
        assert [isinstance(output, Exception) for output in outputs] == [False, True, False, False]
        assert isinstance(outputs[1], RuntimeError | StrayCancelledError)
    assert tasks() == before


async def _raises_at_once(value: int) -> int:
    if value == 1:
        raise GeneratorExit
    return value


def _raises_in_a_thread(value: int) -> int:
    if value == 1:
        raise GeneratorExit
    return value


@pytest.mark.parametrize("leaf", [_raises_at_once, _raises_in_a_thread])
async def test_scheduler_generator_exit_is_its_items_error(leaf: Any) -> None:
    """It says that a coroutine is closed, and none is."""
    chain: Any = RunnableLambda(leaf)
    made: Any
    for made in (chain, chain | RunnablePassthrough(), RunnableParallel(a=chain, b=_raises_at_once)):
        outputs = await made.abatch(range(3), return_exceptions=True)
        assert [isinstance(output, RuntimeError) for output in outputs] == [False, True, False]
        with pytest.raises(RuntimeError, match="GeneratorExit"):
            await made.ainvoke(1)
    with pytest.raises(RuntimeError, match="GeneratorExit"):
        await anyio.to_thread.run_sync(chain.invoke, 1)


def test_scheduler_loop_that_is_torn_down_starts_no_more_items() -> None:
    """Then every task is cancelled, workers as well: that is no item's doing."""
    started: list[int] = []

    async def leaf(value: int) -> None:
        started.append(value)
        await asyncio.sleep(1e6)

    async def main() -> None:
        run = asyncio.create_task(RunnableLambda(leaf).abatch(range(9), config(max_concurrency=2)))
        await until(lambda: len(started) == 2)
        del run

    asyncio.run(main())
    assert started == [0, 1]


# Time


def test_scheduler_timeout_is_for_each_item() -> None:
    """A timeout is for each item."""

    async def leaf(value: int) -> int:
        await anyio.sleep(value)
        return value

    async def main() -> None:
        before = anyio.current_time()
        outputs: list[Any] = await RunnableLambda(leaf).abatch(
            [1, 100, 2, 100, 3], config(timeout=10, max_concurrency=1), return_exceptions=True
        )
        assert [outputs[0], outputs[2], outputs[4]] == [1, 2, 3]
        assert isinstance(outputs[1], ItemTimeoutError)
        assert outputs[1].seconds == 10
        assert isinstance(outputs[3], ItemTimeoutError)
        assert anyio.current_time() - before == 26

    on_trio(main)


def test_scheduler_timeout_ends_the_run_if_nothing_is_tolerated() -> None:
    """A timeout ends the run if nothing is tolerated."""

    async def main() -> None:
        with pytest.raises(ItemTimeoutError):
            await RunnableLambda(anyio.sleep).abatch([1, 100, 2], config(timeout=10))
        with pytest.raises(ItemTimeoutError):
            await RunnableLambda(anyio.sleep).ainvoke(100, config(timeout=10))

    on_trio(main)


def test_scheduler_deadline_is_for_the_run() -> None:
    """A deadline is for the run."""

    async def leaf(value: int) -> int:
        await anyio.sleep(value)
        return value

    chain = RunnableLambda(leaf)

    async def main() -> None:
        before = anyio.current_time()
        keys = config(deadline=10, max_concurrency=2)
        outputs: list[Any] = await chain.abatch([1, 100, 2, 3, 100, 5], keys, return_exceptions=True)
        assert [outputs[0], outputs[2], outputs[3]] == [1, 2, 3]
        assert [type(outputs[n]) for n in (1, 4, 5)] == [DeadlineExceededError] * 3
        assert anyio.current_time() - before == 10
        with pytest.raises(DeadlineExceededError):
            await chain.abatch([1, 100], keys)
        with pytest.raises(DeadlineExceededError):
            await chain.ainvoke(100, keys)
        result = await chain.arun([1, 100], keys)
        assert type(result.errors[1]) is DeadlineExceededError
        assert anyio.current_time() - before == 40

    on_trio(main)


def test_scheduler_deadline_with_inputs_of_unknown_number_is_raised() -> None:
    """A deadline with inputs of unknown number is raised."""

    async def main() -> None:
        for source in (iter([1, 100]), _unsized()):
            with pytest.raises(DeadlineExceededError):
                await RunnableLambda(anyio.sleep).abatch(source, config(deadline=10), return_exceptions=True)
        with pytest.raises(DeadlineExceededError):
            await RunnableLambda(anyio.sleep).arun(iter([100]), config(deadline=10))

    on_trio(main)


async def _unsized() -> AsyncIterator[float]:
    yield 1
    await anyio.sleep(100)


def test_scheduler_deadline_inside_an_item_is_the_items_error() -> None:
    """A deadline inside an item is the items error."""

    async def nested(value: int) -> Any:
        return await RunnableLambda(anyio.sleep).abatch([value], config(deadline=10))

    async def main() -> None:
        outputs = await RunnableLambda(nested).abatch([1, 100], return_exceptions=True)
        assert outputs[0] == [None]
        assert type(outputs[1]) is DeadlineExceededError

    on_trio(main)


@dataclass(frozen=True, eq=False)
class FrozenBoom(Boom):
    name: str = "frozen"


class FalsyBoom(Boom):
    def __bool__(self) -> bool:
        return False


class EmptyBoom(Boom):
    def __len__(self) -> int:
        return 0


class DelegatingBoom(Boom):
    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class NotedBoom(Boom):
    __notes__: Any = None

    def add_note(self, note: str) -> None:
        raise OSError

    def with_traceback(self, trace: Any) -> Any:
        raise OSError


class UnequalBoom(Boom):
    __hash__: Any = None

    def __eq__(self, other: object) -> bool:
        raise OSError


class UntouchableBoom(Boom):
    def __getattribute__(self, name: str) -> Any:
        raise KeyError(name)


@pytest.mark.parametrize(
    "boom",
    [FrozenBoom, FalsyBoom, EmptyBoom, DelegatingBoom, NotedBoom, UnequalBoom, UntouchableBoom],
)
async def test_scheduler_error_is_raised_and_returned_as_itself_whatever_it_is(boom: type[Boom]) -> None:
    """An exception may be frozen, false, or raise when it is looked at: no slot is lost."""

    async def fail(value: int) -> int:
        await pause(1)
        raise boom

    def fail_in_thread(value: int) -> int:
        raise boom

    class Lists(Runnable[int, int]):
        async def abatch_native(self, values: list[int]) -> list[Any]:
            if len(values) % 2:
                raise boom
            return [boom() for _ in values]

    async def nested(value: int) -> Any:
        return await failing.abatch([value, value])

    failing = RunnableLambda(fail)
    chains: list[Any] = [
        failing,
        RunnableLambda(fail_in_thread),
        Lists(),
        RunnableLambda(nested),
        RunnableLambda(lambda value: failing.batch([value])),
        RunnableLambda(lambda value: list(failing.batch_iter([value]))),
        RunnableLambda(failing.invoke),
        RunnableParallel(a=failing, b=RunnableLambda(fail_in_thread)),
        failing.with_retry(stop_after_attempt=2, wait_exponential_jitter=False),
        failing.with_fallbacks([RunnableLambda(fail_in_thread)]),
        failing.with_config(timeout=10, max_concurrency=1),
    ]
    for chain in chains:
        with all_slots_come_back():
            outcomes = await chain.abatch([1, 2, 3], config(max_concurrency=1), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [boom] * 3
            result = await chain.arun([1, 2])
            assert [outcome.status for outcome in result] == ["failed", "failed"]
            for call in (chain.abatch([1, 2, 3], config(max_concurrency=1)), chain.ainvoke(1)):
                kind = None
                try:
                    await call
                except Boom as error:
                    kind = type(error)
                assert kind is boom


def test_scheduler_native_timeout_around_nested_work_is_a_timeout() -> None:
    """Also if scopes in the nested work are on their way out, which AnyIO counts as the group's."""

    async def slow(value: int) -> None:
        await asyncio.sleep(10)

    async def scoped(value: int) -> None:
        with anyio.move_on_after(0.001):
            await RunnableLambda(slow).abatch([value, value])
        await asyncio.sleep(10)

    async def leaf(value: int) -> str:
        try:
            async with asyncio.timeout(0.004):
                await RunnableLambda(scoped).abatch([value, value])
        except TimeoutError:
            return "timeout"
        return "nothing"

    async def main() -> None:
        for _ in range(5):
            outcomes = await RunnableLambda(leaf).abatch(range(7), config(max_concurrency=3))
            assert outcomes == ["timeout"] * 7

    asyncio.run(main())


@pytest.mark.parametrize("how", ["abatch", "iter", "as_completed", "batch", "tolerant", "empty"])
def test_scheduler_nested_runs_begun_after_the_spending_limit_say_so(how: str) -> None:
    """An empty list of outputs would be a wrong result, just where money runs out."""

    def answer(request: httpx.Request) -> httpx.Response:
        message = {"role": "assistant", "content": "hi"}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice], "usage": usage})

    model = ChatOpenAI("m", api_key="k", transport=httpx.MockTransport(answer), quota=Quota())
    seen: list[Any] = []

    async def leaf(value: int) -> None:
        with pytest.raises(SpendingLimitError):
            await model.abatch(["a"] * 10)
        inputs = ["a"] * 3
        if how == "empty":
            seen.append(await model.abatch([]))
        elif how == "tolerant":
            seen.extend(type(output) for output in await model.abatch(inputs, return_exceptions=True))
        else:
            with pytest.raises(SpendingLimitError):
                if how == "abatch":
                    await model.abatch(inputs)
                elif how == "iter":
                    seen.extend([output async for output in model.abatch_iter(inputs)])
                elif how == "as_completed":
                    seen.extend([pair async for pair in model.abatch_as_completed(iter(inputs))])
                else:
                    await anyio.to_thread.run_sync(model.batch, inputs)

    async def main() -> None:
        await RunnableLambda(leaf).arun([1], config(max_tokens_total=20))

    anyio.run(main)
    assert seen == {"empty": [[]], "tolerant": [SpendingLimitError] * 3}.get(how, [])


@pytest.mark.parametrize("cap", [None, 1, 5, "auto"])
@pytest.mark.parametrize("given", [list, iter], ids=["a list", "an iterator"])
def test_scheduler_deadline_is_looked_at_between_items_that_never_await(cap: Any, given: Any) -> None:
    """The event loop cannot see it pass: each function takes half of it, and the third is not begun."""
    begun = 0

    def run(**options: Any) -> Any:
        nonlocal begun
        begun = 0
        clock = MockClock()

        async def busy(value: int) -> int:
            nonlocal begun
            begun += 1
            clock.jump(0.5)
            return value

        async def main() -> Any:
            settings = config(max_concurrency=cap, deadline=1.0)
            return await RunnableLambda(busy).abatch(given(range(40)), settings, **options)

        return anyio.run(main, backend="trio", backend_options={"clock": clock})

    with pytest.raises(DeadlineExceededError, match="deadline of 1 s passed with 2 items started"):
        run()
    assert begun == 2
    if given is list:
        results = run(return_exceptions=True)
        assert results[:2] == [0, 1]
        assert all(isinstance(result, DeadlineExceededError) for result in results[2:])
        assert len(results) == 40


def test_scheduler_deadline_that_passes_in_the_last_item_is_no_error() -> None:
    """Nothing is left that could have been cancelled."""
    clock = MockClock()

    async def busy(value: int) -> int:
        clock.jump(0.6)
        return value

    async def main() -> Any:
        return await RunnableLambda(busy).abatch([0, 1], config(max_concurrency=1, deadline=1.0))

    assert anyio.run(main, backend="trio", backend_options={"clock": clock}) == [0, 1]
