"""Scaling: the cost of an item by the number of items, and by the number in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from benchmarks.contenders.protocol import Contender
from benchmarks.harness.measuring import peak_megabytes, settle, stopwatch
from benchmarks.scenarios import chat
from benchmarks.scenarios.protocol import Case, Column, Scenario, Tier, Turn
from benchmarks.scenarios.steps import leaf

__all__ = ["IN_FLIGHT", "ITEMS", "work"]

_WINDOW = 100
_SIZES = {
    "quick": (100, 1_000, 10_000, 100_000),
    "full": (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000),
}
_AT_LEAST = 20_000
"""Items of a measurement: small runs are repeated."""
_ROUNDS = 3
_MOST_ROUNDS_OF = 1_000_000
"""Items from which on one round has to do."""

Run = Callable[[int], Awaitable[int]]
"""Pass that many items through one step, and return the sum of the outputs."""


async def _batchrt(items: int) -> int:
    from batchrt import RunnableLambda

    total = 0
    config: Any = {"max_concurrency": _WINDOW}
    async with RunnableLambda(leaf).abatch_iter(range(items), config) as outputs:
        async for output in outputs:
            total += output
    return total


async def _batchrt_collected(items: int) -> int:
    from batchrt import RunnableLambda

    return sum(await RunnableLambda(leaf).abatch(range(items), {"max_concurrency": _WINDOW}))


async def _gather(items: int) -> int:
    semaphore = asyncio.Semaphore(_WINDOW)

    async def one(x: int) -> int:
        async with semaphore:
            return await leaf(x)

    return sum(await asyncio.gather(*map(one, range(items))))


async def _langchain(items: int) -> int:
    from langchain_core.runnables import RunnableLambda

    return sum(await RunnableLambda(leaf).abatch(list(range(items)), {"max_concurrency": _WINDOW}))


_RUNS: Mapping[str, tuple[str, str, Run, int]] = {
    "iter": ("batchrt", "batchrt abatch_iter", _batchrt, 10**7),
    "collected": ("batchrt", "batchrt abatch", _batchrt_collected, 10**6),
    "gather": ("gather", "semaphore and gather", _gather, 10**6),
    "langchain": ("langchain-core", "LangChain abatch", _langchain, 10**4),
}
"""For each way its contender, its label, its function, and the most items that it is given."""


def _by_items(tier: Tier, contenders: Sequence[Contender]) -> Sequence[Case]:
    by_key = {contender.key: contender for contender in contenders}
    cases = []
    for size in _SIZES[tier]:
        turns = []
        for way, (key, label, _, most) in _RUNS.items():
            if size <= most and key in by_key:
                rounds = 1 if size >= _MOST_ROUNDS_OF else _ROUNDS
                settings = {"way": way, "items": size}
                turns.append(Turn(by_key[key], label, settings, rounds, reason=by_key[key].missing()))
        cases.append(Case(str(size), f"{size:,} items", turns, seconds=1_500))
    return cases


ITEMS = Scenario(
    "items",
    "Cost by the number of items",
    "scenarios.scaling",
    f"One step, `await asyncio.sleep(0)`, {_WINDOW} in flight. Small runs are repeated until they have "
    f"{_AT_LEAST:,} items, so the cost of a run itself counts in them. `abatch_iter` pulls its inputs "
    "lazily and its memory does not grow; the others hold all items. LangChain is measured up to 10,000 "
    "items, as it takes minutes beyond, and `gather` up to a million, as ten million tasks do not fit "
    "in memory.",
    (Column("cpu", "CPU µs/item", 1, "least"), Column("memory", "peak memory, MB", 0, "least")),
    _by_items,
    charts=("items",),
)

# The mock answers up to 4,000 requests a second; the latency keeps the rate at that or below.
_FLIGHTS: Mapping[int, tuple[float, int]] = {
    1: (0.0, 1_000),
    10: (0.0025, 4_000),
    100: (0.025, 5_000),
    1_000: (0.25, 10_000),
    10_000: (2.5, 20_000),
}
"""For each number in flight the latency in seconds and the items."""
_MOST_OF_SLOW = 1_000
_COMPARED = ("batchrt", "aiohttp", "openai")


def _by_flight(tier: Tier, contenders: Sequence[Contender]) -> Sequence[Case]:
    cases = []
    for in_flight, (latency, items) in _FLIGHTS.items():
        turns = []
        for contender in contenders:
            slow = "chat" in contender.divisors
            if contender.key in _COMPARED and not (slow and in_flight > _MOST_OF_SLOW):
                given = max(2 * in_flight, contender.items_of("chat", items)) if slow else items
                settings = {
                    "way": "chat",
                    "contender": contender.key,
                    "loop": "asyncio",
                    "items": given,
                    "in_flight": in_flight,
                }
                note = "" if given == items else f"{given:,} rows"
                rounds = 5 if tier == "full" else 2
                turns.append(Turn(contender, contender.name, settings, rounds, note, contender.missing()))
        title = f"{in_flight:,} in flight, {items:,} rows, {latency * 1e3:g} ms latency"
        cases.append(Case(str(in_flight), title, turns, server={"latency": latency}))
    return cases


IN_FLIGHT = Scenario(
    "in-flight",
    "Cost by the number in flight",
    "scenarios.scaling",
    "Chat as above, from one request at a time to ten thousand. The latency grows with the number in "
    "flight, so that the mock has the same rate to answer in each case; connections are open when the "
    "clock starts. The openai SDK is measured up to a thousand in flight, the size of its own "
    "connection pool.",
    chat.CHAT.columns,
    _by_flight,
    charts=("in-flight",),
)


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one contender once; see `isolation.run_worker`."""
    if settings["way"] == "chat":
        return chat.work(settings)
    return asyncio.run(_measure(settings))


async def _measure(settings: Mapping[str, Any]) -> dict[str, float]:
    items = settings["items"]
    _, label, run, _ = _RUNS[settings["way"]]
    repeats = max(1, _AT_LEAST // items)
    await run(_WINDOW)  # loads modules
    settle()
    with stopwatch() as sample:
        totals = [await run(items) for _ in range(repeats)]
    if set(totals) != {items * (items - 1) // 2}:
        raise ValueError(f"{label} returned wrong outputs")
    return {"cpu": sample.cpu / (items * repeats) * 1e6, "memory": peak_megabytes()}
