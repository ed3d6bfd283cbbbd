"""`batch` and its kin: the same from plain code, threads and running loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest

from batchrt import ItemTimeoutError, RunnableLambda
from batchrt.runtime.caller import Caller
from batchrt.runtime.portal import _Ticket, crossing
from tests.runtime.harness import (
    GUARD_SECONDS,
    Boom,
    Watch,
    all_slots_come_back,
    config,
    in_thread,
    output_of,
    pause,
    until,
)

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


async def add_one(value: int) -> int:
    await pause(1)
    return value + 1


def add_two(value: int) -> int:
    return value + 2


chain = RunnableLambda(add_one) | add_two


def batched(inputs: Any = range(9)) -> list[int]:
    return list(chain.batch(inputs, config(max_concurrency=3)))


EXPECTED = list(range(3, 12))


def test_portal_from_plain_code() -> None:
    """From plain code."""
    assert batched() == EXPECTED
    assert list(chain.batch_iter(range(9))) == EXPECTED
    assert dict(chain.batch_as_completed(range(9))) == dict(enumerate(EXPECTED))
    assert chain.run(range(9)).outputs == EXPECTED
    assert chain.invoke(0) == 3


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_portal_from_a_thread_that_carries_the_context_of_a_loop(backend: str) -> None:
    """`asyncio.to_thread` and web frameworks' test clients copy contexts that say which loop runs."""

    async def main() -> None:
        context = copy_context()
        await anyio.to_thread.run_sync(in_thread, partial(context.run, test_portal_from_plain_code))

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("how", ["from its item", "from elsewhere"])
def test_portal_asyncios_own_threads_may_call(how: str) -> None:
    """Asyncios own threads may call."""

    async def item(value: int) -> int:
        return await asyncio.to_thread(chain.invoke, value)

    async def main() -> list[int]:
        if how == "from its item":
            return await RunnableLambda(item).abatch(range(9), config(max_concurrency=1))
        return await asyncio.to_thread(batched)

    assert anyio.run(main) == EXPECTED


def test_portal_from_many_threads_at_once() -> None:
    """From many threads at once."""
    with all_slots_come_back():
        outputs: list[list[int]] = []
        threads = [threading.Thread(target=lambda: outputs.append(batched())) for _ in range(20)]

        def run_all() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        in_thread(run_all)
    assert outputs == [EXPECTED] * 20


async def test_portal_from_inside_a_running_loop() -> None:
    """A notebook: the loop stands still meanwhile."""
    assert batched() == EXPECTED
    assert list(chain.batch_iter(range(9))) == EXPECTED
    assert chain.invoke(0) == 3


async def test_portal_called_from_a_foreign_worker_thread() -> None:
    """A sync call works in a worker thread that no run started."""
    assert await anyio.to_thread.run_sync(batched) == EXPECTED


async def test_portal_from_a_worker_thread_of_a_run() -> None:
    """From a worker thread of a run."""
    outer = RunnableLambda(lambda value: sum(batched([value])))
    assert await outer.abatch(range(9), config(max_concurrency=2)) == EXPECTED
    assert outer.batch(range(9), config(max_concurrency=2)) == EXPECTED
    assert outer.invoke(0) == 3


@pytest.mark.parametrize("how", ["batch", "batch_iter", "as_completed", "invoke"])
@pytest.mark.parametrize("cap", [1, 2, None])
def test_portal_from_an_async_function_on_the_background_loop(how: str, cap: int | None) -> None:
    """It blocks the very loop it would need."""
    watch = Watch()

    async def leaf(value: int) -> int:
        with watch:
            await pause(3)
        return value

    inner = RunnableLambda(leaf)

    async def outer(value: int) -> int:
        match how:
            case "batch":
                return sum(inner.batch([value] * 200))
            case "batch_iter":
                return sum(inner.batch_iter([value] * 200))
            case "as_completed":
                return sum(output for _, output in inner.batch_as_completed([value] * 200))
        return sum(inner.invoke(value) for _ in range(200))

    with all_slots_come_back():
        outputs = in_thread(lambda: RunnableLambda(outer).batch(range(3), config(max_concurrency=cap)))
    assert outputs == [0, 200, 400]
    if cap is not None:
        assert watch.peak == 1


