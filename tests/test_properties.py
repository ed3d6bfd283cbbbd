"""The promises, over random trees of runnables, on every event loop.

The cap is never exceeded, no run deadlocks, every item gets exactly its own outcome, and no task of a call
is running after it has ended. The trees contain odd but valid cases too: leaves with cancel scopes of their
own, leaves that cancel their task, sync functions that return awaitables, exceptions whose attributes raise,
wrong lengths, finalizers that call `batch`.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from batchrt import (
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    StrayCancelledError,
)
from batchrt.runtime.slots import Slots

LOOPS = [
    pytest.param("asyncio", {}, id="asyncio"),
    pytest.param("asyncio", {"use_uvloop": True}, id="uvloop"),
    pytest.param("trio", {}, id="trio"),
    pytest.param(
        "asyncio",
        {"loop_factory": lambda: _eager_loop()},  # noqa: PLW0108  it is defined below
        id="eager",
        marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12"),
    ),
]
HANG_SECONDS = 20
"""Real time after which a run counts as deadlocked; none takes a hundredth of it."""


class Boom(Exception):
    """The error of a failing leaf."""


@dataclass(frozen=True, eq=False)
class FrozenBoom(Boom):
    """Nothing can be set on it, not even by `contextlib`."""

    name: str


class FalsyBoom(Boom):
    def __bool__(self) -> bool:
        return False


class EmptyBoom(Boom):
    def __len__(self) -> int:
        return 0


class DelegatingBoom(Boom):
    """Attributes are looked up in its data."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class UnequalBoom(Boom):
    __notes__: Any = None
    __hash__: Any = None

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def with_traceback(self, trace: Any) -> Any:
        raise RuntimeError


BOOMS: list[type[Boom]] = [
    Boom,
    FrozenBoom,
    FalsyBoom,
    EmptyBoom,
    DelegatingBoom,
    UnequalBoom,
]

STRAY = "stray"
"""Stands, among the errors that may come, for the one of a leaf that was cancelled from within."""


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    return loop


@dataclass(eq=False)
class Value:
    """An input on its way; a new object after each step, so that an attempt at one can be told."""

    number: int


