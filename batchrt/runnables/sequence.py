"""RunnableSequence: steps one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from batchrt.runnables.base import In, Out, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description, sequence_of
from batchrt.runnables.streams import flow, produced, total_call
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.step import Step, StepCall, Transform
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
        sequence = Step.of(
            _waiting_sequence(steps),
            steps,
            direct=direct,
            produce=partial(_produced, steps),
            transform=_transform_of(steps),
        )
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

    return Step(call, inline=True, transform=_transform_of(steps))


def _split(steps: Sequence[Step]) -> tuple[Sequence[Step], Sequence[Step]]:
    """Return the steps that a complete input passes through as in `ainvoke`, and those that stream.

    A step that needs its whole input gets nothing from chunks of it. So a step before it streams only if one
    in between can begin with the first chunk, and may wait.
    """
    start = 0
    for index in range(1, len(steps)):
        if steps[index].transform is None:
            if not all(step.inline for step in steps[start + 1 : index]):
                break
            start = index
    return steps[:start], steps[start:]


def _produced(steps: Sequence[Step], value: Any, strand: Strand) -> AsyncIterator[Any]:
    called, rest = _split(steps)
    if not called:
        return flow(partial(produced, steps[0], value), steps[1:], strand)
    return _called_and_produced(called, rest, value, strand)


async def _called_and_produced(
    called: Sequence[Step], rest: Sequence[Step], value: Any, strand: Strand
) -> AsyncIterator[Any]:
    if all(step.inline for step in called):
        for step in called:
            value = step.call(value, strand)
    else:
        value = await _waiting_sequence(called)(value, strand)
    chunks = flow(partial(produced, rest[0], value), rest[1:], strand)
    del value  # a waiting stream does not keep its input
    async with Closing(chunks):
        async for chunk in chunks:
            yield chunk


def _transform_of(steps: Sequence[Step]) -> Transform | None:
    if steps[0].transform is None:
        return None

    def transform(chunks: AsyncIterator[Any], strand: Strand) -> AsyncIterator[Any]:
        # What follows the first step that needs its whole input is a sequence with a complete input.
        whole = next((index for index, step in enumerate(steps) if step.transform is None), len(steps))
        opened = partial(_opened, chunks)
        if whole == len(steps):
            return flow(opened, steps, strand)
        rest = steps[whole:]
        produce = partial(_produced, rest)
        last = Step(total_call(produce), produce=produce)
        return flow(opened, [*steps[:whole], last], strand)

    return transform


def _opened(chunks: AsyncIterator[Any], _strand: Strand) -> AsyncIterator[Any]:
    return chunks


def _waiting_sequence(steps: Sequence[Step]) -> StepCall:
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
    last = _joined(inline)
    first, *others = calls

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
