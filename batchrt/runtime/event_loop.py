"""Event loops: handles for other threads, tasks that belong to no caller, cheap signals.

AnyIO has no public name for these, or none that is cheap enough to use several times an item. Everything
that depends on which library runs the loop is here. Only connections (`providers/http/asyncio_connection.py`)
import asyncio too, as they are protocols of its loops.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  see above
import contextlib
import math
import sys
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import cache
from typing import Any, Self, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.lowlevel
from anyio.lowlevel import EventLoopToken

__all__ = [
    "Alarm",
    "Host",
    "LoopHandle",
    "OwnTask",
    "Signal",
    "cancellation_is_real",
    "running_loop",
    "runs_asyncio",
]

T = TypeVar("T")


class LoopHandle:
    """Reach one event loop, from its own thread or any other; on it, `time()` is the loop's own clock."""

    __slots__ = ("_native", "_thread", "time", "token")

    def __init__(self, token: EventLoopToken) -> None:
        self.token: EventLoopToken = token
        self._native: Any = token.native_token
        self._thread = threading.get_ident()
        plain = anyio.current_time if getattr(self._native, "run_sync_soon", None) is None else _trio_time()
        self.time: Callable[[], float] = getattr(self._native, "time", plain)

    @classmethod
    def current(cls) -> LoopHandle:
        """Return a handle on the running loop."""
        return cls(anyio.lowlevel.current_token())

    @classmethod
    def running(cls) -> LoopHandle | None:
        """Return a handle on the loop that runs in this thread, also in a callback of the loop's."""
        if running_loop() is None:
            return None
        sniffio: Any = sys.modules.get("sniffio")
        if sniffio is None:
            return cls.current()
        # The context may come from another loop, and in a callback, which is no task, it names no library.
        context = copy_context()
        name = "trio" if _asyncio_loop() is None else "asyncio"
        context.run(sniffio.current_async_library_cvar.set, name)
        return context.run(cls.current)

    def here(self) -> bool:
        """Whether the calling thread is the loop's own."""
        return threading.get_ident() == self._thread

    def is_open(self) -> bool:
        """Whether the loop has not ended yet; asyncio's may be closed with tasks in it."""
        native = self._native
        if isinstance(native, asyncio.AbstractEventLoop):
            return not native.is_closed()
        run_sync_soon = getattr(native, "run_sync_soon", None)
        try:
            if run_sync_soon is not None:
                run_sync_soon(_nothing)
        except sys.modules["trio"].RunFinishedError:
            return False
        return True

    def same(self, other: LoopHandle) -> bool:
        """Whether both are handles on one loop."""
        return self._native is other._native

    def call(self, function: Callable[[], object]) -> bool:
        """Call `function` on the loop: at once from its own thread, soon from another.

        Returns `False`, and does nothing else, once the loop has ended.
        """
        if threading.get_ident() == self._thread:
            function()
            return True
        return self.soon(function)

    def soon(self, function: Callable[[], object]) -> bool:
        """Call `function` on the loop soon, also from its own thread; `False` once the loop has ended.

        A finalizer that the garbage collector calls must not run it at once: it interrupts any code.
        """
        native = self._native
        if isinstance(native, asyncio.AbstractEventLoop):
            try:
                native.call_soon_threadsafe(function)
            except RuntimeError:  # the loop is closed
                return False
        else:
            try:
                native.run_sync_soon(function)
            except sys.modules["trio"].RunFinishedError:
                return False
        return True

    def start(
        self,
        function: Callable[[], Coroutine[Any, Any, None]],
        context: Context,
        name: str,
        done: Callable[[], object],
    ) -> object:
        """Start `function` as a task that belongs to the loop and to no caller's scope; on its thread.

        The caller holds the returned object (asyncio keeps only weak references to tasks) and sees
        to it that the task ends. `function` must not raise. `done` is called when the task has ended,
        also if it never began: asyncio's teardown cancels tasks before their first step.
        """
        native = self._native
        sniffio: Any = sys.modules.get("sniffio")
        if sniffio is not None:
            # The context may come from a thread whose loop is another library's.
            context.run(sniffio.current_async_library_cvar.set, None)
        if isinstance(native, asyncio.AbstractEventLoop):
            task = native.create_task(function(), context=context, name=name)
            task.add_done_callback(lambda _task: done())
            return task

        async def main() -> None:
            try:
                await function()
            finally:
                done()

        trio: Any = sys.modules["trio"]
        return trio.lowlevel.spawn_system_task(main, context=context, name=name)


