"""What the tables of the quota suite have in common: runs in virtual time, and the mock's verdict on them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from benchmarks.harness.isolation import WorkerError, run_worker
from benchmarks.harness.measuring import Series
from benchmarks.studies.quota_clients import Client
from benchmarks.studies.results import Row
from benchmarks.studies.virtual_loop import run_virtually

if TYPE_CHECKING:
    from batchrt.testing import MockProvider, Verdict

__all__ = [
    "LATENCY",
    "TOGETHER",
    "Figures",
    "Plan",
    "each_apart",
    "judged",
    "play",
    "prompts",
    "series_of",
    "together",
    "worded",
]

LATENCY = (1.0, 0.5)
"""Median seconds of an answer and their spread, as `LogNormal` takes them."""

TOGETHER = "all of these"
"""The row to hold targets against."""

Figures: TypeAlias = dict[str, float]
Plan: TypeAlias = tuple[str, Mapping[str, Any]]
"""What to tell about a measurement, and what its process is given."""


def prompts(count: int, name: str = "a") -> list[str]:
    """Return texts of which no two are the same, so that the mock can tell who tries again."""
    return [f"Name the category of entry {name}{number}" for number in range(count)]


def worded(body: Mapping[str, Any]) -> str:
    """Answer with 10 to 390 tokens, most of them few: a length that nobody can know beforehand."""
    drawn = zlib.crc32(body["messages"][-1]["content"].encode()) % 100
    return "x" * int(40 + drawn**2 / 6.5)


def each_apart(
    module: str, plans: Sequence[Plan], tell: Callable[[str], None], *, seconds: float = 300
) -> list[Any]:
    """Do a module's `work` in a process for each plan; a `WorkerError` stands for who failed.

    As many at a time as there are cores: in virtual time nobody is in another's way.
    """

    def one(plan: Plan) -> Any:
        tell(plan[0])
        try:
            return run_worker(module, plan[1], seconds=seconds, core=None)
        except WorkerError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, plans))


def series_of(samples: Sequence[Mapping[str, float]]) -> dict[str, Series]:
    """Return each figure's values, one of each round."""
    return {key: Series(tuple(sample[key] for sample in samples)) for key in samples[0]}


def together(rows: Sequence[Row], name: str = TOGETHER) -> Row:
    """Return a row with the values of all rows, for the worst of them; empty if one has failed."""
    if not all(row.figures for row in rows):
        return Row(name, rows[0].loop, note="not all were measured")
    figures = {
        key: Series(tuple(value for row in rows for value in row.figures[key].values))
        for key in rows[0].figures
    }
    return Row(name, rows[0].loop, figures)


def play(provider: MockProvider, client: Client, items: int) -> Figures:
    """Ask for so many answers in virtual time; return what the mock says of it, seconds, and who failed."""

    async def main() -> tuple[list[Any], float]:
        ask = await client(provider)
        provider.reset()
        began = anyio.current_time()
        outcomes = await ask(prompts(items))
        return outcomes, anyio.current_time() - began

    (outcomes, seconds), _ = run_virtually(main())
    return {
        **judged(provider.verdict(), items),
        "seconds": seconds,
        "failed": sum(isinstance(outcome, Exception) for outcome in outcomes),
        "unexplained": sum(isinstance(outcome, Exception) and not str(outcome) for outcome in outcomes),
    }


def judged(verdict: Verdict, items: int) -> Figures:
    """Return what the mock has to say of a run of so many items, shares as per cent."""
    sent = max(1, verdict.sent)
    return {
        "used": 100 * (verdict.used or 0.0),
        "rejected": 100 * verdict.rejected_share,
        "turned_away": 100 * (verdict.rejected + verdict.refused) / sent,
        "sends": verdict.sent / items,
        "retries": verdict.retries / items,
        "in_waits": verdict.sent_in_waits,
        "cool_downs": len(verdict.cool_downs),
        "broken": sum(not one.is_kept for one in verdict.cool_downs),
        "after": max(map(_afterwards, verdict.cool_downs), default=0.0),
        "peak": verdict.peak_in_flight,
    }


def _afterwards(cool_down: Any) -> float:
    """Return how much of what a cool-down allowed in the second after it was sent, per cent."""
    pairs = (
        (cool_down.sent_after, cool_down.allowed_after),
        (cool_down.tokens_after, cool_down.tokens_allowed_after),
    )
    return max((100 * came / allowed for came, allowed in pairs if allowed), default=0.0)
