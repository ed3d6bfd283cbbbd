"""The contenders of the overhead suite, each given the same work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import by_hand
from benchmarks.by_hand import Run, SyncRun
from benchmarks.leaves import AsyncLeaf, Work, leaf_for, sync_leaf

__all__ = ["ASYNC", "REFERENCES", "SYNC", "AsyncRuntime", "SyncRuntime"]


def _aiometer(work: Work, leaf: AsyncLeaf) -> Run:
    import aiometer

    carry = by_hand.per_item_asyncio(work, leaf)

    async def run(inputs: Sequence[int]) -> list[Any]:
        calls = [partial(carry, x) for x in inputs]
        return await aiometer.run_all(calls, max_at_once=work.in_flight)

    return run


def _langchain(work: Work, leaf: AsyncLeaf) -> Run:
    from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel

    def step() -> Runnable[Any, Any]:
        return RunnableLambda(leaf)

    chain = step()
    if work.shape == "sequence of 3":
        chain = step() | step() | step()
    elif work.shape == "parallel of 3":
        chain = RunnableParallel(a=step(), b=step(), c=step())

    async def run(inputs: Sequence[int]) -> list[Any]:
        return await chain.abatch(list(inputs), {"max_concurrency": work.in_flight})

    return run


def _batchrt(work: Work, leaf: AsyncLeaf) -> Run:
    from batchrt import Runnable, RunnableLambda, RunnableParallel

    def step() -> Runnable[Any, Any]:
        return RunnableLambda(leaf)

    chain = step()
    if work.shape == "sequence of 3":
        chain = step() | step() | step()
    elif work.shape == "parallel of 3":
        chain = RunnableParallel(a=step(), b=step(), c=step())

    async def run(inputs: Sequence[int]) -> list[Any]:
        return await chain.abatch(inputs, {"max_concurrency": work.in_flight})

    return run


def _aiometer_threads(work: Work) -> SyncRun:
    import aiometer
    import anyio
    import anyio.to_thread

    async def gather(inputs: Sequence[int]) -> list[Any]:
        limiter = anyio.CapacityLimiter(work.in_flight or len(inputs))

        async def one(x: int) -> int:
            return await anyio.to_thread.run_sync(sync_leaf, x, limiter=limiter)

        calls = [partial(one, x) for x in inputs]
        return await aiometer.run_all(calls, max_at_once=work.in_flight)

    def one_by_one(inputs: Sequence[int]) -> list[Any]:
        return anyio.run(gather, inputs)

    return one_by_one


def _langchain_batch(work: Work) -> SyncRun:
    from langchain_core.runnables import RunnableLambda

    step = RunnableLambda(sync_leaf)
    return lambda inputs: step.batch(list(inputs), {"max_concurrency": work.in_flight})


def _batchrt_batch(work: Work) -> SyncRun:
    from batchrt import RunnableLambda

    step = RunnableLambda(sync_leaf)
    return lambda inputs: step.batch(inputs, {"max_concurrency": work.in_flight})


@dataclass(frozen=True, slots=True)
class AsyncRuntime:
    """Say who carries async steps, on which loop, and which distributions that takes.

    Attributes:
        prepare: builds what is built once; the rest is measured.
        slow: gets a tenth of the items.
    """

    name: str
    loop: str
    prepare: Callable[[Work, AsyncLeaf], Run]
    needs: tuple[str, ...] = ()
    slow: bool = False

    def run_for(self, work: Work) -> Run:
        """Return what carries inputs through `work`."""
        return self.prepare(work, leaf_for(work.body, self.loop))


@dataclass(frozen=True, slots=True)
class SyncRuntime:
    """Say who carries sync functions, called from plain code; see `AsyncRuntime`."""

    name: str
    prepare: Callable[[Work], SyncRun]
    needs: tuple[str, ...] = ()
    slow: bool = False
    loop: str = ""

    def run_for(self, work: Work) -> SyncRun:
        """Return what carries inputs through `work`."""
        return self.prepare(work)


ASYNC = (
    AsyncRuntime("bare worker pool", "asyncio", by_hand.pool_asyncio),
    AsyncRuntime("semaphore+gather", "asyncio", by_hand.semaphore_gather),
    AsyncRuntime("aiometer", "asyncio", _aiometer, ("aiometer",)),
    AsyncRuntime("LangChain", "asyncio", _langchain, ("langchain-core",), slow=True),
    AsyncRuntime("batchrt", "asyncio", _batchrt),
    AsyncRuntime("bare worker pool", "uvloop", by_hand.pool_asyncio, ("uvloop",)),
    AsyncRuntime("semaphore+gather", "uvloop", by_hand.semaphore_gather, ("uvloop",)),
    AsyncRuntime("batchrt", "uvloop", _batchrt, ("uvloop",)),
    AsyncRuntime("bare worker pool", "trio", by_hand.pool_trio, ("trio",)),
    AsyncRuntime("semaphore+nursery", "trio", by_hand.semaphore_nursery, ("trio",)),
    AsyncRuntime("batchrt", "trio", _batchrt, ("trio",)),
)

SYNC = (
    SyncRuntime("thread pool map", by_hand.thread_pool),
    SyncRuntime("semaphore+gather", by_hand.semaphore_threads),
    SyncRuntime("aiometer", _aiometer_threads, ("aiometer",)),
    SyncRuntime("LangChain", _langchain_batch, ("langchain-core",), slow=True),
    SyncRuntime("batchrt", _batchrt_batch),
)

REFERENCES = {
    "asyncio": "semaphore+gather",
    "uvloop": "semaphore+gather",
    "trio": "semaphore+nursery",
    "": "semaphore+gather",
}
"""Whom the ratios are to, on each loop."""
