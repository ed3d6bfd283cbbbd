"""The wait that was asked for, in every form, and nothing else."""

from __future__ import annotations

import math
from email.utils import formatdate
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    ContextLengthError,
    MalformedResponseError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from batchrt.providers.http.retry_after import (
    MAX_RETRY_AFTER,
    advise,
    retry_after,
    wait_before_retry,
)
from tests.limits.quotas import should_retry

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the RFC's own example


def asked(message: str = "", **headers: str) -> float | None:
    named = {name.replace("__", "_").replace("_", "-"): value for name, value in headers.items()}
    return retry_after(httpx.Headers(named), message, now=NOW)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "0.5"}, 0.0005),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7.25 "}, 7.25),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:00 GMT"}, 23.0),
        ({"retry-after": "Sunday, 06-Nov-94 08:50:00 GMT"}, 23.0),
        ({"retry-after": "Sun Nov  6 08:50:00 1994"}, 23.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:00 GMT"}, 0.0),
        (
            {
                "retry-after": "Sun, 06 Nov 2044 08:50:00 GMT",
                "date": "Sun, 06 Nov 2044 08:49:58 GMT",
            },
            2.0,
        ),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:00 GMT", "date": "yesterday"}, 23.0),
        ({"llm_provider-retry-after": "11"}, 11.0),
        ({"retry-after-ms": "2000", "retry-after": "7"}, 2.0),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "soon", "llm_provider-retry-after": "11"}, 11.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "1_0"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "2 minutes"}, 120.0),
        ({"retry-after": "2s"}, 2.0),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "250 ms"}, 0.25),
        ({"retry-after": "1.5 sec"}, 1.5),
        ({"retry-after": "2 parsecs"}, None),
        ({"retry-after": "2s or so"}, None),
        ({"retry-after": "1994-11-06T08:50:00Z"}, 23.0),
        ({"retry-after": "1994-11-06T09:50:00.5+01:00"}, 23.5),
        ({"retry-after": "784111800"}, 23.0),
        ({"retry-after": "784111800500"}, 23.5),
        ({"retry-after": "784111700"}, 0.0),
        ({"x-ms-retry-after-ms": "150"}, 0.15),
        ({"retry-after": "Sun, 99 Nov 1994 08:49:37 GMT"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_from_headers(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds first, then seconds or a date, then LiteLLM's own name."""
    assert retry_after(httpx.Headers(headers), now=NOW) == seconds


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("... have exceeded call rate limit. Please retry after 7 seconds. Please go to ...", 7.0),
        ("Please retry after 86400 seconds.", 86400.0),
        ("please retry after 1 second", 1.0),
        ("retry after 250 milliseconds", 0.25),
        ("Please retry after a while", None),
        ("Retry after seconds", None),
        ("x" * 20_000 + "retry after 7 seconds", None),
    ],
)
def test_retry_after_is_read_from_messages(message: str, seconds: float | None) -> None:
    """In Azure's wording; a header overrides it."""
    assert asked(message) == seconds
    assert asked(message, retry_after="3") == 3.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "8.64s", "x-ratelimit-remaining-requests": "5"}, None),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "149,984"}, None),
        ({"x-ratelimit-reset-requests": "8.64s", "x-ratelimit-remaining-requests": "0"}, 8.64),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-reset": "784111800"}, 23.0),
        ({"x-ratelimit-reset": "784111800500", "x-ratelimit-remaining": "0"}, 23.5),
        ({"x-ratelimit-reset": "784111800", "x-ratelimit-remaining": "3"}, None),
        ({"x-ratelimit-reset": "30"}, 30.0),
        ({"x-rate-limit-reset": "784111800"}, 23.0),
        ({"ratelimit-reset": "50", "ratelimit-remaining": "0"}, 50.0),
        ({"ratelimit-reset": "50", "ratelimit-remaining": "1"}, None),
        ({"ratelimit": "limit=100, remaining=0, reset=50"}, 50.0),
        ({"ratelimit": "limit=100, remaining=9, reset=50"}, None),
        ({"ratelimit": '"default";r=0;t=50'}, 50.0),
        ({"ratelimit": '"minute";r=0;t=12, "day";r=9;t=80000'}, 12.0),
        ({"ratelimit": "soon"}, None),
        (
            {
                "anthropic-ratelimit-requests-reset": "1994-11-06T08:49:40Z",
                "anthropic-ratelimit-requests-remaining": "7",
                "anthropic-ratelimit-input-tokens-reset": "1994-11-06T08:50:00Z",
                "anthropic-ratelimit-input-tokens-remaining": "0",
            },
            23.0,
        ),
        ({"anthropic-ratelimit-tokens-reset": "1994-11-06T08:50:00Z"}, 23.0),
        ({"x-ratelimit-reset-tokens-minute": "33.4", "x-ratelimit-remaining-tokens-minute": "0"}, 33.4),
        ({"x-ratelimit-reset-requests-day": "3301.2", "x-ratelimit-remaining-requests-day": "0"}, 3301.2),
        ({"x-ratelimit-reset": "never"}, None),
        ({"x-ratelimit-reset": "30", "retry-after": "7"}, 7.0),
        ({"x-ratelimit-reset": "30", "retry-after": "0"}, 30.0),
    ],
)
def test_retry_after_is_read_from_resets_of_used_up_limits(
    headers: dict[str, str], seconds: float | None
) -> None:
    """For a refusal. OpenAI's are the time until a bucket is full: no wait while it is not empty."""
    assert retry_after(httpx.Headers(headers), now=NOW) == seconds
    explicit = {"7": 7.0, "0": 0.0}.get(headers.get("retry-after", ""))
    assert retry_after(httpx.Headers(headers), now=NOW, limited=False) == explicit


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ({"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "5.9s"}]}, 5.9),
        ({"details": [{"@type": "x"}, {"retryDelay": {"seconds": 5, "nanos": 900_000_000}}]}, 5.9),
        ({"details": [{"retryDelay": {"seconds": "5"}}]}, 5.0),
        ({"details": [{"metadata": {"quotaResetDelay": "1h2m3.5s"}}]}, 3723.5),
        ({"retry_after": 3}, 3.0),
        ({"retry_after": 2.5}, 2.5),
        ({"retry_after": "4"}, 4.0),
        ({"retryAfter": "4s"}, 4.0),
        ({"retry_after_ms": 1500}, 1.5),
        ({"retry_after_seconds": 12}, 12.0),
        ({"metadata": {"retry_after": 6}}, 6.0),
        (
            {"metadata": {"headers": {"X-RateLimit-Reset": "784111800500", "X-RateLimit-Remaining": "0"}}},
            23.5,
        ),
        ({"metadata": {"headers": {"Retry-After": 9}}}, 9.0),
        ({"retry_after": True}, None),
        ({"retry_after": None, "details": "none", "metadata": []}, None),
        ({"retry_after": -3}, None),
        ({"retry_after": float("nan")}, None),
        ({"retry_after": []}, None),
        ({"details": [{"retryDelay": {}}, None, "x"]}, None),
        ([], None),
        (None, None),
    ],
)
def test_retry_after_is_read_from_the_error_object(details: Any, seconds: float | None) -> None:
    """Google's RetryInfo, members, an upstream's headers; a header of the response overrides them."""
    assert retry_after(_Plain({}), now=NOW, details=details) == seconds
    assert retry_after(_Plain({"retry-after": "3"}), now=NOW, details=details) == 3.0


