"""The contenders of the lists suite: `prep | embed | store`, each in its own words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

from benchmarks.studies.chain_steps import Load, Steps

__all__ = ["CHAINS", "FULL_LISTS", "NO_WAITING", "Chain"]

FULL_LISTS = "by hand: full lists"
NO_WAITING = "by hand: no waiting"

Run: TypeAlias = Callable[[Sequence[int]], Coroutine[Any, Any, list[int]]]


def _batchrt(load: Load, steps: Steps) -> Run:
    from batchrt import Runnable, RunnableLambda

    class Embed(Runnable[int, int]):
        max_batch_size = load.size

        async def abatch_native(self, inputs: list[int]) -> list[int]:
            return await steps.embed(inputs)

    chain = RunnableLambda(steps.prep) | Embed() | RunnableLambda(steps.store)

    async def run(inputs: Sequence[int]) -> list[int]:
        return await chain.abatch(inputs, {"max_concurrency": load.in_flight})

    return run


def _langchain(load: Load, steps: Steps) -> Run:
    from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

    class Embed(Runnable[int, int]):
        """What LCEL has for lists: an `abatch` of one's own, which is handed all items at once."""

        def invoke(self, input: int, config: RunnableConfig | None = None, **kwargs: Any) -> int:  # noqa: A002
            raise NotImplementedError  # it is abstract

        async def abatch(self, inputs: list[int], *_: Any, **__: Any) -> list[int]:
            semaphore = asyncio.Semaphore(load.in_flight)

            async def one(part: list[int]) -> list[int]:
                async with semaphore:
                    return await steps.embed(part)

            parts = [inputs[start : start + load.size] for start in range(0, len(inputs), load.size)]
            return [x for part in await asyncio.gather(*map(one, parts)) for x in part]

    chain = RunnableLambda(steps.prep) | Embed() | RunnableLambda(steps.store)

    async def run(inputs: Sequence[int]) -> list[int]:
        return await chain.abatch(list(inputs), {"max_concurrency": load.in_flight})

    return run


def _no_waiting(load: Load, steps: Steps) -> Run:
    async def run(inputs: Sequence[int]) -> list[int]:
        outputs = [0] * len(inputs)
        shared = iter(inputs)

        async def worker() -> None:
            for x in shared:
                (embedded,) = await steps.embed([await steps.prep(x)])
                outputs[x] = await steps.store(embedded)

        await asyncio.gather(*(worker() for _ in range(load.in_flight)))
        return outputs

    return run


def _full_lists(load: Load, steps: Steps) -> Run:
    async def run(inputs: Sequence[int]) -> list[int]:
        return await _FullLists(load, steps, inputs).run()

    return run


class _FullLists:
    """Have workers do what is most urgent: a list that is full, else a store, else a new item.

    A list is sent when it is full, and the last one once all items are there.
    """

    def __init__(self, load: Load, steps: Steps, inputs: Sequence[int]) -> None:
        self._load = load
        self._steps = steps
        self._outputs = [0] * len(inputs)
        self._to_come = self._to_store = len(inputs)
        self._gathered: list[int] = []
        self._number = count()
        self._jobs: asyncio.PriorityQueue[tuple[int, int, Callable[[], Awaitable[None]]]]
        self._jobs = asyncio.PriorityQueue()
        for x in inputs:
            self._add(2, self._prep, x)

    async def run(self) -> list[int]:
        workers = [asyncio.create_task(self._work()) for _ in range(self._load.in_flight)]
        await asyncio.gather(*workers)
        return self._outputs

    def _add(self, urgency: int, call: Callable[..., Awaitable[None]], *given: Any) -> None:
        self._jobs.put_nowait((urgency, next(self._number), lambda: call(*given)))

    async def _work(self) -> None:
        while self._to_store:
            _, _, job = await self._jobs.get()
            await job()

    async def _prep(self, x: int) -> None:
        prepared = await self._steps.prep(x)
        self._gathered.append(prepared)
        self._to_come -= 1
        if len(self._gathered) == self._load.size or not self._to_come:
            full, self._gathered = self._gathered, []
            self._add(0, self._embed, full)

    async def _embed(self, values: list[int]) -> None:
        for x, embedded in zip(values, await self._steps.embed(values), strict=True):
            self._add(1, self._store, x, embedded)

    async def _store(self, x: int, embedded: int) -> None:
        self._outputs[x] = await self._steps.store(embedded)
        self._to_store -= 1
        if not self._to_store:
            for _ in range(self._load.in_flight):
                self._add(3, _rest)


async def _rest() -> None:
    """Do nothing: it wakes a worker that waits for more."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Say who carries the items, and which distribution that takes.

    Attributes:
        prepare: builds what is built once; the rest is measured.
        slow: is measured once.
    """

    name: str
    prepare: Callable[[Load, Steps], Run]
    needs: tuple[str, ...] = ()
    slow: bool = False


CHAINS = (
    Chain(FULL_LISTS, _full_lists),
    Chain(NO_WAITING, _no_waiting, slow=True),
    Chain("batchrt", _batchrt),
    Chain("LangChain", _langchain, ("langchain-core",)),
)
