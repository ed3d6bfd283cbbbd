"""From an iterator that blocks to the event loop, through a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Final, TypeVar

from batchrt.cli.process import INPUT_THREAD
from batchrt.runtime.event_loop import Signal

__all__ = ["Conveyor"]

T = TypeVar("T")

_ROOM: Final = 256


class Conveyor(AsyncIterator[T]):
    """Iterate over `values`, which a thread of its own pulls, at most some 256 ahead.

    The thread is a daemon: it may wait for ever in a read, which nothing interrupts.

    Raises:
        Exception: what `values` raised, after the last value before it.
    """

    def __init__(self, values: Iterator[T]) -> None:
        self._values = values
        self._ready: deque[T] = deque()
        self._change = threading.Condition()
        self._waiting: Signal | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    async def __anext__(self) -> T:
        if self._thread is None:
            self._thread = threading.Thread(target=self._pull, name=INPUT_THREAD, daemon=True)
            self._thread.start()
        while True:
            with self._change:
                if self._ready:
                    self._change.notify()
                    return self._ready.popleft()
                if self._ended:
                    raise self._error or StopAsyncIteration
                signal = self._waiting = Signal()
            await signal.wait()

    def stop(self) -> None:
        """End the iteration, also for whoever waits, and the thread as soon as it can."""
        with self._change:
            self._ready.clear()
            self._ended = True
            self._change.notify()
            self._wake()

    def _pull(self) -> None:
        try:
            for value in self._values:
                with self._change:
                    self._change.wait_for(self._has_room)
                    if self._ended:
                        return
                    self._ready.append(value)
                    self._wake()
        except BaseException as error:  # noqa: BLE001  raised where the values are wanted
            self._error = error
        finally:
            with self._change:
                self._ended = True
                self._wake()

    def _has_room(self) -> bool:
        return self._ended or len(self._ready) < _ROOM

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None