def test_portal_sync_iterator_in_a_leaf_holds_the_cap_between_its_items() -> None:
    """The leaf works between the items; what is nested may not run beside it."""
    watch = Watch()

    async def leaf(value: int) -> int:
        with watch:
            await pause(3)
        return value

    async def outer(value: int) -> int:
        total = 0
        for output in RunnableLambda(leaf).batch_iter([value] * 100, config(window=1)):
            with watch:
                total += output
        return total

    def outer_in_thread(value: int) -> int:
        total = 0
        for output in RunnableLambda(leaf).batch_iter([value] * 100):
            with watch:
                total += output
        return total

    with all_slots_come_back():
        for function in (outer, outer_in_thread):
            nested: RunnableLambda[Any, Any] = RunnableLambda(function)
            outputs = in_thread(partial(nested.batch, range(3), config(max_concurrency=1)))
            assert outputs == [0, 100, 200]
    assert watch.peak == 1


def test_portal_nothing_is_set_in_the_callers_context() -> None:
    """Nothing is set in the callers context."""

    async def mark(_: object) -> str:
        before = variable.get()
        variable.set("inside")
        return before

    def main() -> None:
        variable.set("caller")
        marking = RunnableLambda(mark)
        assert marking.batch(range(3), config(max_concurrency=1)) == ["caller"] * 3
        assert list(marking.batch_iter(range(3))) == ["caller"] * 3
        assert marking.invoke(0) == "caller"
        assert variable.get() == "caller"

    in_thread(main)


# Inputs


def test_portal_generator_runs_in_the_calling_thread() -> None:
    """A generator runs in the calling thread."""
    idents: set[int] = set()

    def source() -> Iterator[int]:
        for value in range(9):
            idents.add(threading.get_ident())
            yield value

    assert batched(source()) == EXPECTED
    assert list(chain.batch_iter(source())) == EXPECTED
    assert idents == {threading.get_ident()}


def test_portal_iterator_or_sequence_without_iter_runs_in_the_calling_thread_too() -> None:
    """Whatever `list` takes."""
    idents: set[int] = set()

    class Dataset:
        def __getitem__(self, index: int) -> int:
            idents.add(threading.get_ident())
            return range(9)[index]

    class Next:
        def __init__(self) -> None:
            self.left = iter(range(9))

        def __next__(self) -> int:
            idents.add(threading.get_ident())
            return next(self.left)

    class Rows:
        def __iter__(self) -> Any:
            return Next()

    for rows in (Dataset(), Rows()):
        assert batched(rows) == EXPECTED
        assert list(chain.batch_iter(cast("Any", rows))) == EXPECTED
    assert idents == {threading.get_ident()}


@pytest.mark.parametrize("sized", [False, True])
def test_portal_so_does_any_code_behind_the_inputs(sized: bool) -> None:
    """A query, a data set: iterable, no iterator."""
    idents: set[int] = set()

    class Rows:
        def __iter__(self) -> Iterator[int]:
            for value in range(9):
                idents.add(threading.get_ident())
                yield value

    class SizedRows(Rows):
        def __len__(self) -> int:
            return 9

    rows = SizedRows() if sized else Rows()
    assert batched(rows) == EXPECTED
    if sized:
        assert chain.batch(rows, [{}] * 9) == EXPECTED
    assert idents == {threading.get_ident()}


def test_portal_generator_that_blocks_does_not_stall_what_is_in_flight() -> None:
    """It waits here for the outputs of what it has given already."""
    done = threading.Event()

    async def leaf(value: int) -> int:
        await pause(3)
        done.set()
        return value

    def source() -> Iterator[int]:
        yield 0
        assert done.wait(GUARD_SECONDS)
        yield 1

    assert RunnableLambda(leaf).batch(source()) == [0, 1]


