"""Many items as they complete: how soon the first is there, and what the rest does to memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

from benchmarks.harness.isolation import WorkerError, run_worker
from benchmarks.harness.machine import installed
from benchmarks.harness.measuring import Series, rotated, settle, stopwatch
from benchmarks.harness.memory import Growth
from benchmarks.studies.results import Column, Row, Table

__all__ = ["COLUMNS", "case_name", "measure", "work"]

COLUMNS = (
    Column("called", "first result after the call, ms"),
    Column("first", "after the first leaf, ms"),
    Column("growth", "memory growth, MB"),
    Column("wall", "wall s", 2),
    Column("cpu", "CPU s", 2),
)

_IN_FLIGHT = 100
_LEAF_SECONDS = 0.001
_SAMPLE_EVERY = 1_000

Leaf: TypeAlias = Callable[[int], Awaitable[int]]
Results: TypeAlias = AsyncGenerator[int, None]


async def _batchrt_as_completed(leaf: Leaf, inputs: Sequence[int]) -> Results:
    from batchrt import RunnableLambda

    step = RunnableLambda(leaf)
    async with step.abatch_as_completed(inputs, {"max_concurrency": _IN_FLIGHT}) as results:
        async for _, output in results:
            yield output


async def _batchrt_iter(leaf: Leaf, inputs: Sequence[int]) -> Results:
    from batchrt import RunnableLambda

    step = RunnableLambda(leaf)
    async with step.abatch_iter(inputs, {"max_concurrency": _IN_FLIGHT}) as outputs:
        async for output in outputs:
            yield output


async def _langchain(leaf: Leaf, inputs: Sequence[int]) -> Results:
    from langchain_core.runnables import RunnableLambda

    step = RunnableLambda(leaf)
    async for _, output in step.abatch_as_completed(inputs, {"max_concurrency": _IN_FLIGHT}):
        yield output


async def _aiometer(leaf: Leaf, inputs: Sequence[int]) -> Results:
    import aiometer

    async with aiometer.amap(leaf, inputs, max_at_once=_IN_FLIGHT) as outputs:
        async for output in outputs:
            yield output


async def _as_completed(leaf: Leaf, inputs: Sequence[int]) -> Results:
    semaphore = asyncio.Semaphore(_IN_FLIGHT)

    async def one(x: int) -> int:
        async with semaphore:
            return await leaf(x)

    for finished in asyncio.as_completed([one(x) for x in inputs]):
        yield await finished


_CONTENDERS: Mapping[str, tuple[Callable[[Leaf, Sequence[int]], Results], str | None]] = {
    "batchrt abatch_as_completed": (_batchrt_as_completed, None),
    "batchrt abatch_iter": (_batchrt_iter, None),
    "semaphore+as_completed": (_as_completed, None),
    "aiometer amap": (_aiometer, "aiometer"),
    "LangChain abatch_as_completed": (_langchain, "langchain-core"),
}
_ONCE = "LangChain abatch_as_completed"


def case_name(items: int) -> str:
    """Return the title of the case."""
    return f"{items:,} items of {_LEAF_SECONDS * 1e3:g} ms, {_IN_FLIGHT} in flight"


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure each contender in a process of its own, in turns."""
    items, rounds = (10_000, 1) if quick else (100_000, 3)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in _CONTENDERS}
    notes = {name: _missing(needed) for name, (_, needed) in _CONTENDERS.items()}
    for round_number in range(rounds):
        for name in rotated(list(_CONTENDERS), round_number):
            if notes[name] or (name == _ONCE and samples[name]):
                continue
            tell(f"{name}, round {round_number + 1} of {rounds}")
            try:
                samples[name].append(run_worker("studies.streaming", {"contender": name, "items": items}))
            except WorkerError as error:
                notes[name] = f"failed: {error}"
    rows = [Row(name, "asyncio", _figures(samples[name]), notes[name]) for name in _CONTENDERS]
    yield Table(case_name(items), COLUMNS, rows)


def _missing(distribution: str | None) -> str:
    if distribution is None or installed(distribution):
        return ""
    return f"missing: {distribution}"


def _figures(samples: Sequence[Mapping[str, float]]) -> dict[str, Series]:
    if not samples:
        return {}
    return {key: Series(tuple(sample[key] for sample in samples)) for key in samples[0]}


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one contender once; see `isolation.run_worker`."""
    contender, _ = _CONTENDERS[settings["contender"]]
    return asyncio.run(_measure(contender, range(settings["items"])))


async def _measure(contender: Callable[[Leaf, Sequence[int]], Results], inputs: range) -> dict[str, float]:
    first_leaf = 0.0

    async def leaf(x: int) -> int:
        nonlocal first_leaf
        await asyncio.sleep(_LEAF_SECONDS)
        first_leaf = first_leaf or time.perf_counter()
        return x

    await _consume(contender(leaf, range(2 * _IN_FLIGHT)), None)  # imports, caches, pools
    settle()
    growth = Growth()
    first_leaf = 0.0
    called = time.perf_counter()
    with stopwatch() as sample:
        first_result, count, total = await _consume(contender(leaf, inputs), growth)
    if (count, total) != (len(inputs), sum(inputs)):
        raise ValueError(f"{count} results of {len(inputs)}, or wrong ones")
    return {
        "called": (first_result - called) * 1e3,
        "first": (first_result - first_leaf) * 1e3,
        "growth": growth.megabytes,
        "wall": sample.wall,
        "cpu": sample.cpu,
    }


async def _consume(results: Results, growth: Growth | None) -> tuple[float, int, int]:
    first, count, total = 0.0, 0, 0
    async with aclosing(results) as outputs:
        async for output in outputs:
            first = first or time.perf_counter()
            count += 1
            total += output
            if growth is not None and count % _SAMPLE_EVERY == 0:
                growth.sample()
    return first, count, total
