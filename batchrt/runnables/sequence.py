"""One step after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from batchrt.runnables.base import In, Out, Runnable, RunnableLike, coerce
from batchrt.runtime.run import Step, Strand

__all__ = ["RunnableSequence"]

T = TypeVar("T")


class RunnableSequence(Runnable[In, Out]):
    """Give each step's output to the next; what `a | b | c` makes. Nested sequences flatten.

    Every item goes through at its own pace. Keyword arguments of a call go to the first step.
    """

    def __init__(self, *steps: RunnableLike[Any, Any], name: str | None = None) -> None:
        flat: list[Runnable[Any, Any]] = []
        for step in map(coerce, steps):
            flat.extend(step.steps if type(step) is RunnableSequence and not step.name else [step])
        if not flat:
            raise ValueError("a sequence needs at least one step")
        self.steps: tuple[Runnable[Any, Any], ...] = tuple(flat)
        self.name: str | None = name

    @property
    def first(self) -> Runnable[In, Any]:
        """The step that takes the input."""
        return self.steps[0]

    @property
    def middle(self) -> list[Runnable[Any, Any]]:
        """The steps between the first and the last."""
        return list(self.steps[1:-1])

    @property
    def last(self) -> Runnable[Any, Out]:
        """The step that gives the output."""
        return self.steps[-1]

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.steps))

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        first, *rest = self.steps
        steps = [first._step(kwargs), *(step._step() for step in rest)]
        if len(steps) == 1:
            return steps[0]
        if all(step.inline for step in steps):
            return _inline_sequence(steps)

        calls = [(step.inline, step.call) for step in steps]

        async def call(value: Any, strand: Strand) -> Any:
            for inline, step in calls:
                value = step(value, strand) if inline else await step(value, strand)
            return value

        return Step.of(call, steps, direct=all(step.inline or step.direct for step in steps))


def _inline_sequence(steps: list[Step]) -> Step:
    calls = [step.call for step in steps]

    def call(value: Any, strand: Strand) -> Any:
        for step in calls:
            value = step(value, strand)
        return value

    return Step(call, inline=True)
