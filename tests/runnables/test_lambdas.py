from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from operator import attrgetter, itemgetter
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from batchrt import (
    RecursionLimitError,
    RunConfig,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    chain,
)
from tests.runnables.helpers import add_one, add_two, everyway

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("function", "value", "output"),
    [
        (add_one, 1, 2),
        (add_two, 1, 3),
        (len, "abc", 3),
        (int, "12", 12),
        ("a,b".split, ",", ["a", "b"]),
        (functools.partial(add_one, extra=5), 1, 7),
        (functools.partial(add_two, extra=5), 1, 8),
        (itemgetter("a"), {"a": 1}, 1),
        (itemgetter("a", "b"), {"a": 1, "b": 2}, (1, 2)),
        (attrgetter("real"), 1, 1),
        (lambda value: {"kept": value}, 1, {"kept": 1}),
    ],
)
async def test_it_runs_any_callable(function: Any, value: Any, output: Any) -> None:
    """Functions, classes, builtins, methods, partials and getters; a dict it returns is a value."""
    assert await everyway(RunnableLambda(function), value) == output


async def test_an_object_with_an_async_call_is_async() -> None:
    """It runs on the loop, not in a thread."""

    class Caller:
        async def __call__(self, value: int) -> int:
            await anyio.lowlevel.checkpoint()
            return value + 1

    assert await everyway(RunnableLambda(Caller()), 1) == 2


async def test_a_sync_function_does_not_block_the_loop() -> None:
    """It runs in another thread."""
    thread = await RunnableLambda(lambda _value: threading.get_ident()).ainvoke(1)
    assert thread != threading.get_ident()


async def test_two_forms_of_one_function() -> None:
    """The sync one serves `invoke`; everything else is async, whatever the async one is made of."""
    both = RunnableLambda(add_one, afunc=lambda value: add_two(value))  # noqa: PLW0108  no async function
    assert await anyio.to_thread.run_sync(both.invoke, 1) == 2
    assert await both.ainvoke(1) == 3
    assert await both.abatch([1]) == [3]


def test_an_async_function_alone_is_enough() -> None:
    """Two async ones are an error, and so is what cannot be called."""
    with pytest.raises(TypeError, match="async itself"):
        RunnableLambda(add_two, add_two)
    with pytest.raises(TypeError, match="a function is needed, not int: 3"):
        RunnableLambda(3)  # type: ignore[call-overload]


def test_generators_are_refused_by_name() -> None:
    """They would be streams, which are not there yet."""

    def numbers(_value: int) -> Iterator[int]:
        yield 1

    async def anumbers(_value: int) -> AsyncIterator[int]:
        yield 1

    for function in (numbers, anumbers):
        with pytest.raises(TypeError, match="numbers is a generator function"):
            RunnableLambda(function)


async def test_a_function_may_take_the_config() -> None:
    """By the name `config`, keyword-only or not, behind a partial or in an object; else it gets none."""

    def plain(_value: int, config: RunConfig) -> Any:
        return config["tags"]

    async def keyword(_value: int, *, config: RunConfig) -> Any:
        return config["tags"]

    def third(_given: str, _value: int, config: RunConfig) -> Any:
        return config["tags"]

    class Caller:
        def __call__(self, _value: int, config: RunConfig) -> Any:
            return config["tags"]

    functions: list[Any] = [plain, keyword, functools.partial(third, "given"), Caller()]
    for function in functions:
        assert await everyway(RunnableLambda(function), 1, {"tags": ["t"]}) == ["t"]
    assert await everyway(RunnableLambda(lambda config: config), 1) == 1
    assert await everyway(RunnableLambda(functools.partial(plain, config={"tags": ["p"]})), 1) == ["p"]


async def test_the_config_is_whole_and_the_function_s_own() -> None:
    """LCEL's four keys are always there, and a change in them reaches nobody else."""

    def spoil(value: int, config: Any) -> int:
        assert config["recursion_limit"] == 25
        assert config["tags"] == config["metadata"].pop("tags", [])
        config["tags"].append("spoiled")
        config["configurable"]["spoiled"] = True
        config["max_concurrency"] = 99
        return value

    async def spoil_too(value: int, config: Any) -> int:
        return spoil(value, config)

    runnable = RunnableLambda(spoil) | spoil | spoil_too | spoil_too
    assert await everyway(runnable, 1) == 1
    config = RunConfig(tags=["t"], metadata={"tags": ["t"]})
    assert await everyway(runnable, 1, config) == 1
    assert config == {"tags": ["t"], "metadata": {"tags": ["t"]}}


