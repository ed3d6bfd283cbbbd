from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import anyio
import pytest

from batchrt.testing import MockProvider, Outage, RateLimits, Stranger
from batchrt.testing.admission.throttle_responses import duration
from tests.testing.virtual import Client, Got, simulate


def test_rate_limits_are_immutable_and_comparable() -> None:
    """Equal ones are equal, and no attribute changes."""
    steps = [(0.0, 600.0), (60.0, 300.0)]
    limits = RateLimits(requests_per_minute=steps, waits=["message"])
    steps.clear()
    assert limits == RateLimits(requests_per_minute=((0, 600), (60, 300)), waits={"message"})
    with pytest.raises(FrozenInstanceError):
        limits.settle = False  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs one of requests_per_minute, "),
        ({"requests_per_minute": 0}, "requests_per_minute must be a number above 0"),
        ({"tokens_per_day": [(5, 1)]}, "tokens_per_day must be a number above 0"),
        ({"requests_per_day": 1, "burst_seconds": 0}, "burst_seconds must be above 0"),
        ({"requests_per_day": 1, "style": "abacus"}, "style must be one of openai, azure, litellm, tei"),
        ({"max_parallel_requests": 1.5}, "max_parallel_requests must be a whole number above 0"),
        ({"requests_per_day": 1, "named_wait": 0}, "named_wait must be seconds > 0, not 0"),
        ({"requests_per_day": 1, "headers": "some"}, "headers must be one of all, success, none"),
        ({"requests_per_day": 1, "waits": ["shout"]}, "waits must be some of retry-after, "),
        ({"requests_per_day": 1, "waits": "message"}, "waits must be some of retry-after, "),
    ],
)
def test_rate_limits_reject_invalid_arguments(options: dict[str, Any], words: str) -> None:
    """The constructor raises and names the alternatives."""
    with pytest.raises(ValueError, match=words):
        RateLimits(**options)


def ask(
    limits: RateLimits, *texts: str, server: Any = "openai", after: float = 0.0, **options: Any
) -> list[Got]:
    """Send requests one after the other, `after` seconds apart."""

    async def main() -> list[Got]:
        client = Client(MockProvider(rate_limits=limits, server=server, latency=0))
        got = []
        for text in texts:
            got.append(await client.ask(text, **options))
            await anyio.sleep(after)
        return got

    return simulate(main)


def ratelimit(got: Got) -> dict[str, str]:
    return {
        name.removeprefix("x-ratelimit-"): value
        for name, value in got.headers.items()
        if name.startswith("x-ratelimit-")
    }


def waits(got: Got) -> dict[str, str]:
    return {name: value for name, value in got.headers.items() if "retry" in name}


def test_rate_limit_headers_give_limit_remaining_and_reset() -> None:
    """As OpenAI's: "hi" costs 4 tokens, plus `max_tokens` where given, on arrival."""
    limits = RateLimits(requests_per_minute=60, tokens_per_minute=600)
    first, second = ask(limits, "hi", "ho", after=0.5, max_tokens=16)
    assert ratelimit(first) == {
        "limit-requests": "60",
        "remaining-requests": "59",
        "reset-requests": "1s",
        "limit-tokens": "600",
        "remaining-tokens": "580",
        "reset-tokens": "2s",
    }
    # Settled to 4 + 8 tokens, and 5 more each half second: full again before the next.
    answered = first.document["usage"]["total_tokens"]
    assert int(ratelimit(second)["remaining-tokens"]) == 600 - answered + 5 - 20
    assert ratelimit(second)["reset-requests"] == "1.5s"