@given(st.text(), st.text(), st.text(), st.text(max_size=200))
@example("\N{ARABIC-INDIC DIGIT THREE}", "", "", "")
@example("", "Sun, 06 Nov 1994 08:49:37 +99999999999", "", "")
@example("", "Sun, 06 Nov 99999 08:49:37 GMT", "", "")
def test_retry_after_never_raises(ms: str, value: str, date: str, message: str) -> None:
    """For any header the wait is None or a number."""
    headers = {"retry-after-ms": ms, "retry-after": value, "date": date}
    wait = retry_after(_Plain(headers), message, now=NOW)
    assert wait is None or (math.isfinite(wait) and wait >= 0)


class _Plain:
    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def get(self, key: str, default: str | None = None, /) -> str | None:
        return self._headers.get(key, default)


@given(st.integers(0, 10**6))
def test_retry_after_dates_are_seconds_from_now(seconds: int) -> None:
    """As formatdate writes them."""
    assert asked(retry_after=formatdate(NOW + seconds, usegmt=True)) == seconds


YES: list[ProviderError] = [
    RateLimitError("x", status=429),
    RateLimitError("x", status=429, retry_after=MAX_RETRY_AFTER),
    ServerError("x", status=500),
    ServerError("x", status=408),
    ServerError("x", status=409),
    ConnectionFailedError("x"),
    RequestTimeoutError("x"),
    MalformedResponseError("x", status=200),
]
NO: list[ProviderError] = [
    RateLimitError("x", status=429, retry_after=MAX_RETRY_AFTER + 1),
    ServerError("x", status=503, retry_after=86400),
    QuotaExhaustedError("x", status=429),
    AuthenticationError("x", status=401),
    BadRequestError("x", status=400),
    ContextLengthError("x", status=500),
]


