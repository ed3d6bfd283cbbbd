from __future__ import annotations

import anyio
import pytest

from batchrt import RunnableLambda, RunnableMap, RunnableParallel, RunnablePassthrough
from tests.runnables.helpers import add_one, add_two, everyway, fail, raises_everyway

pytestmark = pytest.mark.anyio


async def test_parallel_passes_the_same_input_to_all_steps() -> None:
    """Steps as a dict, as keywords, or both; a keyword wins."""
    assert await everyway(RunnableParallel({"a": add_one}, b=add_two), 1) == {"a": 2, "b": 3}
    assert await everyway(RunnableParallel({"a": add_one}, a=add_two), 1) == {"a": 3}
    assert await everyway(RunnableParallel(steps__={"a": add_one}), 1) == {"a": 2}


async def test_parallel_is_also_called_map() -> None:
    """LCEL's two names are one class."""
    assert RunnableMap is RunnableParallel


@pytest.mark.parametrize("key", ["name", "steps", "self", "config", "input", "kwargs"])
async def test_parallel_accepts_any_name_as_a_key(key: str) -> None:
    """No keyword is reserved."""
    if key == "self":
        runnable = RunnableParallel[int]({"self": add_one})
    else:
        runnable = RunnableParallel[int](None, **{key: add_one})
    assert await everyway(runnable, 1) == {key: 2}


async def test_parallel_without_steps_returns_an_empty_dict() -> None:
    """As in LCEL."""
    assert await everyway(RunnableParallel({}), 1) == {}
    assert await everyway(RunnableParallel(), 1) == {}


async def test_parallel_keeps_the_order_of_its_keys() -> None:
    """Neither the order of completion nor waiting changes it."""
    second = anyio.Event()

    async def slow(value: int) -> int:
        await second.wait()
        return value

    async def quick(value: int) -> int:
        second.set()
        return value

    runnable = RunnableParallel[int](z=slow, y=quick, a=RunnablePassthrough())
    with anyio.fail_after(20):
        assert list(await runnable.ainvoke(1)) == ["z", "y", "a"]


async def test_parallel_runs_steps_concurrently() -> None:
    """Two steps that wait for each other both end."""
    events = [anyio.Event(), anyio.Event()]

    async def left(value: int) -> int:
        events[0].set()
        await events[1].wait()
        return value

    async def right(value: int) -> int:
        events[1].set()
        await events[0].wait()
        return value

    with anyio.fail_after(20):
        assert await RunnableParallel[int](a=left, b=right).abatch([1]) == [{"a": 1, "b": 1}]


async def test_parallel_cancels_the_other_steps_at_the_first_error() -> None:
    """It is raised as itself, after the others have ended."""
    ended: list[str] = []

    async def waits(_value: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("waits")

    async def fails(_value: int) -> None:
        raise ValueError("mine")

    with anyio.fail_after(20):
        with pytest.raises(ValueError, match="mine"):
            await RunnableParallel[int](a=waits, b=fails).ainvoke(1)
    assert ended == ["waits"]


async def test_parallel_raises_the_error_of_an_inline_step() -> None:
    """In every method."""
    await raises_everyway(RunnableParallel(a=RunnablePassthrough(), b=fail), 1, ValueError)


async def test_parallel_passes_keyword_arguments_to_every_step() -> None:
    """LCEL drops them silently."""
    assert await everyway(RunnableParallel(a=add_one, b=add_two), 1, extra=5) == {"a": 7, "b": 8}


async def test_parallel_nests() -> None:
    """A dict in a dict is a parallel in a parallel."""
    runnable = RunnableLambda(add_one) | {"a": add_one, "b": {"c": add_two, "d": {"e": add_one}}}
    assert await everyway(runnable, 1) == {"a": 3, "b": {"c": 4, "d": {"e": 3}}}
