"""The same limit, the same concurrency: batchrt, LangChain with its limiter, a semaphore with tenacity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.harness.isolation import WorkerError
from benchmarks.harness.machine import installed
from benchmarks.studies.quota_clients import Client, batchrt, langchain, tenacious
from benchmarks.studies.quota_runs import LATENCY, Figures, Plan, each_apart, play, series_of
from benchmarks.studies.results import Column, Row, Table

if TYPE_CHECKING:
    from batchrt.testing import MockProvider

__all__ = ["COLUMNS", "IN_FLIGHT", "LIMIT", "PEERS", "Peer", "measure", "missing", "work"]

COLUMNS = (
    Column("used", "used %"),
    Column("rejected", "rejected %", 2),
    Column("in_waits", "in waits", 0),
    Column("broken", "not kept", 0),
    Column("retries", "retries/item", 3),
    Column("seconds", "virtual s", 0),
    Column("ideal", "x ideal", 3),
    Column("failed", "failed", 0),
)
IN_FLIGHT, LIMIT = 50, 600
"""Requests at once, and in a minute."""
_TOLD, _SILENT = "known, and told in headers", "not known: 429s with retry-after only"
_CASES = (_TOLD, _SILENT)


@dataclass(frozen=True, slots=True)
class Peer:
    """Say who asks, and which distributions that takes."""

    name: str
    needs: tuple[str, ...] = ()


PEERS = (
    Peer("batchrt"),
    Peer("LangChain, its limiter, with_retry", ("langchain-openai",)),
    Peer("semaphore, httpx, tenacity", ("httpx", "tenacity")),
)


def missing(peer: Peer) -> str:
    """Return what is to be said if a peer cannot be measured; else nothing."""
    lacking = [name for name in peer.needs if installed(name) is None]
    return f"missing: {', '.join(lacking)}" if lacking else ""


def _title(how: str, items: int) -> str:
    return f"side by side, {LIMIT} RPM {how}; {items:,} requests, {IN_FLIGHT} at once"


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure everybody in both cases with several seeds."""
    items, seeds = (500, 1) if quick else (2_000, 3)
    plans: list[Plan] = [
        (
            f"{_title(how, items)}: {peer.name}, seed {seed}",
            {"how": how, "peer": number, "items": items, "seed": seed},
        )
        for how in _CASES
        for number, peer in enumerate(PEERS)
        for seed in range(seeds)
        if not missing(peer)
    ]
    results = each_apart("studies.quota_peers", plans, tell)
    done = [(plan, result) for (_, plan), result in zip(plans, results, strict=True)]
    for how in _CASES:
        rows = []
        for number, peer in enumerate(PEERS):
            own = [result for plan, result in done if (plan["how"], plan["peer"]) == (how, number)]
            rows.append(_row(peer, own))
        yield Table(_title(how, items), COLUMNS, rows)


def _row(peer: Peer, results: list[Any]) -> Row:
    failures = [result for result in results if isinstance(result, WorkerError)]
    if failures or not results:
        return Row(peer.name, "virtual", note=f"failed: {failures[0]}" if failures else missing(peer))
    return Row(peer.name, "virtual", series_of(results))


def work(settings: Mapping[str, Any]) -> Figures:
    """Measure one of them once; see `isolation.run_worker`."""
    known, items = settings["how"] == _TOLD, settings["items"]
    provider = _provider(settings["seed"], told=known)
    figures = play(provider, _client(settings["peer"], known=known), items)
    return {**figures, "ideal": figures["seconds"] / ((items - LIMIT / 60) * 60 / LIMIT)}


def _provider(seed: int, *, told: bool) -> MockProvider:
    from batchrt.testing import LogNormal, MockProvider, RateLimits

    limits = RateLimits(requests_per_minute=LIMIT, burst_seconds=1, headers="all" if told else "none")
    return MockProvider(seed=seed, latency=LogNormal(*LATENCY), rate_limits=limits, keep_records=1)


def _client(peer: int, *, known: bool) -> Client:
    if peer == 0:
        limits = {"requests_per_minute": LIMIT} if known else {}
        return batchrt(limits=limits, max_concurrency=IN_FLIGHT)
    if peer == 1:
        return langchain(IN_FLIGHT, requests_per_second=LIMIT / 60 if known else None)
    return tenacious(IN_FLIGHT)
