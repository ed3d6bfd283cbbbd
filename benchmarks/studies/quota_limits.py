"""How well are limits used that are known, or that only answers tell of, or only refusals?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from benchmarks.harness.isolation import WorkerError
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
    from batchrt.testing import LimitUse, MockProvider

__all__ = ["COLUMNS", "GIVEN", "LEARNT", "REFUSED", "Situation", "measure", "situations", "work"]

GIVEN = "limits that are given, and told in headers"
LEARNT = "limits that are learnt from headers"
REFUSED = "limits that only 429s tell of"
"""Ways to know a limit: the cases."""
COLUMNS = (
    Column("used", "used %"),
    Column("rejected", "rejected %", 2),
    Column("in_waits", "in waits", 0),
    Column("cool_downs", "cool-downs", 0),
    Column("broken", "not kept", 0),
    Column("after", "% after", 0),
    Column("retries", "retries/item", 3),
    Column("seconds", "virtual s", 0),
    Column("ideal", "x ideal", 3),
    Column("failed", "failed", 0),
)

_CHANGES = 480.0
"""Seconds after which a limit changes that does."""

Steps = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Situation:
    """Say what a provider allows, how that is known, and what is asked of it.

    Attributes:
        name: what is allowed, in words.
        how: it is known.
        limits: what the mock's `RateLimits` are made of; a limit that changes is given as the most it is.
        burst: seconds of a limit that the provider's bucket holds.
        runs: how many share the quota, and the items, at the same time.
    """

    name: str
    how: str
    limits: Mapping[str, Any]
    burst: float = 60.0
    items: int = 10_000
    in_flight: int = 50
    runs: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def contender(self) -> str:
        """What the row is called."""
        return f"{self.name}, {self.burst:g} s at once"

    def given(self) -> dict[str, Any]:
        """Return the limits that the models are given."""
        if self.how != GIVEN:
            return {}
        return {name: max(number for _, number in _steps(limit)) for name, limit in self.limits.items()}

    def provider(self, seed: int) -> MockProvider:
        """Return who allows that."""
        from batchrt.testing import LogNormal, MockProvider, RateLimits

        allowed: dict[str, Any] = {**self.limits, **self.options, "burst_seconds": self.burst}
        if self.how == REFUSED:
            allowed["headers"] = "none"
        tokens = "tokens_per_minute" in self.limits
        return MockProvider(
            seed=seed,
            latency=LogNormal(*LATENCY),
            rate_limits=RateLimits(**allowed),
            answer=worded if tokens else None,
            keep_records=1,
        )

    def ideal(self, uses: Sequence[LimitUse]) -> float:
        """Return the seconds that what was spent takes if nothing but the limits does."""
        found = 0.0
        for use in uses:
            steps = _steps(self.limits[f"{use.name}_per_{use.per}"])
            found = max(found, _seconds_for(use.spent - use.held, steps))
        return found


def _steps(limit: Any) -> Steps:
    return [(0.0, limit)] if isinstance(limit, int | float) else limit


def _seconds_for(amount: float, steps: Steps) -> float:
    """Return when limits for a minute, which change in steps, have let so much in."""
    left = amount
    for (begin, limit), (end, _) in pairwise([*steps, (math.inf, 0.0)]):
        seconds = max(0.0, left) * 60 / limit
        if begin + seconds <= end:
            return begin + seconds
        left -= (end - begin) * limit / 60
    return math.inf


def situations(*, quick: bool) -> list[Situation]:
    """Return what is measured, case by case."""
    found = [one for burst in ((1.0,) if quick else (60.0, 1.0)) for one in _with_bucket(burst, quick=quick)]
    return sorted(found, key=lambda one: (one.how, one.name, -one.burst))


def _with_bucket(burst: float, *, quick: bool) -> list[Situation]:
    share = 5 if quick else 1
    items, changes = 10_000 // share, _CHANGES / share
    many_items = (20_000 if burst == 1 else 40_000) // share
    rpm, many = {"requests_per_minute": 600}, {"requests_per_minute": 10_000}
    tpm = {"tokens_per_minute": 90_000}
    halves = {"requests_per_minute": [(0, 600), (changes, 300)]}
    doubles = {"requests_per_minute": [(0, 600), (changes, 1200)]}
    found = [
        one
        for how in (GIVEN, LEARNT, REFUSED)
        for one in (
            Situation("600 RPM", how, rpm, burst, items),
            Situation("10,000 RPM", how, many, burst, many_items, in_flight=500),
            Situation("90,000 TPM", how, tpm, burst, items),
        )
    ]
    for how in (GIVEN, LEARNT):
        found += [
            Situation("600 RPM and 90,000 TPM", how, {**rpm, **tpm}, burst, items),
            Situation("600 RPM, four runs", how, rpm, burst, items, runs=4),
            Situation("600 RPM, halves midway", how, halves, burst, items),
            Situation("600 RPM, doubles midway", how, doubles, burst, items),
        ]
    whole = {"waits": ("retry-after",)}
    return [*found, Situation("600 RPM, waits in whole seconds", REFUSED, rpm, burst, items, options=whole)]


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure each situation with several seeds."""
    rows, seeds = situations(quick=quick), 1 if quick else 3
    for how in (GIVEN, LEARNT, REFUSED):
        of_case = [number for number, row in enumerate(rows) if row.how == how]
        plans: list[Plan] = [
            (f"{how}: {rows[number].contender}, seed {seed}", {"row": number, "quick": quick, "seed": seed})
            for number in of_case
            for seed in range(seeds)
        ]
        results = each_apart("studies.quota_limits", plans, tell)
        parts = [results[start : start + seeds] for start in range(0, len(results), seeds)]
        shown = [_row(rows[number], part) for number, part in zip(of_case, parts, strict=True)]
        yield Table(how, COLUMNS, [*shown, together(shown)])


def _row(situation: Situation, results: Sequence[Any]) -> Row:
    for result in results:
        if isinstance(result, WorkerError):
            return Row(situation.contender, "virtual", note=f"failed: {result}")
    return Row(situation.contender, "virtual", series_of(results))


def work(settings: Mapping[str, Any]) -> Figures:
    """Measure one situation once; see `isolation.run_worker`."""
    situation = situations(quick=settings["quick"])[settings["row"]]
    provider = situation.provider(settings["seed"])
    client = batchrt(limits=situation.given(), runs=situation.runs, max_concurrency=situation.in_flight)
    figures = play(provider, client, situation.items)
    return {**figures, "ideal": figures["seconds"] / situation.ideal(provider.verdict().limits)}
