"""The end of an event loop: close what belongs to the loop before it is gone.

A socket of asyncio's warns when it is collected after its loop. Neither library has a public hook for the
end of a loop, but both close the asynchronous generators that are left (`loop.shutdown_asyncgens`, PEP 525).
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator
from typing import Final, Protocol

from anyio.lowlevel import RunVar

__all__ = ["Closable", "close_at_loop_end"]


class Closable(Protocol):
    """An object that an event loop has, such as a pool of connections."""

    def close(self) -> None:
        """Close it; must not raise."""


class _LoopEnd:
    """Hold the objects of one loop, weakly, and the generator that is closed at its end."""

    def __init__(self) -> None:
        self.objects: weakref.WeakSet[Closable] = weakref.WeakSet()
        self.generator: AsyncGenerator[None, None] = _until_end(self.objects)


_loop_end: Final = RunVar[_LoopEnd]("batchrt loop end")


async def close_at_loop_end(thing: Closable) -> None:
    """Close `thing` when the current event loop ends, unless it is collected before."""
    end = _loop_end.get(None)
    if end is None:
        end = _LoopEnd()
        _loop_end.set(end)
        await anext(end.generator)
    end.objects.add(thing)


async def _until_end(objects: weakref.WeakSet[Closable]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        for thing in list(objects):
            thing.close()
