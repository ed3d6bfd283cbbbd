"""Helper tasks that are used again.

One AnyIO task costs as much as several whole items, so a fork does not start tasks: it hands its
branches to helpers that wait in the run's task group for the next one.
"""

from __future__ import annotations

from typing import Protocol

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from batchrt.runtime.event_loop import Host, Signal, Unbegun

__all__ = ["Task", "TaskPool"]


class Task(Protocol):
    """What a task_pool does."""

    async def run(self) -> None:
        """Do it; raise nothing but a cancellation that comes from outside."""

    def abandon(self, error: BaseException) -> None:
        """Be told that it will not be done: `error` cancelled the task_pool first."""


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