def _trio_time() -> Callable[[], float]:
    return cast("Callable[[], float]", sys.modules["trio"].current_time)  # AnyIO's would look for the loop


def _nothing() -> None:
    """Do nothing."""


class Alarm:
    """Call `function` on the current event loop when a moment has come; there is one moment at a time.

    It belongs to no task, so that thousands of tasks may wait for one alarm without a timer each. Only
    to be used on its loop's own thread, and to be cleared in the end. `function` must not raise.
    """

    __slots__ = ("_function", "_handle", "_loop", "_scope", "when")

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._loop = _asyncio_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._scope: anyio.CancelScope | None = None
        self.when: float = math.inf

    def set(self, when: float) -> None:
        """Go off at `when`, on the loop's own clock, instead of at another time."""
        if when == self.when:
            return
        self.when = when
        if self._loop is None:
            self._set_on_trio(when)
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None if when == math.inf else self._loop.call_at(when, self._go_off)

    def clear(self) -> None:
        """Do not go off."""
        self.when = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None

    def _go_off(self) -> None:
        self.when, self._handle = math.inf, None
        self._function()

    def _set_on_trio(self, when: float) -> None:
        if self._scope is not None:
            self._scope.deadline = when
            return
        self._scope = anyio.CancelScope(deadline=when)
        sys.modules["trio"].lowlevel.spawn_system_task(
            self._tick, self._scope, name="batchrt alarm", context=Context()
        )

    async def _tick(self, scope: anyio.CancelScope) -> None:
        with scope:
            await anyio.sleep_forever()
        if self._scope is scope:  # neither cleared, nor begun anew
            self._scope = None
            self._go_off()


class Signal:
    """Wait for one event, once, in one task; made on the loop of the waiter, set from any thread.

    A third of the price of an AnyIO event, which matters: a fork and a busy slot each need one.
    """

    __slots__ = ("_event", "_future", "_loop")

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._event: anyio.Event | None = None
        self._loop: LoopHandle | int = threading.get_ident()
        loop = _asyncio_loop()
        if loop is not None:
            self._future = loop.create_future()
        else:
            self._event = anyio.Event()
            self._loop = LoopHandle.current()

    async def wait(self) -> None:
        """Return when it has been set."""
        if self._future is not None:
            await self._future
        elif self._event is not None:
            await self._event.wait()

    def set(self) -> bool:
        """Let the waiter go on; `False` if its loop has ended, and it never will."""
        future = self._future
        if future is None:
            assert self._event is not None
            assert isinstance(self._loop, LoopHandle)
            return self._loop.call(self._event.set)
        try:
            if threading.get_ident() != self._loop:
                future.get_loop().call_soon_threadsafe(self._set_here)
            elif not future.done():
                future.set_result(None)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _set_here(self) -> None:
        assert self._future is not None
        if not self._future.done():
            self._future.set_result(None)


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running loop if it is asyncio's; fast."""
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None and sniffio.thread_local.name == "trio":
        return None  # also where Trio is a guest of asyncio
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def runs_asyncio() -> bool:
    """Whether asyncio, or uvloop, runs the current loop."""
    return _asyncio_loop() is not None


def running_loop() -> object | None:
    """Return the loop that runs in this thread, if one does.

    AnyIO is not asked: its answer comes from a context variable, and a copied context (`asyncio.to_thread`
    under `anyio.run`) carries the variable into threads that run no loop.
    """
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None and sniffio.thread_local.name == "trio":
        return cast("object", sys.modules["trio"].lowlevel.current_trio_token())
    return _asyncio_loop()


def cancellation_is_real() -> bool:
    """Whether somebody cancelled the current task, or user code merely raised the exception for it.

    On asyncio anybody can raise `CancelledError`, and awaiting somebody else's cancelled task does; on Trio
    it takes more malice. Of a task of the runtime's own, see `OwnTask.is_cancelled`.
    """
    if _asyncio_loop() is not None:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            return True
    return anyio.current_effective_deadline() == -math.inf


