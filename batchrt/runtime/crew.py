"""Helper tasks that are used again.

One AnyIO task costs as much as several whole items, so a fork does not start tasks: it hands its
branches to helpers that wait in the run's task group for the next one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anyio.abc import TaskGroup

from batchrt.runtime.loops import Signal

__all__ = ["Crew"]


class _Helper:
    __slots__ = ("job", "wake")

    def __init__(self) -> None:
        self.wake = Signal()
        self.job: Callable[[], Awaitable[None]] | None = None


class Crew:
    """Run jobs in tasks of `group`, as many at once as are dispatched.

    A job raises nothing but a cancellation that reaches its task from outside.
    """

    __slots__ = ("_group", "_idle")

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._idle: list[_Helper] = []

    def dispatch(self, job: Callable[[], Awaitable[None]]) -> None:
        """Start `job` soon, in an idle helper or a new one."""
        if self._idle:
            helper = self._idle.pop()
            helper.job = job
            helper.wake.set()
        else:
            self._group.start_soon(self._help, job)

    def dismiss(self) -> None:
        """Send the idle helpers home, so that the task group can end."""
        while self._idle:
            self._idle.pop().wake.set()

    async def _help(self, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            await job()
            helper = _Helper()
            self._idle.append(helper)
            await helper.wake.wait()
            if helper.job is None:
                return
            job = helper.job
