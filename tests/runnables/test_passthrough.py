from __future__ import annotations

from operator import itemgetter
from types import MappingProxyType
from typing import Any

import pytest

from batchrt import (
    RunConfig,
    RunnableAssign,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
)
from tests.runnables.helpers import everyway, fail, raises_everyway

pytestmark = pytest.mark.anyio


async def test_passthrough_returns_the_input_itself() -> None:
    """Not a copy."""
    value = {"a": 1}
    assert await RunnablePassthrough[Any]().ainvoke(value) is value
    assert await everyway(RunnablePassthrough(), 1, ignored=1) == 1


async def test_passthrough_calls_a_function_on_the_input_first() -> None:
    """It may be sync or async and may take the config; its output is dropped, its error raised."""
    seen: list[Any] = []

    async def watch(value: int) -> str:
        seen.append(value)
        return "dropped"

    def tagged(value: int, config: RunConfig) -> None:
        seen.append((value, config["tags"]))

    assert await RunnablePassthrough(watch).abatch([1, 2]) == [1, 2]
    assert sorted(seen) == [1, 2]
    seen.clear()
    assert await RunnablePassthrough(tagged).ainvoke(3, {"tags": ["t"]}) == 3
    assert seen == [(3, ["t"])]
    await raises_everyway(RunnablePassthrough(fail), 1, ValueError)


async def test_passthrough_uses_the_async_form_in_async_methods() -> None:
    """As in LCEL; an async form alone serves all methods."""
    seen: list[str] = []

    async def afunc(_value: int) -> None:
        seen.append("async")

    def func(_value: int) -> None:
        seen.append("sync")

    assert await RunnablePassthrough(func, afunc).ainvoke(1) == 1
    assert await RunnablePassthrough(afunc=afunc).ainvoke(1) == 1
    assert seen == ["async", "async"]


async def test_assign_adds_fields_computed_from_the_input() -> None:
    """All are computed concurrently from the original input; fields may be replaced, dicts are parallels."""
    runnable = RunnablePassthrough.assign(
        a=lambda fields: fields["a"] + 1, b=itemgetter("a"), c={"d": itemgetter("a")}
    )
    assert await everyway(runnable, {"a": 1, "z": 0}) == {"a": 2, "z": 0, "b": 1, "c": {"d": 1}}
    inline = RunnablePassthrough.assign(a=itemgetter("b"))
    assert await everyway(inline, {"a": 1, "b": 2}) == {"a": 2, "b": 2}
    assert await everyway(RunnablePassthrough.assign(), {"a": 1}) == {"a": 1}


async def test_assign_accepts_any_name_for_a_field() -> None:
    """Names of other methods' arguments are no exception."""
    names = ["fields", "kwargs", "mapper", "name", "config", "input"]
    runnable = RunnablePassthrough.assign(**dict.fromkeys(names, lambda _fields: 1))
    assert await everyway(runnable, {}) == dict.fromkeys(names, 1)


async def test_assign_leaves_the_input_unchanged() -> None:
    """The output is a new dict; the input may be any mapping."""
    value = {"a": 1}
    output = await RunnablePassthrough.assign(b=itemgetter("a")).ainvoke(value)
    assert (value, output) == ({"a": 1}, {"a": 1, "b": 1})
    assert await everyway(RunnablePassthrough.assign(b=itemgetter("a")), MappingProxyType(value)) == output


async def test_assign_can_be_made_of_a_parallel() -> None:
    """LCEL's class, by its keyword."""
    added = RunnableParallel[Any](b=itemgetter("a"))
    assert await everyway(RunnableAssign(mapper=added), {"a": 1}) == {"a": 1, "b": 1}
    assert await everyway(RunnableAssign({"b": itemgetter("a")}), {"a": 1}) == {"a": 1, "b": 1}


@pytest.mark.parametrize("value", [3, None, "text", [("a", 1)]])
async def test_assign_and_pick_require_a_dict(value: Any) -> None:
    """The error names the type received, for inline and waiting steps."""
    waiting = RunnablePassthrough.assign(b=RunnableLambda(lambda _fields: 1))
    for runnable in (RunnablePassthrough.assign(b=itemgetter("a")), RunnablePick("a"), RunnablePick(["a"])):
        await raises_everyway(runnable, value, TypeError)
    await raises_everyway(waiting, value, TypeError, f"take a dict, not {type(value).__name__}")


async def test_pick_takes_one_field_or_several() -> None:
    """A missing field is `None` alone, and left out of several."""
    value = {"a": 1, "b": 2, "c": 3}
    assert await everyway(RunnablePick("a"), value) == 1
    assert await everyway(RunnablePick(keys="z"), value) is None
    assert await everyway(RunnablePick(["c", "a", "z"]), value) == {"c": 3, "a": 1}
    assert await everyway(RunnablePick(["y", "z"]), value) == {}
