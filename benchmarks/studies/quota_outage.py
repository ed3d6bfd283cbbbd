"""Nothing works for a while, in the middle of a run: who sends how much for nothing, and who is left over?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.harness.isolation import WorkerError
from benchmarks.studies.quota_clients import Client, batchrt, langchain, tenacious
from benchmarks.studies.quota_peers import PEERS, missing
from benchmarks.studies.quota_runs import LATENCY, Figures, Plan, each_apart, play, series_of
from benchmarks.studies.results import Column, Row, Table

if TYPE_CHECKING:
    from batchrt.testing import MockProvider

__all__ = [
    "BATCHRT",
    "COLUMNS",
    "KINDS",
    "PATIENT",
    "RETRIES",
    "Load",
    "case_name",
    "load",
    "measure",
    "work",
]

COLUMNS = (
    Column("sent", "requests", 0),
    Column("sends", "requests/item", 3),
    Column("lost", "into the outage", 0),
    Column("seconds", "virtual s", 0),
    Column("late", "s after its end", 0),
    Column("failed", "failed", 0),
    Column("unexplained", "without a reason", 0),
)
BATCHRT, PATIENT = "batchrt", "batchrt, patience=300"
_CONTENDERS = (BATCHRT, PATIENT, PEERS[1].name, PEERS[2].name)
KINDS: Mapping[str, Any] = {"503": 503, "refused": "refused", "hanging": "hanging"}
RETRIES = 100
"""How many retries there may be at once: the retry budget's default."""
_IN_FLIGHT = 200
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """Say how much is asked, and from when until when nothing works."""

    items: int
    start: float
    end: float


def load(*, quick: bool) -> Load:
    """Return what is asked."""
    return Load(1_000, 2.0, 32.0) if quick else Load(10_000, 25.0, 85.0)


def case_name(kind: str, given: Load) -> str:
    """Return a case's title."""
    seconds = given.end - given.start
    return f"outage of {seconds:g} s ({kind}) in the middle of {given.items:,} requests, {_IN_FLIGHT} at once"


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure everybody in each kind of outage; the slow ones once."""
    given, seeds = load(quick=quick), 1 if quick else 3
    plans: list[Plan] = [
        (
            f"outage ({kind}): {who}, seed {seed}",
            {"kind": kind, "who": who, "quick": quick, "seed": seed},
        )
        for kind in KINDS
        for who in _CONTENDERS
        for seed in range(seeds if who.startswith(BATCHRT) else 1)
        if not _reason(who, kind)
    ]
    results = each_apart("studies.quota_outage", plans, tell)
    done = [(plan, result) for (_, plan), result in zip(plans, results, strict=True)]
    for kind in KINDS:
        rows = []
        for who in _CONTENDERS:
            own = [result for plan, result in done if (plan["kind"], plan["who"]) == (kind, who)]
            rows.append(_row(who, kind, own))
        yield Table(case_name(kind, given), COLUMNS, rows)


def _reason(who: str, kind: str) -> str:
    """Return why somebody is not measured; empty if it is."""
    if who == PEERS[1].name and kind != "503":
        return "left out: it would take minutes"
    return next((missing(peer) for peer in PEERS if peer.name == who), "")


def _row(who: str, kind: str, results: list[Any]) -> Row:
    failures = [result for result in results if isinstance(result, WorkerError)]
    if failures or not results:
        return Row(who, "virtual", note=f"failed: {failures[0]}" if failures else _reason(who, kind))
    return Row(who, "virtual", series_of(results))


def work(settings: Mapping[str, Any]) -> Figures:
    """Measure one of them once; see `isolation.run_worker`."""
    given = load(quick=settings["quick"])
    provider = _provider(given, settings["kind"], settings["seed"])
    figures = play(provider, _client(settings["who"]), given.items)
    verdict = provider.verdict()
    late = max(0.0, figures["seconds"] - given.end)
    return {**figures, "sent": verdict.sent, "lost": verdict.failed, "late": late}


def _provider(given: Load, kind: str, seed: int) -> MockProvider:
    from batchrt.testing import LogNormal, MockProvider, Outage

    outage = Outage(given.start, given.end, KINDS[kind])
    return MockProvider(seed=seed, latency=LogNormal(*LATENCY), outages=(outage,), keep_records=1)


def _client(who: str) -> Client:
    if who == PEERS[1].name:
        return langchain(_IN_FLIGHT, requests_per_second=None, timeout=_TIMEOUT)
    if who == PEERS[2].name:
        return tenacious(_IN_FLIGHT, timeout=_TIMEOUT)
    from batchrt import RetryPolicy

    policy = RetryPolicy(patience=300) if who == PATIENT else None
    return batchrt(timeout=_TIMEOUT, retry_policy=policy, max_concurrency=_IN_FLIGHT)
