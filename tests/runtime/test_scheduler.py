"""The window: the cap, no barriers, laziness, items apart from each other."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from operator import itemgetter
from typing import Any

import anyio
import pytest

from batchrt import (
    RunnableLambda,
)
from tests.runtime.harness import (
    Boom,
    Watch,
    all_slots_come_back,
    check_over,
    config,
    pause,
    sync_leaf_of,
    tasks,
)

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


def leaf_of(watch: Watch, rounds: int = 2) -> RunnableLambda[Any, Any]:
    async def leaf(value: Any) -> Any:
        with watch:
            await pause(rounds)
        return value

    return RunnableLambda(leaf)


# The cap


@pytest.mark.parametrize("cap", [1, 3, 50])
async def test_scheduler_as_many_leaves_as_the_cap_run_and_no_more(cap: int) -> None:
    """As many leaves as the cap run and no more."""
    watch = Watch()
    with all_slots_come_back():
        await leaf_of(watch, 10).abatch(range(100), config(max_concurrency=cap))
    assert watch.peak == cap


@pytest.mark.parametrize("sync_at", [(), (0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("cap", [1, 2])
async def test_scheduler_nested_batches_three_deep_hold_the_cap(sync_at: tuple[int, ...], cap: int) -> None:
    """In async and in sync functions, and the two mixed."""
    watch = Watch()

    def nest(inner: RunnableLambda[Any, Any], *, sync: bool) -> RunnableLambda[Any, Any]:
        async def nested(value: int) -> int:
            with watch:
                await pause(1)
            outputs = await inner.abatch([value] * 2)
            with watch:
                return sum(outputs)

        def nested_in_thread(value: int) -> int:
            outputs = inner.batch([value] * 2)
            with watch:
                return sum(outputs)

        return RunnableLambda(nested_in_thread if sync else nested)

    chain = sync_leaf_of(watch) if 0 in sync_at else leaf_of(watch)
    chain = nest(chain, sync=1 in sync_at)
    chain = nest(chain, sync=2 in sync_at)
    with all_slots_come_back():
        outputs = await chain.abatch(range(6), config(max_concurrency=cap))
    assert outputs == [4 * value for value in range(6)]
    assert watch.peak <= cap


async def test_scheduler_two_nested_batches_at_once_in_one_leaf_share_its_slot() -> None:
    """Two nested batches at once in one leaf share its slot."""
    watch = Watch()
    inner = leaf_of(watch)

    async def outer(value: int) -> int:
        async with anyio.create_task_group() as group:
            group.start_soon(inner.abatch, [value] * 5)
            group.start_soon(inner.abatch, [value] * 3)
        return value

    with all_slots_come_back():
        outputs = await RunnableLambda(outer).abatch(range(4), config(max_concurrency=1))
    assert outputs == list(range(4))
    assert watch.peak == 1
    assert watch.entered == 32


async def test_scheduler_nested_cap_holds_in_addition() -> None:
    """A nested cap holds in addition."""
    loose, tight = Watch(), Watch()

    async def outer(value: int) -> int:
        await leaf_of(loose).abatch(range(6), config(max_concurrency=100))
        await leaf_of(tight).abatch(range(6), config(max_concurrency=1))
        return value

    await RunnableLambda(outer).abatch([0], config(max_concurrency=4))
    assert loose.peak <= 4
    assert tight.peak == 1


async def test_scheduler_cap_inside_a_chain_holds_over_all_items() -> None:
    """A cap inside a chain holds over all items."""
    narrow, wide = Watch(), Watch()
    chain = leaf_of(wide, 10) | leaf_of(narrow).with_config(max_concurrency=2) | leaf_of(wide)
    with all_slots_come_back():
        await chain.abatch(range(50), config(max_concurrency=8))
    assert narrow.peak == 2
    assert 2 < wide.peak <= 8


async def test_scheduler_fallbacks_are_under_the_cap() -> None:
    """Fallbacks are under the cap."""
    watch = Watch()

    async def fail(_: object) -> None:
        with watch:
            await pause(1)
            raise Boom

    chain = RunnableLambda(fail).with_fallbacks([RunnableLambda(fail), leaf_of(watch)])
    with all_slots_come_back():
        outputs = await chain.abatch(range(20), config(max_concurrency=3))
    assert outputs == list(range(20))
    assert watch.peak == 3


@pytest.mark.parametrize("cap", [1, 2])
async def test_scheduler_sync_batch_inside_an_async_leaf_blocks_its_loop_and_ends(cap: int) -> None:
    """No task of the loop can give a slot back meanwhile: the nested call works with its own."""
    watch = Watch()

    async def outer(value: int) -> int:
        with contextlib.suppress(Boom):
            sync_leaf_of(watch).batch([value])
        return sum(leaf_of(watch).batch([value] * 3))

    with all_slots_come_back():
        outputs = await RunnableLambda(outer).abatch(range(4), config(max_concurrency=cap))
    assert outputs == [3 * value for value in range(4)]
    assert watch.peak == 1


# No barrier


async def test_scheduler_slow_item_delays_no_other_item() -> None:
    """A slow item delays no other item."""
    slow, done = anyio.Event(), []

    async def first(value: int) -> int:
        if value == 0:
            await slow.wait()
        return value

    async def second(value: int) -> int:
        done.append(value)
        if len(done) == 99:
            slow.set()
        return value

    outputs = await (RunnableLambda(first) | second).abatch(range(100), config(max_concurrency=2))
    assert outputs == list(range(100))
    assert done == [*range(1, 100), 0]


@pytest.mark.parametrize(("cap", "count", "most"), [(None, 3, 3), (2, 50, 3), (None, 0, 0)])
async def test_scheduler_starts_no_more_workers_than_have_work(
    cap: int | None, count: int, most: int
) -> None:
    """One for each item or slot, and one that leads: a task costs as much as several items."""
    workers: set[int] = set()

    async def leaf(value: int) -> int:
        for _ in range(5):
            await pause(1)
            workers.update(task.id for task in anyio.get_running_tasks() if task.name == "batchrt worker")
        return value

    assert await RunnableLambda(leaf).abatch(range(count), config(max_concurrency=cap)) == list(range(count))
    assert len(workers) == most


async def test_scheduler_items_start_in_input_order() -> None:
    """Items start in input order."""
    started: list[int] = []

    async def leaf(value: int) -> int:
        started.append(value)
        await pause(value % 7)
        return value

    await RunnableLambda(leaf).abatch(range(200), config(max_concurrency=10))
    assert started == list(range(200))


# Inputs


def _some_generator() -> Iterator[int]:
    yield from range(5)


async def _some_async_generator() -> AsyncIterator[int]:
    for value in range(5):
        yield value


class NextAlone:
    """What `for` and `list` take from `__iter__`, though it is no `collections.abc.Iterator`."""

    def __init__(self) -> None:
        self._left = iter(range(5))

    def __next__(self) -> int:
        return next(self._left)


class Rows:
    def __iter__(self) -> Any:
        return NextAlone()


class Dataset:
    """A sequence of the old kind."""

    def __getitem__(self, index: int) -> int:
        return range(5)[index]


class SizedDataset(Dataset):
    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: [0, 1, 2, 3, 4],
        Rows,
        Dataset,
        SizedDataset,
        lambda: (0, 1, 2, 3, 4),
        lambda: range(5),
        lambda: {0, 1, 2, 3, 4},
        lambda: dict.fromkeys(range(5)),
        {n: n for n in range(5)}.values,
        lambda: iter([0, 1, 2, 3, 4]),
        _some_generator,
        _some_async_generator,
    ],
)
@pytest.mark.parametrize("cap", [1, 3, None])
async def test_scheduler_any_iterable_will_do(make: Callable[[], Any], cap: int | None) -> None:
    """Any iterable will do."""
    chain = leaf_of(Watch())
    assert await chain.abatch(make(), config(max_concurrency=cap)) == [0, 1, 2, 3, 4]
    assert [out async for out in chain.abatch_iter(make(), config(max_concurrency=cap))] == list(range(5))


async def _nothing() -> AsyncIterator[int]:
    empty: list[int] = []
    for value in empty:
        yield value


@pytest.mark.parametrize("make", [list, lambda: iter(()), _nothing])
async def test_scheduler_no_inputs_give_no_outputs(make: Callable[[], Any]) -> None:
    """No inputs give no outputs."""
    chain = leaf_of(Watch())
    assert await chain.abatch(make()) == []
    assert [out async for out in chain.abatch_iter(make())] == []
    assert list(await chain.arun(make())) == []


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_scheduler_inputs_are_pulled_as_slots_are_free(kind: str) -> None:
    """Never more than what is running, and one."""
    watch, pulled, done, most = Watch(), [0], [0], [0]

    def note() -> None:
        pulled[0] += 1
        most[0] = max(most[0], pulled[0] - done[0])

    def source() -> Iterator[int]:
        for value in range(50):
            note()
            yield value

    async def async_source() -> AsyncIterator[int]:
        for value in range(50):
            note()
            yield value

    async def leaf(value: int) -> int:
        with watch:
            await pause(3)
            done[0] += 1
        return value

    inputs: Any = source() if kind == "sync" else async_source()
    assert await RunnableLambda(leaf).abatch(inputs, config(max_concurrency=4)) == list(range(50))
    assert most[0] <= 5


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("kind", [Boom, KeyboardInterrupt, SystemExit])
async def test_scheduler_what_the_inputs_raise_ends_the_run_as_itself(
    tolerant: bool, kind: type[BaseException]
) -> None:
    """What the inputs raise ends the run as itself."""
    watch, before, error = Watch(), tasks(), kind()

    async def leaf(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    with pytest.raises(kind) as caught:
        await RunnableLambda(leaf).abatch(source(), return_exceptions=tolerant)
    assert caught.value is error
    assert "2 of them" in caught.value.__notes__[0]
    await check_over(watch, before)


# Context variables


async def test_scheduler_items_do_not_see_each_others_context() -> None:
    """Items do not see each others context."""

    async def mark(value: int) -> str:
        before = variable.get()
        variable.set(f"set for {value}")
        await pause(2)
        assert variable.get() == f"set for {value}"
        return before

    variable.set("caller")
    chain = RunnableLambda(mark)
    for cap in (1, 3):
        assert await chain.abatch(range(20), config(max_concurrency=cap)) == ["caller"] * 20
    assert await chain.ainvoke(1) == "caller"
    assert [out async for out in chain.abatch_iter(range(5))] == ["caller"] * 5
    assert variable.get() == "caller"


async def test_scheduler_steps_of_one_item_share_its_context() -> None:
    """Steps of one item share its context."""

    async def mark(value: int) -> int:
        variable.set(f"set for {value}")
        await pause(1)
        return value

    async def look(_: int) -> str:
        return variable.get()

    chain = RunnableLambda(mark) | look
    outputs = await chain.abatch(range(9), config(max_concurrency=2))
    assert outputs == [f"set for {value}" for value in range(9)]


# A shared loop


async def test_scheduler_run_that_never_waits_lets_others_run() -> None:
    """A service's other tasks share the loop; ten thousand inline items must not shut them out."""
    rounds = [0]

    async def other() -> None:
        while True:
            rounds[0] += 1
            await pause(1)

    inputs = [{"n": n} for n in range(60_000)]
    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await pause(1)
        await RunnableLambda(itemgetter("n")).abatch(inputs)
        seen = rounds[0]
        group.cancel_scope.cancel()
    assert seen > 5


