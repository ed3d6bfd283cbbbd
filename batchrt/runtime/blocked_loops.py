"""Event loops that stand still while a sync call blocks their thread, and waits that this makes endless.

A sync call in async code (`invoke` in a coroutine, a cell of a notebook) runs its work on another loop and
blocks its own until that is done. If the work waits for a request on the blocked loop to end, neither ever
goes on: a deadlock with one edge that no lock knows of. So whatever waits for others asks `all_blocked`,
and fails with an error instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Final, TypeAlias

from batchrt.errors import BlockedEventLoopError
from batchrt.runtime.event_loop import LoopHandle

__all__ = [
    "Blockade",
    "Blockades",
    "LoopBound",
    "all_blocked",
    "blocked_error",
    "current_blockades",
    "is_blocking",
]

_active: Final[set[Blockade]] = set()
"""Those of the process whose loop stands still right now. It is changed and copied in single steps, and so
needs no lock."""


class Blockade:
    """A sync call that blocks an event loop while its work runs on another.

    Args:
        loop: the one that stands still.
        worker: the one that the work runs on.

    Attributes:
        active: whether the call is being waited for: a sync iterator's is so only between its items.
    """

    __slots__ = ("_watchers", "active", "loop", "worker")

    def __init__(self, loop: LoopHandle, worker: LoopHandle) -> None:
        self.loop: LoopHandle = loop
        self.worker: LoopHandle = worker
        self.active: bool = False
        self._watchers: list[Callable[[], object]] = []

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Record that the loop stands still, within the block; call it on the loop's own thread."""
        _active.add(self)
        self.active = True
        try:
            # A task that comes to wait from now on sees that it is active.
            for watcher in list(self._watchers):
                watcher()
            yield
        finally:
            self.active = False
            _active.discard(self)

    def watch(self, watcher: Callable[[], object]) -> None:
        """Have `watcher` called when the loop comes to stand still, on that loop's thread."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[], object]) -> None:
        """Undo `watch`."""
        self._watchers.remove(watcher)

    def enter(self, context: Context) -> None:
        """Have the runs that are made in `context` belong to this call."""
        context.run(_current.set, (*context.get(_current, ()), self))


Blockades: TypeAlias = "tuple[Blockade, ...]"

_current: Final[ContextVar[Blockades]] = ContextVar("batchrt_blockades", default=())


def current_blockades() -> Blockades:
    """Return the sync calls that the caller works for, which block event loops as long as they wait."""
    return _current.get()


def is_blocking(blockades: Blockades) -> bool:
    """Whether a loop stands still for one of these calls."""
    return any(blockade.active for blockade in blockades)


def all_blocked(loops: Iterable[LoopHandle | None], waiting: Iterable[Blockades]) -> bool:
    """Whether nothing on `loops` can go on as long as the waiting tasks do not; `False` for no loops.

    Args:
        loops: where that runs whose end is waited for.
        waiting: the sync calls that each waiting task works for.
    """
    blocked = {each.loop.token for blockades in waiting for each in blockades if each.active}
    if not blocked:
        return False
    others = [blockade for blockade in _active.copy() if blockade.loop.token not in blocked]
    # A loop that waits for work on a blocked one is blocked as well.
    while more := [each for each in others if each.worker.token in blocked]:
        blocked.update(each.loop.token for each in more)
        others = [each for each in others if each.loop.token not in blocked]
    tokens = [None if loop is None else loop.token for loop in loops]
    return bool(tokens) and all(token in blocked for token in tokens)


class LoopBound:
    """Remember on which event loops something was used that stays bound to them, as connections do."""

    __slots__ = ("_loops",)

    def __init__(self) -> None:
        self._loops: dict[object, LoopHandle] = {}

    def use(self, name: str) -> None:
        """Note a use on the running loop.

        Raises:
            BlockedEventLoopError: it was used on one that stands still for the caller.
        """
        blockades = current_blockades()
        if blockades and any(all_blocked([loop], [blockades]) for loop in list(self._loops.values())):
            raise blocked_error(name)
        loop = LoopHandle.current()
        self._loops[loop.token] = loop


def blocked_error(waited_for: str) -> BlockedEventLoopError:
    """Return the error of a call that would wait for its own loop for ever."""
    return BlockedEventLoopError(
        f"a sync call (invoke, batch …) in async code blocks its event loop, and waits for {waited_for}, "
        "which only that loop can give: it would wait for ever; await the async method instead (ainvoke, "
        "abatch …)"
    )


# The threads that waited are not in a forked process.
os.register_at_fork(after_in_child=_active.clear)
