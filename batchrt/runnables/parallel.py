"""RunnableParallel: several steps on the same input, at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrt.runnables.base import In, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description, inline, part, together
from batchrt.runnables.keywords import keywords_of
from batchrt.runtime.fork import fork
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = ["RunnableMap", "RunnableParallel"]


class RunnableParallel(Runnable[In, dict[str, Any]]):
    """Run named steps on the same input concurrently; the output is a dict under the same names.

    The first step that fails cancels the others. Steps that never wait run one after another. Keyword
    arguments of a call go to every step that takes them.
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
            return _inline_parallel(inline)

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
        direct = alone and steps[waiting[0][0]].direct
        return Step.of(call, steps.values(), direct=direct, forks=not alone)


def _inline_parallel(calls: list[tuple[str, StepCall]]) -> Step:
    def call(value: Any, strand: Strand) -> Any:
        return {key: step(value, strand) for key, step in calls}

    return Step(call, inline=True)


def _branch(output: dict[str, Any], key: str, step: StepCall, value: Any) -> Any:
    async def run(strand: Strand) -> None:
        output[key] = await step(value, strand)

    return run


RunnableMap = RunnableParallel
"""LCEL's other name for `RunnableParallel`."""