class Said:
    """Inputs that say they are `length`, if they say anything."""

    def __init__(self, values: Any, length: Any) -> None:
        self._values = values
        self._length = length

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> Any:
        if isinstance(self._length, Exception):
            raise self._length
        return self._length


@pytest.mark.parametrize("how", ["abatch", "iter", "batch", "batch_iter"])
@pytest.mark.parametrize(
    "length", [0, 2, 3, 4, 10**9, -1, None, 2.5, TypeError("no len()"), ZeroDivisionError()], ids=repr
)
async def test_scheduler_takes_a_length_for_a_hint(length: Any, how: str) -> None:
    """The end of the inputs decides; an error of `len()` does not matter."""

    async def leaf(value: int) -> int:
        await pause(1)
        return value

    chain, inputs = RunnableLambda(leaf), Said([1, 2, 3], length)
    for cap in (1, 2, None):
        capped = config(max_concurrency=cap)
        if how == "abatch":
            assert await chain.abatch(inputs, capped) == [1, 2, 3]
        elif how == "iter":
            assert [output async for output in chain.abatch_iter(inputs, capped)] == [1, 2, 3]
        elif how == "batch":
            assert chain.batch(inputs, capped) == [1, 2, 3]
        else:
            assert list(chain.batch_iter(inputs, capped)) == [1, 2, 3]


