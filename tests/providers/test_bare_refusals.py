"""Servers that refuse without telling their limits: no row is lost, no pace, and little is refused."""

from __future__ import annotations

from typing import Any

import pytest

from batchrt.testing import LogNormal, MockProvider, Noise, Queueing, RateLimits
from tests.providers.mocked import Network, simulate

SERVERS: dict[str, dict[str, Any]] = {
    "limit_req": {
        "rate_limits": RateLimits(requests_per_minute=3000, burst_seconds=0.2, style="nginx"),
    },
    "limit_conn": {"rate_limits": RateLimits(max_parallel_requests=4, style="nginx")},
    "litellm": {"rate_limits": RateLimits(max_parallel_requests=4, style="litellm")},
    "infinity": {"server": "infinity", "queueing": Queueing(capacity=4, max_waiting=8)},
    "noise": {"noise": Noise(share=0.02, wait=1.0)},
}


def judge(server: str, cap: Any, *, seed: int = 0) -> None:
    """Run 300 requests and assert the promise."""
    provider = MockProvider(seed=seed, latency=0.1, refusal_latency=0.005, **SERVERS[server])
    simulated = simulate(provider, 300, cap=cap, seed=seed)
    verdict = provider.verdict(grace=0.006, max_concurrency=cap if isinstance(cap, int) else 32)
    assert (verdict.lost, simulated.errors) == (0, [])
    assert verdict.sent_in_waits == 0
    assert verdict.refused_share <= 0.10
    assert verdict.slowness <= 1.3


@pytest.mark.parametrize(
    ("server", "cap"),
    [
        *((server, 1) for server in ("limit_req", "limit_conn", "litellm", "infinity")),
        *((server, "auto") for server in ("limit_req", "limit_conn", "infinity")),
        *((server, 32) for server in SERVERS),
        ("litellm", "auto"),
    ],
)
def test_bare_refusals_cost_neither_rows_nor_pace(server: str, cap: Any) -> None:
    """By rate, by number in flight, by a full queue, in LiteLLM's words, at random."""
    judge(server, cap)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("server", "cap"),
    [
        *(("limit_conn", cap) for cap in (8, 32, 50, None, "auto")),
        *(("limit_req", cap) for cap in (8, 32, None)),
        ("infinity", 50),
    ],
)
def test_bare_refusals_are_few_where_requests_arrive_in_another_order(
    server: str, cap: Any, seed: int
) -> None:
    """A limit refuses the last of a burst to arrive, which need not be the last that was sent."""
    provider = MockProvider(seed=seed, latency=LogNormal(0.1, 0.2), **SERVERS[server])
    transport = Network(provider.transport(), seed)
    simulated = simulate(provider, 300, cap=cap, seed=seed, transport=transport)
    verdict = provider.verdict(grace=0.03, max_concurrency=cap if isinstance(cap, int) else None)
    assert (verdict.lost, simulated.errors) == (0, [])
    assert verdict.refused_share <= 0.10
    assert verdict.slowness <= 1.3


@pytest.mark.parametrize("cap", [8, 50, None, "auto"])
@pytest.mark.parametrize(
    ("limits", "latency", "items", "refused", "used"),
    [
        ({"requests_per_minute": 300, "burst_seconds": 1, "style": "nginx"}, 1.0, 100, 0.08, 0.95),
        (
            {
                "requests_per_minute": 3000,
                "burst_seconds": 1.2,
                "headers": "none",
                "waits": ("retry-after-ms",),
            },
            0.1,
            1000,
            0.02,
            0.97,
        ),
    ],
    ids=["slow", "blind"],
)
def test_bare_refusals_are_few_while_a_rate_is_found(
    limits: dict[str, Any], latency: float, items: int, refused: float, used: float, cap: Any
) -> None:
    """By a cold start with ten requests, growth that is paced, and waits that bound the rate."""
    provider = MockProvider(latency=latency, refusal_latency=0.005, rate_limits=RateLimits(**limits))
    simulated = simulate(provider, items, cap=cap)
    verdict = provider.verdict(grace=0.006)
    assert (verdict.lost, simulated.errors) == (0, [])
    assert verdict.refused_share <= refused
    assert verdict.used is not None
    assert verdict.used >= used


@pytest.mark.parametrize("cap", [1, 8, None, "auto"])
@pytest.mark.parametrize("rate", [0.5, 1.5, 2])
def test_bare_refusals_are_few_at_a_low_rate(rate: float, cap: Any) -> None:
    """A rate is searched for in requests: in seconds, every second or third request would be refused."""
    limits = RateLimits(requests_per_minute=60 * rate, burst_seconds=1 / rate, style="nginx")
    provider = MockProvider(latency=0.1, refusal_latency=0.005, rate_limits=limits)
    simulated = simulate(provider, 60, cap=cap)
    verdict = provider.verdict(grace=0.006)
    assert (verdict.lost, simulated.errors) == (0, [])
    assert verdict.sent - verdict.accepted <= 22, "nine of them in the first burst"
    assert verdict.slowness <= 1.25


def test_bare_refusals_of_a_probe_are_no_matter_of_its_moment() -> None:
    """One more is sent half a round trip after another, under `"auto"` too: a bucket of one lets it in."""
    limits = RateLimits(requests_per_minute=120, burst_seconds=0.5, style="nginx")
    provider = MockProvider(latency=1.0, refusal_latency=0.005, rate_limits=limits)
    simulated = simulate(provider, 60, cap="auto")
    verdict = provider.verdict(grace=0.006)
    assert (verdict.lost, simulated.errors) == (0, [])
    assert verdict.slowness <= 1.75


def test_bare_refusals_show_in_outcomes_and_statistics() -> None:
    """By its name, and for how long; the limit that was found is among the statistics, with its reason."""
    provider = MockProvider(
        latency=0.1, refusal_latency=0.005, rate_limits=RateLimits(max_parallel_requests=4, style="nginx")
    )
    simulated = simulate(provider, 100, cap=32)
    waits = [outcome.waits for outcome in simulated.results[0] if outcome.waits]
    assert len(waits) > 80
    assert all("max_in_flight" in one for one in waits[-20:])
    [found] = [status for status in simulated.statistics.sources if status.source == "found"]
    assert (found.name, found.limit) == ("max_in_flight", 4)
    assert "refused beside as many" in found.reason
