"""Streams of chunks: their pace, slots, ends and errors."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from batchrt import (
    BlockedEventLoopError,
    DeadlineExceededError,
    ItemTimeoutError,
    RunConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    chain,
)
from batchrt.runtime.chunk_buffer import BOUND
from tests.runnables.helpers import virtual_time
from tests.runtime.harness import (
    Boom,
    Watch,
    all_slots_come_back,
    check_over,
    config,
    in_thread,
    pause,
    tasks,
    until,
)

pytestmark = pytest.mark.anyio


class Counting:
    """Count numbers up to `end`, and note how far a stream has got, and when it is closed."""

    def __init__(self, end: int = 1_000_000, fail_at: int = -1) -> None:
        self.made = 0
        self.closed = 0
        self._end = end
        self._fail_at = fail_at

    async def __call__(self, _: Any) -> AsyncIterator[int]:
        try:
            for number in range(self._end):
                if number == self._fail_at:
                    raise Boom(number)
                self.made += 1
                yield number
                await anyio.lowlevel.checkpoint()
        finally:
            self.closed += 1


async def test_stream_begins_with_the_first_pull() -> None:
    """A stream that is never iterated over runs nothing."""
    counting = Counting()
    chunks = RunnableLambda(counting).astream(0)
    await pause()
    assert counting.made == 0
    await chunks.aclose()
    assert [chunk async for chunk in chunks] == []


async def test_stream_runs_a_bounded_number_of_chunks_ahead() -> None:
    """A consumer that stops suspends the producer; each step of it lets some more be made."""
    counting = Counting()
    async with RunnableLambda(counting).astream(0) as chunks:
        assert await anext(chunks) == 0
        await pause(100)
        assert counting.made <= BOUND + 1
        made = counting.made
        for number in range(1, BOUND + 2):
            assert await anext(chunks) == number
        await pause(100)
        assert made < counting.made <= 2 * BOUND + 2
    assert counting.closed == 1


async def test_stream_raises_an_error_behind_the_chunks_before_it() -> None:
    """As itself, once, however late they are taken."""
    counting = Counting(fail_at=5)
    chunks = RunnableLambda(counting).astream(0)
    assert await anext(chunks) == 0
    await pause(50)
    assert counting.closed == 1
    assert [await anext(chunks) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(Boom):
        await anext(chunks)
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


def _noted(name: str, notes: list[str]) -> RunnableGenerator[Any, Any]:
    async def step(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            notes.append(name)

    return RunnableGenerator(step)


@pytest.mark.parametrize("way", ["aclose", "break", "async with"])
async def test_stream_closes_its_steps_and_its_input_in_order(way: str) -> None:
    """From the last step to the first, then the input, before `aclose` returns."""
    notes: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            for number in range(1000):
                yield number
        finally:
            notes.append("source")

    before = tasks()
    line = _noted("a", notes) | _noted("b", notes) | RunnablePassthrough() | _noted("c", notes)
    chunks = line.atransform(source())
    if way == "aclose":
        await anext(chunks)
        await chunks.aclose()
    elif way == "break":
        async with aclosing(chunks):
            async for _ in chunks:
                break
    else:
        async with chunks:
            await anext(chunks)
    assert notes == ["c", "b", "a", "source"]
    assert tasks() == before


async def test_stream_that_ends_early_closes_what_is_before_it() -> None:
    """A step that wants no more chunks closes its input at once, in branches too."""
    counting = Counting()

    async def first_two(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        yield await anext(chunks)
        yield await anext(chunks)

    line = RunnableLambda(counting) | RunnableGenerator(first_two)
    assert [chunk async for chunk in line.astream(0)] == [0, 1]
    assert counting.closed == 1
    both = RunnableLambda(counting) | RunnableParallel[Any](a=first_two, b=first_two)
    found = [chunk async for chunk in both.astream(0)]
    assert [chunk["a"] for chunk in found if "a" in chunk] == [0, 1]
    assert [chunk["b"] for chunk in found if "b" in chunk] == [0, 1]
    assert counting.closed == 2


async def test_stream_closes_a_source_that_never_ends_when_no_branch_wants_more() -> None:
    """Also while a chunk of it is waited for."""
    closed = anyio.Event()

    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            closed.set()

    async def first(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        yield await anext(chunks)

    both = RunnableParallel[Any](a=first, b=first)
    found = [chunk async for chunk in both.atransform(source())]
    assert sorted(map(str, found)) == ["{'a': 1}", "{'b': 1}"]
    assert closed.is_set()


async def test_stream_that_is_dropped_ends() -> None:
    """Without a wait for its end."""
    counting = Counting()
    before = tasks()
    chunks = RunnableLambda(counting).astream(0)
    await anext(chunks)
    del chunks
    gc.collect()
    await until(lambda: counting.closed)
    await until(lambda: tasks() == before)


async def test_stream_is_cancelled_with_its_consumer() -> None:
    """While it waits for a chunk; the leaf is cancelled where it is, and nothing outlives the consumer."""
    watch = Watch()
    before = tasks()

    @chain
    async def leaf(_: Any) -> AsyncIterator[int]:
        with watch:
            yield 1
            await anyio.sleep_forever()

    line = leaf | RunnableParallel(a=RunnablePassthrough(), b=RunnablePassthrough())
    taken: list[Any] = []
    with anyio.CancelScope() as scope:
        async for chunk in line.astream(0):
            taken.append(chunk)
            if len(taken) == 2:
                scope.cancel()
    assert len(taken) == 2
    await check_over(watch, before)


async def test_stream_works_under_any_cancel_scope_and_from_any_task() -> None:
    """Its task is its own: a scope that is closed in between does not matter."""
    chunks = RunnableLambda(Counting(4)).astream(0)
    found: list[int] = []

    async def take() -> None:
        found.append(await anext(chunks))

    for _ in range(4):
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(take)
    assert found == [0, 1, 2, 3]
    assert [chunk async for chunk in chunks] == []


async def test_stream_has_one_consumer_at_a_time() -> None:
    """A second one is an error and does not disturb the first."""
    more = anyio.Event()

    @chain
    async def leaf(_: Any) -> AsyncIterator[int]:
        await more.wait()
        yield 1

    chunks = leaf.astream(0)
    async with anyio.create_task_group() as group:
        group.start_soon(anext, chunks)
        await pause()
        with pytest.raises(RuntimeError, match="another task waits"):
            await anext(chunks)
        more.set()


# Time


@virtual_time
async def test_stream_timeout_ends_it_behind_its_chunks() -> None:
    """`timeout` and `deadline` are seconds from the first pull, the consumer's own included."""

    @chain
    async def leaf(_: Any) -> AsyncIterator[int]:
        yield 1
        await anyio.sleep(2)
        yield 2

    for key, error in (("timeout", ItemTimeoutError), ("deadline", DeadlineExceededError)):
        chunks = leaf.astream(0, config(**{key: 1}))
        assert await anext(chunks) == 1
        with pytest.raises(error, match="1 s"):
            await anext(chunks)
        assert [chunk async for chunk in leaf.astream(0, config(**{key: 3}))] == [1, 2]