def test_rate_limits_refuse_above_the_requests_of_a_minute() -> None:
    """429 at once, in OpenAI's shape and words, and the wait in each of its places."""
    limits = RateLimits(requests_per_minute=90, burst_seconds=1)
    first, second = ask(limits, "hi", "ho")
    assert (first.status, second.status, second.time) == (200, 429, 0)
    assert second.document["error"] == {
        "message": "Rate limit reached for m on requests per min (RPM): Limit 90, Used 90, Requested 1. "
        "Please try again in 334ms.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert waits(second) == {"retry-after": "1", "retry-after-ms": "334"}
    assert ratelimit(second) == {
        "limit-requests": "90",
        "remaining-requests": "0",
        "reset-requests": "667ms",
    }


def test_rate_limits_refuse_above_the_tokens_of_a_minute() -> None:
    """The wait is the refill of the shortage."""
    limits = RateLimits(requests_per_minute=1000, tokens_per_minute=600)
    *_, last = ask(limits, "hi", "ho", max_tokens=400, n=1)
    assert last.status == 200
    *_, last = ask(RateLimits(tokens_per_minute=600, settle=False), "hi", "ho", max_tokens=400)
    assert last.document["error"]["type"] == "tokens"
    assert last.message == (
        "Rate limit reached for m on tokens per min (TPM): Limit 600, Used 404, Requested 404. "
        "Please try again in 20.8s."
    )
    assert waits(last) == {"retry-after": "21", "retry-after-ms": "20800"}


def test_rate_limits_name_no_wait_for_a_request_above_the_limit() -> None:
    """The message says that it is too large."""
    [got] = ask(RateLimits(tokens_per_minute=100), "hi", max_tokens=97)
    assert got.status == 429
    assert got.message.startswith(
        "Request too large for m on tokens per min (TPM): Limit 100, Requested 101."
    )
    assert waits(got) == {}


def test_rate_limits_charge_nothing_for_a_refusal() -> None:
    """Not from the other bucket either."""
    limits = RateLimits(requests_per_minute=1000, tokens_per_minute=100, settle=False)
    *_, last = ask(limits, "a", "b", "c", max_tokens=60)
    assert [last.status, ratelimit(last)["remaining-requests"]] == [429, "999"]


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"headers": "success"}, True, False),
        ({"headers": "none"}, False, False),
        ({"headers": "all"}, True, True),
    ],
)
def test_rate_limit_headers_can_be_restricted(options: Any, first: bool, second: bool) -> None:
    """To all answers, to successes, or to none."""
    answered, refused = ask(RateLimits(requests_per_minute=60, burst_seconds=1, **options), "a", "b")
    assert (bool(ratelimit(answered)), bool(ratelimit(refused))) == (first, second)


def test_rate_limit_waits_can_be_placed() -> None:
    """In headers, in the message, or nowhere."""
    for where, headers, in_message in (
        (["retry-after"], {"retry-after": "1"}, False),
        (["retry-after-ms"], {"retry-after-ms": "1000"}, False),
        (["message"], {}, True),
        ([], {}, False),
    ):
        limits = RateLimits(requests_per_minute=60, burst_seconds=1, waits=where)  # type: ignore[arg-type]
        _, refused = ask(limits, "a", "b")
        assert waits(refused) == headers
        assert ("try again in 1s" in refused.message) == in_message


def test_rate_limits_of_azure_put_the_wait_in_the_message() -> None:
    """In whole seconds; its resets are plain numbers."""
    limits = RateLimits(requests_per_minute=8, burst_seconds=1)
    _, refused = ask(limits, "a", "b", server="azure")
    assert refused.message.endswith("rate limit of your current pricing tier. Please retry after 8 seconds.")
    assert refused.document["error"]["code"] == "429"
    assert waits(refused) == {}
    assert ratelimit(refused)["reset-requests"] == "8"


def test_rate_limits_of_litellm_use_their_own_header() -> None:
    """Without `retry-after`, and not in the message."""
    limits = RateLimits(requests_per_minute=8, burst_seconds=1, style="litellm")
    _, refused = ask(limits, "a", "b")
    assert waits(refused) == {"llm_provider-retry-after": "8"}
    assert refused.message.startswith("litellm.RateLimitError: ")
    assert "8s" not in refused.message
    assert ratelimit(refused)["reset-requests"] == "7.5s"


def test_rate_limits_of_tei_say_only_overloaded() -> None:
    """A flat error, without any header."""
    answered, refused = ask(RateLimits(requests_per_minute=8, burst_seconds=1), "a", "b", server="tei")
    assert refused.status == 429
    assert refused.document == {"message": "Model is overloaded", "code": 429, "type": "Overloaded"}
    assert waits(refused) == ratelimit(refused) == ratelimit(answered) == {}


def test_rate_limit_headers_show_the_scarcer_of_minute_and_day() -> None:
    """As the reset shows: of 10,000 a day one is refilled in 8.64 seconds."""
    [got] = ask(RateLimits(requests_per_day=10_000, requests_per_minute=20_000), "hi")
    assert ratelimit(got) == {
        "limit-requests": "10000",
        "remaining-requests": "9999",
        "reset-requests": "8.64s",
    }
    *_, refused = ask(RateLimits(requests_per_day=2, requests_per_minute=20_000), "a", "b", "c")
    assert refused.message == (
        "Rate limit reached for m on requests per day (RPD): Limit 2, Used 2, Requested 1. "
        "Please try again in 12h0m0s."
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0123, "13ms"),
        (0.012, "12ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9996, "1m0s"),
        (360, "6m0s"),
        (86.4, "1m26.4s"),
        (3600, "1h0m0s"),
        (86_399.5, "23h59m59.5s"),
    ],
)
def test_duration_has_gos_format(seconds: float, text: str) -> None:
    """To the millisecond, rounded up."""
    assert duration(seconds) == text


