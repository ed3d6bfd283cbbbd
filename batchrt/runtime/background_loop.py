"""The event loop of sync callers, in a thread of its own."""

from __future__ import annotations

import atexit
import concurrent.futures
import os
import sys
import threading
from collections.abc import (
    Iterator,
)
from contextlib import contextmanager
from contextvars import Context
from typing import Final

import anyio
import anyio.lowlevel

from batchrt.runtime.event_loop import LoopHandle

__all__ = ["background"]

STOP_SECONDS: Final = 5.0
"""Seconds that the interpreter's exit waits for a loop to end; cancelling its tasks takes far less."""


class _BackgroundLoop:
    """An event loop in a thread of its own, which `open` starts."""

    def __init__(self) -> None:
        self._started: concurrent.futures.Future[LoopHandle] = concurrent.futures.Future()
        self._stop: anyio.Event | None = None
        self._thread: threading.Thread | None = None
        self.blocked = 0
        self.ended = False
        self.at_exit = False

    def open(self) -> bool:
        """Start it, or wait for the thread that does, and return when it runs.

        `False` if that thread is this one, further down its stack: a finalizer or a signal handler runs
        there, and would wait for ever for the frame that it interrupts.
        """
        me = (object(), threading.get_ident())
        # In one step: of all that ask at once, one starts it.
        opener = self.__dict__.setdefault("opener", me)
        if opener is me:
            self._start()
        elif opener[1] == me[1] and not self._started.done():
            return False
        self._started.result()
        return True

    def _start(self) -> None:
        try:
            # In a context of its own: in one that says which loop runs, AnyIO would start none.
            self._thread = threading.Thread(
                target=Context().run, args=(self._run,), name="batchrt loop", daemon=True
            )
            self._thread.start()
        except BaseException as error:
            self.ended = True
            interrupted = RuntimeError("the start of the background event loop was interrupted")
            self._started.set_exception(error if isinstance(error, Exception) else interrupted)
            raise

    def _run(self) -> None:
        try:
            anyio.run(self._main)
        except RuntimeError:
            # A user's call may have made the loop's executor. asyncio closes that from a new thread, of which
            # there are none at exit from Python 3.12 on. The loop is closed all the same.
            if not self.at_exit:
                raise

    @property
    def handle(self) -> LoopHandle:
        """The way to the loop, once it is open."""
        return self._started.result()

    async def _main(self) -> None:
        if self.ended:  # as it was started
            return
        self._stop = anyio.Event()
        self._started.set_result(LoopHandle.current())
        try:
            await self._stop.wait()
        finally:
            # Also when a task of the user's raised SystemExit, which ends an asyncio loop.
            self.ended = True

    def stop(self) -> None:
        """End the loop and the tasks left on it."""
        if self._thread is not None and self._stop is not None:
            self.handle.call(self._stop.set)
            self._thread.join(STOP_SECONDS)


class _Background:
    """Keep the one background loop of the process.

    It is the only mutable state of the package that is not a run's or a client's: sync callers have
    nowhere else to keep connections alive between one call and the next. Made at the first call, ended
    at exit, left behind by a fork.

    Its exit handler is registered on import, and so called after those that users of the package
    register: from Python 3.12 on, no other loop could be started for them. There is no lock; see
    `_BackgroundLoop.open`.
    """

    def __init__(self) -> None:
        self._loop = _BackgroundLoop()
        self._exiting = False
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._stop)

    @contextmanager
    def loop(self) -> Iterator[LoopHandle]:
        """Return the loop, or one of its own for a caller that blocks it or would wait for such a caller.

        Raises:
            RuntimeError: if the interpreter is exiting, and no other thread runs any more.
        """
        if sys.is_finalizing():
            raise RuntimeError("the interpreter is exiting: nothing can be run on an event loop any more")
        loop = self._current()
        opened = loop.open()
        blocks = opened and loop.handle.here()
        if opened and not (blocks or loop.blocked):
            yield loop.handle
            return
        loop.blocked += blocks
        spare = _BackgroundLoop()
        spare.open()
        try:
            yield spare.handle
        finally:
            spare.stop()
            loop.blocked -= blocks

    def end_daemon_thread(self) -> None:
        """Raise `SystemExit` in a daemon thread once the interpreter is exiting; return otherwise.

        Python ends daemon threads at any moment from then on, without a word. So does `SystemExit`, which
        `threading` reports nowhere, and the thread's own cleanups run; a thread that waited on would hang an
        exit handler that joins it. In a thread that Python did not start, C code would see the exception and
        might end the process.
        """
        thread = threading.current_thread()
        started = thread.daemon and not isinstance(thread, threading._DummyThread)
        if self._exiting and started:
            raise SystemExit("the interpreter is exiting, and its daemon threads with it")

    def _current(self) -> _BackgroundLoop:
        loop = self._loop
        while loop.ended:
            # In one step: of all that find it ended, one says which is the next.
            loop = self._loop = loop.__dict__.setdefault("successor", _BackgroundLoop())
        return loop

    def _forget(self) -> None:
        self._loop = _BackgroundLoop()
        self._exiting = False

    def _stop(self) -> None:
        self._exiting = True
        loop = self._loop
        self._loop = _BackgroundLoop()
        loop.at_exit = True
        loop.stop()


background: Final = _Background()