@pytest.mark.parametrize("error", YES, ids=repr)
def test_retry_after_transient_failures_are_retried(error: ProviderError) -> None:
    """Unless the provider says not to."""
    assert should_retry(error)
    advise(error, retry=False)
    assert not should_retry(error)
    advise(error, retry=None)


@pytest.mark.parametrize("error", NO, ids=repr)
def test_retry_after_lasting_failures_are_not_retried(error: ProviderError) -> None:
    """A wait that is too long, no credit, a bad request."""
    assert not should_retry(error)


def test_retry_after_advice_has_limits() -> None:
    """x-should-retry: true makes a 400 worth another attempt, an exhausted quota never."""
    for error, again in [
        (BadRequestError("x", status=400), True),
        (QuotaExhaustedError("x", status=429), False),
        (RateLimitError("x", status=429, retry_after=1000), False),
    ]:
        advise(error, retry=True)
        assert should_retry(error) is again


def test_retry_after_other_errors_are_not_retried() -> None:
    """A bug in a user's transport is not repeated."""
    assert not should_retry(ValueError("x"))
    assert not should_retry(None)


@pytest.mark.parametrize(("attempts", "longest"), [(1, 0.5), (2, 1), (3, 2), (5, 8), (9, 8), (10_000, 8)])
def test_retry_after_backoff_doubles_up_to_eight_seconds(attempts: int, longest: float) -> None:
    """Less a random part of up to a quarter."""
    error = ServerError("x", status=500)
    assert wait_before_retry(error, attempts, lambda: 0.0) == longest
    assert wait_before_retry(error, attempts, lambda: 1.0) == longest * 0.75


@pytest.mark.parametrize("code", ["server_is_overloaded", "slow_down"])
def test_retry_after_backoff_doubles_for_an_overload(code: str) -> None:
    """Twice as long as for other failures."""
    assert wait_before_retry(ServerError("x", status=503, code=code), 2, lambda: 0.0) == 2.0


def test_retry_after_wait_overrides_the_backoff() -> None:
    """Unless it is 0."""
    for given_, waited in [(0.01, 0.01), (120.0, 120.0), (0.0, 0.5), (None, 0.5)]:
        error = RateLimitError("x", status=429, retry_after=given_)
        assert wait_before_retry(error, 1, lambda: 0.0) == waited


def test_retry_after_advice_is_not_shown() -> None:
    """It is for the retry loop alone."""
    error = ServerError("down", status=500)
    advise(error, retry=True)
    assert str(error) == "down (status 500)"
