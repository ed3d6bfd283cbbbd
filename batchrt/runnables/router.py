"""RouterRunnable: one of several runnables, named by the input."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from batchrt.runnables.base import Out, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description, together
from batchrt.runnables.keywords import keywords_of
from batchrt.runnables.streams import produced
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["RouterRunnable"]


class RouterRunnable(Runnable[Mapping[str, Any], Out]):
    """Run the runnable that the input names: `{"key": "german", "input": …}`.

    Args:
        runnables: by key.
        name: for messages.

    Raises:
        ValueError: there are no runnables.
        TypeError: during a run, the input is no dict with `key` and `input`.
        LookupError: during a run, no runnable has the key.
    """

    def __init__(self, runnables: Mapping[str, RunnableLike[Any, Out]], *, name: str | None = None) -> None:
        if not runnables:
            raise ValueError("a router needs at least one runnable")
        self.runnables: dict[str, Runnable[Any, Out]] = {
            key: coerce(runnable) for key, runnable in runnables.items()
        }
        self.name: str | None = name

    def _takes(self, keyword: str) -> bool:
        return any(runnable._takes(keyword) for runnable in self.runnables.values())

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        runnables = self.runnables.values()
        return together(runnable.describe(keywords_of(runnable, kwargs or {})) for runnable in runnables)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        steps = {
            key: runnable._step(keywords_of(runnable, kwargs)) for key, runnable in self.runnables.items()
        }

        async def call(value: Any, strand: Strand) -> Any:
            step, given = self._route(steps, value)
            return await step.run(given, strand)

        def produce(value: Any, strand: Strand) -> AsyncIterator[Any]:
            return produced(*self._route(steps, value), strand)

        every = steps.values()
        direct = all(step.inline or step.direct for step in every)
        return Step.of(call, every, direct=direct, produce=produce)

    def _route(self, steps: Mapping[str, Step], value: Any) -> tuple[Step, Any]:
        if not (isinstance(value, Mapping) and "key" in value and "input" in value):
            raise TypeError(f"{self.get_name()} takes a dict with 'key' and 'input', not {_excerpt(value)}")
        step = steps.get(value["key"])
        if step is None:
            keys = ", ".join(map(repr, steps))
            raise LookupError(f"{self.get_name()} has no runnable {value['key']!r}; it has {keys}")
        return step, value["input"]


def _excerpt(value: Any) -> str:
    if not isinstance(value, Mapping):
        return type(value).__name__
    return f"one with {', '.join(map(repr, value)) or 'no keys'}"
