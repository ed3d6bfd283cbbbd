"""RunnableWithFallbacks: other runnables to try when one fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from batchrt.runnables.base import In, Out, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description, together
from batchrt.runnables.keywords import keywords_of
from batchrt.runnables.streams import begun, produced
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["RunnableWithFallbacks"]


class RunnableWithFallbacks(Runnable[In, Out]):
    """Try `runnable`, then each of `fallbacks`, item by item. See `Runnable.with_fallbacks`.

    A stream falls back before its first chunk only: what was handed out cannot be taken back.
    """

    def __init__(
        self,
        runnable: RunnableLike[In, Out],
        fallbacks: Sequence[RunnableLike[In, Out]],
        *,
        exceptions_to_handle: tuple[type[BaseException], ...] = (Exception,),
        exception_key: str | None = None,
    ) -> None:
        self.runnable: Runnable[In, Out] = coerce(runnable)
        self.fallbacks: list[Runnable[In, Out]] = [coerce(fallback) for fallback in fallbacks]
        self.exceptions_to_handle: tuple[type[BaseException], ...] = exceptions_to_handle
        self.exception_key: str | None = exception_key

    def __repr__(self) -> str:
        return f"{self.runnable!r}.with_fallbacks({self.fallbacks!r})"

    def _takes(self, keyword: str) -> bool:
        return any(runnable._takes(keyword) for runnable in (self.runnable, *self.fallbacks))

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        every = (self.runnable, *self.fallbacks)
        steps = [runnable.describe(keywords_of(runnable, kwargs or {})) for runnable in every]
        return together(steps, first=steps[0])

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        every = (self.runnable, *self.fallbacks)
        steps = [runnable._step(keywords_of(runnable, kwargs)) for runnable in every]
        handled = self.exceptions_to_handle

        async def call(value: Any, strand: Strand) -> Any:
            self._check(value)
            first: BaseException | None = None
            last: BaseException | None = None
            for step in steps:
                given = value if last is None else self._with_error(value, last)
                try:
                    return await step.run(given, strand)
                except handled as error:
                    if not isinstance(error, Exception):
                        raise  # cancellations and interrupts are never handled
                    first = error if first is None else first
                    last = error
            assert first is not None
            raise first

        direct = all(step.inline or step.direct for step in steps)
        return Step.of(call, steps, direct=direct, produce=partial(self._produced, steps))

    async def _produced(self, steps: list[Step], value: Any, strand: Strand) -> AsyncIterator[Any]:
        """Yield the chunks of the first step that gives one, or ends without."""
        chunks, begin = await self._begin(steps, value, strand)
        del value  # a waiting stream does not keep its input
        async with Closing(chunks):
            for chunk in begin:
                yield chunk
            async for chunk in chunks:
                yield chunk

    async def _begin(
        self, steps: list[Step], value: Any, strand: Strand
    ) -> tuple[AsyncIterator[Any], Sequence[Any]]:
        self._check(value)
        first: BaseException | None = None
        last: BaseException | None = None
        for step in steps:
            chunks = produced(step, value if last is None else self._with_error(value, last), strand)
            try:
                return chunks, await begun(chunks)
            except self.exceptions_to_handle as error:
                if not isinstance(error, Exception):
                    raise  # cancellations and interrupts are never handled
                first = error if first is None else first
                last = error
        assert first is not None
        raise first

    def _check(self, value: Any) -> None:
        if self.exception_key is not None and not isinstance(value, Mapping):
            raise TypeError(
                f"with an exception_key the input must be a dict, not {type(value).__name__}: "
                f"the error goes to its key {self.exception_key!r}"
            )

    def _with_error(self, value: Any, error: BaseException) -> Any:
        # A new dict, so that the caller's input stays unchanged.
        return value if self.exception_key is None else {**value, self.exception_key: error}
