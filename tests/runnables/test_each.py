from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough
from batchrt.runnables.each import RunnableEach
from tests.runnables.helpers import add_one, add_two, everyway, fail, raises_everyway, virtual_time

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("function", "more"), [(add_one, 1), (add_two, 2)])
async def test_each_runs_over_a_list(function: Any, more: int) -> None:
    """Outputs are in order, for lists of any length."""
    assert await everyway(RunnableLambda(function).map(), [1, 2, 3]) == [1 + more, 2 + more, 3 + more]
    assert await everyway(RunnableEach(bound=RunnableLambda(function)), []) == []


async def test_each_nests() -> None:
    """A map of a map takes a list of lists."""
    assert await everyway(RunnableLambda(add_two).map().map(), [[1], [2, 3], []]) == [[3], [4, 5], []]


async def test_each_accepts_any_iterable() -> None:
    """A tuple, a set or a generator works, whether the elements wait or not."""
    inline: Runnable[Any, Any] = RunnablePassthrough[int]().map()
    waiting: Runnable[Any, Any] = RunnableLambda(add_two).map()
    for runnable in (waiting, inline | waiting):
        assert await runnable.ainvoke((1, 2)) == [3, 4]
        assert await runnable.ainvoke({1}) == [3]
        assert await runnable.ainvoke(value for value in (1, 2)) == [3, 4]


async def test_each_copies_a_list_that_changes_meanwhile() -> None:
    """The elements are those that the list had at the start."""
    values = [1, 2]

    async def grow(value: int) -> int:
        values.append(value)
        return value

    assert await RunnableLambda(grow).map().ainvoke(values) == [1, 2]


async def test_each_runs_elements_concurrently_and_keeps_their_order() -> None:
    """The last element to start is the first to end here."""
    events = [anyio.Event() for _ in range(4)]

    async def after_the_next(index: int) -> int:
        if index < 3:
            await events[index + 1].wait()
        events[index].set()
        return index

    with anyio.fail_after(20):
        assert await RunnableLambda(after_the_next).map().ainvoke([0, 1, 2, 3]) == [0, 1, 2, 3]


async def test_each_raises_the_error_of_an_element() -> None:
    """The error is raised as itself; other items' lists are not affected."""
    failing: RunnableEach[Any, Any] = RunnableLambda(lambda value: fail(value) if value == 2 else value).map()
    await raises_everyway(failing, [1, 2, 3], ValueError, r"fail\(2\)")
    outputs: list[Any] = await failing.abatch([[1], [2], [3]], return_exceptions=True)
    assert outputs[0::2] == [[1], [3]]
    assert isinstance(outputs[1], ValueError)


async def test_each_gives_every_element_a_context_of_its_own() -> None:
    """A context variable set by one element is not seen by the next one on the same worker."""
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def look(value: int) -> int:
        seen = variable.get()
        variable.set(value)
        return seen

    assert await RunnableLambda(look).map().ainvoke([1, 2, 3], {"max_concurrency": 1}) == [0, 0, 0]


async def test_each_passes_keyword_arguments_to_every_element() -> None:
    """They may be given with the call or bound."""
    assert await everyway(RunnableLambda(add_one).map(), [1, 2], extra=5) == [7, 8]
    assert await everyway(RunnableLambda(add_one).map().bind(extra=5), [1, 2]) == [7, 8]


def _plain(step: Any) -> Any:
    return step.map(), list(range(20))


def _nested(step: Any) -> Any:
    return step.map().map(), [[value] for value in range(20)]


def _forked(step: Any) -> Any:
    return RunnableParallel(a=step, b=RunnableLambda(add_two)).map(), list(range(20))


@virtual_time
@pytest.mark.parametrize("make", [_plain, _nested, _forked])
@pytest.mark.parametrize("how", ["alone", "of a batch"])
@pytest.mark.parametrize("cap", [1, 2, 3])
async def test_each_goes_on_while_elements_wait_for_another_attempt(make: Any, how: str, cap: int) -> None:
    """A retry's sleep delays no other element, and the cap holds."""
    tries: dict[int, int] = {}
    done: dict[int, float] = {}
    active = peak = 0

    async def flaky(value: int) -> int:
        nonlocal active, peak
        active += 1
        peak = max(peak, active)
        tries[value] = tries.get(value, 0) + 1
        await anyio.sleep(0.01)
        active -= 1
        if value < 3 and tries[value] == 1:
            raise ValueError
        done[value] = anyio.current_time() - started
        return value

    step = RunnableLambda(flaky).with_retry(exponential_jitter_params={"initial": 100, "jitter": 0})
    chain, values = make(step)
    started = anyio.current_time()
    if how == "alone":
        outputs = await chain.ainvoke(values, {"max_concurrency": cap})
    else:
        (outputs,) = await chain.abatch([values], {"max_concurrency": cap})
    assert len(outputs) == 20
    assert peak == cap
    assert max(seconds for value, seconds in done.items() if value >= 3) < 1
    assert anyio.current_time() - started < 110


@virtual_time
async def test_each_begins_no_more_elements_while_nested_work_has_their_slots() -> None:
    """Elements under way are finished first."""
    begun = most = 0

    async def inner(value: int) -> int:
        await anyio.sleep(1)
        return value

    async def outer(value: int) -> list[int]:
        nonlocal begun, most
        begun += 1
        most = max(most, begun)
        outputs = await RunnableLambda(inner).abatch([value] * 3)
        begun -= 1
        return outputs

    outputs = await RunnableLambda(outer).map().ainvoke(list(range(12)), {"max_concurrency": 2})
    assert outputs == [[value] * 3 for value in range(12)]
    assert most <= 4  # as many as of a batch's items


async def test_each_ends_if_it_fails_while_an_element_waits_to_begin() -> None:
    """The element that waits for a slot is cancelled."""

    async def first_fails(value: int) -> int:
        await anyio.lowlevel.checkpoint()
        if value == 0:
            raise ValueError
        return value

    for how in ("ainvoke", "abatch"):
        chain: Any = RunnableLambda(first_fails).map()
        with pytest.raises(ValueError):
            await getattr(chain, how)(
                [list(range(9))] if how == "abatch" else range(9), {"max_concurrency": 2}
            )
