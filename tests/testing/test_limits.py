from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import anyio
import pytest

from batchrt.testing import MockProvider, RateLimits
from batchrt.testing.throttling import duration
from tests.testing.virtual import Client, Got, simulate


def test_limits_are_data() -> None:
    """Equal ones are equal, and nothing of one changes."""
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
        ({"requests_per_day": 1, "headers": "some"}, "headers must be one of all, success, none"),
        ({"requests_per_day": 1, "waits": ["shout"]}, "waits must be some of retry-after, "),
        ({"requests_per_day": 1, "waits": "message"}, "waits must be some of retry-after, "),
    ],
)
def test_limits_without_a_meaning_are_refused(options: dict[str, Any], words: str) -> None:
    """Where they are written, and with what they may be."""
    with pytest.raises(ValueError, match=words):
        RateLimits(**options)


def ask(
    limits: RateLimits, *texts: str, server: Any = "openai", after: float = 0.0, **options: Any
) -> list[Got]:
    """Ask one after the other, `after` seconds apart."""

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


def test_headers_tell_limit_remaining_and_time_until_full() -> None:
    """As OpenAI's: "hi" costs 4 tokens, and with `max_tokens` what they allow, on arrival."""
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


def test_over_the_requests_of_a_minute() -> None:
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


def test_over_the_tokens_of_a_minute() -> None:
    """The wait is what refills what lacks."""
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


def test_a_request_larger_than_the_limit_never_fits() -> None:
    """It is told so, and no wait."""
    [got] = ask(RateLimits(tokens_per_minute=100), "hi", max_tokens=97)
    assert got.status == 429
    assert got.message.startswith(
        "Request too large for m on tokens per min (TPM): Limit 100, Requested 101."
    )
    assert waits(got) == {}


def test_a_refused_request_takes_nothing() -> None:
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
def test_which_answers_carry_headers_can_be_said(options: Any, first: bool, second: bool) -> None:
    """All, those that went well, or none."""
    answered, refused = ask(RateLimits(requests_per_minute=60, burst_seconds=1, **options), "a", "b")
    assert (bool(ratelimit(answered)), bool(ratelimit(refused))) == (first, second)


def test_where_the_wait_is_said_can_be_said() -> None:
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


def test_azure_says_the_wait_in_the_message() -> None:
    """In whole seconds; its resets are bare ones."""
    limits = RateLimits(requests_per_minute=8, burst_seconds=1)
    _, refused = ask(limits, "a", "b", server="azure")
    assert refused.message.endswith("rate limit of your current pricing tier. Please retry after 8 seconds.")
    assert refused.document["error"]["code"] == "429"
    assert waits(refused) == {}
    assert ratelimit(refused)["reset-requests"] == "8"


def test_litellm_hides_the_wait_in_a_header_of_its_own() -> None:
    """Without `retry-after`, and not in the words."""
    limits = RateLimits(requests_per_minute=8, burst_seconds=1, style="litellm")
    _, refused = ask(limits, "a", "b")
    assert waits(refused) == {"llm_provider-retry-after": "8"}
    assert refused.message.startswith("litellm.RateLimitError: ")
    assert "8s" not in refused.message
    assert ratelimit(refused)["reset-requests"] == "7.5s"


def test_tei_says_nothing_but_that_it_is_overloaded() -> None:
    """Flat, and without any header."""
    answered, refused = ask(RateLimits(requests_per_minute=8, burst_seconds=1), "a", "b", server="tei")
    assert refused.status == 429
    assert refused.document == {"message": "Model is overloaded", "code": 429, "type": "Overloaded"}
    assert waits(refused) == ratelimit(refused) == ratelimit(answered) == {}


def test_of_a_minute_and_a_day_the_one_with_less_left_is_told() -> None:
    """As the reset shows: of 10,000 a day one comes back in 8.64 seconds."""
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
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    """To the millisecond, never shorter than they are."""
    assert duration(seconds) == text
