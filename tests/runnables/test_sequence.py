from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt import MissingFieldError, PromptTemplate, Runnable, RunnableLambda, RunnableSequence
from batchrt.runtime.step import Step
from tests.runnables.helpers import add_one, add_two, everyway, fail, raises_everyway

pytestmark = pytest.mark.anyio


async def test_sequence_passes_each_output_to_the_next_step() -> None:
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
async def test_sequence_keeps_the_order_of_inline_and_waiting_steps(kinds: tuple[Any, ...]) -> None:
    """In any arrangement, and several in a row."""
    chain: RunnableSequence[tuple[int, ...], tuple[int, ...]]
    chain = RunnableSequence(*(kind(place) for place, kind in enumerate(kinds)))
    assert await everyway(chain, ()) == (0, 1, 2, 3)


async def test_sequence_flattens_nested_sequences() -> None:
    """Parentheses do not matter."""
    steps = [RunnableLambda(add_one) for _ in range(4)]
    left = ((steps[0] | steps[1]) | steps[2]) | steps[3]
    right = steps[0] | (steps[1] | (steps[2] | steps[3]))
    assert list(left.steps) == list(right.steps) == steps
    assert (left.first, left.middle, left.last) == (steps[0], steps[1:3], steps[3])


async def test_sequence_with_a_name_stays_one_step() -> None:
    """The outputs are the same."""
    inner: RunnableSequence[int, int] = RunnableSequence(add_one, add_one, name="inner")
    outer = inner | add_one
    assert outer.steps[0].get_name() == "inner"
    assert await everyway(outer, 1) == 4


async def test_sequence_passes_keyword_arguments_to_the_first_step() -> None:
    """As in LCEL, no other step receives them."""
    assert await everyway(RunnableLambda(add_one) | add_two, 1, extra=5) == 9
    assert await everyway((RunnableLambda(add_one) | add_two).bind(extra=5), 1) == 9


async def test_sequence_does_not_flatten_a_subclass() -> None:
    """A subclass may change how it runs."""

    class Doubled(RunnableSequence[int, int]):
        async def ainvoke(self, input: int, config: object = None, **kwargs: object) -> int:  # noqa: A002
            return 2 * await super().ainvoke(input, None)

    assert await (Doubled(add_one, add_one) | add_one).abatch([1]) == [7]


async def test_sequence_does_not_run_steps_after_an_error() -> None:
    """The error is raised as itself."""
    calls: list[int] = []
    await raises_everyway(RunnableLambda(fail) | calls.append, 1, ValueError, r"fail\(1\)")
    assert calls == []


async def test_sequence_of_one_is_its_step_and_an_empty_one_an_error() -> None:
    """LCEL requires two steps."""
    assert await everyway(RunnableSequence(add_one), 1) == 2
    with pytest.raises(ValueError, match="at least one step"):
        RunnableSequence()


async def test_sequence_has_no_barrier_between_steps() -> None:
    """One item is at its last step while another has not left its first."""
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


class Words(Runnable[str, int]):
    """Count words in lists of up to 3; keep the lists."""

    max_batch_size = 3

    def __init__(self) -> None:
        self.lists: list[list[str]] = []

    async def abatch_native(self, inputs: list[str]) -> list[int]:
        self.lists.append(inputs)
        await anyio.lowlevel.checkpoint()
        return [len(text.split()) for text in inputs]


@pytest.mark.parametrize("way", ["abatch", "arun", "arun_iter"])
async def test_sequence_of_inline_steps_and_a_list_step_packs_its_inputs(way: str) -> None:
    """As the list step alone would: full lists, in order, and an input's own error takes no place in one."""
    words = Words()

    def text_of(row: dict[str, str]) -> str:
        return row["text"]

    prompt = PromptTemplate.from_template("a {text}")
    chain = RunnableLambda(text_of, inline=True) | RunnableLambda(as_fields, inline=True) | prompt
    rows = [{"text": "b " * number} if number != 2 else {} for number in range(8)]
    whole: Runnable[Any, Any] = chain | RunnableLambda(lambda value: value.text, inline=True) | words
    if way == "abatch":
        outputs: list[Any] = await whole.abatch(rows, return_exceptions=True)
        errors = {place: each for place, each in enumerate(outputs) if isinstance(each, Exception)}
        outputs = [None if isinstance(each, Exception) else each for each in outputs]
    else:
        outcomes = (
            list(await whole.arun(rows))
            if way == "arun"
            else [outcome async for outcome in whole.arun_iter(rows, {"max_concurrency": 1})]
        )
        outputs = [outcome.output for outcome in outcomes]
        errors = {outcome.index: outcome.error for outcome in outcomes if outcome.error is not None}
    assert outputs == [1, 2, None, 4, 5, 6, 7, 8]
    assert {place: type(error) for place, error in errors.items()} == {2: KeyError}
    assert [len(each) for each in words.lists] == ([2, 3, 2] if way == "arun_iter" else [3, 3, 1])


async def test_sequence_of_inline_steps_and_a_list_step_names_the_input() -> None:
    """An error of a prompt before the list has the place of its own input."""
    prompt = PromptTemplate.from_template("a {text}")
    chain: Runnable[Any, Any] = prompt | RunnableLambda(lambda value: value.text, inline=True) | Words()
    outputs = await chain.abatch([{"text": "b"}, {"text": "c"}, {}], return_exceptions=True)
    assert isinstance(outputs[2], MissingFieldError)
    assert "item 2" in str(outputs[2])


def as_fields(text: str) -> dict[str, str]:
    return {"text": text}
