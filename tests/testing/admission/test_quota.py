from __future__ import annotations

import random
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt.testing import Fault, FaultPlan, LogNormal, MockProvider, RateLimits, Verdict
from tests.testing.virtual import Client, simulate


async def statuses(client: Client, count: int, **options: Any) -> list[int]:
    return [(await client.ask(f"{number}", **options)).status for number in range(count)]


def tokens_left(provider: MockProvider) -> float:
    [quota] = provider._controller._quotas.values()
    return next(bucket for bucket in quota.buckets if bucket.name == "tokens")._left


def test_quota_is_per_key_and_model() -> None:
    """Over any connection."""
    provider = MockProvider(rate_limits=RateLimits(requests_per_minute=60, burst_seconds=2))

    async def main() -> list[list[int]]:
        one, twin, other = Client(provider, "a"), Client(provider, "a"), Client(provider, "b")
        return [
            await statuses(one, 3),
            await statuses(twin, 1),
            await statuses(other, 3),
            await statuses(one, 3, model="another"),
        ]

    assert simulate(main) == [[200, 200, 429], [429], [200, 200, 429], [200, 200, 429]]
    assert len({(use.key, use.model) for use in provider.verdict().limits}) == 3


def test_quota_wait_is_sufficient() -> None:
    """A client that waits as asked is admitted, each time, over an hour of requests at all rates."""
    limits = RateLimits(requests_per_minute=77, tokens_per_minute=999, burst_seconds=1.7, settle=False)
    provider = MockProvider(rate_limits=limits)
    chance = random.Random(5)

    async def main() -> int:
        client = Client(provider)
        refused = 0
        while anyio.current_time() < 3600:
            tokens = chance.randrange(1, 40)
            got = await client.ask("hi", max_tokens=tokens)
            if got.status == 429:
                refused += 1
                await anyio.sleep(float(got.headers["retry-after-ms"]) / 1000)
                assert (await client.ask("hi", max_tokens=tokens)).status == 200
            await anyio.sleep(chance.random())
        return refused

    assert simulate(main) > 100
    assert provider.verdict().sent_in_waits == 0


@pytest.mark.parametrize("seed", range(5))
def test_quota_admits_exactly_the_buckets_content(seed: int) -> None:
    """For any requests, in any span: the content and the refill, and no less."""
    provider = MockProvider(
        rate_limits=RateLimits(requests_per_minute=[(0, 600), (30, 120)], burst_seconds=3)
    )
    chance = random.Random(seed)

    async def main() -> list[float]:
        client = Client(provider)
        let_in = []
        while anyio.current_time() < 60:
            got = await client.ask("hi")
            if got.status == 200:
                let_in.append(got.time)
            await anyio.sleep(chance.expovariate(15))
        return let_in

    let_in = simulate(main)
    for start in range(0, 60, 7):
        for end in range(start + 1, 61, 5):
            refill = 10 * max(0, min(end, 30) - start) + 2 * max(0, end - max(start, 30))
            count = sum(start <= second < end for second in let_in)
            assert count <= (30 if start < 30 else 6) + refill + 1e-3
    verdict = provider.verdict()
    assert verdict.used is not None
    assert 0.98 < verdict.used <= 1


def test_quota_follows_a_scheduled_limit() -> None:
    """From the scheduled second on, headers too."""
    provider = MockProvider(rate_limits=RateLimits(requests_per_minute=[(0, 600), (60, 60)], burst_seconds=1))

    async def main() -> list[tuple[int, str]]:
        client = Client(provider)
        seen = []
        await client.ask()
        for second in (30, 59, 60, 90):
            await anyio.sleep_until(second)
            codes = await statuses(client, 12)
            seen.append((codes.count(200), (await client.ask()).headers["x-ratelimit-limit-requests"]))
        return seen

    assert simulate(main) == [(10, "600"), (10, "600"), (1, "60"), (1, "60")]


def test_quota_settles_an_answers_cost() -> None:
    """The unused part of the reserve is refunded; without `max_tokens` the rest is charged."""

    async def main(options: dict[str, Any]) -> tuple[float, float, int]:
        provider = MockProvider(latency=1.0, rate_limits=RateLimits(tokens_per_minute=6000))
        during = []
        async with anyio.create_task_group() as group:

            async def look() -> None:
                await anyio.sleep(0.5)
                during.append(tokens_left(provider))

            group.start_soon(look)
            got = await Client(provider).ask("hi", **options)
        return during[0], tokens_left(provider), got.document["usage"]["total_tokens"]

    during, after, spent = simulate(main, {"max_tokens": 1000, "n": 2})
    assert during == 6000 - 4 - 2000
    # The second added 100 to 3,996, the answer more than there was room for.
    assert spent < 100
    assert after == 6000
    during, after, spent = simulate(main, {})
    assert during == 6000 - 4
    # The second filled it, and the answer is charged afterwards.
    assert after == pytest.approx(6000 - (spent - 4))