@pytest.mark.parametrize("kind", [Boom, KeyboardInterrupt, SystemExit])
def test_portal_what_a_generator_raises_ends_the_run_as_itself(kind: type[BaseException]) -> None:
    """What a generator raises ends the run as itself."""
    watch, error = Watch(), kind()

    async def forever(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    def source() -> Iterator[int]:
        yield 0
        raise error

    with pytest.raises(kind) as caught:
        RunnableLambda(forever).batch(source(), return_exceptions=True)
    assert caught.value is error
    assert watch.active == 0
    assert batched() == EXPECTED


def test_portal_nothing_is_pulled_after_an_iterator_was_closed() -> None:
    """Not even what was asked for before: it may be long in coming."""
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for value in range(1000):
            assert not closed, "pulled after the close"
            pulled.append(value)
            yield value

    closed: list[bool] = []
    iterator = chain.batch_iter(source(), config(max_concurrency=2))
    assert next(iterator) == 3
    closed.append(True)
    before = len(pulled)
    in_thread(iterator.close)  # type: ignore[attr-defined]
    assert len(pulled) == before


@pytest.mark.parametrize("kind", ["batch_iter", "batch_as_completed"])
def test_portal_closing_an_iterator_ends_its_work_before_it_returns(kind: str) -> None:
    """Closing an iterator ends its work before it returns."""
    watch = Watch()

    async def leaf(value: int) -> int:
        with watch:
            if value:
                await anyio.sleep_forever()
        return value

    iterator = getattr(RunnableLambda(leaf), kind)(range(100), config(max_concurrency=5))
    next(iterator)
    iterator.close()
    assert watch.active == 0


def test_portal_iterator_never_begun_has_nothing_to_close() -> None:
    """An iterator never begun has nothing to close."""
    iterator = chain.batch_iter(range(3))
    iterator.close()  # type: ignore[attr-defined]
    assert list(iterator) == []


def test_portal_call_cancelled_before_it_begins_runs_no_code_of_the_users() -> None:
    """As from a signal handler, before the loop has a scope to cancel."""
    begun: list[bool] = []

    async def function() -> None:
        begun.append(True)

    caller = Caller()
    with crossing(caller) as call:
        ticket = _Ticket(function, caller)
        ticket.cancel()
        ticket.redeem(call._loop, copy_context())
    with pytest.raises(concurrent.futures.CancelledError, match="cancelled"):
        ticket.result()
    assert not begun


async def test_portal_iterator_from_elsewhere_cannot_block_its_own_loop() -> None:
    """An error, where it would wait for itself forever."""

    async def step(iterator: Iterator[int]) -> int:
        return next(iterator)

    def main() -> None:
        iterator = RunnableLambda(add_one).batch_iter(range(1000), config(max_concurrency=1, window=1))
        assert next(iterator) == 1
        with pytest.raises(RuntimeError, match="another thread"):
            RunnableLambda(step).batch([iterator])

    await anyio.to_thread.run_sync(in_thread, main)


@pytest.mark.parametrize("threads", ["asyncio", "anyio"])
@pytest.mark.parametrize("how", ["timeout", "error", "cancel"])
@pytest.mark.parametrize("method", ["batch", "batch_iter"])
def test_portal_nested_sync_calls_end_with_their_item(threads: str, how: str, method: str) -> None:
    """Also those from threads of the user's own, of which one library's wait behind a shield."""
    watch, began = Watch(), threading.Event()

    async def leaf(value: int) -> int:
        with watch:
            if value:
                began.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await pause(20)
        return value

    inner = RunnableLambda(leaf)

    def nested() -> Any:
        if method == "batch":
            return inner.batch(range(3), config(max_concurrency=1))
        return list(inner.batch_iter(range(3), config(max_concurrency=1)))

    async def item(value: int) -> Any:
        if value:
            await anyio.to_thread.run_sync(began.wait)
            if how == "error":
                raise Boom
            if how == "cancel":
                scope.cancel()
            await anyio.sleep_forever()
        if threads == "asyncio":
            return await asyncio.to_thread(nested)
        return await anyio.to_thread.run_sync(nested)

    scope: Any = None

    async def main() -> None:
        nonlocal scope
        scope = anyio.CancelScope()
        timeout = config(timeout=0.05) if how == "timeout" else config()
        with scope:
            with suppress(Boom, ItemTimeoutError):
                await RunnableLambda(item).abatch(range(2), timeout)
        assert watch.active == 0
        entered = watch.entered
        await pause(20)
        assert watch.entered == entered == 2

    anyio.run(main)


def test_portal_iterator_between_two_items_ends_with_the_item_that_its_thread_belongs_to() -> None:
    """Nothing of it runs on, whatever the thread is at."""
    watch, go_on = Watch(), threading.Event()

    async def leaf(value: int) -> int:
        with watch:
            if value:
                await anyio.sleep_forever()
        return value

    def nested() -> None:
        for _ in RunnableLambda(leaf).batch_iter(range(3), config(max_concurrency=2)):
            assert go_on.wait(GUARD_SECONDS)

    async def item(_: int) -> None:
        await asyncio.to_thread(nested)

    async def main() -> None:
        with pytest.raises(ItemTimeoutError):
            await RunnableLambda(item).abatch(range(1), config(timeout=0.1))
        assert watch.active == 0
        go_on.set()

    anyio.run(main)


def test_portal_iterator_that_its_loops_own_thread_collects_ends_without_a_word() -> None:
    """The garbage collector runs in whatever thread it likes."""
    source = """
        import gc, threading
        import anyio
        from batchrt import ItemTimeoutError, RunnableLambda

        ended = threading.Event()

        async def leaf(value):
            try:
                await anyio.sleep(100 if value else 0)
            finally:
                if value:
                    ended.set()
            return value

        async def collect(_):
            gc.collect()

        class Node:
            pass

        gc.disable()
        node = Node()
        node.iterator = RunnableLambda(leaf).batch_iter(range(2))
        node.node = node
        print(next(node.iterator))
        del node
        RunnableLambda(collect).batch([1])
        print(ended.wait(30))
    """
    assert output_of(source).split() == ["0", "True"]


def test_portal_iterator_raises_a_frozen_exception_as_itself() -> None:
    """An iterator raises a frozen exception as itself."""

    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    async def leaf(value: int) -> int:
        if value:
            raise Frozen(value)
        return value

    with pytest.raises(Frozen):
        list(RunnableLambda(leaf).batch_iter(range(3), config(max_concurrency=1)))


@pytest.mark.parametrize("way", ["batch", "invoke", "batch_iter", "run"])
async def test_portal_worker_thread_whose_scope_is_cancelled_ends_its_call(way: str) -> None:
    """A thread cannot be interrupted, so the call looks; what it had begun is cancelled."""
    watch = Watch()

    async def leaf(_: int) -> None:
        with watch:
            await anyio.sleep_forever()

    step = RunnableLambda(leaf)
    calls: dict[str, Any] = {
        "batch": lambda: step.batch(range(9)),
        "invoke": lambda: step.invoke(1),
        "batch_iter": lambda: list(step.batch_iter(range(9))),
        "run": lambda: step.run(range(9)),
    }
    with all_slots_come_back(), anyio.fail_after(GUARD_SECONDS), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, calls[way])
            await until(lambda: watch.active)
            scope.cancel()
    assert scope.cancelled_caught
    assert watch.active == 0


async def test_portal_worker_thread_that_is_not_cancelled_gets_its_outputs() -> None:
    """However long it takes."""
    assert await anyio.to_thread.run_sync(batched) == EXPECTED
