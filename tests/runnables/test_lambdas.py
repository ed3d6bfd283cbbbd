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
    RunnableLambda,
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
async def test_lambda_runs_any_callable(function: Any, value: Any, output: Any) -> None:
    """Functions, classes, builtins, methods, partials and getters work; a returned dict is a value."""
    assert await everyway(RunnableLambda(function), value) == output


async def test_lambda_runs_an_object_with_async_call_on_the_loop() -> None:
    """Such an object is not run in a thread."""

    class Caller:
        async def __call__(self, value: int) -> int:
            await anyio.lowlevel.checkpoint()
            return value + 1

    assert await everyway(RunnableLambda(Caller()), 1) == 2


async def test_lambda_runs_a_sync_function_in_another_thread() -> None:
    """The event loop is not blocked."""
    thread = await RunnableLambda(lambda _value: threading.get_ident()).ainvoke(1)
    assert thread != threading.get_ident()


async def test_lambda_takes_two_forms_of_one_function() -> None:
    """The sync form serves `invoke`; all other methods use the async one, of any kind."""
    both = RunnableLambda(add_one, afunc=lambda value: add_two(value))  # noqa: PLW0108  no async function
    assert await anyio.to_thread.run_sync(both.invoke, 1) == 2
    assert await both.ainvoke(1) == 3
    assert await both.abatch([1]) == [3]


def test_lambda_accepts_an_async_function_alone() -> None:
    """Two async functions are an error, and so is an object that is not callable."""
    with pytest.raises(TypeError, match="async itself"):
        RunnableLambda(add_two, add_two)
    with pytest.raises(TypeError, match="a function is needed, not int: 3"):
        RunnableLambda(3)  # type: ignore[call-overload]


async def test_lambda_of_a_generator_function_returns_the_sum_of_its_chunks() -> None:
    """Sync and async, with the whole input, and with arguments."""

    def words(value: str, end: str = "") -> Iterator[str]:
        yield from value
        yield end

    async def awords(value: str, end: str = "") -> AsyncIterator[str]:
        for letter in value:
            yield letter
        yield end

    for function in (words, awords):
        assert await everyway(RunnableLambda(function), "abc") == "abc"
        assert await everyway(RunnableLambda(function), "abc", end="!") == "abc!"
        assert await everyway(chain(function).bind(end="!"), "abc") == "abc!"
        assert [chunk async for chunk in chain(function).astream("ab")] == ["a", "b", ""]


async def test_lambda_passes_the_config_to_a_parameter_of_that_name() -> None:
    """`config` may be keyword-only, behind a partial or in an object; other functions do not get it."""

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


async def test_lambda_receives_a_complete_config_of_its_own() -> None:
    """LCEL's four keys are always in it, and changes to it stay with the function."""

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


async def test_lambda_nested_calls_inherit_the_config() -> None:
    """Tags, metadata, configurable and the rest of the recursion limit are inherited."""

    def inner(_value: int, config: RunConfig) -> Any:
        return config["tags"], config["metadata"], config["configurable"], config["recursion_limit"]

    nested = RunnableLambda(inner)
    config = RunConfig(tags=["t"], metadata={"m": 1}, configurable={"c": 1}, recursion_limit=9)
    expected = (["t"], {"m": 1}, {"c": 1}, 9)
    assert await everyway(RunnableLambda(nested.invoke), 1, config) == expected

    async def outer(value: int) -> Any:
        return await nested.ainvoke(value)

    assert await everyway(RunnableLambda(outer), 1, config) == expected


async def test_lambda_runs_a_returned_runnable() -> None:
    """Any kind of runnable is run on the same input."""
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
async def test_lambda_recursion_limit_counts_returned_runnables(limit: int | None) -> None:
    """As in LCEL, the function is called once and then `limit` times more; 25 by default."""
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


async def test_lambda_restores_the_recursion_limit_afterwards() -> None:
    """The next step has the full limit again."""

    def left(_value: int, config: RunConfig) -> int:
        return config["recursion_limit"]

    runnable = RunnableLambda(lambda _value: RunnableLambda(add_one)) | left
    assert await everyway(runnable, 1, {"recursion_limit": 7}) == 7


