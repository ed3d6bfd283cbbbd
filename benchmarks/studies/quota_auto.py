"""Does `max_concurrency="auto"` find what a sweep over fixed settings finds?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.harness.isolation import WorkerError
from benchmarks.harness.measuring import Series
from benchmarks.studies.quota_clients import batchrt
from benchmarks.studies.quota_runs import (
    LATENCY,
    Figures,
    Plan,
    each_apart,
    play,
    series_of,
    together,
    worded,
)
from benchmarks.studies.results import Column, Row, Table

if TYPE_CHECKING:
    from batchrt.testing import MockProvider

__all__ = ["AUTO", "COLUMNS", "SERVERS", "Server", "case_name", "measure", "work"]

COLUMNS = (
    Column("seconds", "virtual s", 0),
    Column("ratio", "x best fixed", 3),
    Column("turned_away", "rejected %", 2),
    Column("retries", "retries/item", 3),
    Column("failed", "failed", 0),
    Column("peak", "peak", 0),
)

AUTO = "auto, all of these"
_SETTINGS = (4, 8, 16, 32, 64, 128, 256)
_MEAN_LATENCY = 1.13
"""Seconds of an answer, about."""


@dataclass(frozen=True, slots=True)
class Server:
    """Say what becomes of requests beyond the server's capacity.

    Attributes:
        by_tokens: an answer's latency is made of its tokens.
        rejects: what is too much gets a 429; otherwise it waits there.
        retry_after: the seconds that a 429 names.
        halves: so does the capacity, after about half of the items.
    """

    name: str
    by_tokens: bool = False
    rejects: bool = False
    retry_after: float | None = None
    halves: bool = False

    def provider(self, capacity: int, items: int, seed: int) -> MockProvider:
        """Return a mock that is like this."""
        from batchrt.testing import LogNormal, MockProvider, Queueing

        midway = items / capacity / 2 * _MEAN_LATENCY
        queueing = Queueing(
            capacity=[(0, capacity), (midway, capacity // 2)] if self.halves else capacity,
            max_waiting=0 if self.rejects else None,
            full_status=429 if self.rejects else None,
            retry_after=self.retry_after,
            seconds_per_token=0.006 if self.by_tokens else 0.0,
        )
        return MockProvider(
            seed=seed,
            latency=0.25 if self.by_tokens else LogNormal(*LATENCY),
            answer=worded if self.by_tokens else None,
            queueing=queueing,
            keep_records=1,
        )


SERVERS = (
    Server("a server that queues"),
    Server("a server that queues, latency by tokens", by_tokens=True),
    Server("a server that rejects", rejects=True),
    Server("a server that rejects and says when to come back", rejects=True, retry_after=1),
    Server("a server that queues, capacity halves midway", halves=True),
    Server("a server that rejects, capacity halves midway", rejects=True, halves=True),
    Server(
        "a server that rejects and says when, capacity halves midway",
        rejects=True,
        retry_after=1,
        halves=True,
    ),
)


def _capacities(*, quick: bool) -> tuple[int, ...]:
    """Return how many requests a server works on at a time, case by case."""
    return (40,) if quick else (10, 40, 120)


def _contender(who: str, capacity: int) -> str:
    """Return what a row is called."""
    return f"{who}, capacity {capacity}"


def case_name(server: Server) -> str:
    """Return a case's title."""
    return f"auto, {server.name}"


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure each server and capacity: a sweep with the first seed, its best one and auto with all."""
    scale = {"items": 1_000, "seeds": 1} if quick else {"items": 5_000, "seeds": 3}
    plans: list[Plan] = [
        (f"{case_name(server)} of {capacity}", {"server": number, "capacity": capacity, **scale})
        for number, server in enumerate(SERVERS)
        for capacity in _capacities(quick=quick)
    ]
    results = each_apart("studies.quota_auto", plans, tell)
    for number, server in enumerate(SERVERS):
        rows: list[Row] = []
        for (_, settings), result in zip(plans, results, strict=True):
            if settings["server"] == number:
                rows += _rows(settings["capacity"], result)
        of_auto = [row for row in rows if row.contender.startswith("auto")]
        yield Table(case_name(server), COLUMNS, [*rows, together(of_auto, AUTO)])


def _rows(capacity: int, result: Any) -> list[Row]:
    auto, fixed = _contender("auto", capacity), _contender("best fixed", capacity)
    if isinstance(result, WorkerError):
        return [Row(who, "virtual", note=f"failed: {result}") for who in (auto, fixed)]
    of_auto, of_fixed = series_of(result["auto"]), series_of(result["fixed"])
    of_auto["ratio"] = of_auto["seconds"].over(of_fixed["seconds"])
    of_fixed["ratio"] = Series((1.0,))
    swept = "; ".join(_swept(setting, figures) for setting, figures in result["sweep"])
    return [
        Row(auto, "virtual", of_auto),
        Row(fixed, "virtual", of_fixed, f"{result['best']}. {swept}"),
    ]


def _swept(setting: int, figures: Mapping[str, float]) -> str:
    lost = f" ({figures['failed']:,.0f} failed)" if figures["failed"] else ""
    return f"{setting}: {figures['seconds']:,.0f} s{lost}"


def work(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one server with one capacity; see `isolation.run_worker`."""
    server, capacity = SERVERS[settings["server"]], settings["capacity"]
    items, seeds = settings["items"], range(settings["seeds"])

    def ask(setting: int | str, seed: int) -> Figures:
        return play(server.provider(capacity, items, seed), batchrt(max_concurrency=setting), items)

    sweep = [(setting, ask(setting, 0)) for setting in _settings(capacity)]
    best, first = min(sweep, key=lambda entry: (entry[1]["failed"], entry[1]["seconds"]))
    return {
        "sweep": sweep,
        "best": best,
        "fixed": [first, *(ask(best, seed) for seed in seeds[1:])],
        "auto": [ask("auto", seed) for seed in seeds],
    }


def _settings(capacity: int) -> Sequence[int]:
    """Return settings around a capacity, itself and its half included; fewer leave it idle."""
    near = [setting for setting in _SETTINGS if capacity / 2 <= setting <= 4 * capacity]
    return sorted({*near, capacity // 2, capacity})
