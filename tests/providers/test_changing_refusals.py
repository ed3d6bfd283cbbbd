"""Servers whose limits, users or latencies change: the pace follows, and little is refused meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from batchrt.testing import MockProvider, Noise, RateLimits, Stranger, Verdict
from tests.providers.mocked import simulate


def judged(items: int, cap: Any, seed: int = 0, **given: Any) -> Verdict:
    """Run so many requests, none of which is lost, and return the verdict."""
    provider = MockProvider(seed=seed, refusal_latency=0.005, **given)
    simulated = simulate(provider, items, cap=cap, seed=seed)
    verdict = provider.verdict(grace=0.006, max_concurrency=cap if isinstance(cap, int) else None)
    assert (verdict.lost, simulated.errors) == (0, [])
    return verdict


@pytest.mark.parametrize("seed", range(3))
def test_refusals_at_random_let_no_flood_in_without_a_cap(seed: int) -> None:
    """Once some refusals had no reason, all requests that waited went at once, and most were refused."""
    verdict = judged(
        1500,
        None,
        seed,
        latency=0.05,
        rate_limits=RateLimits(max_parallel_requests=4, style="nginx"),
        noise=Noise(share=0.02, wait=0.5),
    )
    assert verdict.refused_share <= 0.06


@pytest.mark.parametrize("cap", [None, "auto"])
def test_refusals_with_a_wait_cost_no_round_trips_but_the_wait(cap: Any) -> None:
    """Answers take a second, but a probe that is not refused within some milliseconds was let in."""
    verdict = judged(
        1000,
        cap,
        latency=1.0,
        rate_limits=RateLimits(
            requests_per_minute=3000, burst_seconds=1.0, style="litellm", headers="none", named_wait=0.05
        ),
    )
    assert verdict.slowness <= 1.3
    assert verdict.refused_share <= 0.05


@pytest.mark.parametrize("seed", range(4))
def test_refusals_that_begin_with_another_user_of_the_key_lower_the_pace(seed: int) -> None:
    """Refusals that became several times as many when a rate was given up show that it was right."""
    verdict = judged(
        300,
        8,
        seed,
        latency=0.2,
        rate_limits=RateLimits(
            requests_per_minute=600,
            burst_seconds=1.0,
            style="nginx",
            stranger=Stranger(requests_per_minute=[(0, 0), (5, 300)]),
        ),
    )
    assert verdict.slowness <= 1.1
    assert verdict.refused_share <= 0.12


@pytest.mark.parametrize("changed", [300, 200])
def test_refusals_of_a_rate_that_was_lowered_are_few(changed: int) -> None:
    """Hardly any were refused before, and many at once."""
    limits = RateLimits(requests_per_minute=[(0, 600), (10, changed)], burst_seconds=1.0, style="nginx")
    verdict = judged(300, 8, latency=0.2, rate_limits=limits)
    assert verdict.slowness <= 1.1
    assert verdict.refused_share <= 0.12


@pytest.mark.parametrize("wait", [None, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_refusals_of_a_limit_in_flight_that_was_halved_are_few(wait: float | None, seed: int) -> None:
    """What was let in beside more requests before says nothing about the limit of now."""
    verdict = judged(
        1000,
        None,
        seed + 1,
        latency=0.2,
        rate_limits=RateLimits(max_parallel_requests=[(0, 16), (8, 8)], style="nginx"),
        noise=Noise(share=0.02, wait=wait),
    )
    assert verdict.slowness <= 1.25
    assert verdict.refused_share <= 0.06


def test_refusals_end_at_the_very_rate_of_a_bucket_of_one() -> None:
    """The rate that refusals tell is exact, and a request that arrives a moment early is refused at it."""
    limits = RateLimits(requests_per_minute=[(0, 600), (19, 300)], burst_seconds=0.2, style="tei")
    verdict = judged(300, 50, 377, latency=0.2, rate_limits=limits)
    assert verdict.slowness <= 1.2
    assert verdict.refused_share <= 0.18