async def test_lambda_can_pass_on_a_config_with_a_recursion_limit_of_zero() -> None:
    """A returned function that passes its config to a nested call does not fail on the 0 in it."""

    async def last(value: int, config: RunConfig) -> int:
        return await RunnableLambda(add_one).ainvoke(value, config)

    runnable = RunnableLambda(lambda _value: RunnableLambda(last))
    assert await everyway(runnable, 1, {"recursion_limit": 1}) == 2


async def test_lambda_passes_keyword_arguments_to_the_function() -> None:
    """Unknown ones are the function's own TypeError."""
    assert await everyway(RunnableLambda(add_one), 1, extra=5) == 7
    assert await everyway(RunnableLambda(add_two), 1, extra=5) == 8
    with pytest.raises(TypeError, match="unknown"):
        await RunnableLambda(add_one).ainvoke(1, unknown=1)


def test_lambda_is_named_after_the_function() -> None:
    """An explicit name takes precedence."""
    assert RunnableLambda(add_one).get_name() == "add_one"
    assert RunnableLambda(functools.partial(add_one)).get_name() == "add_one"
    assert RunnableLambda(add_one, name="mine").get_name() == "mine"


async def test_lambda_is_the_result_of_the_decorator() -> None:
    """A sync or async function becomes a lambda under its own name."""

    @chain
    def plain(value: int) -> int:
        return value + 1

    @chain
    async def waits(value: int) -> int:
        return value + 2

    assert isinstance(plain, RunnableLambda)
    assert (plain.get_name(), waits.get_name()) == ("plain", "waits")
    assert await everyway(plain | waits, 1) == 4


async def test_lambda_subclass_may_wrap_ainvoke() -> None:
    """`super().ainvoke` runs the function, and every async entry point uses the wrapper."""

    class Tenfold(RunnableLambda[int, int]):
        async def ainvoke(self, input: int, config: RunConfig | None = None, **kwargs: Any) -> int:  # noqa: A002
            return await super().ainvoke(input * 10, config, **kwargs)

    runnable = Tenfold(add_one)
    assert await runnable.ainvoke(1) == 11
    assert await runnable.abatch([1, 2]) == [11, 21]
    assert await (runnable | add_one).abatch([1]) == [12]


@pytest.mark.parametrize("kind", ["function", "subclass"])
async def test_lambda_context_of_a_sync_function_ends_with_it(kind: str) -> None:
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


async def test_lambda_inline_runs_on_the_event_loop() -> None:
    """In the thread of the loop, without a slot; its errors are the items' own."""
    threads: set[int] = set()

    def double(value: int) -> int:
        threads.add(threading.get_ident())
        if value == 2:
            raise ValueError(value)
        return value * 2

    inline = RunnableLambda(double, inline=True)
    assert await inline.ainvoke(1) == 2
    outcomes = await inline.arun([1, 2, 3])
    assert [outcome.output for outcome in outcomes] == [2, None, 6]
    assert isinstance(outcomes[1].error, ValueError)
    assert threads == {threading.get_ident()}
    assert RunnableLambda(double, inline=True).invoke(4) == 8


def test_lambda_inline_is_for_sync_functions() -> None:
    """Async functions, awaitable and runnable outputs, and functions with a config are refused."""

    async def slow(value: int) -> int:
        return value

    def configured(value: int, config: RunConfig) -> int:
        return value + len(config)

    unusable: Any = slow
    with pytest.raises(TypeError, match="inline is for a sync func"):
        RunnableLambda(unusable, inline=True)
    with pytest.raises(TypeError, match="takes a config"):
        RunnableLambda(configured, inline=True).invoke(1)
    runnable: Any = RunnableLambda(lambda _: RunnableLambda(add_one), inline=True)
    with pytest.raises(TypeError, match="is inline and returned a runnable"):
        runnable.invoke(1)
    awaitable: Any = RunnableLambda(lambda value: slow(value + 1), inline=True, name="f")
    with pytest.raises(TypeError, match="f must be sync, and gave something to be awaited"):
        awaitable.invoke(1)