class OwnTask:
    """The current task, which is the runtime's own, and which user code runs in.

    Only the cancel scopes around it end such a task. User code can do so too (on asyncio, by `cancel` of the
    current task, or of every task there is): that ends its current step, and neither the work it
    does next nor the group that it belongs to.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = (
            None if _asyncio_loop() is None else cast("asyncio.Task[Any]", asyncio.current_task())
        )

    def is_cancelled(self) -> bool:
        """Whether a cancel scope around the task is."""
        return anyio.current_effective_deadline() == -math.inf

    def is_disturbed(self) -> bool:
        """Whether user code has asked for its cancellation, and not taken that back."""
        return self._task is not None and self._task.cancelling() > 0

    async def goes_on(self) -> bool:
        """Take back a cancellation that user code asked for; `False` if a cancel scope around the task asked.

        Also if one does within a round of the loop: the end of a loop cancels every task there is, and with
        that of a group's host the scope of the group.
        """
        await self.put_right()
        return not self.is_cancelled()

    async def put_right(self) -> bool:
        """Take back cancellations by user code; return whether it left a cancel scope open (see `Host`)."""
        task = self._task
        if task is None or self.is_cancelled():
            return False  # the count may be the scope's
        while task.uncancel():
            pass
        # A cancellation that is requested and not delivered yet comes at the next wait, whatever the count
        # says.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return False


class Host(OwnTask):
    """A task of the runtime's own that does one thing after another, and is found by each as by the first.

    A function that leaves a cancel scope or a task group open (an async generator that it did not close, say)
    leaves the task under it: the next item would be cancelled with it, and the task could not end. Neither
    AnyIO nor Trio has a public name for the innermost scope of a task.
    `waited` says whether the thing that it does has waited, so that other tasks have run meanwhile.
    """

    __slots__ = ("_base", "_state", "waited")

    waited: bool

    def __new__(cls) -> Self:
        """Return one for the library that runs the loop."""
        kind: Any = _TrioHost if _asyncio_loop() is None else _AsyncioHost
        return cast("Self", object.__new__(kind))

    async def error_left(self) -> RuntimeError | None:
        """Put the task right; return the error of a function that left something open."""
        if not await self.put_right():
            return None
        return RuntimeError(
            "the function left a cancel scope or a task group open; what opens one, such as an async "
            "generator, must be closed in the function that uses it"
        )


class _AsyncioHost(Host):
    __slots__ = ()

    def __init__(self) -> None:
        self._task: Any = asyncio.current_task()
        # Of another AnyIO, this would be another name: then no scope is looked for.
        self._state: Any = _anyio_task_states().get(self._task) or _NoScopes
        self._base: Any = self._state.cancel_scope

    def is_disturbed(self) -> bool:
        return self._state.cancel_scope is not self._base or self._task.cancelling() > 0

    async def put_right(self) -> bool:
        left_open = False
        while (scope := self._state.cancel_scope) is not self._base:
            left_open = True
            await self._close(scope)
        await super().put_right()
        return left_open

    async def _close(self, scope: Any) -> None:
        scope.cancel()
        try:
            scope.__exit__(None, None, None)
        except RuntimeError:  # it was entered elsewhere, or is not whole
            self._state.cancel_scope = self._base
            return
        # The tasks of a group. They are cancelled at every step until they end.
        with contextlib.suppress(asyncio.CancelledError):
            while scope._tasks:  # noqa: ASYNC110  there is no event for it
                await asyncio.sleep(0)


class _NoScopes:
    """Stand for a task's scopes where they are not known."""

    cancel_scope = None


class _TrioHost(Host):
    __slots__ = ()

    def __init__(self) -> None:
        self._task = None
        self._state: Any = sys.modules["trio"].lowlevel.current_task()
        self._base: Any = self._state._cancel_status

    def is_disturbed(self) -> bool:
        return self._state._cancel_status is not self._base or bool(self._state._child_nurseries)

    async def put_right(self) -> bool:
        left_open = False
        while nurseries := self._state.child_nurseries:
            left_open = True
            nurseries[-1].cancel_scope.cancel()
            await nurseries[-1]._nested_child_finished(None)
        while (status := self._state._cancel_status) is not self._base:
            left_open = True
            status._scope.cancel()
            status._scope.__exit__(None, None, None)
        return left_open


@cache
def _anyio_task_states() -> Any:
    """Return AnyIO's state of asyncio's tasks: their innermost scopes."""
    from anyio._backends import _asyncio

    return getattr(_asyncio, "_task_states", {})