async def test_nested_calls_inherit_the_config() -> None:
    """Tags, metadata, configurable and what is left of the recursion limit."""

    def inner(_value: int, config: RunConfig) -> Any:
        return config["tags"], config["metadata"], config["configurable"], config["recursion_limit"]

    nested = RunnableLambda(inner)
    config = RunConfig(tags=["t"], metadata={"m": 1}, configurable={"c": 1}, recursion_limit=9)
    expected = (["t"], {"m": 1}, {"c": 1}, 9)
    assert await everyway(RunnableLambda(nested.invoke), 1, config) == expected

    async def outer(value: int) -> Any:
        return await nested.ainvoke(value)

    assert await everyway(RunnableLambda(outer), 1, config) == expected


async def test_a_runnable_that_a_function_returns_is_run() -> None:
    """On the same input, whatever it is made of."""
    inline: Runnable[int, int] = RunnablePassthrough()
    returned: list[Any] = [
        RunnableLambda(add_one),
        RunnableLambda(add_two),
        inline,
        inline | add_one | add_two,
    ]
    for runnable in returned:
        expected = await runnable.ainvoke(1)
        assert await everyway(RunnableLambda(lambda _value, made=runnable: made), 1) == expected


@pytest.mark.parametrize("limit", [0, 1, 4, None])
async def test_the_recursion_limit_counts_returned_runnables(limit: int | None) -> None:
    """As in LCEL: the function is called once and then `limit` times more; 25 if nobody says."""
    calls: list[int] = []

    def again(value: int) -> Any:
        calls.append(value)
        return RunnableLambda(again)

    async def aagain(value: int) -> Any:
        calls.append(value)
        return RunnableLambda(aagain)

    config = RunConfig() if limit is None else RunConfig(recursion_limit=limit)
    expected = [1] * ((25 if limit is None else limit) + 1)
    for runnable in (RunnableLambda(again), RunnableLambda(aagain)):
        with pytest.raises(RecursionLimitError, match="recursion_limit"):
            await runnable.ainvoke(1, config)
        with pytest.raises(RecursionError):
            await runnable.abatch([1], config)
        with pytest.raises(RecursionLimitError):
            await anyio.to_thread.run_sync(runnable.invoke, 1, config)
        assert calls == expected * 3
        calls.clear()


async def test_the_recursion_limit_is_whole_again_afterwards() -> None:
    """What a returned runnable used of it the next step has again."""

    def left(_value: int, config: RunConfig) -> int:
        return config["recursion_limit"]

    runnable = RunnableLambda(lambda _value: RunnableLambda(add_one)) | left
    assert await everyway(runnable, 1, {"recursion_limit": 7}) == 7


async def test_a_config_at_the_end_of_its_recursion_can_be_handed_on() -> None:
    """A returned function that passes its config to a nested call does not trip over the 0 in it."""

    async def last(value: int, config: RunConfig) -> int:
        return await RunnableLambda(add_one).ainvoke(value, config)

    runnable = RunnableLambda(lambda _value: RunnableLambda(last))
    assert await everyway(runnable, 1, {"recursion_limit": 1}) == 2


async def test_keyword_arguments_reach_the_function() -> None:
    """Unknown ones are the function's own TypeError."""
    assert await everyway(RunnableLambda(add_one), 1, extra=5) == 7
    assert await everyway(RunnableLambda(add_two), 1, extra=5) == 8
    with pytest.raises(TypeError, match="unknown"):
        await RunnableLambda(add_one).ainvoke(1, unknown=1)


def test_names_are_the_functions() -> None:
    """Unless one is given."""
    assert RunnableLambda(add_one).get_name() == "add_one"
    assert RunnableLambda(functools.partial(add_one)).get_name() == "add_one"
    assert RunnableLambda(add_one, name="mine").get_name() == "mine"


async def test_the_decorator_makes_a_lambda() -> None:
    """Of a sync or an async function, under its name."""

    @chain
    def plain(value: int) -> int:
        return value + 1

    @chain
    async def waits(value: int) -> int:
        return value + 2

    assert isinstance(plain, RunnableLambda)
    assert (plain.get_name(), waits.get_name()) == ("plain", "waits")
    assert await everyway(plain | waits, 1) == 4


