"""RunnableBranch: one of several runnables, chosen by conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from batchrt.runnables.base import In, Out, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description, together
from batchrt.runnables.keywords import keywords_of
from batchrt.runnables.streams import produced
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["RunnableBranch"]


class RunnableBranch(Runnable[In, Out]):
    """Run the first runnable whose condition is true for the input, else the default.

    Example: `RunnableBranch((is_question, answer), (is_order, book), refuse)`. Keyword arguments of a call
    go to the runnables that take them, not to the conditions.
    """

    def __init__(
        self, *branches: tuple[RunnableLike[In, Any], RunnableLike[In, Out]] | RunnableLike[In, Out]
    ) -> None:
        if len(branches) < 2:  # noqa: PLR2004
            raise ValueError("a branch needs at least one (condition, runnable) pair and a default")
        *pairs, default = branches
        if isinstance(default, tuple | list):
            raise TypeError("the last argument of a branch is its default: a runnable, not a pair")
        self.branches: list[tuple[Runnable[In, Any], Runnable[In, Out]]] = [_pair(pair) for pair in pairs]
        self.default: Runnable[In, Out] = coerce(default)

    def _takes(self, keyword: str) -> bool:
        return any(then._takes(keyword) for then in (*(then for _, then in self.branches), self.default))

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        given = kwargs or {}
        conditions = [when.describe() for when, _ in self.branches]
        targets = [*(then for _, then in self.branches), self.default]
        return together([*conditions, *(then.describe(keywords_of(then, given)) for then in targets)])

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        pairs = [(when._step(), then._step(keywords_of(then, kwargs))) for when, then in self.branches]
        default = self.default._step(keywords_of(self.default, kwargs))
        steps = [step for pair in pairs for step in pair] + [default]
        produce = partial(_produced, pairs, default)
        if all(step.inline for step in steps):
            return _inline_branch(pairs, default)._replace(produce=produce)

        async def call(value: Any, strand: Strand) -> Any:
            for when, then in pairs:
                if await when.run(value, strand):
                    return await then.run(value, strand)
            return await default.run(value, strand)

        direct = all(step.inline or step.direct for step in steps)
        return Step.of(call, steps, direct=direct, produce=produce)


async def _produced(
    pairs: list[tuple[Step, Step]], default: Step, value: Any, strand: Strand
) -> AsyncIterator[Any]:
    chosen = default
    for when, then in pairs:
        if await when.run(value, strand):
            chosen = then
            break
    chunks = produced(chosen, value, strand)
    del value  # a waiting stream does not keep its input
    async with Closing(chunks):
        async for chunk in chunks:
            yield chunk


def _inline_branch(pairs: list[tuple[Step, Step]], default: Step) -> Step:
    def call(value: Any, strand: Strand) -> Any:
        for when, then in pairs:
            if when.call(value, strand):
                return then.call(value, strand)
        return default.call(value, strand)

    return Step(call, inline=True)


def _pair(pair: Any) -> tuple[Runnable[Any, Any], Runnable[Any, Any]]:
    if not isinstance(pair, tuple | list):
        raise TypeError(f"a branch is a (condition, runnable) pair, not {pair!r}")
    if len(pair) != 2:  # noqa: PLR2004
        raise ValueError(f"a branch is a (condition, runnable) pair, not {len(pair)} things")
    return coerce(pair[0]), coerce(pair[1])
