from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from functools import partial
from typing import Any

import anyio
import pytest

from batchrt.testing import Fault, FaultPlan, MockProvider, Outage, Queueing, RateLimits, Verdict
from batchrt.testing.admission.quota import MockQuota
from batchrt.testing.verdict import judge
from batchrt.testing.verdict_log import ACCEPTED, RequestedWait, VerdictLog
from tests.testing.virtual import Client, simulate


async def paced(provider: MockProvider, count: int, rate: float, **options: Any) -> None:
    """Send at a steady rate, without retries."""
    client = Client(provider)
    async with anyio.create_task_group() as group:
        for number in range(count):
            await anyio.sleep_until(number / rate)
            group.start_soon(partial(client.ask, f"{number}", **options))


def test_verdict_use_is_full_at_the_allowed_rate() -> None:
    """A burst and the steady rate after it; half the rate, half the use."""
    for rate, rejected, low, high in ((10.0, 0, 0.98, 1.0), (5.0, 0, 0.49, 0.51), (11.0, 90, 0.99, 1.0)):
        provider = MockProvider(latency=0.3, rate_limits=RateLimits(requests_per_minute=600, burst_seconds=1))
        simulate(paced, provider, 1000, rate)
        verdict = provider.verdict()
        assert (verdict.sent, verdict.accepted + verdict.rejected) == (1000, 1000)
        assert verdict.rejected == pytest.approx(rejected, abs=10)
        assert verdict.used is not None
        assert low <= verdict.used <= high
        [use] = verdict.limits
        assert (use.model, use.name, use.per, use.held) == ("m", "requests", "minute", 10)
        assert use.allowed == pytest.approx(10 + 10 * (verdict.end - verdict.start))
        assert (use.spent, use.rejected) == (verdict.accepted, verdict.rejected)


def test_verdict_counts_tokens_as_settled() -> None:
    """Not as reserved; and `used` is that of the limit that bound."""
    limits = RateLimits(requests_per_minute=6000, tokens_per_minute=6000, burst_seconds=1)
    provider = MockProvider(latency=0.1, rate_limits=limits, answer=lambda _body: "x" * 160)
    # 4 tokens in and 40 out: 88 of the 100 that a second allows.
    simulate(partial(paced, max_tokens=60), provider, 200, 2.0)
    verdict = provider.verdict()
    requests, tokens = verdict.limits
    assert tokens.name == "tokens"
    assert (tokens.spent, tokens.rejected) == (200 * 44, 0)
    assert verdict.used == tokens.used == pytest.approx(0.88, abs=0.01)
    assert requests.used < 0.05


def test_verdict_of_a_span_counts_that_span_only() -> None:
    """With the bucket's content at its start."""
    provider = MockProvider(rate_limits=RateLimits(requests_per_minute=600, burst_seconds=60))
    simulate(paced, provider, 1000, 20.0)
    [use] = provider.verdict(since=10.0, until=20.0).limits
    assert use.held == pytest.approx(600 - 10 * 10, abs=2)
    assert use.allowed == use.held + 100
    assert use.spent == 201
    whole = provider.verdict()
    assert whole.start == 0
    assert whole.end == pytest.approx(49.95)


def test_verdict_starts_with_the_first_valid_request() -> None:
    """Seconds count from the very first request, but other routes waste no quota."""
    provider = MockProvider(rate_limits=RateLimits(requests_per_minute=60))

    async def main() -> None:
        client = Client(provider)
        await client.get("/v1/models")
        await anyio.sleep(100)
        await client.ask()
        await anyio.sleep(10)
        await client.ask()

    simulate(main)
    verdict = provider.verdict()
    assert (verdict.start, verdict.end, verdict.limits[0].allowed) == (100, 110, 70)


def test_verdict_of_no_requests_is_empty() -> None:
    """No division by zero, and no limits."""
    verdict = MockProvider(rate_limits=RateLimits(requests_per_minute=60)).verdict()
    assert (verdict.sent, verdict.used, verdict.limits, verdict.cool_downs) == (0, None, (), ())
    assert (verdict.rejected_share, verdict.retries, verdict.retries_per_request) == (0, 0, 0)


