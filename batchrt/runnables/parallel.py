"""RunnableParallel: several steps on the same input, at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from batchrt.runnables.base import In, Runnable, RunnableLike, coerce
from batchrt.runnables.chunk_sums import AddableDict
from batchrt.runnables.chunk_tee import ChunkTee
from batchrt.runnables.description import Description, inline, part, together
from batchrt.runnables.keywords import keywords_of
from batchrt.runnables.streams import produced, transformed
from batchrt.runtime.chunk_stream import Open
from batchrt.runtime.fork import fork
from batchrt.runtime.side_stream import Closing, Put, SideStream, pour
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = ["RunnableMap", "RunnableParallel"]


class RunnableParallel(Runnable[In, dict[str, Any]]):
    """Run named steps on the same input concurrently; the output is a dict under the same names.

    The first step that fails cancels the others. Steps that never wait run one after another. Keyword
    arguments of a call go to every step that takes them.

    Streamed, it yields `{key: chunk}` for each chunk of each step, as they come; the chunks add up to the
    output. A step that yields no chunk has `None`, as it has without streaming.
    """

    def __init__(
        self,
        steps__: Mapping[str, RunnableLike[Any, Any]] | None = None,
        **named: RunnableLike[Any, Any],
    ) -> None:
        self.steps__: dict[str, Runnable[Any, Any]] = {
            key: coerce(step) for key, step in {**(steps__ or {}), **named}.items()
        }

    def __repr__(self) -> str:
        inner = ", ".join(f"{key}: {step!r}" for key, step in self.steps__.items())
        return f"{{{inner}}}"

    def _takes(self, keyword: str) -> bool:
        return any(step._takes(keyword) for step in self.steps__.values())

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        given = kwargs or {}
        steps = [step.describe(keywords_of(step, given)) for step in self.steps__.values()]
        whole = together(steps, [part("keys", list(self.steps__))])
        fixed = all(step.is_fixed for step in steps)
        return inline(whole.parts, self._build(given), is_fixed=fixed)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        steps = {key: step._step(keywords_of(step, kwargs)) for key, step in self.steps__.items()}
        inline = [(key, step.call) for key, step in steps.items() if step.inline]
        waiting = [(key, step.call) for key, step in steps.items() if not step.inline]
        template = dict.fromkeys(steps)
        if not waiting:
            return _inline_parallel(steps)

        async def call(value: Any, strand: Strand) -> Any:
            # The template keeps the keys in the order given, in whatever order the steps finish.
            output: dict[str, Any] = template.copy()
            for key, step in inline:
                output[key] = step(value, strand)
            if len(waiting) == 1:
                key, step = waiting[0]
                output[key] = await step(value, strand)
            else:
                await fork(strand, [_branch(output, key, step, value) for key, step in waiting])
            return output

        alone = len(waiting) == 1
        return Step.of(
            call,
            steps.values(),
            direct=alone and steps[waiting[0][0]].direct,
            forks=not alone,
            produce=partial(_produced, steps),
            transform=partial(_transformed, steps) if _begins_early(steps) else None,
        )


def _inline_parallel(steps: Mapping[str, Step]) -> Step:
    calls = [(key, step.call) for key, step in steps.items()]

    def call(value: Any, strand: Strand) -> Any:
        return {key: step(value, strand) for key, step in calls}

    transform = partial(_transformed, steps) if _begins_early(steps) else None
    return Step(call, inline=True, produce=partial(_produced, steps), transform=transform)


def _begins_early(steps: Mapping[str, Step]) -> bool:
    return any(step.transform is not None for step in steps.values())


async def _produced(steps: Mapping[str, Step], value: Any, strand: Strand) -> AsyncIterator[Any]:
    """Yield `{key: chunk}` for the chunks of all steps as they come; `{key: None}` for a step without any."""
    waiting = []
    if not steps:
        yield AddableDict()
    for key, step in steps.items():
        if step.inline:
            yield AddableDict({key: step.call(value, strand)})
        else:
            waiting.append((key, partial(produced, step, value)))
    if len(waiting) == 1:
        chunks = _keyed(*waiting[0], strand)
    elif waiting:
        chunks = SideStream([partial(_streaming_branch, key, opened) for key, opened in waiting])
    else:
        return
    del value  # a waiting stream does not keep its input
    async with Closing(chunks):
        async for chunk in chunks:
            yield chunk


async def _transformed(
    steps: Mapping[str, Step], chunks: AsyncIterator[Any], strand: Strand
) -> AsyncIterator[Any]:
    """Do `_produced` for chunks of the input, which each branch gets at its own pace."""
    if len(steps) == 1:
        ((key, step),) = steps.items()
        merged = _keyed(key, partial(transformed, step, chunks), strand)
    else:
        tee = ChunkTee(chunks, len(steps))
        branches = [
            partial(_streaming_branch, key, partial(transformed, step, outlet))
            for (key, step), outlet in zip(steps.items(), tee.outlets, strict=True)
        ]
        merged = SideStream([tee.pump, *branches])
    async with Closing(merged):
        async for chunk in merged:
            yield chunk


async def _keyed(key: str, opened: Open, strand: Strand) -> AsyncIterator[Any]:
    some = False
    chunks = opened(strand)
    async with Closing(chunks):
        async for chunk in chunks:
            some = True
            yield AddableDict({key: chunk})
        if not some:
            yield AddableDict({key: None})


async def _streaming_branch(key: str, opened: Open, strand: Strand, put: Put) -> None:
    await pour(_keyed(key, opened, strand), put)


def _branch(output: dict[str, Any], key: str, step: StepCall, value: Any) -> Any:
    async def run(strand: Strand) -> None:
        output[key] = await step(value, strand)

    return run


RunnableMap = RunnableParallel
"""LCEL's other name for `RunnableParallel`."""