@virtual_time
async def test_stream_timeout_of_a_part_is_for_that_part() -> None:
    """Its clock begins with the part's first pull, and what is before it goes on the outer configuration."""
    seen: list[Any] = []

    async def before(chunks: AsyncIterator[int], config: RunConfig) -> AsyncIterator[int]:
        async for chunk in chunks:
            seen.append(config["tags"])
            yield chunk

    async def part(chunks: AsyncIterator[int], config: RunConfig) -> AsyncIterator[int]:
        async for chunk in chunks:
            seen.append(config["tags"])
            await anyio.sleep(1)
            yield chunk

    bounded = RunnableGenerator(part).with_config(timeout=2.5, tags=["part"], max_concurrency=1)
    chunks = (RunnableGenerator(before) | bounded).atransform([1, 2, 3], config(tags=["all"]))
    assert [await anext(chunks), await anext(chunks)] == [1, 2]
    with pytest.raises(ItemTimeoutError, match=r"part took longer than its timeout of 2\.5 s"):
        await anext(chunks)
    assert sorted(map(str, seen[:2])) == ["['all']", "['part', 'all']"] or seen[0] == ["all"]


async def test_stream_passes_the_configuration_of_each_part() -> None:
    """Chunk by chunk: a part's own keys do not reach the steps around it."""
    seen: set[tuple[str, ...]] = set()

    def noting(name: str) -> Any:
        async def step(chunks: AsyncIterator[int], config: RunConfig) -> AsyncIterator[int]:
            async for chunk in chunks:

                @chain
                def inner(value: int, config: RunConfig) -> int:
                    seen.add((name, *config["tags"]))
                    return value

                yield await inner.ainvoke(chunk)

        return RunnableGenerator(step)

    line = noting("a") | noting("b").with_config(tags=["x"]) | noting("c")
    assert [chunk async for chunk in line.atransform([1, 2], config(tags=["t"]))] == [1, 2]
    assert seen == {("a", "t"), ("b", "x", "t"), ("c", "t")}


