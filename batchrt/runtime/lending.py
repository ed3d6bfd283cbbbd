"""Slots lent to nested work: by the leaf that waits for it, on its own loop or from another one."""

from __future__ import annotations

import concurrent.futures
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from types import TracebackType

from anyio import CancelScope

from batchrt.runtime.event_loop import LoopHandle
from batchrt.runtime.strand import Strand, current_strand

__all__ = ["lending"]


def lending(*, newcomers: bool = False) -> AbstractAsyncContextManager[None]:
    """Lend the slot of the leaf that the caller is in, if it is in one, to the work it waits for."""
    parent = current_strand()
    if parent is None:
        return nullcontext()
    loop = parent.run.loop
    if loop is not None and not loop.here():
        return _LendingFromAfar(parent, newcomers=newcomers)
    return parent.lending(newcomers=newcomers)


class _LendingFromAfar(AbstractAsyncContextManager[None]):
    """Lend from a loop of its own, which a sync function started in its thread, and end with its run."""

    def __init__(self, parent: Strand, *, newcomers: bool) -> None:
        self._parent = parent
        self._lending = parent.lending(newcomers=newcomers)
        self._scope = CancelScope()
        self._watching: AbstractContextManager[None] = nullcontext()

    async def __aenter__(self) -> None:
        loop, scope = LoopHandle.current(), self._scope
        scope.__enter__()
        self._watching = self._parent.watching(lambda: loop.call(scope.cancel))
        self._watching.__enter__()
        await self._lending.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._lending.__aexit__(kind, error, trace)
        except BaseException as other:  # noqa: BLE001  the scope's, or raised below
            error = other
        self._watching.__exit__(None, None, None)
        if self._scope.__exit__(type(error) if error is not None else None, error, trace):
            raise concurrent.futures.CancelledError("the run was cancelled")
        if error is not None:
            raise error