@pytest.mark.parametrize("cap", [1, 2, None])
@pytest.mark.parametrize("length", [0, 2])
async def test_scheduler_error_of_inputs_behind_their_length_ends_the_run(
    length: int, cap: int | None
) -> None:
    """Inputs are pulled until their own end, which may be an error."""
    error = Boom()

    class Failing(Said):
        def __iter__(self) -> Iterator[int]:
            yield from range(length)
            raise error

    with pytest.raises(Boom) as caught:
        await leaf_of(Watch()).abatch(
            Failing([], length), config(max_concurrency=cap), return_exceptions=True
        )
    assert caught.value is error
    assert f"{length} of them" in caught.value.__notes__[0]


@pytest.mark.parametrize(("cap", "seen"), [(1, [3, 2, 1, 0]), (3, [3, 2])])
async def test_scheduler_sees_what_items_append_to_the_inputs(cap: int, seen: list[int]) -> None:
    """As a `for` would: what is appended before the end is looked for, also by the last one."""
    inputs = [3]

    async def leaf(value: int) -> int:
        await pause(1)
        if value:
            inputs.append(value - 1)
        return value

    outputs = await RunnableLambda(leaf).abatch(inputs, config(max_concurrency=cap))
    assert outputs[: len(seen)] == seen  # with others under way, the end may be looked for early


