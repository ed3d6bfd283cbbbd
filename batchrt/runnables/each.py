"""A step over every element of a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final

from batchrt.runnables.base import In, Out, Runnable, RunnableLike, coerce
from batchrt.runtime.driving import drive
from batchrt.runtime.fork import fork
from batchrt.runtime.run import Step, StepCall, Strand

__all__ = ["RunnableEach"]

UNCAPPED_WIDTH: Final = 1000
"""Elements under way at once when `max_concurrency` is `None`; the run's default window."""


class RunnableEach(Runnable[Sequence[In], list[Out]]):
    """Take a list and give the list of the outputs of `bound`, in order; what `map` makes.

    Elements run at the same time, under the run's slots. The first that fails cancels the others.
    """

    def __init__(self, bound: RunnableLike[In, Out]) -> None:
        self.bound: Runnable[In, Out] = coerce(bound)

    def __repr__(self) -> str:
        return f"{self.bound!r}.map()"

    def _takes(self, keyword: str) -> bool:
        return self.bound._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self.bound._keyword_hint(keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step = self.bound._step(kwargs)
        if step.inline:
            return Step(lambda values, strand: [step.call(v, strand) for v in values], inline=True)

        async def call(given: Iterable[Any], strand: Strand) -> list[Any]:
            # A copy: the list may be changed meanwhile.
            values = list(given)
            outputs: list[Any] = [None] * len(values)
            width = min(len(values), max(strand.slots.limit or UNCAPPED_WIDTH, step.lists))
            source = enumerate(values)
            await fork(strand, [_loop(step.call, source, outputs)] * width)
            return outputs

        return Step.of(call, [step], forks=True)


def _loop(step: StepCall, source: Iterator[tuple[int, Any]], outputs: list[Any]) -> Any:
    async def run(strand: Strand) -> None:
        base = copy_context()
        for index, value in source:
            # A context of its own: what an element sets is not seen by the next.
            strand.start_over()
            outputs[index] = await drive(base.copy(), step(value, strand))

    return run
