"""A threaded iterator: values that may be long in coming, read by a thread, for async code."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Final, Generic, Self, TypeVar

from batchrt.runtime.event_loop import Signal

__all__ = ["INPUT_THREAD", "ThreadedIterator"]

T = TypeVar("T")

INPUT_THREAD: Final = "batchrt input"
"""The name of the thread that reads."""
_ROOM: Final = 256


class ThreadedIterator(AsyncIterator[T], Generic[T]):
    """Iterate over `values`, such as the rows of a pipe, pulled at most 256 ahead by a separate thread.

    The thread is a daemon: it may wait for ever in a read, which nothing interrupts.

    Raises:
        Exception: the error of `values`, after the last value before it.
    """

    def __init__(self, values: Iterator[T]) -> None:
        self._values = values
        self._ready: deque[T] = deque()
        self._change = threading.Condition()
        self._waiting: Signal | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __aiter__(self) -> Self:
        return self

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

    async def aclose(self) -> None:
        """Do `stop`."""
        self.stop()

    def stop(self) -> None:
        """End the iteration, a pending `anext` too, and the thread as soon as it can."""
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
