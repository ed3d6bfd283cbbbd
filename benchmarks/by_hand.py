"""What people write when they use no library: the yardsticks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.leaves import AsyncLeaf, Work, sync_leaf

if TYPE_CHECKING:
    import trio

__all__ = [
    "Run",
    "SyncRun",
    "per_item_asyncio",
    "pool_asyncio",
    "pool_trio",
    "semaphore_gather",
    "semaphore_nursery",
    "semaphore_threads",
    "thread_pool",
]

Run: TypeAlias = Callable[[Sequence[int]], Awaitable[list[Any]]]
SyncRun: TypeAlias = Callable[[Sequence[int]], list[Any]]
PerItem: TypeAlias = Callable[[int], Awaitable[Any]]


def per_item_asyncio(work: Work, leaf: AsyncLeaf) -> PerItem:
    """Return the steps of one item, inline."""

    async def sequence(x: int) -> int:
        return await leaf(await leaf(await leaf(x)))

    async def parallel(x: int) -> dict[str, int]:
        a, b, c = await asyncio.gather(leaf(x), leaf(x), leaf(x))
        return {"a": a, "b": b, "c": c}

    return {"sequence of 3": sequence, "parallel of 3": parallel}.get(work.shape, leaf)


def pool_asyncio(work: Work, leaf: AsyncLeaf) -> Run:
    """Have a fixed number of tasks loop over a shared iterator."""
    carry = per_item_asyncio(work, leaf)

    async def run(inputs: Sequence[int]) -> list[Any]:
        outputs: list[Any] = [None] * len(inputs)
        shared = iter(enumerate(inputs))

        async def worker() -> None:
            for index, x in shared:
                outputs[index] = await carry(x)

        workers = work.in_flight or len(inputs)
        await asyncio.gather(*(worker() for _ in range(workers)))
        return outputs

    return run


def semaphore_gather(work: Work, leaf: AsyncLeaf) -> Run:
    """Start a task for each item, and let a semaphore hold back all but some."""
    carry = per_item_asyncio(work, leaf)

    async def unbounded(inputs: Sequence[int]) -> list[Any]:
        return await asyncio.gather(*map(carry, inputs))

    async def run(inputs: Sequence[int]) -> list[Any]:
        semaphore = asyncio.Semaphore(work.in_flight or len(inputs))

        async def one(x: int) -> Any:
            async with semaphore:
                return await carry(x)

        return await asyncio.gather(*map(one, inputs))

    return unbounded if work.in_flight is None else run


def _per_item_trio(work: Work, leaf: AsyncLeaf) -> PerItem:
    import trio

    async def parallel(x: int) -> dict[str, int]:
        output = dict.fromkeys("abc", 0)

        async def branch(key: str) -> None:
            output[key] = await leaf(x)

        async with trio.open_nursery() as nursery:
            for key in output:
                nursery.start_soon(branch, key)
        return output

    return parallel if work.shape == "parallel of 3" else per_item_asyncio(work, leaf)


def pool_trio(work: Work, leaf: AsyncLeaf) -> Run:
    """Do as `pool_asyncio`, in a nursery."""
    import trio

    carry = _per_item_trio(work, leaf)

    async def run(inputs: Sequence[int]) -> list[Any]:
        outputs: list[Any] = [None] * len(inputs)
        shared = iter(enumerate(inputs))

        async def worker() -> None:
            for index, x in shared:
                outputs[index] = await carry(x)

        async with trio.open_nursery() as nursery:
            for _ in range(work.in_flight or len(inputs)):
                nursery.start_soon(worker)
        return outputs

    return run


def semaphore_nursery(work: Work, leaf: AsyncLeaf) -> Run:
    """Do as `semaphore_gather`, in a nursery."""
    import trio

    carry = _per_item_trio(work, leaf)

    async def run(inputs: Sequence[int]) -> list[Any]:
        outputs: list[Any] = [None] * len(inputs)
        semaphore: trio.Semaphore = trio.Semaphore(work.in_flight or len(inputs))

        async def one(index: int, x: int) -> None:
            async with semaphore:
                outputs[index] = await carry(x)

        async with trio.open_nursery() as nursery:
            for index, x in enumerate(inputs):
                nursery.start_soon(one, index, x)
        return outputs

    return run


def thread_pool(work: Work) -> SyncRun:
    """Map over a pool of threads."""

    def run(inputs: Sequence[int]) -> list[Any]:
        with ThreadPoolExecutor(work.in_flight) as pool:
            return list(pool.map(sync_leaf, inputs))

    return run


def semaphore_threads(work: Work) -> SyncRun:
    """Do as `semaphore_gather`, each step in a thread of a pool that is large enough."""

    async def gather(inputs: Sequence[int]) -> list[Any]:
        loop = asyncio.get_running_loop()
        semaphore = asyncio.Semaphore(work.in_flight or len(inputs))

        async def one(x: int) -> int:
            async with semaphore:
                return await loop.run_in_executor(pool, sync_leaf, x)

        with ThreadPoolExecutor(work.in_flight) as pool:
            return await asyncio.gather(*map(one, inputs))

    return lambda inputs: asyncio.run(gather(inputs))
