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


async def test_it_gives_the_very_input() -> None:
    """Not a copy."""
    value = {"a": 1}
    assert await RunnablePassthrough[Any]().ainvoke(value) is value
    assert await everyway(RunnablePassthrough(), 1, ignored=1) == 1


async def test_a_function_is_called_on_the_input_first() -> None:
    """Sync or async, with the config if it takes one; what it gives is dropped, what it raises is not."""
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


async def test_the_async_form_serves_the_async_methods() -> None:
    """As in LCEL; alone it serves all."""
    seen: list[str] = []

    async def afunc(_value: int) -> None:
        seen.append("async")

    def func(_value: int) -> None:
        seen.append("sync")

    assert await RunnablePassthrough(func, afunc).ainvoke(1) == 1
    assert await RunnablePassthrough(afunc=afunc).ainvoke(1) == 1
    assert seen == ["async", "async"]


async def test_assign_adds_fields_computed_from_the_input() -> None:
    """All from the input as it was, at the same time; a field may be replaced, a dict is a parallel."""
    runnable = RunnablePassthrough.assign(
        a=lambda fields: fields["a"] + 1, b=itemgetter("a"), c={"d": itemgetter("a")}
    )
    assert await everyway(runnable, {"a": 1, "z": 0}) == {"a": 2, "z": 0, "b": 1, "c": {"d": 1}}
    inline = RunnablePassthrough.assign(a=itemgetter("b"))
    assert await everyway(inline, {"a": 1, "b": 2}) == {"a": 2, "b": 2}
    assert await everyway(RunnablePassthrough.assign(), {"a": 1}) == {"a": 1}


async def test_assign_takes_any_name_for_a_field() -> None:
    """Also those that other methods use for arguments."""
    names = ["fields", "kwargs", "mapper", "name", "config", "input"]
    runnable = RunnablePassthrough.assign(**dict.fromkeys(names, lambda _fields: 1))
    assert await everyway(runnable, {}) == dict.fromkeys(names, 1)


async def test_assign_leaves_the_input_as_it_was() -> None:
    """The output is a new dict; any mapping will do as input."""
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
async def test_assign_and_pick_want_a_dict(value: Any) -> None:
    """And say what they got, whether they wait or not."""
    waiting = RunnablePassthrough.assign(b=RunnableLambda(lambda _fields: 1))
    for runnable in (RunnablePassthrough.assign(b=itemgetter("a")), RunnablePick("a"), RunnablePick(["a"])):
        await raises_everyway(runnable, value, TypeError)
    await raises_everyway(waiting, value, TypeError, f"take a dict, not {type(value).__name__}")


async def test_pick_takes_one_field_or_several() -> None:
    """One that is not there is `None`, and is left out of several."""
    value = {"a": 1, "b": 2, "c": 3}
    assert await everyway(RunnablePick("a"), value) == 1
    assert await everyway(RunnablePick(keys="z"), value) is None
    assert await everyway(RunnablePick(["c", "a", "z"]), value) == {"c": 3, "a": 1}
    assert await everyway(RunnablePick(["y", "z"]), value) == {}
