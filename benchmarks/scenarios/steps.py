"""A chain of three functions without requests: the cost of the runtime alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contenders.protocol import Contender
from benchmarks.contenders.registry import find
from benchmarks.harness.measuring import peak_megabytes, settle, stopwatch
from benchmarks.scenarios.protocol import Case, Column, Scenario, Tier, Turn

__all__ = ["STEPS", "leaf", "work"]

_IN_FLIGHT = 100
_ITEMS, _ROUNDS = 10_000, {"quick": 5, "full": 9}


def _cases(tier: Tier, contenders: Sequence[Contender]) -> Sequence[Case]:
    turns = []
    for contender in contenders:
        if contender.steps:
            items = contender.items_of("steps", _ITEMS)
            note = "" if items == _ITEMS else f"{items:,} items"
            settings = {"contender": contender.key, "items": items}
            reason = contender.missing()
            turns.append(Turn(contender, contender.name, settings, _ROUNDS[tier], note, reason))
    return [Case("steps", f"{_ITEMS:,} items, three steps, {_IN_FLIGHT} in flight", turns)]


STEPS = Scenario(
    "steps",
    "A chain of steps",
    "scenarios.steps",
    "Each step is `await asyncio.sleep(0)`: one suspension and no work, so that all that remains is the "
    "runtime. The hand-written contenders have the three calls in one function. The other libraries "
    "have no chains.",
    (
        Column("cpu", "CPU µs/item", 1, "least"),
        Column("wall", "wall µs/item", 1, "least"),
        Column("memory", "peak memory, MB", 0, "least"),
    ),
    _cases,
)


async def leaf(x: int) -> int:
    """Suspend once."""
    await asyncio.sleep(0)
    return x


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one contender once; see `isolation.run_worker`.

    Raises:
        ValueError: the outputs are wrong.
    """
    return asyncio.run(_measure(settings))


async def _measure(settings: Mapping[str, Any]) -> dict[str, float]:
    contender, items = find(settings["contender"]), settings["items"]
    assert contender.steps is not None
    run = contender.steps(leaf, _IN_FLIGHT)
    await run(range(_IN_FLIGHT))  # loads modules
    settle()
    with stopwatch() as sample:
        outputs = await run(range(items))
    if list(outputs) != list(range(items)):
        raise ValueError(f"{contender.name} returned wrong outputs")
    cpu, wall = (seconds / items * 1e6 for seconds in (sample.cpu, sample.wall))
    return {"cpu": cpu, "wall": wall, "memory": peak_megabytes()}