def test_verdict_counts_retries() -> None:
    """By body: how many came again, and how often."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.CONFLICT, Fault.CONFLICT, None, Fault.CONFLICT]))

    async def main() -> None:
        client = Client(provider)
        for text in ("a", "a", "a", "b", "b", "c", "d"):
            await client.ask(text)

    simulate(main)
    verdict = provider.verdict()
    assert verdict.by_attempt == {1: 4, 2: 2, 3: 1}
    assert (verdict.retries, verdict.retries_per_request) == (3, 0.75)


def sent_at(*seconds: float, outage: Outage | None = None, **options: object) -> MockProvider:
    """Send one after the other at these seconds."""
    given = [Outage(0, 10, 429) if outage is None else outage]
    provider = MockProvider(outages=given, **options)  # type: ignore[arg-type]

    async def main() -> None:
        client = Client(provider)
        for number, second in enumerate(seconds):
            await anyio.sleep_until(second)
            await client.ask(f"{number}")

    simulate(main)
    return provider


def test_verdict_counts_requests_during_a_wait() -> None:
    """Each one; a request at its end is not counted."""
    verdict = sent_at(0, 4, 9.999, 10, 11).verdict()
    assert verdict.sent_in_waits == 2
    [cool_down] = verdict.cool_downs
    assert (cool_down.start, cool_down.end, cool_down.sent, cool_down.sent_after) == (0, 10, 2, 1)
    assert not cool_down.is_kept
    assert sent_at(0, 10, 11).verdict().sent_in_waits == 0
    assert sent_at(0, 10, 11).verdict().cool_downs[0].is_kept


def test_verdict_spares_requests_sent_before_a_wait() -> None:
    """Those in flight and those of the same moment; `grace` makes it longer."""
    provider = MockProvider(outages=[Outage(0, 10, 429, delay=2.0)])

    async def main() -> None:
        client = Client(provider)
        async with anyio.create_task_group() as group:
            for number, second in enumerate((0, 1, 2, 2.25, 3)):
                await anyio.sleep_until(second)
                group.start_soon(client.ask, f"{number}")

    simulate(main)
    assert provider.verdict().sent_in_waits == 2
    assert provider.verdict(grace=0.5).sent_in_waits == 1
    assert provider.verdict(grace=1.5).sent_in_waits == 0


def test_verdict_waits_are_per_key_and_model() -> None:
    """A wait belongs to a quota."""
    provider = MockProvider(outages=[Outage(0, 1, 429)], rate_limits=RateLimits(requests_per_minute=60))

    async def main() -> None:
        await Client(provider, "a").ask("1")
        await anyio.sleep(0.5)
        await Client(provider, "b").ask("2")
        await Client(provider, "a").ask("3", model="another")
        await anyio.sleep(0.4)
        await Client(provider, "a").ask("4")

    simulate(main)
    verdict = provider.verdict()
    assert verdict.sent_in_waits == 1
    assert [cool_down.sent for cool_down in verdict.cool_downs] == [1, 0, 0]


def test_verdict_merges_overlapping_waits() -> None:
    """Those that follow one another are two."""
    verdict_log = VerdictLog()
    for wait in ((0.0, 5.0), (1.0, 3.0), (4.0, 7.0), (7.0, 9.0), (20.0, 21.0)):
        verdict_log.ask(RequestedWait(0, *wait))
    verdict = judge(
        verdict_log, [MockQuota(0, "m", 0, None)], since=0.0, until=100.0, grace=0.0, peak_in_flight=0
    )
    spans = [(cool_down.start, cool_down.end) for cool_down in verdict.cool_downs]
    assert spans == [(0, 7), (7, 9), (20, 21)]


@pytest.mark.parametrize("seed", range(20))
def test_verdict_waits_agree_with_a_linear_search(seed: int) -> None:
    """Random requests and waits: each request that some wait forbade, and no other."""
    chance = random.Random(seed)
    seconds = sorted(chance.randrange(400) / 4 for _ in range(60))
    waits = [(asked, asked + chance.randrange(1, 60) / 4) for asked in sorted(chance.sample(seconds, 8))]
    verdict_log = VerdictLog()
    for second in seconds:
        verdict_log.note(second, 0, ACCEPTED, 1, reserved=1, spent=1)
    for asked, until in waits:
        verdict_log.ask(RequestedWait(0, asked, until))
    quotas = [MockQuota(0, "m", 0, None)]
    grace = chance.choice([0.0, 0.5])
    verdict = judge(verdict_log, quotas, since=None, until=None, grace=grace, peak_in_flight=0)
    broken = [one for one in seconds if any(asked + grace < one < until for asked, until in waits)]
    assert verdict.sent_in_waits == len(broken)
    assert sum(cool_down.sent for cool_down in verdict.cool_downs) == len(broken)
    for cool_down in verdict.cool_downs:
        after = [one for one in seconds if cool_down.end <= one < cool_down.end + 1]
        assert cool_down.sent_after == len(after)
        within = [one for one in broken if cool_down.start <= one <= cool_down.end]
        assert cool_down.sent == len(within)


@pytest.mark.parametrize(("herd", "kept"), [(11, True), (12, False)])
def test_verdict_detects_a_herd_after_a_cool_down(herd: int, kept: bool) -> None:
    """More in the second after it than content and refill, refused ones included."""
    limits = RateLimits(requests_per_minute=60, burst_seconds=10)
    provider = sent_at(0, *[10.5] * herd, 12, rate_limits=limits)
    [cool_down, *_] = provider.verdict().cool_downs
    assert (cool_down.end, cool_down.sent_after, cool_down.allowed_after) == (10, herd, 11)
    assert cool_down.is_kept is kept


def test_verdict_counts_reserved_tokens_after_a_cool_down() -> None:
    """A quota must have room for the most that the requests may cost."""
    limits = RateLimits(tokens_per_minute=600, burst_seconds=6)
    provider = MockProvider(outages=[Outage(0, 10, 429)], rate_limits=limits)

    async def main() -> None:
        client = Client(provider)
        for second, tokens in ((0, 1), (10, 30), (10.5, 40), (11, 50)):
            await anyio.sleep_until(second)
            await client.ask(f"{second}", max_tokens=tokens)

    simulate(main)
    [cool_down, *_] = provider.verdict().cool_downs
    # Texts of 2 and of 4 characters are a token each, and a message three more.
    assert cool_down.tokens_after == 34 + 44
    assert (cool_down.tokens_allowed_after, cool_down.allowed_after) == (70, None)
    assert not cool_down.is_kept


def test_verdict_counts_waits_of_faults() -> None:
    """Every Retry-After counts."""
    faults = FaultPlan(
        script=[
            Fault.RATE_LIMIT_SECONDS(seconds=5),
            None,
            Fault.RATE_LIMIT_AZURE(seconds=5),
            Fault.RATE_LIMIT_BARE,
        ]
    )
    provider = sent_at(0, 4, 10, 14, 15, outage=Outage(1000, 1001), faults=faults)
    verdict = provider.verdict()
    assert [(cool_down.start, cool_down.end) for cool_down in verdict.cool_downs] == [(0, 5), (10, 15)]
    assert verdict.sent_in_waits == 2


def test_verdict_counts_only_waits_that_were_told() -> None:
    """As they were told, in whole seconds where those are used."""
    for waits, ends in (((), []), (("retry-after",), [1.05]), (("retry-after-ms",), [0.1])):
        limits = RateLimits(requests_per_minute=600, burst_seconds=0.1, waits=waits)  # type: ignore[arg-type]
        provider = sent_at(0, 0, 0.05, outage=Outage(1000, 1001), rate_limits=limits)
        cool_downs = provider.verdict().cool_downs
        assert [cool_down.end for cool_down in cool_downs] == pytest.approx(ends)
        assert provider.verdict().sent_in_waits == len(ends)


def test_verdict_converts_to_json_and_is_immutable() -> None:
    """Over HTTP as well, with a span."""
    provider = MockProvider(
        latency=1.0,
        rate_limits=RateLimits(requests_per_minute=60, tokens_per_day=10_000, burst_seconds=1),
        queueing=Queueing(capacity=2, max_waiting=1),
        outages=[Outage(5, 7, 429)],
    )

    async def main() -> None:
        await paced(provider, 10, 1.25)
        client = Client(provider)
        assert (await client.get("/_mock/verdict")).document == provider.verdict().to_dict()
        narrow = await client.get("/_mock/verdict?since=2&until=6.5&grace=0.25")
        assert narrow.document == provider.verdict(since=2, until=6.5, grace=0.25).to_dict()
        capped = await client.get("/_mock/verdict?max_concurrency=1")
        assert capped.document == provider.verdict(max_concurrency=1).to_dict()
        for query in ("since=soon", "grace=nan", "until=inf", "max_concurrency=-1"):
            assert (await client.get(f"/_mock/verdict?{query}")).status == 400

    simulate(main)
    verdict = provider.verdict()
    document = json.loads(json.dumps(verdict.to_dict()))
    assert document["by_attempt"] == {"1": 10}
    assert document["used"] == verdict.used
    assert [limit["used"] for limit in document["limits"]] == [limit.used for limit in verdict.limits]
    assert document["cool_downs"][0].keys() >= {"sent", "allowed_after", "is_kept"}
    assert document["rejected"] + document["failed"] + document["accepted"] + document["refused"] == 10
    with pytest.raises(FrozenInstanceError):
        verdict.sent = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        verdict.by_attempt[1] = 0  # type: ignore[index]


def test_verdict_contains_no_keys() -> None:
    """Only hashes that show which are the same."""
    provider = MockProvider(rate_limits=RateLimits(requests_per_minute=60))
    simulate(lambda: Client(provider, "sesame").ask())
    assert "sesame" not in json.dumps(provider.verdict().to_dict())
    assert len(provider.verdict().limits[0].key) == 16


def test_verdict_log_is_bounded() -> None:
    """The newest requests at least; late settlements are applied."""
    verdict_log = VerdictLog(keep=10)
    numbers = []
    for second in range(100):
        numbers.append(verdict_log.note(float(second), 0, ACCEPTED, 1, reserved=5, spent=5))
        verdict_log.ask(RequestedWait(0, float(second), second + 0.5))
        if second:
            verdict_log.settle(numbers[second - 1], second - 1)
        assert len(list(verdict_log.sent())) <= 20
    verdict_log.settle(numbers[0], 1000)
    kept = list(verdict_log.sent())
    assert [one.second for one in kept] == list(range(int(kept[0].second), 100))
    assert [one.spent for one in kept[:-1]] == [one.second for one in kept[:-1]]
    assert len(kept) >= 10
    assert len(verdict_log.waits()) <= len(kept)


def judged(seconds: Sequence[float]) -> Verdict:
    verdict_log = VerdictLog()
    for second in seconds:
        verdict_log.note(second, 0, ACCEPTED, 1, reserved=1, spent=1)
    return judge(verdict_log, [MockQuota(0, "m", 0, None)], since=None, until=None, grace=0, peak_in_flight=1)


def test_verdict_exists_without_limits() -> None:
    """Of retries, waits and requests in flight."""
    verdict = judged([1.0, 2.0])
    assert (verdict.sent, verdict.accepted, verdict.used, verdict.peak_in_flight) == (2, 2, None, 1)


def test_verdict_counts_lost_rows() -> None:
    """Bare 429s, and a client with two retries: the rows that it gave up, and all refusals."""
    limits = RateLimits(requests_per_minute=3000, burst_seconds=0.2, style="nginx")
    provider = MockProvider(latency=0.1, rate_limits=limits)
    failed = []

    async def main() -> None:
        client, limiter = Client(provider), anyio.CapacityLimiter(32)

        async def one(number: int) -> None:
            async with limiter:
                for attempt in range(3):
                    if (await client.ask(f"{number}")).status == 200:
                        return
                    await anyio.sleep(0.1 * 2**attempt)
                failed.append(number)

        async with anyio.create_task_group() as group:
            for number in range(300):
                group.start_soon(one, number)

    simulate(main)
    verdict = provider.verdict()
    assert verdict.lost == len(failed) > 0
    assert verdict.refused_share == verdict.rejected / verdict.sent > 0.1
    assert (verdict.cool_downs, verdict.to_dict()["lost"]) == ((), len(failed))


def test_verdict_finds_a_row_in_another_list() -> None:
    """Lists are sent again in parts; neither a failure nor a disconnect is an answer."""
    provider = MockProvider(
        latency=1.0, dimensions=2, faults=FaultPlan(script=[Fault.SERVER_ERROR, None, None, Fault.CONFLICT])
    )

    async def main() -> None:
        client = Client(provider)

        async def embed(*texts: str) -> None:
            await client.post("/v1/embeddings", {"model": "m", "input": texts})

        await embed("a", "b", "c", "d")
        assert provider.verdict().lost == 4
        await embed("a", "b")
        await embed("c")
        assert provider.verdict().lost == 1
        await embed("e")
        with anyio.move_on_after(0.5):
            await embed("f", "d")
        assert provider.verdict().lost == 3
        async with anyio.create_task_group() as group:
            group.start_soon(embed, "d")
            await anyio.sleep(0.5)
            assert provider.verdict().lost == 2, "what is in flight is not lost yet"
        await client.post("/v1/completions", {"model": "m", "prompt": ["e", "f"]})
        assert provider.verdict().lost == 0

    simulate(main)


@pytest.mark.parametrize(
    ("server", "most", "status"), [("tei", 40, 429), ("ollama", 2, 503), ("infinity", 2, 429)]
)
def test_verdict_counts_refusals_of_the_family(server: Any, most: int, status: int) -> None:
    """Its own limit of requests in flight is a limit like others."""
    provider = MockProvider(server=server, latency=1.0, max_in_flight=most, dimensions=2)

    async def main() -> list[int]:
        client, seen = Client(provider), []

        async def one(number: int) -> None:
            body = {"model": "m", "input": [f"{number}"] * 20}
            seen.append((await client.post("/v1/embeddings", body)).status)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one, number)
        return seen

    assert simulate(main) == [status, 200, 200]
    verdict = provider.verdict()
    assert (verdict.sent, verdict.accepted, verdict.refused, verdict.lost) == (3, 2, 1, 1)
