from __future__ import annotations

import functools
from typing import Any

import anyio.lowlevel
import pytest

from batchrt import Runnable, RunnableBranch, RunnableLambda, RunnableParallel, RunnablePassthrough
from tests.runnables.helpers import everyway

pytestmark = pytest.mark.anyio


def plainly(function: Any) -> Any:
    """Wrap a function as a decorator that ignores async functions does."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


async def double(value: int) -> int:
    await anyio.lowlevel.checkpoint()
    return value * 2


class Awaitable:
    """An awaitable that is not a coroutine."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __await__(self) -> Any:
        return double(self.value).__await__()


class Caller:
    """An object whose method returns a coroutine."""

    def __call__(self, value: int) -> Any:
        return double(value)


async def twice_removed(value: int) -> Any:
    return double(value)


class Sub(Runnable[int, int]):
    """A subclass whose sync method returns a coroutine."""

    def invoke(self, input: int, config: Any = None, **_: Any) -> Any:  # noqa: A002
        return double(input)


class AsyncSub(Runnable[int, int]):
    """A subclass whose async method returns another coroutine."""

    async def ainvoke(self, input: int, config: Any = None, **_: Any) -> Any:  # noqa: A002
        return double(input)


class Listed(Runnable[int, int]):
    """A native step that returns a list of coroutines."""

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
async def test_awaitables_are_awaited_until_a_value_is_left(step: Any) -> None:
    """This holds for every kind of awaitable and every kind of step."""
    if not isinstance(step(), Sub | AsyncSub):  # an overriding method returns its own result
        assert await everyway(step(), 2) == 4
    assert await (step() | RunnablePassthrough()).ainvoke(2) == 4
    assert await step().abatch([2, 4]) == [4, 8]


async def test_awaitables_raise_their_error_for_their_item() -> None:
    """This holds in a list call as well."""

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