@dataclass
class Watch:
    """Count the leaves that are running, in threads and on the loop."""

    active: int = 0
    peak: int = 0
    entered: int = 0
    attempts: dict[Any, tuple[Value, int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> None:
        with self.lock:
            self.active += 1
            self.entered += 1
            self.peak = max(self.peak, self.active)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.active -= 1

    def attempt(self, leaf: str, value: Value) -> int:
        with self.lock:
            # The value is kept, or its id would be given to another.
            key = (leaf, id(value))
            _, count = self.attempts.get(key, (value, 0))
            self.attempts[key] = (value, count + 1)
            return int(count) + 1


Errors = frozenset[str]
Expected = int | Errors
"""A number, or the errors of which one must come."""

booms: st.SearchStrategy[type[Boom]] = st.sampled_from([Boom, Boom, *BOOMS])


@dataclass
class Node:
    """A runnable, and its expected output for a number."""

    build: Callable[[Watch], Runnable[Any, Any]]
    expect: Callable[[int], Expected]
    text: str

    def __repr__(self) -> str:
        return self.text


_names = iter(f"leaf{number}" for number in range(10**9))


async def pause(rounds: int) -> None:
    for _ in range(rounds):
        await anyio.lowlevel.checkpoint()


LENGTHS = ["right", "right", "right", "short", "long", "zero", "none", "raises"]


class Sized:
    """Values that are said to be more or fewer than they are."""

    def __init__(self, values: list[Any], length: str) -> None:
        self._values = values
        self._length = length

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __len__(self) -> Any:
        if self._length == "raises":
            raise RuntimeError("no length")
        true = len(self._values)
        return {"short": true // 2, "long": true + 3, "zero": 0, "none": None}[self._length]


def sized(values: list[Any], length: str) -> Any:
    return values if length == "right" else Sized(values, length)


@st.composite
def async_leaves(draw: st.DrawFn) -> Node:
    name, rounds = next(_names), draw(st.integers(0, 6))
    fails_on, boom = draw(st.sampled_from([0, 0, 0, 2, 3, 5])), draw(booms)
    plain = draw(st.sampled_from([False, False, True]))

    def build(watch: Watch) -> Runnable[Any, Any]:
        async def leaf(value: Value) -> Value:
            with watch:
                await pause(rounds)
                if fails_on and value.number % fails_on == 0:
                    raise boom(name)
                return Value(value.number + 1)

        # A plain function that returns an awaitable is one more way to say it.
        return RunnableLambda((lambda value: leaf(value)) if plain else leaf)  # noqa: PLW0108

    text = f"async({rounds}, fails_on={fails_on}, {boom.__name__}, plain={plain})"
    return Node(build, _leaf_expects(name, fails_on), text)


@st.composite
def disturbing_leaves(draw: st.DrawFn) -> Node:
    """Make a leaf that cancels the task it runs in, or raises a cancellation; Trio has no way to do it."""
    name, fails_on = next(_names), draw(st.sampled_from([1, 2, 3]))
    way = draw(st.sampled_from(["cancel", "swallow", "raise", "later"]))

    def build(watch: Watch) -> Runnable[Any, Any]:
        async def leaf(value: Value) -> Value:
            with watch:
                await pause(1)
                if value.number % fails_on == 0:
                    await disturb(way)
                return Value(value.number + 1)

        return RunnableLambda(leaf)

    fails = 0 if way == "swallow" else fails_on
    return Node(build, _leaf_expects(STRAY, fails), f"disturbing({name}, {way}, {fails_on})")


async def disturb(way: str) -> None:
    try:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
    except RuntimeError:
        if way != "swallow":
            raise StrayCancelledError from None
        return
    if way == "raise":
        raise asyncio.CancelledError
    assert task is not None
    if way == "later":
        loop.call_soon(task.cancel)
    else:
        task.cancel()
    try:
        await pause(3)
    except asyncio.CancelledError:
        if way != "swallow":
            raise


@st.composite
def sync_leaves(draw: st.DrawFn) -> Node:
    name, fails_on, boom = next(_names), draw(st.sampled_from([0, 0, 3])), draw(booms)

    def build(watch: Watch) -> Runnable[Any, Any]:
        def leaf(value: Value) -> Value:
            with watch:
                if fails_on and value.number % fails_on == 0:
                    raise boom(name)
                return Value(value.number + 1)

        return RunnableLambda(leaf)

    return Node(build, _leaf_expects(name, fails_on), f"sync(fails_on={fails_on}, {boom.__name__})")


@st.composite
def list_leaves(draw: st.DrawFn) -> Node:
    """Make a step that takes lists, in one of the ways a class can say so."""
    name, rounds = next(_names), draw(st.integers(0, 6))
    fails_on = draw(st.sampled_from([0, 0, 0, 2, 3, 5]))
    size = draw(st.sampled_from([1, 2, 3, 7, None]))
    way = draw(st.sampled_from(["native", "native", "native in a thread", "abatch", "batch"]))
    shared, boom = draw(st.booleans()), draw(booms)
    length = draw(st.sampled_from(LENGTHS))

    def build(watch: Watch) -> Runnable[Any, Any]:
        def answer(values: list[Value]) -> Any:
            assert 1 <= len(values) <= (size or math.inf)
            if any(fails_on and value.number % fails_on == 0 for value in values):
                raise boom(name)
            return sized([Value(value.number + 1) for value in values], length)

        class Lists(Runnable[Value, Value]):
            max_batch_size = size
            linger = 0.002
            max_linger = 0.004
            share_lists = shared

        class Native(Lists):
            async def abatch_native(self, values: list[Value]) -> Any:
                with watch:
                    await pause(rounds)
                    return answer(values)

        class NativeInAThread(Lists):
            def abatch_native(self, values: list[Value]) -> Any:
                with watch:
                    return answer(values)

        class Overridden(Lists):
            async def abatch(self, inputs: Any, config: Any = None, **_: Any) -> Any:
                with watch:
                    await pause(rounds)
                    return answer(inputs)

        class OverriddenSync(Lists):
            def batch(self, inputs: Any, config: Any = None, **_: Any) -> Any:
                with watch:
                    return answer(inputs)

        kinds: dict[str, type[Lists]] = {
            "native": Native,
            "native in a thread": NativeInAThread,
            "abatch": Overridden,
            "batch": OverriddenSync,
        }
        # Not alone: the outermost call would be the override itself, which is the class's own affair.
        return kinds[way]() | RunnablePassthrough()

    text = f"lists({way}, {size}, {rounds}, fails_on={fails_on}, shared={shared}, {boom.__name__}, {length})"
    return Node(build, _leaf_expects(name, fails_on), text)


def _leaf_expects(name: str, fails_on: int) -> Callable[[int], Expected]:
    def expect(number: int) -> Expected:
        return Errors([name]) if fails_on and number % fails_on == 0 else number + 1

    return expect


@st.composite
def retries(draw: st.DrawFn) -> Node:
    """Make a leaf that fails some times for each value, and is tried some times."""
    name, failures, attempts = next(_names), draw(st.integers(0, 3)), draw(st.integers(1, 4))

    def build(watch: Watch) -> Runnable[Any, Any]:
        async def leaf(value: Value) -> Value:
            with watch:
                await pause(1)
                if watch.attempt(name, value) <= failures:
                    raise Boom(name)
                return Value(value.number + 1)

        return RunnableLambda(leaf).with_retry(stop_after_attempt=attempts, wait_exponential_jitter=False)

    def expect(number: int) -> Expected:
        return number + 1 if failures < attempts else Errors([name])

    return Node(build, expect, f"retry(fails={failures}, attempts={attempts})")


def sequence_of(first: Node, second: Node) -> Node:
    def expect(number: int) -> Expected:
        middle = first.expect(number)
        return second.expect(middle) if isinstance(middle, int) else middle

    return Node(lambda watch: first.build(watch) | second.build(watch), expect, f"({first} | {second})")


def parallel_of(*nodes: Node) -> Node:
    def build(watch: Watch) -> Runnable[Any, Any]:
        branches = {str(place): node.build(watch) for place, node in enumerate(nodes)}

        async def add_up(outputs: dict[str, Value]) -> Value:
            with watch:
                return Value(sum(value.number for value in outputs.values()))

        return RunnableParallel(branches) | add_up

    return Node(build, lambda number: _sum_of([node.expect(number) for node in nodes]), f"parallel{nodes}")


def _sum_of(parts: list[Expected]) -> Expected:
    errors = Errors().union(*(part for part in parts if not isinstance(part, int)))
    return errors or sum(part for part in parts if isinstance(part, int))


def map_of(node: Node, count: int) -> Node:
    def build(watch: Watch) -> Runnable[Any, Any]:
        async def spread(value: Value) -> list[Value]:
            with watch:
                return [Value(value.number + place) for place in range(count)]

        async def add_up(values: list[Value]) -> Value:
            with watch:
                return Value(sum(value.number for value in values))

        return RunnableLambda(spread) | node.build(watch).map() | add_up

    return Node(
        build,
        lambda number: _sum_of([node.expect(number + place) for place in range(count)]),
        f"map({node}, {count})",
    )


def branch_of(even: Node, odd: Node) -> Node:
    def build(watch: Watch) -> Runnable[Any, Any]:
        async def is_even(value: Value) -> bool:
            with watch:
                await pause(1)
                return value.number % 2 == 0

        return RunnableBranch((is_even, even.build(watch)), odd.build(watch))

    return Node(
        build,
        lambda number: (odd if number % 2 else even).expect(number),
        f"branch({even}, {odd})",
    )


def fallback_of(first: Node, second: Node) -> Node:
    if "disturbing" in first.text + second.text:
        # A cancellation is no error until it leaves the item: fallbacks are not for it.
        return sequence_of(first, second)

    def expect(number: int) -> Expected:
        outcome = first.expect(number)
        if isinstance(outcome, int):
            return outcome
        instead = second.expect(number)
        return instead if isinstance(instead, int) else outcome

    return Node(
        lambda watch: first.build(watch).with_fallbacks([second.build(watch)]),
        expect,
        f"{first}.fallback({second})",
    )


def scoped_of(node: Node, count: int, cap: int | None, rounds: int, way: str) -> Node:
    """Make a function that cancels its nested batch by a scope of its own and goes on, or need not."""

    def build(watch: Watch) -> Runnable[Any, Any]:
        inner = node.build(watch)
        config: Any = {} if cap is None else {"max_concurrency": cap}

        async def work(value: Value) -> None:
            inputs = [Value(value.number + place) for place in range(count)]
            if way == "iter":
                async for _ in inner.abatch_iter(inputs, config, return_exceptions=True):
                    with watch:
                        await pause(1)
            else:
                await inner.abatch(inputs, config, return_exceptions=True)

        async def cancel(scope: anyio.CancelScope) -> None:
            await pause(rounds)
            scope.cancel()

        async def scoped(value: Value) -> Value:
            with watch:
                await pause(1)
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:
                    group.start_soon(cancel, scope)
                    await work(value)
                group.cancel_scope.cancel()
            with watch:
                await pause(1)
            await inner.abatch([], config)
            return Value(value.number + 1)

        return RunnableLambda(scoped)

    text = f"scoped({node}, {count}, cap={cap}, rounds={rounds}, {way})"
    return Node(build, lambda number: number + 1, text)


def nested_of(node: Node, count: int, cap: int | None, *, sync: bool) -> Node:
    """Make a function that runs a batch of its own, between two pieces of work of its own."""

    def build(watch: Watch) -> Runnable[Any, Any]:
        inner = node.build(watch)
        config: Any = {} if cap is None else {"max_concurrency": cap}

        async def nested(value: Value) -> Value:
            with watch:
                await pause(1)
                inputs = [Value(value.number + place) for place in range(count)]
            outputs = await inner.abatch(inputs, config)
            with watch:
                await pause(1)
                return Value(sum(output.number for output in outputs))

        def nested_in_thread(value: Value) -> Value:
            with watch:
                inputs = [Value(value.number + place) for place in range(count)]
            outputs = inner.batch(inputs, config)
            with watch:
                return Value(sum(output.number for output in outputs))

        return RunnableLambda(nested_in_thread if sync else nested)

    return Node(
        build,
        lambda number: _sum_of([node.expect(number + place) for place in range(count)]),
        f"nested({node}, {count}, cap={cap}, sync={sync})",
    )


def capped(node: Node, cap: int) -> Node:
    return Node(
        lambda watch: node.build(watch).with_config(max_concurrency=cap),
        node.expect,
        f"capped({node}, {cap})",
    )


def passed_by(node: Node) -> Node:
    return Node(lambda watch: RunnablePassthrough() | node.build(watch), node.expect, f"pass({node})")


leaves = st.one_of(
    async_leaves(),
    async_leaves(),
    disturbing_leaves(),
    retries(),
    sync_leaves(),
    list_leaves(),
    list_leaves(),
)


def _extend(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    counts = st.integers(0, 3)
    return st.one_of(
        st.builds(sequence_of, nodes, nodes),
        st.builds(parallel_of, nodes, nodes),
        st.builds(parallel_of, nodes, nodes, nodes),
        st.builds(map_of, nodes, counts),
        st.builds(branch_of, nodes, nodes),
        st.builds(fallback_of, nodes, nodes),
        st.builds(
            nested_of,
            nodes,
            counts,
            st.sampled_from([None, 1, 2]),
            sync=st.sampled_from([False, False, True]),
        ),
        st.builds(
            scoped_of,
            nodes,
            counts,
            st.sampled_from([None, 1, 2]),
            st.integers(0, 12),
            st.sampled_from(["abatch", "iter"]),
        ),
        st.builds(capped, nodes, st.integers(1, 3)),
        st.builds(passed_by, nodes),
    )


trees = st.recursive(leaves, _extend, max_leaves=7)
caps = st.one_of(st.integers(1, 4), st.integers(5, 20), st.none())
numbers = st.lists(st.integers(0, 50), max_size=9)
lengths = st.sampled_from(LENGTHS)
finalized = st.sampled_from([False] * 9 + [True])
"""Whether there is garbage about, and the collector runs at every moment; slow, so that it is seldom so."""


def run(
    backend: str, options: dict[str, Any], main: Callable[[], Awaitable[None]], *, garbage: bool = False
) -> None:
    async def bounded() -> None:
        with anyio.fail_after(HANG_SECONDS), garbage_everywhere() if garbage else nullcontext():
            await main()

    with all_slots_come_back():
        anyio.run(bounded, backend=backend, backend_options=options)


class Garbage:
    """An object whose finalizer batches, as that of a client that sends its last records."""

    left = 0

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        if Garbage.left:
            Garbage.left -= 1
            Garbage()
            assert flush.batch([1, 2], {"max_concurrency": 1}) == [1, 2]


async def _flush(value: int) -> int:
    await anyio.lowlevel.checkpoint()
    return value


flush = RunnableLambda(_flush)


@contextmanager
def garbage_everywhere() -> Iterator[None]:
    """Have the collector run at every allocation, and find an object with a finalizer some times."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # so that existing objects are not scanned each time
    Garbage.left = 5
    Garbage()
    gc.set_threshold(1, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        Garbage.left = 0


@contextmanager
def all_slots_come_back() -> Iterator[None]:
    """Assert that every slot that was taken was given back, once."""
    made: list[Slots] = []
    original = Slots.__init__

    def record(self: Slots, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slots, "__init__", record)
        yield
    for slots in made:
        assert slots.free == (math.inf if slots.limit is None else slots.limit)


def check(outcome: Any, expected: Expected) -> None:
    if isinstance(expected, int):
        failed = None if type(outcome) is Value else name_of(outcome)
        assert failed is None
        assert outcome.number == expected
    else:
        assert name_of(outcome) in expected


def name_of(error: Any) -> str:
    """Return which leaf an error is of, without asking the error."""
    if issubclass(type(error), StrayCancelledError):
        return STRAY
    assert issubclass(type(error), Boom), type(error)
    return str(vars(BaseException)["args"].__get__(error)[0])


async def check_over(watch: Watch, tasks_before: int) -> None:
    """Assert that nothing of the call is running, and that nothing more begins."""
    assert watch.active == 0
    entered = watch.entered
    await pause(5)
    assert watch.entered == entered
    assert len(anyio.get_running_tasks()) == tasks_before


def check_cap(watch: Watch, cap: int | None) -> None:
    if cap is not None:
        assert watch.peak <= cap


@pytest.mark.parametrize(("backend", "options"), LOOPS)
@given(tree=trees, cap=caps, inputs=numbers, length=lengths, garbage=finalized)
def test_run_property_every_item_gets_its_own_outcome(
    backend: str,
    options: dict[str, Any],
    tree: Node,
    cap: int | None,
    inputs: list[int],
    length: str,
    garbage: bool,
) -> None:
    """Under the cap, each position holds its item's output or its item's error."""
    watch = Watch()
    chain = tree.build(watch)

    async def main() -> None:
        before = len(anyio.get_running_tasks())
        values = sized([Value(number) for number in inputs], length)
        outcomes = await chain.abatch(values, {"max_concurrency": cap}, return_exceptions=True)
        await check_over(watch, before)
        assert len(outcomes) == len(inputs)
        for outcome, number in zip(outcomes, inputs, strict=True):
            check(outcome, tree.expect(number))

    run(backend, options, main, garbage=garbage)
    check_cap(watch, cap)


@pytest.mark.parametrize(("backend", "options"), LOOPS)
@given(tree=trees, cap=caps, inputs=numbers)
def test_run_property_fail_fast_raises_one_items_error_as_itself(
    backend: str, options: dict[str, Any], tree: Node, cap: int | None, inputs: list[int]
) -> None:
    """Without `return_exceptions`: all outputs, or some failing item's error when all has ended."""
    watch = Watch()
    chain = tree.build(watch)
    expected = [tree.expect(number) for number in inputs]

    async def main() -> None:
        before = len(anyio.get_running_tasks())
        try:
            outputs = await chain.abatch([Value(number) for number in inputs], {"max_concurrency": cap})
        except (Boom, StrayCancelledError) as error:
            await check_over(watch, before)
            failing = [errors for errors in expected if not isinstance(errors, int)]
            assert name_of(error) in Errors().union(*failing)
        else:
            await check_over(watch, before)
            assert [output.number for output in outputs] == expected

    run(backend, options, main)
    check_cap(watch, cap)


@pytest.mark.parametrize(("backend", "options"), LOOPS)
@given(
    tree=trees,
    cap=caps,
    inputs=numbers,
    ordered=st.booleans(),
    taken=st.integers(0, 12),
    consumer_rounds=st.integers(0, 4),
    window=st.integers(1, 10),
)
def test_run_property_iterators_deliver_each_once_and_closing_ends_all(
    backend: str,
    options: dict[str, Any],
    tree: Node,
    cap: int | None,
    inputs: list[int],
    ordered: bool,
    taken: int,
    consumer_rounds: int,
    window: int,
) -> None:
    """In order or as completed, with a slow or an impatient consumer."""
    watch = Watch()
    chain = tree.build(watch)
    config: Any = {"max_concurrency": cap, "window": window}

    async def main() -> None:
        before = len(anyio.get_running_tasks())
        values = [Value(number) for number in inputs]
        seen: list[tuple[int, Any]] = []
        if ordered:
            async with chain.abatch_iter(values, config, return_exceptions=True) as stream:
                async for outcome in stream:
                    seen.append((len(seen), outcome))
                    await pause(consumer_rounds)
                    if len(seen) == taken:
                        break
        else:
            async with chain.abatch_as_completed(values, config, return_exceptions=True) as pairs:
                async for pair in pairs:
                    seen.append(pair)
                    await pause(consumer_rounds)
                    if len(seen) == taken:
                        break
        await check_over(watch, before)
        assert len(seen) == min(taken or len(inputs), len(inputs))
        assert len({index for index, _ in seen}) == len(seen)
        for index, outcome in seen:
            check(outcome, tree.expect(inputs[index]))

    run(backend, options, main)
    check_cap(watch, cap)


@pytest.mark.parametrize(("backend", "options"), LOOPS)
@given(
    tree=trees,
    cap=caps,
    inputs=numbers,
    rounds=st.integers(0, 30),
    how=st.sampled_from(["abatch", "iter", "ainvoke"]),
)
def test_run_property_cancelling_ends_all(
    backend: str,
    options: dict[str, Any],
    tree: Node,
    cap: int | None,
    inputs: list[int],
    rounds: int,
    how: str,
) -> None:
    """A cancellation at any moment takes effect, and leaves no task running."""
    watch = Watch()
    chain = tree.build(watch)
    config: Any = {"max_concurrency": cap}

    async def consume() -> None:
        values = [Value(number) for number in inputs]
        if how == "abatch":
            await chain.abatch(values, config, return_exceptions=True)
        elif how == "iter":
            async for _ in chain.abatch_iter(values, config, return_exceptions=True):
                pass
        else:
            for value in values:
                try:
                    await chain.ainvoke(value, config)
                except (Boom, StrayCancelledError) as error:
                    note(name_of(error))

    async def main() -> None:
        before = len(anyio.get_running_tasks())
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await pause(rounds)
            group.cancel_scope.cancel()
        await check_over(watch, before)

    run(backend, options, main)
    check_cap(watch, cap)


@given(tree=trees, cap=caps, inputs=numbers, length=lengths)
def test_run_property_sync_batch_returns_the_outputs_of_abatch(
    tree: Node, cap: int | None, inputs: list[int], length: str
) -> None:
    """From sync code, the outcomes and the cap are the same."""
    watch = Watch()
    chain = tree.build(watch)
    values = sized([Value(number) for number in inputs], length)
    with all_slots_come_back():
        outcomes = chain.batch(values, {"max_concurrency": cap}, return_exceptions=True)
    assert watch.active == 0
    for outcome, number in zip(outcomes, inputs, strict=True):
        check(outcome, tree.expect(number))
    check_cap(watch, cap)
