"""Lists of inputs that are pulled as lists are asked for, also from sources that are slow."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from batchrt import Runnable, RunnableLambda
from batchrt.runtime.outcome_iterator import _window
from tests import virtual


class Lists(Runnable[str, str]):
    """Take texts in lists, whose lengths may add up to `max_batch_cost`; keep the lists and their times."""

    def __init__(self, *, size: int | None = None, cost: float | None = None) -> None:
        self.max_batch_size: int | None = size
        self.max_batch_cost: float | None = cost
        self.lists: list[str] = []
        self.seconds: list[float] = []

    def cost(self, text: str) -> float:
        return len(text)

    async def abatch_native(self, inputs: list[str]) -> list[str]:
        self.lists.append("+".join(inputs))
        self.seconds.append(anyio.current_time())
        return inputs


class SlowTexts(AsyncIterator[str]):
    """Give texts; a number stands for so many seconds until the next one is there."""

    def __init__(self, *texts: str | float) -> None:
        self._texts = deque(texts)
        self._due = 0.0

    async def __anext__(self) -> str:
        self._due = self._due or anyio.current_time()
        while self._texts and isinstance(self._texts[0], float):
            self._due += float(self._texts.popleft())
        await anyio.sleep_until(self._due)
        if not self._texts:
            raise StopAsyncIteration
        return str(self._texts.popleft())


def on_mock_clock(function: Callable[[], Awaitable[Any]]) -> Any:
    return virtual.run(function, longest=math.inf)


def run(step: Lists, inputs: Any, chain: Runnable[Any, str] | None = None) -> list[str | None]:
    """Run `inputs` through `step`, or through `chain`, one list at a time."""

    async def main() -> list[str | None]:
        outcomes = (chain or step).arun_iter(inputs(), {"max_concurrency": 1})
        return [outcome.output async for outcome in outcomes]

    found: list[str | None] = on_mock_clock(main)
    return found


def test_bulk_lists_are_as_long_as_the_limits_allow() -> None:
    """By number and by cost."""
    by_number, by_cost = Lists(size=2), Lists(cost=4)
    assert run(by_number, lambda: iter("abcde")) == [*"abcde"]
    assert by_number.lists == ["a+b", "c+d", "e"]
    run(by_cost, lambda: iter(["aaa", "b", "cc", "dddd", "e"]))
    assert by_cost.lists == ["aaa+b", "cc", "dddd", "e"]


def test_bulk_limit_that_falls_holds_for_the_next_list() -> None:
    """A server may tell its limits meanwhile."""
    step = Lists(size=4)

    def texts() -> Iterator[str]:
        for text in "abcdefghijk":
            if text == "g":
                step.max_batch_size = 2
            yield text

    run(step, texts)
    assert step.lists == ["a+b+c+d", "e+f+g+h", "i+j", "k"]


@pytest.mark.parametrize("in_a_chain", [False, True])
def test_bulk_inputs_of_a_slow_source_wait_a_second_for_others(in_a_chain: bool) -> None:
    """A list that is full goes at once; one that is not when a second has passed."""
    step = Lists(size=3)
    chain = RunnableLambda(str.strip, inline=True) | step if in_a_chain else None
    began: list[float] = []

    def texts() -> SlowTexts:
        began.append(anyio.current_time())
        return SlowTexts("a", "b", "c", "d", 0.5, "e", 3.0, "f", "g", 9.0)

    assert run(step, texts, chain) == [*"abcdefg"]
    assert step.lists == ["a+b+c", "d+e", "f+g"]
    assert [second - began[0] for second in step.seconds] == [0.0, 1.0, 4.5]


def test_bulk_lists_of_a_slow_source_are_packed_by_cost_too() -> None:
    """And the last one is not forgotten."""
    step = Lists(size=4, cost=4)
    run(step, lambda: SlowTexts("aaa", "b", "cc", "dddd", "e"))
    assert step.lists == ["aaa+b", "cc", "dddd", "e"]


def test_bulk_stop_ends_the_wait_for_a_slow_source() -> None:
    """At once; inputs that were gathered for the next list are reported as not started."""

    async def main() -> tuple[float, list[str]]:
        outcomes = Lists(size=3).arun_iter(SlowTexts("a", 1000.0, "b"), {"max_concurrency": 1})
        began = anyio.current_time()
        statuses: list[str] = []
        async with anyio.create_task_group() as group:

            async def stop() -> None:
                await anyio.sleep(0.25)
                outcomes.stop()

            group.start_soon(stop)
            statuses += [outcome.status async for outcome in outcomes]
        return anyio.current_time() - began, statuses

    assert on_mock_clock(main) == (0.25, ["not started"])


@pytest.mark.parametrize(
    ("cap", "size", "lists"),
    [(4, 2048, 8), (4, 32, 84), (4, 4, 84), ("auto", 2048, 16), ("auto", 32, 1024), ("auto", 10**6, 10)],
)
def test_bulk_window_is_counted_in_inputs(cap: Any, size: int, lists: int) -> None:
    """So that memory is bounded, also without a cap on lists in flight."""
    assert _window(Lists(size=size)._job([], {"max_concurrency": cap}, {})) == lists
