"""Refusals at random, in virtual time: no pace is lost for long to a limit that is none."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from batchrt.testing import MockProvider, Noise, Queueing, RateLimits
from tests.providers.mocked import simulate

LATENCY = 0.1
REFUSAL = 0.005
SEEDS = (10, 11, 16, 30, 39, 42, 46, 48)
"""Those with the most refusals among the first requests."""


def slowness(seed: int, cap: Any, items: int, wait: float | None, latency: float = LATENCY) -> float:
    """Return the time of so many requests of which a fifth is refused, in terms of the ideal."""
    provider = MockProvider(
        seed=seed,
        latency=latency,
        refusal_latency=REFUSAL,
        noise=Noise(share=0.2, wait=wait),
        queueing=Queueing(capacity=50),
    )
    simulate(provider, items, cap=cap, seed=seed)
    return provider.verdict(
        grace=REFUSAL + 0.001, max_concurrency=cap if isinstance(cap, int) else None
    ).slowness


@pytest.mark.parametrize(
    ("cap", "items", "wait", "worst", "median"),
    [(1, 60, None, 2.8, 1.35), (8, 300, None, 1.4, 1.2), (1, 60, 1.0, 2.0, 1.2), (50, 300, 1.0, 1.6, 1.3)],
)
def test_random_refusals_are_taken_for_no_low_rate(
    cap: int, items: int, wait: float | None, worst: float, median: float
) -> None:
    """A rate that a few of them told was kept to for up to a minute, in one run thirteen times the ideal."""
    found = [slowness(seed, cap, items, wait) for seed in SEEDS]
    assert max(found) <= worst
    assert statistics.median(found) <= median


def test_random_refusals_cost_one_request_at_a_time_no_pauses() -> None:
    """The rate of requests that are sent one at a time is no limit, and two refusals in a row are likely."""
    found = [slowness(seed, 1, 60, None) for seed in range(12, 24)]
    assert statistics.median(found) <= 1.2


@pytest.mark.parametrize("cap", [8, 50, "auto"])
@pytest.mark.parametrize(("rate", "burst"), [(5.0, 1.0), (50.0, 0.2)])
def test_random_refusals_are_told_from_a_rate_at_few_refusals(rate: float, burst: float, cap: Any) -> None:
    """The test of a rate that is a limit costs hardly any."""
    provider = MockProvider(
        seed=1,
        latency=5 / rate,
        refusal_latency=REFUSAL,
        rate_limits=RateLimits(requests_per_minute=60 * rate, burst_seconds=burst, style="nginx"),
    )
    simulate(provider, 100 if rate < 10 else 300, cap=cap)
    verdict = provider.verdict(grace=REFUSAL + 0.001)
    assert verdict.refused_share <= 0.1
    assert verdict.slowness <= 1.3
