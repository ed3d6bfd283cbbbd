from __future__ import annotations

from typing import Any

import anyio
import pytest

from batchrt.testing import Fault, FaultPlan, MockProvider, Noise, Outage, Queueing, RateLimits
from tests.testing.virtual import Client, Got, simulate


def ask(provider: MockProvider, count: int, seconds: float = 0.0) -> list[Got]:
    """Send `count` requests one after the other."""

    async def main() -> list[Got]:
        client, got = Client(provider), []
        for number in range(count):
            got.append(await client.ask(f"{number}"))
            await anyio.sleep(seconds)
        return got

    return simulate(main)


def refused(got: list[Got]) -> list[bool]:
    return [each.status == 429 for each in got]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": 1.1}, "share must be a number from 0 to 1"),
        ({"share": [(0, 0), (5, -0.1)]}, "share must be a number from 0 to 1"),
        ({"share": 0.5, "wait": 0}, "wait must be seconds > 0, not 0"),
        ({"share": 0.5, "style": "abacus"}, "style must be one of openai, "),
        ({"share": 0.5, "waits": ["shout"]}, "waits must be some of retry-after, "),
    ],
)
def test_noise_rejects_invalid_arguments(options: dict[str, Any], words: str) -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match=words):
        Noise(**options)


def test_noise_refuses_its_share_at_any_rate() -> None:
    """At random, and the same requests in every run; another seed refuses others."""
    fast, slow, other = (
        refused(ask(MockProvider(seed=seed, noise=Noise(share=0.2)), 1000, pause))
        for seed, pause in ((1, 0.0), (1, 10.0), (2, 0.0))
    )
    assert fast == slow != other
    assert sum(fast) == pytest.approx(200, abs=40)


def test_noise_draws_anew_for_a_retry() -> None:
    """A retried request is answered in the end."""
    provider = MockProvider(noise=Noise(share=0.5))

    async def main() -> list[int]:
        client = Client(provider)
        return [(await client.ask("the same")).status for _ in range(40)]

    assert set(simulate(main)) == {200, 429}


def test_noise_asks_for_a_wait_only_if_given() -> None:
    """It uses `retry-after` where the style has no form of its own."""
    for wait, style, expected in (
        (None, None, {}),
        (2.5, None, {"retry-after": "3", "retry-after-ms": "2500"}),
        (2.5, "litellm", {"llm_provider-retry-after": "3"}),
        (2.5, "tei", {"retry-after": "3"}),
        (2.5, "infinity", {"retry-after": "3"}),
    ):
        [got] = ask(MockProvider(noise=Noise(share=1, wait=wait, style=style)), 1)  # type: ignore[arg-type]
        assert (got.status, got.time) == (429, 0)
        assert {name: value for name, value in got.headers.items() if "retry" in name} == expected


def test_noise_follows_a_schedule() -> None:
    """A share changes at its second."""
    got = ask(MockProvider(noise=Noise(share=[(0, 0), (3, 1), (6, 0)])), 9, 1.0)
    assert refused(got) == [False] * 3 + [True] * 3 + [False] * 3


def test_noise_does_not_touch_quota_queue_or_faults() -> None:
    """It takes nothing, and an outage comes first."""
    provider = MockProvider(
        rate_limits=RateLimits(requests_per_minute=60, burst_seconds=1),
        queueing=Queueing(capacity=1),
        faults=FaultPlan(script=[Fault.CONFLICT]),
        noise=Noise(share=[(0, 1), (5, 0)], wait=1.0),
        outages=[Outage(2, 3)],
        refusal_latency=0.25,
    )

    async def main() -> list[tuple[int, float]]:
        client, got = Client(provider), []
        for second in (0, 1, 2, 4, 5, 5.5):
            await anyio.sleep_until(second)
            answer = await client.ask(f"{second}")
            got.append((answer.status, answer.time))
        return got

    assert simulate(main) == [(429, 0.25), (429, 1.25), (503, 2), (429, 4.25), (409, 5), (429, 5.75)]
    verdict = provider.verdict()
    assert (verdict.sent, verdict.accepted, verdict.failed, verdict.rejected) == (6, 1, 1, 1)