def test_quota_refunds_failures_but_not_disconnects() -> None:
    """Tokens only: a request stays a request."""

    async def main(provider: MockProvider, *, leaves: bool) -> float:
        with anyio.move_on_after(0.5 if leaves else 10):
            await Client(provider).ask("hi", max_tokens=1000)
        await anyio.lowlevel.checkpoint()
        return tokens_left(provider)

    limits = RateLimits(tokens_per_minute=6000, requests_per_minute=60)
    failing = MockProvider(rate_limits=limits, faults=FaultPlan(script=[Fault.SERVER_ERROR]))
    assert simulate(lambda: main(failing, leaves=False)) == 6000
    assert [use.spent for use in failing.verdict().limits] == [1, 0]
    slow = MockProvider(rate_limits=limits, latency=1.0)
    assert simulate(lambda: main(slow, leaves=True)) == 6000 - 1004
    assert [use.spent for use in slow.verdict().limits] == [1, 1004]
    settled_not = MockProvider(rate_limits=RateLimits(tokens_per_minute=6000, settle=False))
    assert simulate(lambda: main(settled_not, leaves=False)) == 6000 - 1004


def test_quota_charges_other_endpoints_for_their_inputs() -> None:
    """Embeddings for the billed tokens, completions for each prompt and each choice's `max_tokens`."""

    async def main() -> list[float]:
        left = []
        for path, body in (
            ("/v1/embeddings", {"model": "m", "input": ["four", "four"]}),
            ("/v1/completions", {"model": "m", "prompt": ["four", "four"], "max_tokens": 5, "n": 2}),
        ):
            provider = MockProvider(rate_limits=RateLimits(tokens_per_minute=600, settle=False))
            assert (await Client(provider).post(path, body)).status == 200
            left.append(tokens_left(provider))
        return left

    assert simulate(main) == [598, 600 - 2 - 20]


def test_quota_ignores_invalid_requests_and_other_routes() -> None:
    """A 4xx of its own and the list of models are not limited."""
    provider = MockProvider(rate_limits=RateLimits(requests_per_minute=60, burst_seconds=1))

    async def main() -> list[int]:
        client = Client(provider)
        wrong = [(await client.post("/v1/chat/completions", {"model": "m"})).status for _ in range(3)]
        models = [(await client.get("/v1/models")).status for _ in range(3)]
        return [*wrong, *models, *await statuses(client, 2)]

    assert simulate(main) == [400, 400, 400, 200, 200, 200, 200, 429]


def test_quota_is_full_after_a_reset() -> None:
    """Scripts start again; requests in flight settle without an effect."""
    limits = RateLimits(requests_per_minute=[(0, 60), (5, 600)], tokens_per_minute=6000, burst_seconds=1)
    provider = MockProvider(rate_limits=limits, latency=1.0)

    async def main() -> list[str]:
        client = Client(provider)
        async with anyio.create_task_group() as group:
            group.start_soon(client.ask)
            await anyio.sleep(0.5)
            provider.reset()
        assert provider.verdict().sent == 0
        await anyio.sleep(100)
        seen = []
        for _ in range(2):
            seen.append((await client.ask()).headers["x-ratelimit-limit-requests"])
            await anyio.sleep(5)
        return seen

    assert simulate(main) == ["60", "600"]


def test_quota_is_deterministic() -> None:
    """Limits, settlements and verdicts depend only on the requests and their times."""

    async def main() -> Verdict:
        provider = MockProvider(
            seed=3,
            latency=LogNormal(1.0, 0.5),
            faults=FaultPlan.everything(0.2, seed=3, permanent=False, stall_seconds=3),
            rate_limits=RateLimits(requests_per_minute=600, tokens_per_minute=2000, burst_seconds=2),
        )

        async def one(number: int) -> None:
            try:
                await Client(provider).ask(f"{number}", max_tokens=20)
            except Exception:
                return

        async with anyio.create_task_group() as group:
            for number in range(300):
                group.start_soon(one, number)
                await anyio.sleep(0.07)
        return provider.verdict()

    first = simulate(main)
    assert first == simulate(main)
    assert first.rejected
    assert first.accepted
