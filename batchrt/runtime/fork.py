"""Branches of one item that run at the same time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
from anyio import CancelScope

from batchrt.errors import StrayCancelledError
from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import Signal
from batchrt.runtime.strand import Strand, strand_context
from batchrt.runtime.task_pool import TaskPool, error_of, unswallowed

__all__ = ["Branch", "fork"]

Branch: TypeAlias = "Callable[[Strand], Coroutine[Any, Any, None]]"
"""The work of one branch; called with the strand it runs on."""


async def fork(
    strand: Strand,
    branches: Sequence[Branch],
    share: Callable[[Callable[[Branch], None]], None] | None = None,
) -> None:
    """Run `branches` at the same time, each on a strand of its own, and return when all have ended.

    Branches run in the calling task, on its slot, until one waits; the rest then goes to the run's task pool,
    or, for a run without one, to tasks made for this fork. The first error cancels the other branches and is
    raised as itself once they have ended. `share` is handed a function with which a branch may add others.
    """
    task_pool = strand.run.task_pool
    if len(branches) < 2 or task_pool is not None:  # noqa: PLR2004
        await _Fork(strand, branches, task_pool, share).run()
        return
    failure: BaseException | None = None
    cut: BaseException | None = None
    ended = False
    try:
        async with anyio.create_task_group() as group:
            task_pool = TaskPool(group)
            try:
                await _Fork(strand, branches, task_pool, share).run()
            except anyio.get_cancelled_exc_class() as error:
                cut = error
                raise
            except BaseException as error:  # noqa: BLE001  raised below: the group would wrap it
                failure = error
            ended = True
            task_pool.dismiss()
    except BaseExceptionGroup as errors:
        failure = error_of(errors)
    if failure is not None:
        raise failure
    if not ended:
        raise unswallowed(cut)


class _Fork:
    """Keep track of the branches of one fork."""

    __slots__ = (
        "_base",
        "_branches",
        "_cut_off",
        "_done",
        "_error",
        "_left",
        "_scopes",
        "_task_pool",
        "_unbegun",
        "strand",
    )

    def __init__(
        self,
        strand: Strand,
        branches: Sequence[Branch],
        task_pool: TaskPool | None,
        share: Callable[[Callable[[Branch], None]], None] | None,
    ) -> None:
        self.strand = strand
        self._branches = deque(branches)
        self._task_pool = task_pool
        self._base: Context = copy_context()
        self._done: Signal | None = None
        self._left = 0
        self._unbegun: set[_BranchTask] = set()
        self._scopes: list[CancelScope] = []
        self._error: BaseException | None = None
        self._cut_off: BaseException | None = None
        if share is not None:
            share(self.add)

    async def run(self) -> None:
        """Run the branches here, one after the other, until one waits: the rest then goes to the task pool.

        A branch that never waits could not overlap with anything, and costs no task.
        """
        try:
            while self._branches and self._error is None:
                await self._own_branch(self._branches.popleft())
            if self._left:
                await self._wait()
        finally:
            self.strand.go()
        if self._error is None and self._cut_off is not None:
            # The cancellation of the branch is about to reach this task: half an output must not be returned.
            await anyio.lowlevel.checkpoint()
            self._error = StrayCancelledError.of(self._cut_off)
        if self._error is not None:
            raise self._error

    def _spread(self) -> None:
        """Give the branches that have not begun to the task pool."""
        while self._branches and self._task_pool is not None:
            self._dispatch(self._task_pool, self._branches.popleft())
        self.settle()

    def _dispatch(self, task_pool: TaskPool, branch: Branch) -> None:
        task = _BranchTask(self, branch)
        self._left += 1
        self._unbegun.add(task)
        task_pool.dispatch(task)

    def add(self, branch: Branch) -> None:
        """Run one more branch; to be called by a branch."""
        if self._error is None and self._task_pool is not None:
            self._dispatch(self._task_pool, branch)

    def settle(self) -> None:
        """Have the strand wait for its branches once all of them are on their own way."""
        if not self._branches and not self._unbegun:
            self.strand.halt()

    def begin(self, task: _BranchTask) -> bool:
        """Record that a branch begins in another task; `False` if the fork has failed before."""
        if task not in self._unbegun:
            return False
        self._unbegun.remove(task)
        return True

    def scope(self) -> CancelScope:
        """Return the scope for a branch to run in."""
        scope = CancelScope()
        self._scopes.append(scope)
        return scope

    async def _own_branch(self, branch: Branch) -> None:
        scope = self.scope()
        own, strand = self.strand, self.strand.branch(scope)
        own.has_slot, strand.has_slot = False, own.has_slot
        try:
            context = strand_context(strand, self._base)
            with scope:
                await drive(context, branch(strand), self._spread)
        except BaseException as error:  # noqa: BLE001  raised when all branches have ended
            self.fail(error)
        finally:
            if not self._left:
                own.has_slot, strand.has_slot = strand.has_slot, False
            self.close(strand)

    def close(self, strand: Strand) -> None:
        """End a branch's strand; where it has been, the item has been."""
        self.strand.visit(*strand.passed())
        strand.close()

    async def drive(self, branch: Branch, strand: Strand) -> None:
        """Run `branch` on `strand`, in a context of its own."""
        await drive(strand_context(strand, self._base), branch(strand))

    async def _wait(self) -> None:
        self._done = Signal()
        if self._error is None:
            try:
                await self._done.wait()
            except BaseException as error:  # noqa: BLE001  raised when all branches have ended
                self._error = None
                self.fail(error)
        if self._left:
            self._done = Signal()
            with CancelScope(shield=True):
                await self._done.wait()

    def fail(self, error: BaseException) -> None:
        """Cancel all branches; the fork raises `error`, if it is the first."""
        if self._error is None:
            self._error = error
            # Branches that have not begun may never do: asyncio's teardown cancels tasks before their first
            # step.
            self._left -= len(self._unbegun)
            self._unbegun.clear()
            for scope in self._scopes:
                scope.cancel()

    def cut_off(self, error: BaseException) -> None:
        """Record that a branch was cancelled from outside, or before it began, and has no output."""
        self._cut_off = error

    def end(self) -> None:
        """Record that a branch in another task has ended."""
        self._left -= 1
        if self._left == 0 and self._done is not None:
            self._done.set()


class _BranchTask:
    """A branch that a task of the task pool runs."""

    __slots__ = ("_branch", "_fork")

    def __init__(self, fork: _Fork, branch: Branch) -> None:
        self._fork = fork
        self._branch = branch

    async def run(self) -> None:
        if not self._fork.begin(self):
            return
        scope = self._fork.scope()
        strand = self._fork.strand.branch(scope)
        self._fork.settle()
        try:
            with scope:
                await self._fork.drive(self._branch, strand)
        except anyio.get_cancelled_exc_class() as error:
            if anyio.current_effective_deadline() == -math.inf:  # and not only by the branch itself
                self._fork.cut_off(error)
                raise
            self._fork.fail(StrayCancelledError.of(error))
        except BaseException as error:  # noqa: BLE001  raised by the forking strand
            self._fork.fail(error)
        finally:
            self._fork.close(strand)
            self._fork.end()

    def abandon(self, error: BaseException) -> None:
        if self._fork.begin(self):
            self._fork.cut_off(error)
            self._fork.end()