async def test_a_subclass_may_wrap_ainvoke() -> None:
    """`super().ainvoke` runs the function, and every async way goes through the wrapper."""

    class Tenfold(RunnableLambda[int, int]):
        async def ainvoke(self, input: int, config: RunConfig | None = None, **kwargs: Any) -> int:  # noqa: A002
            return await super().ainvoke(input * 10, config, **kwargs)

    runnable = Tenfold(add_one)
    assert await runnable.ainvoke(1) == 11
    assert await runnable.abatch([1, 2]) == [11, 21]
    assert await (runnable | add_one).abatch([1]) == [12]


@pytest.mark.parametrize("kind", ["function", "subclass"])
async def test_what_a_sync_function_sets_ends_with_it_however_it_is_run(kind: str) -> None:
    """`invoke` runs it in the caller's thread, the other methods in a worker's."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    def sets(value: int) -> int:
        variable.set("set")
        return value

    def looks(_: int) -> str:
        return variable.get()

    class Sets(Runnable[int, int]):
        def invoke(self, input: int, config: Any = None, **kwargs: Any) -> int:  # noqa: A002
            return sets(input)

    first: Any = Sets() if kind == "subclass" else RunnableLambda(sets)
    assert await everyway(first | looks, 1) == "unset"
    assert variable.get() == "unset"


# Awaitables


def plainly(function: Any) -> Any:
    """Wrap a function as a decorator does that knows nothing of async ones."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


async def double(value: int) -> int:
    await anyio.lowlevel.checkpoint()
    return value * 2


class Awaitable:
    """Something to be awaited that is no coroutine."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __await__(self) -> Any:
        return double(self.value).__await__()


class Caller:
    """An object whose method gives a coroutine."""

    def __call__(self, value: int) -> Any:
        return double(value)


async def twice_removed(value: int) -> Any:
    return double(value)


class Sub(Runnable[int, int]):
    """A subclass whose sync method gives a coroutine."""

    def invoke(self, input: int, config: Any = None, **_: Any) -> Any:  # noqa: A002
        return double(input)


class AsyncSub(Runnable[int, int]):
    """A subclass whose async method gives another coroutine."""

    async def ainvoke(self, input: int, config: Any = None, **_: Any) -> Any:  # noqa: A002
        return double(input)


class Listed(Runnable[int, int]):
    """A native step that gives a list of coroutines."""

    async def abatch_native(self, inputs: list[int]) -> list[Any]:
        return [double(value) for value in inputs]


AWAITABLES: dict[str, Any] = {
    "a decorator": lambda: RunnableLambda(plainly(double)),
    "a decorator twice": lambda: RunnableLambda(plainly(plainly(double))),
    "a lambda": lambda: RunnableLambda(lambda value: double(value + 0)),
    "a partial of a decorator": lambda: RunnableLambda(functools.partial(plainly(double))),
    "an object": lambda: RunnableLambda(Caller()),
    "an awaitable": lambda: RunnableLambda(Awaitable),
    "an async function that gives one": lambda: RunnableLambda(twice_removed),
    "an afunc": lambda: RunnableLambda(lambda value: value * 2, plainly(double)),
    "in a parallel": lambda: RunnableParallel(a=plainly(double)) | (lambda row: row["a"]),
    "in a map": lambda: RunnableLambda(lambda value: [value]) | RunnableLambda(plainly(double)).map() | sum,
    "a condition": lambda: RunnableBranch((plainly(is_odd), lambda _: None), lambda value: value * 2),
    "a subclass": Sub,
    "an async subclass": AsyncSub,
    "a list": Listed,
}


async def is_odd(value: int) -> bool:
    return value % 2 == 1


@pytest.mark.parametrize("step", AWAITABLES.values(), ids=AWAITABLES.keys())
async def test_an_awaitable_is_awaited_and_no_output(step: Any) -> None:
    """Whatever it is, and whatever gives it."""
    if not isinstance(step(), Sub | AsyncSub):  # whoever calls an own method gets what that gives
        assert await everyway(step(), 2) == 4
    assert await (step() | RunnablePassthrough()).ainvoke(2) == 4
    assert await step().abatch([2, 4]) == [4, 8]


async def test_an_awaitable_s_error_is_its_item_s() -> None:
    """In a list too."""

    async def fail(value: int) -> int:
        if value == 2:
            raise ZeroDivisionError
        return value

    class Failing(Runnable[int, int]):
        async def abatch_native(self, inputs: list[int]) -> list[Any]:
            return [fail(value) for value in inputs]

    for step in (RunnableLambda(plainly(fail)), Failing()):
        first, second = await step.abatch([1, 2], return_exceptions=True)
        assert first == 1
        assert isinstance(second, ZeroDivisionError)
