"""Whole runs against providers that limit: the limit is used, little is refused, every wait is kept."""

from __future__ import annotations

from typing import Any

import pytest

from batchrt.testing import MockProvider, RateLimits
from tests.providers.mocked import LATENCY, Simulated, lengths, simulate

by = pytest.mark.parametrize("given", [True, False], ids=["given", "learnt"])


def provider(seed: int, **limits: Any) -> MockProvider:
    return MockProvider(seed=seed, latency=LATENCY, rate_limits=RateLimits(**limits), answer=lengths)


def check(simulated: Simulated, *, used: float = 0.97, rejected: float = 0.01) -> None:
    """Assert that every item is done, the limit was used and kept to, and so was every wait."""
    assert not simulated.errors
    verdict = simulated.verdict
    assert verdict.used is not None
    assert verdict.used >= used
    assert verdict.rejected_share <= rejected
    assert verdict.sent_in_waits == 0
    assert all(cool_down.is_kept for cool_down in verdict.cool_downs)


@by
@pytest.mark.parametrize(("seed", "burst"), [(1, 1.0), (2, 1.0), (3, 60.0), (4, 60.0)])
def test_limits_of_requests_are_used(seed: int, burst: float, *, given: bool) -> None:
    """Whether it is given by hand or told by the answers, and whatever the provider's bucket holds."""
    made = provider(seed, requests_per_minute=600, burst_seconds=burst)
    check(simulate(made, 1200, requests_per_minute=600 if given else None))


@by
@pytest.mark.parametrize("seed", [1, 2])
def test_limits_of_tokens_are_used(seed: int, *, given: bool) -> None:
    """Though the lengths of answers are unknown beforehand."""
    made = provider(seed, tokens_per_minute=90_000)
    check(simulate(made, 2000, tokens_per_minute=90_000 if given else None))


@by
@pytest.mark.parametrize("seed", [3, 4])
def test_limits_of_requests_and_tokens_are_kept_at_once(seed: int, *, given: bool) -> None:
    """The tighter one is used."""
    limits: Any = {"requests_per_minute": 600, "tokens_per_minute": 90_000}
    check(simulate(provider(seed, **limits), 1500, **(limits if given else {})))


@by
@pytest.mark.parametrize("seed", [5])
def test_limits_are_used_together_by_runs_that_share_them(seed: int, *, given: bool) -> None:
    """Four at a time, each with a model of its own; none is left out."""
    made = provider(seed, requests_per_minute=600)
    simulated = simulate(made, 2000, runs=4, requests_per_minute=600 if given else None)
    check(simulated)
    assert max(simulated.ended) - min(simulated.ended) < 0.2 * simulated.seconds


@by
@pytest.mark.parametrize("seed", [6, 7])
def test_limits_that_halve_are_noticed(seed: int, *, given: bool) -> None:
    """By the answers' headers, though a higher one was given by hand."""
    made = provider(seed, requests_per_minute=[(0, 600), (80, 300)])
    simulated = simulate(made, 1800, requests_per_minute=600 if given else None)
    check(simulated)
    assert simulated.statistics.limits["requests_per_minute"] == 300


@pytest.mark.parametrize(("seed", "headers"), [(1, "success"), (2, "none")])
def test_limits_that_are_given_need_no_headers(seed: int, headers: str) -> None:
    """The given limit is enough."""
    made = provider(seed, requests_per_minute=600, headers=headers)
    check(simulate(made, 1200, requests_per_minute=600))


@pytest.mark.parametrize(("seed", "burst"), [(1, 1.0), (2, 60.0)])
def test_limits_that_only_refusals_tell_are_found(seed: int, burst: float) -> None:
    """From their times: the rate of accepted requests between two of them."""
    made = provider(seed, requests_per_minute=600, burst_seconds=burst, headers="none")
    check(simulate(made, 3000), used=0.90, rejected=0.03)


@pytest.mark.parametrize("style", ["openai", "azure", "litellm"])
@pytest.mark.parametrize("headers", ["all", "success", "none"])
@pytest.mark.parametrize("burst", [1.0, 60.0])
def test_limits_send_nothing_during_a_wait(style: str, headers: str, burst: float) -> None:
    """In whatever form it is asked for; and afterwards no more than the provider's bucket holds."""
    for seed in range(4):
        made = provider(seed, requests_per_minute=60, burst_seconds=burst, style=style, headers=headers)
        simulated = simulate(made, 96, runs=3)
        assert not simulated.errors
        verdict = simulated.verdict
        assert verdict.rejected, "there is something to be seen"
        assert verdict.sent_in_waits == 0
        assert [cool_down for cool_down in verdict.cool_downs if not cool_down.is_kept] == []