async def test_scheduler_wants_one_config_for_each_input_whatever_their_length_says() -> None:
    """Scheduler wants one config for each input whatever their length says."""
    configs: Any = [{}, {}]
    with all_slots_come_back(), pytest.raises(ValueError, match="one config for each input: 2 for more"):
        await RunnableLambda(pause).abatch(Said([1, 1, 1], 2), configs)


async def test_scheduler_map_and_lists_do_not_ask_for_lengths() -> None:
    """Map and lists do not ask for lengths."""
    values: Any = Said([1, 1], 10**18)
    assert await RunnableLambda(pause).map().ainvoke(values) == [None, None]


@pytest.mark.parametrize("way", ["scope", "iter", "ainvoke", "swallowed"])
@pytest.mark.parametrize("cap", [1, 4])
async def test_scheduler_a_leaf_that_cancels_nested_work_goes_on_under_the_cap(cap: int, way: str) -> None:
    """By a scope of its own; and so do those whose nested work held no slot, for it slept."""
    watch = Watch()

    async def failing(value: int) -> None:
        with watch:
            await pause(1)
        raise Boom

    inner = RunnableLambda(failing).with_retry(stop_after_attempt=10**6, wait_exponential_jitter=False)

    async def work(value: int) -> None:
        if way == "iter":
            async for _ in inner.abatch_iter([value, value]):
                pass
        elif way == "ainvoke":
            await inner.ainvoke(value)
        else:
            await inner.abatch([value, value])

    async def leaf(value: int) -> int:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:
                    group.start_soon(_cancel_later, scope)
                    try:
                        await work(value)
                    except anyio.get_cancelled_exc_class():
                        if way == "swallowed":
                            with watch:
                                pass
                        raise
                group.cancel_scope.cancel()
            with watch:
                await pause(2)
        return value

    with all_slots_come_back():
        outputs = await RunnableLambda(leaf).abatch(range(3 * cap), config(max_concurrency=cap))
    assert outputs == list(range(3 * cap))
    assert watch.peak <= cap


async def _cancel_later(scope: anyio.CancelScope) -> None:
    await pause(20)
    scope.cancel()
