"""The same in real time, on a socket: 6,000 requests a minute from a bucket of one second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.harness.isolation import WorkerError
from benchmarks.harness.measuring import stopwatch
from benchmarks.studies.quota_clients import API_KEY, MODEL
from benchmarks.studies.quota_limits import GIVEN, LEARNT
from benchmarks.studies.quota_runs import LATENCY, Figures, Plan, each_apart, judged, prompts, series_of
from benchmarks.studies.results import Column, Row, Table

__all__ = ["CASE", "COLUMNS", "measure", "work"]

CASE = "6,000 RPM, 1 s at once, over a socket, in real time"
COLUMNS = (
    Column("used", "used %"),
    Column("rejected", "rejected %", 2),
    Column("in_waits", "in waits", 0),
    Column("broken", "not kept", 0),
    Column("retries", "retries/item", 3),
    Column("wall", "wall s"),
    Column("ideal", "x ideal", 3),
    Column("failed", "failed", 0),
    Column("peak", "peak", 0),
)
_LIMIT, _IN_FLIGHT = 6_000, 400
_GRACE = 0.05
"""Seconds that a refusal may be under way."""


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure with the limit known and not, side by side: both do next to nothing."""
    items = 1_000 if quick else 7_000
    plans: list[Plan] = [(f"{CASE}: {how}", {"how": how, "items": items}) for how in (GIVEN, LEARNT)]
    results = each_apart("studies.quota_socket", plans, tell)
    yield Table(
        CASE, COLUMNS, [_row(plan[1]["how"], result) for plan, result in zip(plans, results, strict=True)]
    )


def _row(how: str, result: Any) -> Row:
    if isinstance(result, WorkerError):
        return Row(how, "asyncio", note=f"failed: {result}")
    return Row(how, "asyncio", series_of([result]))


def work(settings: Mapping[str, Any]) -> Figures:
    """Measure once; see `isolation.run_worker`."""
    from batchrt.testing import LogNormal, MockProvider, RateLimits

    items = settings["items"]
    provider = MockProvider(
        latency=LogNormal(*LATENCY),
        rate_limits=RateLimits(requests_per_minute=_LIMIT, burst_seconds=1),
        keep_records=1,
    )
    limits = {"requests_per_minute": _LIMIT} if settings["how"] == GIVEN else {}
    with provider.serve() as server, stopwatch() as sample:
        outcomes = asyncio.run(_ask(server.base_url, limits, items))
    return {
        **judged(provider.verdict(grace=_GRACE), items),
        "wall": sample.wall,
        "ideal": sample.wall / ((items - _LIMIT / 60) * 60 / _LIMIT),
        "failed": sum(isinstance(outcome, Exception) for outcome in outcomes),
    }


async def _ask(base_url: str, limits: Mapping[str, Any], items: int) -> list[Any]:
    from batchrt import ChatOpenAI

    async with ChatOpenAI(MODEL, base_url=base_url, api_key=API_KEY, **limits) as model:
        return await model.abatch(prompts(items), {"max_concurrency": _IN_FLIGHT}, return_exceptions=True)
