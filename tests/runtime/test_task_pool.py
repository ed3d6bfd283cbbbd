"""Helper tasks that are used again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from batchrt.runtime.task_pool import TaskPool
from tests.runtime.harness import pause, tasks

pytestmark = pytest.mark.anyio


class Job:
    def __init__(self, work: Callable[[], Awaitable[None]] | None = None) -> None:
        self.work = work
        self.ran_in: int | None = None
        self.abandoned: BaseException | None = None

    async def run(self) -> None:
        self.ran_in = anyio.get_current_task().id
        if self.work is not None:
            await self.work()

    def abandon(self, error: BaseException) -> None:
        self.abandoned = error


async def test_task_pool_idle_helper_is_used_again() -> None:
    """An idle helper is used again."""
    async with anyio.create_task_group() as group:
        task_pool = TaskPool(group)
        jobs = [Job() for _ in range(5)]
        for job in jobs:
            task_pool.dispatch(job)
            await pause()
        task_pool.dismiss()
    assert len({job.ran_in for job in jobs}) == 1


async def test_task_pool_jobs_that_wait_run_at_the_same_time() -> None:
    """Jobs that wait run at the same time."""
    async with anyio.create_task_group() as group:
        task_pool, go = TaskPool(group), anyio.Event()
        jobs = [Job(go.wait) for _ in range(4)]
        for job in jobs:
            task_pool.dispatch(job)
        await pause()
        assert len({job.ran_in for job in jobs}) == 4
        go.set()
        await pause()
        task_pool.dismiss()


async def test_task_pool_dismissed_helpers_go_home() -> None:
    """Dismissed helpers go home."""
    before = tasks()
    async with anyio.create_task_group() as group:
        task_pool = TaskPool(group)
        task_pool.dispatch(Job())
        task_pool.dispatch(Job())
        await pause()
        assert tasks() == before + 2
        task_pool.dismiss()
        await pause()
        assert tasks() == before


async def test_task_pool_job_given_to_a_helper_that_is_cancelled_first_is_abandoned_or_run() -> None:
    """Its owner waits for it: it must hear of one or the other."""
    job = Job()
    async with anyio.create_task_group() as group:
        task_pool = TaskPool(group)
        task_pool.dispatch(Job())
        await pause()
        group.cancel_scope.cancel()
        task_pool.dispatch(job)
    assert (job.ran_in is None) != (job.abandoned is None)


@pytest.mark.parametrize("helpers", [1, 2])
async def test_task_pool_job_that_comes_after_the_helpers_of_a_cancelled_group_is_run(helpers: int) -> None:
    """As from a cleanup that is shielded: a helper that has ended is not given a job."""
    job = Job()
    async with anyio.create_task_group() as group:
        task_pool = TaskPool(group)
        for _ in range(helpers):
            task_pool.dispatch(Job())
        await pause()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await pause(10)
            task_pool.dispatch(job)
    assert job.ran_in is not None


def test_task_pool_idle_helper_that_is_cancelled_ends_alone() -> None:
    """The group and what others do in it go on."""

    async def main() -> None:
        async with anyio.create_task_group() as group:
            task_pool, jobs = TaskPool(group), [Job(), Job()]
            task_pool.dispatch(jobs[0])
            await pause()
            for task in asyncio.all_tasks():
                if task.get_name() == "batchrt task_pool":
                    task.cancel()
            await pause()
            task_pool.dispatch(jobs[1])
            await pause()
            task_pool.dismiss()
        assert all(job.ran_in for job in jobs)
        assert not group.cancel_scope.cancel_called

    anyio.run(main)


def test_task_pool_helper_goes_on_after_a_job_that_cancels_it_ends_with_that() -> None:
    """A cancellation that no scope asked for ends the job alone."""

    async def disturb() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await pause()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            task_pool, jobs = TaskPool(group), [Job(disturb), Job()]
            for job in jobs:
                task_pool.dispatch(job)
                await pause(10)
            task_pool.dismiss()
        assert jobs[0].ran_in == jobs[1].ran_in

    anyio.run(main)


def test_task_pool_job_that_cancels_its_helper_leaves_nothing_to_the_next() -> None:
    """A job that cancels its helper leaves nothing to the next."""
    counts: list[int] = []

    async def disturb() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def count() -> None:
        task = asyncio.current_task()
        assert task is not None
        counts.append(task.cancelling())
        await pause()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            task_pool = TaskPool(group)
            for job in (Job(disturb), Job(count)):
                task_pool.dispatch(job)
                await pause()
            await pause(10)
            task_pool.dismiss()

    anyio.run(main)
    assert counts == [0]