def crowd(provider: MockProvider, count: int, *, key: str = "k") -> list[Got]:
    """Send several requests at once; the refused ones come first in the result."""

    async def main() -> list[Got]:
        client, got = Client(provider, key), []

        async def one(number: int) -> None:
            got.append(await client.ask(f"{number}"))

        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(one, number)
        return got

    return simulate(main)


def test_rate_limits_bound_parallel_requests() -> None:
    """At any rate: one more as soon as one has ended; for each key separately."""
    provider = MockProvider(latency=1.0, rate_limits=RateLimits(max_parallel_requests=4, waits=()))
    assert [got.status for got in crowd(provider, 10)] == [429] * 6 + [200] * 4
    assert provider.verdict().rejected == 6

    async def main() -> list[int]:
        seen = []
        async with anyio.create_task_group() as group:
            for name in ("a", "b"):
                for number in range(4):
                    group.start_soon(Client(provider, name).ask, f"{number}")
            await anyio.wait_all_tasks_blocked()
            seen.append((await Client(provider, "a").ask()).status)
            await anyio.sleep(1.5)
            seen.append((await Client(provider, "a").ask()).status)
        return seen

    assert simulate(main) == [429, 200]


def test_rate_limits_of_parallel_requests_may_fall() -> None:
    """Requests in flight stay, and a disconnect ends a request."""
    limits = RateLimits(max_parallel_requests=[(0, 3), (1, 1)], waits=())
    provider = MockProvider(latency=10.0, rate_limits=limits)

    async def main() -> list[int]:
        client, seen = Client(provider), []

        async def one(patience: float) -> None:
            with anyio.move_on_after(patience):
                await client.ask(f"{patience}")

        async with anyio.create_task_group() as group:
            for patience in (2.0, 3.0, 4.0):
                group.start_soon(one, patience)
            for second in (1.5, 2.5, 3.5, 4.5):
                await anyio.sleep_until(second)
                with anyio.move_on_after(0.1):
                    seen.append((await client.ask(f"at {second}")).status)
        return seen

    assert simulate(main) == [429, 429, 429]


def test_rate_limits_of_parallel_requests_refuse_in_style() -> None:
    """LiteLLM names the limit and its window as the wait; on success it gives the remaining number."""
    shapes = {}
    for style in ("openai", "litellm", "nginx"):
        limits = RateLimits(max_parallel_requests=1, style=style)
        refused, answered = crowd(MockProvider(latency=1.0, rate_limits=limits), 2)
        assert (refused.status, answered.status) == (429, 200)
        shapes[style] = refused, answered
    for style in ("openai", "nginx"):
        assert waits(shapes[style][0]) == {}
    refused, answered = shapes["litellm"]
    assert waits(refused) == {"retry-after": "60"}
    assert refused.headers["rate_limit_type"] == "max_parallel_requests"
    assert "Limit type: max_parallel_requests. Current limit: 1, Remaining: 0." in refused.message
    assert refused.document["error"]["param"] == "None"
    name = "x-ratelimit-api_key-{}-max_parallel_requests"
    assert [answered.headers[name.format(what)] for what in ("limit", "remaining")] == ["1", "0"]
    assert name.format("limit") not in refused.headers


def test_rate_limits_of_parallel_requests_ask_for_no_quota_wait() -> None:
    """An earlier request is admitted if one has ended, and the verdict does not count it."""
    provider = MockProvider(
        latency=1.0, rate_limits=RateLimits(max_parallel_requests=1, style="litellm", named_wait=7)
    )
    refused, _ = crowd(provider, 2)
    assert waits(refused) == {"retry-after": "7"}
    assert crowd(provider, 1)[0].status == 200
    assert (provider.verdict().sent_in_waits, provider.verdict().cool_downs) == (0, ())


def test_rate_limits_of_nginx_refuse_with_a_page() -> None:
    """HTML, no wait, no header about the limit; `limit_req` with a burst of 10 at 50 a second."""
    limits = RateLimits(requests_per_minute=3000, burst_seconds=0.2, style="nginx")
    provider = MockProvider(rate_limits=limits)

    async def main() -> list[Got]:
        client = Client(provider)
        return [await client.ask(f"{number}") for number in range(12)]

    *answered, first, second = simulate(main)
    assert [got.status for got in answered] == [200] * 10
    for refused in (first, second):
        assert refused.status == 429
        assert refused.headers["content-type"] == "text/html"
        assert refused.raw.startswith(b"<html>\r\n<head><title>429 Too Many Requests</title></head>")
    assert waits(first) == ratelimit(first) == ratelimit(answered[0]) == {}


