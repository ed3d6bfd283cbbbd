from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from batchrt import Runnable, RunnableLambda, RunnablePassthrough
from batchrt.runnables.each import RunnableEach

from .helpers import add_one, add_two, everyway, fail, raises_everyway

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("function", "more"), [(add_one, 1), (add_two, 2)])
async def test_it_runs_over_a_list(function: Any, more: int) -> None:
    """In order, for lists of any length."""
    assert await everyway(RunnableLambda(function).map(), [1, 2, 3]) == [1 + more, 2 + more, 3 + more]
    assert await everyway(RunnableEach(bound=RunnableLambda(function)), []) == []


async def test_maps_nest() -> None:
    """A map of a map takes a list of lists."""
    assert await everyway(RunnableLambda(add_two).map().map(), [[1], [2, 3], []]) == [[3], [4, 5], []]


async def test_any_iterable_will_do() -> None:
    """A tuple, a set, a generator; whether the elements wait or not."""
    inline: Runnable[Any, Any] = RunnablePassthrough[int]().map()
    waiting: Runnable[Any, Any] = RunnableLambda(add_two).map()
    for runnable in (waiting, inline | waiting):
        assert await runnable.ainvoke((1, 2)) == [3, 4]
        assert await runnable.ainvoke({1}) == [3]
        assert await runnable.ainvoke(value for value in (1, 2)) == [3, 4]


async def test_a_list_that_changes_meanwhile_does_no_harm() -> None:
    """What was in it when the map began counts."""
    values = [1, 2]

    async def grow(value: int) -> int:
        values.append(value)
        return value

    assert await RunnableLambda(grow).map().ainvoke(values) == [1, 2]


async def test_elements_run_at_the_same_time_and_stay_in_order() -> None:
    """The last to start is the first to end here."""
    events = [anyio.Event() for _ in range(4)]

    async def after_the_next(index: int) -> int:
        if index < 3:
            await events[index + 1].wait()
        events[index].set()
        return index

    with anyio.fail_after(20):
        assert await RunnableLambda(after_the_next).map().ainvoke([0, 1, 2, 3]) == [0, 1, 2, 3]


async def test_an_element_s_error_is_the_list_s() -> None:
    """As itself; another item's list is not concerned."""
    failing: RunnableEach[Any, Any] = RunnableLambda(lambda value: fail(value) if value == 2 else value).map()
    await raises_everyway(failing, [1, 2, 3], ValueError, r"fail\(2\)")
    outputs: list[Any] = await failing.abatch([[1], [2], [3]], return_exceptions=True)
    assert outputs[0::2] == [[1], [3]]
    assert isinstance(outputs[1], ValueError)


async def test_elements_do_not_see_each_other_s_context() -> None:
    """What one sets in a context variable the next one on the same worker does not see."""
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def look(value: int) -> int:
        seen = variable.get()
        variable.set(value)
        return seen

    assert await RunnableLambda(look).map().ainvoke([1, 2, 3], {"max_concurrency": 1}) == [0, 0, 0]


async def test_keyword_arguments_go_to_every_element() -> None:
    """Given with the call or bound."""
    assert await everyway(RunnableLambda(add_one).map(), [1, 2], extra=5) == [7, 8]
    assert await everyway(RunnableLambda(add_one).map().bind(extra=5), [1, 2]) == [7, 8]
