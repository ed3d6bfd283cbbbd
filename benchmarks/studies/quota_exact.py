"""How exactly a rate is kept, in real time, by those who let requests in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness.measuring import settle, stopwatch

__all__ = ["LANGCHAIN", "PER_SECOND", "work"]

LANGCHAIN = "LangChain InMemoryRateLimiter"
PER_SECOND = 200
_TASKS = 500

Enter = Callable[[], Awaitable[None]]


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Count whom one of them lets in; see `isolation.run_worker`."""
    return asyncio.run(_count(settings["who"], settings["seconds"]))


async def _count(who: str, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    enter = _langchain() if who == LANGCHAIN else _batchrt()
    moments: list[float] = []

    async def come_again() -> None:
        while True:
            await enter()
            moments.append(loop.time())

    settle()
    with stopwatch() as sample:
        tasks = [asyncio.create_task(come_again()) for _ in range(_TASKS)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    rate = (len(moments) - 1) / (moments[-1] - moments[0])
    return {
        "rate": rate,
        "share": 100 * rate / PER_SECOND,
        "bucket": _bucket(moments),
        "cpu": 100 * sample.cpu / sample.wall,
    }


def _bucket(moments: Sequence[float]) -> float:
    """Return how much a bucket with this rate has to hold for all of these to fit."""
    most, level, before = 0.0, 0.0, moments[0]
    for moment in moments:
        level = max(0.0, level - (moment - before) * PER_SECOND) + 1
        most, before = max(most, level), moment
    return most


def _batchrt() -> Enter:
    from batchrt import Quota, Usage
    from batchrt.limits.permit import Permit
    from batchrt.runtime.item import Item
    from batchrt.runtime.run import Run
    from batchrt.runtime.slots import Slots
    from batchrt.runtime.strand import Strand

    quota = Quota(requests_per_minute=60 * PER_SECOND, burst_seconds=1 / PER_SECOND)
    run = Run(Slots(None))

    async def enter() -> None:
        strand, permit = Strand(run, Item(0), {}, run.slots), Permit(100)
        await quota.admit(permit, strand)
        quota.answered(permit, Usage(25, 25, 50), run.now())
        strand.close()

    return enter


def _langchain() -> Enter:
    from langchain_core.rate_limiters import InMemoryRateLimiter

    limiter = InMemoryRateLimiter(requests_per_second=PER_SECOND, max_bucket_size=1)

    async def enter() -> None:
        await limiter.aacquire()

    return enter