def test_rate_limits_of_infinity_report_an_overloaded_model() -> None:
    """In OpenAI's shape, with a numeric code, and without a wait."""
    limits = RateLimits(requests_per_minute=60, burst_seconds=1)
    answered, refused = ask(limits, "a", "b", server="infinity")
    assert refused.document == {
        "error": {"message": "model overloaded", "type": None, "param": None, "code": 429}
    }
    assert waits(refused) == ratelimit(refused) == ratelimit(answered) == {}


def test_rate_limits_may_name_a_wrong_wait() -> None:
    """Too long or too short, in each place of the true one."""
    for seconds, told, words in ((30, {"retry-after": "30", "retry-after-ms": "30000"}, "in 30s."),):
        limits = RateLimits(requests_per_minute=60, burst_seconds=1, named_wait=seconds)
        _, refused = ask(limits, "a", "b")
        assert waits(refused) == told
        assert refused.message.endswith(words)
    limits = RateLimits(requests_per_minute=60, burst_seconds=1, named_wait=0.01, waits=["retry-after-ms"])
    _, refused = ask(limits, "a", "b")
    assert waits(refused) == {"retry-after-ms": "10"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"requests_per_minute": -1}, "requests_per_minute must be a number not below 0"),
        ({"tokens": -1}, "tokens must not be below 0"),
        ({"in_flight": 0.5}, "in_flight must be a whole number not below 0"),
    ],
)
def test_stranger_rejects_invalid_arguments(options: dict[str, Any], words: str) -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match=words):
        Stranger(**options)


def test_stranger_takes_its_part_of_the_limits() -> None:
    """Of requests and of tokens, by its schedule; the client is judged by the rest."""
    stranger = Stranger(requests_per_minute=[(0, 400), (60, 0)], tokens=100)
    limits = RateLimits(
        requests_per_minute=600, tokens_per_minute=60_000, burst_seconds=1, headers="none", stranger=stranger
    )
    provider = MockProvider(rate_limits=limits)

    async def main() -> None:
        client = Client(provider)
        for number in range(2400):
            await anyio.sleep_until(number / 20)
            await client.ask(f"{number}", max_tokens=1)

    simulate(main)
    shared, alone = provider.verdict(since=5, until=60), provider.verdict(since=65, until=120)
    # The client comes three times as often as the stranger.
    assert 0.6 * 550 < shared.accepted < 0.8 * 550
    assert alone.accepted == pytest.approx(550, abs=5)
    for verdict in (shared, alone):
        assert verdict.used == pytest.approx(1, abs=0.03)


def test_stranger_shows_in_the_headers() -> None:
    """The remaining requests exclude the stranger's."""
    limits = RateLimits(requests_per_minute=600, stranger=Stranger(requests_per_minute=[(0, 0), (1, 6000)]))
    first, second = ask(limits, "a", "b", after=2.0)
    told = [int(ratelimit(got)["remaining-requests"]) for got in (first, second)]
    assert told[0] == 599
    assert told[1] == pytest.approx(600 - 100 + 10, abs=2)


def test_stranger_occupies_parallel_requests() -> None:
    """The number that may be in flight falls by as many, down to none."""
    limits = RateLimits(max_parallel_requests=4, waits=(), stranger=Stranger(in_flight=[(0, 1), (5, 4)]))
    provider = MockProvider(latency=1.0, rate_limits=limits)

    async def main() -> list[list[int]]:
        client, seen = Client(provider), []
        for second in (0, 5):
            await anyio.sleep_until(second)
            statuses: list[int] = []

            async def one(number: int, statuses: list[int] = statuses) -> None:
                statuses.append((await client.ask(f"{number}")).status)

            async with anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(one, number)
            seen.append(sorted(statuses))
        return seen

    assert simulate(main) == [[200, 200, 200, 429, 429], [429] * 5]


def test_rate_limits_named_wait_does_not_apply_to_outages() -> None:
    """Nor to a request that never fits."""
    limits = RateLimits(tokens_per_minute=100, named_wait=7)
    provider = MockProvider(rate_limits=limits, outages=[Outage(5, 8, 429)])

    async def main() -> list[Got]:
        client = Client(provider)
        large = await client.ask("hi", max_tokens=200)
        await anyio.sleep_until(5)
        return [large, await client.ask("hi")]

    large, out = simulate(main)
    assert waits(large) == {}
    assert waits(out) == {"retry-after": "3", "retry-after-ms": "3000"}
