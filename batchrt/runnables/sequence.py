"""RunnableSequence: steps one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

from batchrt.runnables.base import In, Out, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description, sequence_of
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = ["RunnableSequence"]

T = TypeVar("T")


class RunnableSequence(Runnable[In, Out]):
    """Pass each step's output to the next; the result of `a | b | c`. Nested sequences are flattened.

    Every item passes through at its own pace. Keyword arguments of a call go to the first step.
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
        """The first step, which takes the input."""
        return self.steps[0]

    @property
    def middle(self) -> list[Runnable[Any, Any]]:
        """The steps between the first and the last."""
        return list(self.steps[1:-1])

    @property
    def last(self) -> Runnable[Any, Out]:
        """The last step, which returns the output."""
        return self.steps[-1]

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.steps))

    def _takes(self, keyword: str) -> bool:
        return self.first._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self.first._keyword_hint(keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        first, *rest = self.steps
        return sequence_of([first.describe(kwargs), *(step.describe() for step in rest)])

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        first, *rest = self.steps
        steps = [first._step(kwargs), *(step._step() for step in rest)]
        if len(steps) == 1:
            return steps[0]
        if all(step.inline for step in steps):
            return _inline_sequence(steps)

        direct = all(step.inline or step.direct for step in steps)
        sequence = Step.of(_waiting_sequence(steps), steps, direct=direct)
        *before, last = steps
        if last.bulk is None or not all(step.inline for step in before):
            return sequence
        # Nothing waits before the list, so that its inputs can be packed as they are pulled.
        return sequence._replace(bulk=partial(last.bulk, before=_inline_sequence(before).call))


def _inline_sequence(steps: list[Step]) -> Step:
    calls = [step.call for step in steps]

    def call(value: Any, strand: Strand) -> Any:
        for step in calls:
            value = step(value, strand)
        return value

    return Step(call, inline=True)


def _waiting_sequence(steps: list[Step]) -> StepCall:
    """Return the call of a sequence with at least one step that may wait.

    Inline steps are fused with the waiting step behind them: then the sequence's frame does not keep their
    output alive while that step waits.
    """
    calls: list[StepCall] = []
    inline: list[Step] = []
    for step in steps:
        if step.inline:
            inline.append(step)
        else:
            calls.append(_after(inline, step.call))
            inline = []
    first, *others = calls
    last = _joined(inline)

    async def call(value: Any, strand: Strand) -> Any:
        value = await first(value, strand)
        for wait in others:
            value = await wait(value, strand)
        return value if last is None else last(value, strand)

    return call


def _after(inline: list[Step], call: StepCall) -> StepCall:
    prepare = _joined(inline)
    return call if prepare is None else lambda value, strand: call(prepare(value, strand), strand)


def _joined(inline: list[Step]) -> StepCall | None:
    if len(inline) > 1:
        return _inline_sequence(inline).call
    return inline[0].call if inline else None
