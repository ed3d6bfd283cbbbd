"""Helper tasks that are used again.

One AnyIO task costs as much as several whole items, so a fork does not start tasks: it hands its
branches to helpers that wait in the run's task group for the next one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
from anyio import CancelScope
from anyio.abc import TaskGroup

from batchrt.errors import StrayCancelledError
from batchrt.runtime.event_loop import Host, OwnTask, Signal

__all__ = ["PersistentTask", "Task", "TaskPool", "Unbegun", "error_of", "unswallowed"]


T = TypeVar("T")


class Task(Protocol):
    """A job for a task pool."""

    async def run(self) -> None:
        """Do it; raise nothing but a cancellation that comes from outside."""

    def abandon(self, error: BaseException) -> None:
        """Be told that it will not be done: `error` cancelled the task pool first."""


class _Helper:
    __slots__ = ("task", "wake")

    def __init__(self) -> None:
        self.wake = Signal()
        self.task: Task | None = None


class TaskPool:
    """Do tasks in AnyIO tasks of `group`, as many at once as are dispatched.

    Attributes:
        scope: the group's.
    """

    __slots__ = ("_dismissed", "_group", "_idle", "scope")

    def __init__(self, group: TaskGroup) -> None:
        self.scope: CancelScope = group.cancel_scope
        self._group = group
        self._idle: list[_Helper] = []
        self._dismissed = False

    def dispatch(self, task: Task) -> None:
        """Start `task` soon, in an idle helper or a new one."""
        if self._idle:
            helper = self._idle.pop()
            helper.task = task
            helper.wake.set()
        else:
            self._group.start_soon(Unbegun, self._help, task, name="batchrt task_pool")

    def dismiss(self) -> None:
        """Send the helpers home, so that the task group can end."""
        self._dismissed = True  # for a helper whose task was called off before it began
        while self._idle:
            self._idle.pop().wake.set()

    async def _help(self, first: Task) -> None:
        own = Host()
        task: Task | None = first
        while task is not None:
            await self._do(task, own)
            if self._dismissed:
                return
            helper = _Helper()
            self._idle.append(helper)
            try:
                await helper.wake.wait()
            except BaseException as error:
                if own.is_cancelled():
                    # The task group is cancelled, and with it every idle helper: none may be given a task.
                    self._idle.clear()
                    if helper.task is not None:
                        helper.task.abandon(error)
                    raise
                # Somebody cancelled every task there is, say. The others of the group go on.
                await own.put_right()
                if helper in self._idle:
                    self._idle.remove(helper)
            task = helper.task

    async def _do(self, task: Task, own: Host) -> None:
        try:
            await task.run()
        except anyio.get_cancelled_exc_class():
            if not await own.goes_on():
                raise
        if own.is_disturbed():
            await own.put_right()


class PersistentTask:
    """A function to run in the task pool, again if user code cancels it."""

    __slots__ = ("_abandoned", "_function")

    def __init__(self, function: Callable[[], Awaitable[None]], abandoned: Callable[[], None]) -> None:
        self._function = function
        self._abandoned = abandoned

    async def run(self) -> None:
        """Run the function, as often as it takes."""
        own = OwnTask()
        while True:
            try:
                await self._function()
            except anyio.get_cancelled_exc_class():
                if own.is_cancelled():
                    raise
                await own.put_right()  # and run again: other strands wait for its work
            else:
                return

    def abandon(self, error: BaseException) -> None:  # noqa: ARG002  the interface of tasks
        """Call the function for a task that is not run."""
        self._abandoned()


class Unbegun(Coroutine[Any, Any, T]):
    """A coroutine that is made when it is first awaited.

    asyncio's teardown cancels tasks before their first step. The coroutine that such a task was given
    would complain that it was never awaited.
    """

    __slots__ = ("_coroutine", "_start")

    def __init__(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> None:
        self._start: Callable[[], Coroutine[Any, Any, T]] | None = partial(function, *args)
        self._coroutine: Coroutine[Any, Any, T] | None = None

    def _begun(self) -> Coroutine[Any, Any, T]:
        if self._start is not None:
            self._coroutine, self._start = self._start(), None
        assert self._coroutine is not None
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        return self._begun().__await__()

    def send(self, value: Any) -> Any:
        """Do the next step."""
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        """Do the next step, with an exception."""
        return self._begun().throw(*error)

    def close(self) -> None:
        """End it, if it was begun."""
        if self._coroutine is not None:
            self._coroutine.close()


def error_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error to raise for those that ended a task group of the runtime's own.

    Errors of user code are caught inside of the tasks, so that a group holds those from outside: an
    interrupt first of all, which Trio raises in whatever task the main one is.
    """
    cancelled = anyio.get_cancelled_exc_class()
    errors = [error for error in group.exceptions if not isinstance(error, cancelled)]
    interrupts = [error for error in errors if not isinstance(error, Exception)]
    return (interrupts or errors or group.exceptions)[0]


def unswallowed(cancelled: BaseException | None) -> BaseException:
    """Return the exception to raise where a task group swallowed the cancellation of its host.

    A group does so if its own scope was cancelled, as by a helper that somebody cancelled before its first
    step. AnyIO (4.16) does it too to one from outside, such as `asyncio.timeout`'s: on exit, the scopes
    of child tasks add their requests to those of the group's scope, which then takes back more than it made.
    """
    by_scope = any(isinstance(arg, str) and "cancel scope" in arg for arg in getattr(cancelled, "args", ()))
    return StrayCancelledError.of(cancelled) if cancelled is None or by_scope else cancelled
