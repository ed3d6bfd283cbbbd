"""Listeners: functions that are told of each item's start, end and error at one runnable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from batchrt.config import complete_config
from batchrt.runnables.base import In, Out, Runnable
from batchrt.runnables.chunk_sums import ChunkSum
from batchrt.runnables.description import Description
from batchrt.runnables.keywords import function_takes
from batchrt.runnables.streams import produced
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.sync_callbacks import is_async

__all__ = ["ListenedRun", "Listener", "RunnableWithListeners"]


@dataclass(slots=True)
class ListenedRun:
    """One item at a runnable with listeners, as they are passed it.

    Attributes:
        name: the runnable's.
        id: another one for each item.
        inputs: the input.
        start_time: in UTC.
        outputs: the output; `None` until it is there.
        error: the error; `None` if there is none.
        end_time: in UTC; `None` until the item has left the runnable.
    """

    name: str
    id: UUID
    inputs: Any
    start_time: datetime
    outputs: Any = None
    error: Exception | None = None
    end_time: datetime | None = None


Listener: TypeAlias = "Callable[[ListenedRun], object] | Callable[[ListenedRun, Any], object]"
"""Takes the run, and the configuration if it has a parameter named `config`."""


class RunnableWithListeners(Runnable[In, Out]):
    """Run `bound`, and tell listeners of each item. See `Runnable.with_listeners`."""

    def __init__(
        self,
        bound: Runnable[In, Out],
        *,
        on_start: Listener | None = None,
        on_end: Listener | None = None,
        on_error: Listener | None = None,
    ) -> None:
        self.bound: Runnable[In, Out] = bound
        self.on_start: Listener | None = on_start
        self.on_end: Listener | None = on_end
        self.on_error: Listener | None = on_error

    def __repr__(self) -> str:
        return repr(self.bound)

    def get_name(self) -> str:
        """Return the name of `bound`."""
        return self.bound.get_name()

    def _takes(self, keyword: str) -> bool:
        return self.bound._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self.bound._keyword_hint(keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; listeners have no part in them."""
        return self.bound.describe(kwargs)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step, name, tell = self.bound._step(kwargs), self.get_name(), _Telling(self)

        async def call(value: Any, strand: Strand) -> Any:
            run = ListenedRun(name, uuid4(), value, datetime.now(UTC))
            await tell.start(run, strand)
            try:
                run.outputs = await step.run(value, strand)
            except Exception as error:
                run.error, run.end_time = error, datetime.now(UTC)
                await tell.error(run, strand)
                raise
            run.end_time = datetime.now(UTC)
            await tell.end(run, strand)
            return run.outputs

        return Step.of(call, [step], produce=partial(self._produced, step, tell))

    async def _produced(self, step: Step, tell: _Telling, value: Any, strand: Strand) -> AsyncIterator[Any]:
        run, total = ListenedRun(self.get_name(), uuid4(), value, datetime.now(UTC)), ChunkSum()
        await tell.start(run, strand)
        try:
            chunks = produced(step, value, strand)
            async with Closing(chunks):
                async for chunk in chunks:
                    total.add(chunk)
                    yield chunk
        except Exception as error:
            run.error, run.end_time = error, datetime.now(UTC)
            await tell.error(run, strand)
            raise
        run.outputs, run.end_time = total.value, datetime.now(UTC)
        await tell.end(run, strand)


class _Telling:
    """The listeners of a runnable as async functions."""

    def __init__(self, heard: RunnableWithListeners[Any, Any]) -> None:
        self.start = _telling(heard.on_start)
        self.end = _telling(heard.on_end)
        self.error = _telling(heard.on_error)


def _telling(listener: Listener | None) -> Callable[[ListenedRun, Strand], Awaitable[None]]:
    """Return a function that calls `listener`, on the event loop, and awaits it if it is async."""
    if listener is None:
        return _silent
    takes_config, awaited = function_takes([listener], "config"), is_async(listener)

    async def tell(run: ListenedRun, strand: Strand) -> None:
        told: Any = listener(run, config=complete_config(strand.config)) if takes_config else listener(run)  # type: ignore[call-arg]
        if awaited:
            await told

    return tell


async def _silent(run: ListenedRun, strand: Strand) -> None:
    pass
