from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt import Runnable, RunnableLambda, RunnableSequence
from batchrt.runtime.step import Step
from tests.runnables.helpers import add_one, add_two, everyway, fail, raises_everyway

pytestmark = pytest.mark.anyio


async def test_each_step_gets_what_the_one_before_it_gave() -> None:
    """Sync and async functions mixed, in any order."""
    assert await everyway(RunnableSequence(add_one, lambda value: value * 10, add_two), 1) == 22


class Inline(Runnable[tuple[int, ...], tuple[int, ...]]):
    """Add `number` to a tuple without waiting for anything, as prompts and parsers do."""

    def __init__(self, number: int) -> None:
        self.number = number

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        return Step(lambda value, _: (*value, self.number), inline=True)


def waiting(number: int) -> RunnableLambda[tuple[int, ...], tuple[int, ...]]:
    """Add `number` to a tuple, after a while."""

    async def add(value: tuple[int, ...]) -> tuple[int, ...]:
        await anyio.lowlevel.checkpoint()
        return (*value, number)

    return RunnableLambda(add)


@pytest.mark.parametrize("kinds", list(product((Inline, waiting), repeat=4)))
async def test_steps_that_wait_and_steps_that_do_not_run_in_their_order(kinds: tuple[Any, ...]) -> None:
    """Wherever either of them stand, and in a row."""
    chain: RunnableSequence[tuple[int, ...], tuple[int, ...]]
    chain = RunnableSequence(*(kind(place) for place, kind in enumerate(kinds)))
    assert await everyway(chain, ()) == (0, 1, 2, 3)


async def test_nested_sequences_flatten() -> None:
    """However the parentheses stand, it is one sequence."""
    steps = [RunnableLambda(add_one) for _ in range(4)]
    left = ((steps[0] | steps[1]) | steps[2]) | steps[3]
    right = steps[0] | (steps[1] | (steps[2] | steps[3]))
    assert list(left.steps) == list(right.steps) == steps
    assert (left.first, left.middle, left.last) == (steps[0], steps[1:3], steps[3])


async def test_a_named_sequence_keeps_its_name_inside_another() -> None:
    """It stays one step, and gives the same."""
    inner: RunnableSequence[int, int] = RunnableSequence(add_one, add_one, name="inner")
    outer = inner | add_one
    assert outer.steps[0].get_name() == "inner"
    assert await everyway(outer, 1) == 4


async def test_keyword_arguments_go_to_the_first_step() -> None:
    """And to no other, as in LCEL."""
    assert await everyway(RunnableLambda(add_one) | add_two, 1, extra=5) == 9
    assert await everyway((RunnableLambda(add_one) | add_two).bind(extra=5), 1) == 9


async def test_a_step_of_its_own_class_is_not_taken_apart() -> None:
    """A subclass of a sequence that changes how it runs is respected."""

    class Doubled(RunnableSequence[int, int]):
        async def ainvoke(self, input: int, config: object = None, **kwargs: object) -> int:  # noqa: A002
            return 2 * await super().ainvoke(input, None)

    assert await (Doubled(add_one, add_one) | add_one).abatch([1]) == [7]


async def test_the_steps_after_an_error_do_not_run() -> None:
    """The error is raised as itself."""
    calls: list[int] = []
    await raises_everyway(RunnableLambda(fail) | calls.append, 1, ValueError, r"fail\(1\)")
    assert calls == []


async def test_a_sequence_of_one_is_its_step_and_none_is_an_error() -> None:
    """More lenient than LCEL by one."""
    assert await everyway(RunnableSequence(add_one), 1) == 2
    with pytest.raises(ValueError, match="at least one step"):
        RunnableSequence()


async def test_every_item_goes_at_its_own_pace() -> None:
    """No barrier: one item is at its last step while another has not left its first."""
    finished = anyio.Event()

    async def first(value: int) -> int:
        if value == 0:
            await finished.wait()
        return value

    async def last(value: int) -> int:
        if value == 1:
            finished.set()
        return value

    with anyio.fail_after(20):
        assert await (RunnableLambda(first) | last).abatch([0, 1]) == [0, 1]