variable: ContextVar[str] = ContextVar("variable", default="unset")


async def test_stream_sees_the_context_of_its_caller() -> None:
    """Of the first pull; what steps set stays in the stream, and later steps see it."""

    @chain
    async def leaf(_: Any) -> AsyncIterator[str]:
        yield variable.get()
        variable.set("set by a step")
        yield variable.get()

    async def later(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
        async for chunk in chunks:
            yield f"{chunk}/{variable.get()}"

    variable.set("set by the caller")
    found = [chunk async for chunk in (leaf | RunnableGenerator(later)).astream(0)]
    assert found == ["set by the caller/set by the caller", "set by a step/set by a step"]
    assert variable.get() == "set by the caller"


# Slots


def _watched(watch: Watch, count: int = 3) -> RunnableLambda[Any, Any]:
    async def leaf(value: Any) -> AsyncIterator[Any]:
        for number in range(count):
            with watch:
                await pause(2)
            yield (value, number)

    return RunnableLambda(leaf)


async def test_stream_shares_the_slots_of_the_leaf_it_is_in() -> None:
    """At cap 1, leaf and nested streams take turns, two streams at once, and do not deadlock."""
    watch = Watch()
    inner = _watched(watch)

    @chain
    async def leaf(value: int) -> AsyncIterator[Any]:
        async with inner.astream(value) as a, inner.astream(-value) as b:
            for _ in range(3):
                with watch:
                    await pause(2)
                yield await anext(a)
                yield await anext(b)

    with all_slots_come_back():
        found = [chunk async for _, chunk in leaf.astream_batch([1, 2, 3], config(max_concurrency=1))]
    assert sorted(found) == sorted(
        (sign * value, n) for value in (1, 2, 3) for sign in (1, -1) for n in range(3)
    )
    assert watch.peak == 1
    assert watch.active == 0


async def test_stream_gives_its_slot_up_while_its_consumer_is_slow() -> None:
    """A second stream under the same slots runs then, and the first one goes on behind it."""
    first, second = Counting(50), Counting(50)

    @chain
    async def leaf(_: int) -> list[int]:
        async with RunnableLambda(first).astream(0) as a:
            await anext(a)
            rest = [chunk async for chunk in RunnableLambda(second).astream(0)]
            return [*rest, *[chunk async for chunk in a]]

    with all_slots_come_back():
        assert await leaf.ainvoke(0, config(max_concurrency=1)) == [*range(50), *range(1, 50)]


async def test_stream_of_branches_keeps_to_the_slots() -> None:
    """Six branches of two leaves each at cap 2: never more than two are at work."""
    watch = Watch()

    async def doubled(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for chunk in chunks:
            with watch:
                await pause(2)
            yield [chunk]

    branches = RunnableParallel[Any]({str(n): _watched(watch) | RunnableGenerator(doubled) for n in range(6)})
    with all_slots_come_back():
        found = [chunk async for chunk in branches.astream(0, config(max_concurrency=2))]
    assert len(found) == 18
    assert watch.peak == 2


# Branches


async def test_stream_merges_branches_as_their_chunks_come() -> None:
    """No branch waits for another one."""
    turns = [anyio.Event() for _ in range(4)]

    def branch(own: int) -> Any:
        @chain
        async def leaf(_: Any) -> AsyncIterator[int]:
            for number in (own, own + 2):
                await turns[number].wait()
                yield number

        return leaf

    found: list[Any] = []
    async with RunnableParallel[Any](a=branch(0), b=branch(1)).astream(0) as chunks:
        for turn in (1, 0, 3, 2):
            turns[turn].set()
            found.append(await anext(chunks))
    assert found == [{"b": 1}, {"a": 0}, {"b": 3}, {"a": 2}]


async def test_stream_of_a_failing_branch_cancels_the_others_at_once() -> None:
    """Their cleanup has run when the error is raised, behind the chunks that came."""
    watch = Watch()

    @chain
    async def endless(_: Any) -> AsyncIterator[int]:
        with watch:
            yield 1
            await anyio.sleep_forever()

    @chain
    async def failing(_: Any) -> AsyncIterator[int]:
        yield 2
        await until(lambda: watch.active)
        raise Boom

    before = tasks()
    found: list[Any] = []
    with pytest.raises(Boom):
        async for chunk in RunnableParallel[Any](a=endless, b=failing).astream(0):
            found.append(chunk)
    assert {"b": 2} in found
    await check_over(watch, before)


@pytest.mark.parametrize("chunk", ["x", [1], {"k": "v"}], ids=["text", "lists", "dicts"])
async def test_stream_branch_that_waits_for_another_one_does_not_deadlock(chunk: Any) -> None:
    """It takes nothing until the other has taken all: its input waits for it, joined where it is long."""
    done = anyio.Event()
    count = 2000

    async def quick(chunks: AsyncIterator[Any]) -> AsyncIterator[int]:
        length = 0
        async for _ in chunks:
            length += 1
        yield length
        done.set()

    async def patient(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await done.wait()
        async for piece in chunks:
            yield piece

    both = RunnableParallel[Any](quick=quick, patient=patient, plain=RunnablePassthrough())
    found: dict[str, list[Any]] = {"quick": [], "patient": [], "plain": []}
    async for each in both.atransform([chunk] * count):
        for key, value in each.items():
            found[key].append(value)
    assert found["quick"] == [count]
    assert len(found["plain"]) == count
    if isinstance(chunk, dict):
        assert "".join(each["k"] for each in found["patient"]) == "v" * count
    else:
        assert sum(map(len, found["patient"])) == count
    assert len(found["patient"]) < 300


async def test_stream_branches_behind_a_slow_consumer_suspend_the_source() -> None:
    """However many branches there are, the source is a bounded number of chunks ahead."""
    counting = Counting()
    both = RunnableLambda(counting) | RunnableParallel[Any](a=RunnablePassthrough(), b=RunnablePassthrough())
    async with both.astream(0) as chunks:
        await anext(chunks)
        await pause(300)
        assert counting.made <= 6 * BOUND
    assert counting.closed == 1


# Many inputs


async def test_stream_batch_hands_over_the_chunks_of_all_items() -> None:
    """With their index, each item's in order."""
    watch = Watch()
    found: dict[int, list[Any]] = {}
    async for index, chunk in _watched(watch).astream_batch(list("abcdef"), config(max_concurrency=3)):
        found.setdefault(index, []).append(chunk)
    assert found == {index: [(letter, n) for n in range(3)] for index, letter in enumerate("abcdef")}
    assert watch.peak == 3


async def test_stream_batch_begins_no_more_items_while_its_consumer_is_slow() -> None:
    """Neither inputs nor chunks pile up."""
    pulled = 0

    async def inputs() -> AsyncIterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    watch = Watch()
    async with _watched(watch, count=50).astream_batch(inputs(), config(max_concurrency=2)) as chunks:
        await anext(chunks)
        await pause(500)
        assert watch.entered <= BOUND + 4
        assert pulled <= 5
        for _ in range(200):
            await anext(chunks)
        assert pulled <= 12


async def test_stream_batch_without_a_cap_is_bounded_by_its_window() -> None:
    """As other runs are."""
    started = 0

    @chain
    async def leaf(_: int) -> AsyncIterator[int]:
        nonlocal started
        started += 1
        yield 1
        await anyio.sleep_forever()

    async with leaf.astream_batch(range(10_000), config(window=7)) as chunks:
        for _ in range(7):
            await anext(chunks)
        await pause(50)
        assert started == 7


async def test_stream_batch_raises_the_first_error_and_cancels_the_rest() -> None:
    """As itself; the note says of which item it was."""
    watch = Watch()

    @chain
    async def leaf(value: int) -> AsyncIterator[int]:
        with watch:
            yield value
            if value == 2:
                await until(lambda: watch.active == 4)
                raise Boom(value)
            await anyio.sleep_forever()

    before = tasks()
    found: list[Any] = []
    with pytest.raises(Boom) as caught:
        async for pair in leaf.astream_batch(range(4)):
            found.append(pair)
    assert sorted(found) == [(n, n) for n in range(4)]
    assert "item 2" in caught.value.__notes__[0]
    await check_over(watch, before)


async def test_stream_batch_hands_an_exception_over_as_the_last_chunk() -> None:
    """With `return_exceptions`; the other items go on."""

    @chain
    async def leaf(value: int) -> AsyncIterator[int]:
        yield value
        if value % 2:
            raise Boom(value)
        yield -value

    found: dict[int, list[Any]] = {}
    async for index, chunk in leaf.astream_batch(range(4), return_exceptions=True):
        found.setdefault(index, []).append(chunk)
    assert found[0] == [0, 0]
    assert found[2] == [2, -2]
    for index in (1, 3):
        value, error = found[index]
        assert value == index
        assert isinstance(error, Boom)


@virtual_time
async def test_stream_batch_deadline_stands_for_items_it_kept_from_ending() -> None:
    """With `return_exceptions` and inputs of known number, as in a list; else it is raised."""

    @chain
    async def leaf(value: int) -> AsyncIterator[int]:
        yield value
        await anyio.sleep(value)
        yield value

    options = config(deadline=1.5)
    found: dict[int, list[Any]] = {}
    async for index, chunk in leaf.astream_batch([0, 1, 2, 3], options, return_exceptions=True):
        found.setdefault(index, []).append(chunk)
    assert [found[0], found[1]] == [[0, 0], [1, 1]]
    for index in (2, 3):
        assert found[index][0] == index
        assert isinstance(found[index][1], DeadlineExceededError)
    with pytest.raises(DeadlineExceededError):
        [pair async for pair in leaf.astream_batch([0, 1, 2, 3], options)]


@virtual_time
async def test_stream_batch_timeout_is_each_items_own() -> None:
    """The slow one fails, the others do not."""

    @chain
    async def leaf(value: int) -> AsyncIterator[int]:
        yield value
        await anyio.sleep(value)

    found: list[Any] = [
        pair async for pair in leaf.astream_batch([1, 5], config(timeout=2), return_exceptions=True)
    ]
    assert found[:2] == [(0, 1), (1, 5)]
    assert found[2][0] == 1
    assert isinstance(found[2][1], ItemTimeoutError)


# From sync code


def test_stream_from_sync_code_yields_chunks_and_ends_when_closed() -> None:
    """Closing the generator ends the stream, and collecting it does."""
    counting = Counting()
    chunks: Any = RunnableLambda(counting).stream(0)
    assert [next(chunks) for _ in range(3)] == [0, 1, 2]
    chunks.close()
    assert counting.closed == 1
    chunks = RunnableLambda(counting).stream(0)
    next(chunks)
    del chunks
    gc.collect()
    assert counting.closed == 2


def test_stream_from_sync_code_raises_errors_behind_their_chunks() -> None:
    """As themselves."""
    chunks = RunnableLambda(Counting(fail_at=2)).stream(0)
    assert [next(chunks), next(chunks)] == [0, 1]
    with pytest.raises(Boom):
        next(chunks)


def test_stream_from_sync_code_pulls_its_input_in_the_callers_thread() -> None:
    """An iterator of chunks is advanced and closed there."""
    here = threading.get_ident()
    seen: list[int] = []

    def source() -> Iterator[int]:
        try:
            for number in range(100):
                seen.append(threading.get_ident())
                yield number
        finally:
            seen.append(threading.get_ident())

    chunks: Any = RunnablePassthrough[Any]().transform(source())
    assert [next(chunks) for _ in range(5)] == [0, 1, 2, 3, 4]
    chunks.close()
    assert set(seen) == {here}
    assert len(seen) < 100


def test_stream_batch_from_sync_code() -> None:
    """The same pairs, from an iterator."""
    found = sorted(RunnableLambda(Counting(3)).stream_batch(iter([7, 8]), config(max_concurrency=1)))
    assert found == [(index, n) for index in (0, 1) for n in range(3)]


async def test_stream_from_sync_code_in_a_leaf_shares_its_slots() -> None:
    """A sync function that streams lends its slot while it waits."""
    watch = Watch()
    inner = _watched(watch)

    def leaf(value: int) -> list[Any]:
        found = []
        for chunk in inner.stream(value):
            with watch:
                found.append(chunk)
        return found

    with all_slots_come_back():
        found = await RunnableLambda(leaf).abatch([1, 2, 3], config(max_concurrency=1))
    assert found == [[(value, n) for n in range(3)] for value in (1, 2, 3)]
    assert watch.peak == 1


async def test_stream_from_sync_code_in_async_code_runs_beside_the_blocked_loop() -> None:
    """As other sync methods; where it would wait for the loop that it blocks, it is an error."""
    assert list(RunnableLambda(Counting(3)).stream(0)) == [0, 1, 2]
    chunks = RunnableLambda(Counting(3)).astream(0)
    await anext(chunks)

    @chain
    async def relay(_: Any) -> AsyncIterator[int]:
        async for chunk in chunks:
            yield chunk

    with pytest.raises(BlockedEventLoopError):
        list(relay.stream(0))
    await chunks.aclose()


def test_stream_of_a_cancelled_loop_leaves_no_thread_behind() -> None:
    """A sync consumer in a thread is not left waiting."""

    def consume() -> list[Any]:
        return list(RunnableLambda(Counting(100)).stream(0))

    assert in_thread(consume) == list(range(100))


# Numbers; without asyncio's debug mode, which keeps a traceback for each future


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_streams_ten_thousand_at_once_are_bounded_in_memory(backend: str) -> None:
    """Each is suspended by its consumer with a few chunks; all go on to their ends."""
    count = 10_000
    made = 0

    @chain
    async def leaf(_: int) -> AsyncIterator[int]:
        nonlocal made
        for number in range(20):
            made += 1
            yield number

    async def main() -> None:
        line = leaf | RunnablePassthrough()
        streams = [line.astream(number) for number in range(count)]
        firsts = [await anext(chunks) for chunks in streams]
        await pause()
        assert firsts == [0] * count
        assert made <= count * (BOUND + 1)
        left = sum([len([chunk async for chunk in chunks]) for chunks in streams])
        assert left == count * 19
        assert tasks() <= 3

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_streams_take_some_kilobytes_each(backend: str) -> None:
    """Suspended ones, of a chain of four steps."""
    line = RunnableLambda(Counting()) | RunnablePassthrough() | RunnablePassthrough() | RunnablePassthrough()

    async def opened(count: int) -> list[Any]:
        streams = [line.astream(0) for _ in range(count)]
        for chunks in streams:
            await anext(chunks)
        return streams

    async def main() -> None:
        streams = await opened(50)
        tracemalloc.start()
        try:
            streams += await opened(200)
            gc.collect()
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for chunks in streams:
            await chunks.aclose()
        assert used / 200 < 25_000, used / 200

    anyio.run(main, backend=backend)
