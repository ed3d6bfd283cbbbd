"""What answers say about limits: read where it makes sense, left out where it does not."""

from __future__ import annotations

import math

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrt.errors import RateLimitError
from batchrt.limits.rate_limits import RateLimitStatus
from batchrt.providers.http.rate_limit_headers import (
    limited_unit,
    parallel_limit,
    read_go_duration,
    read_rate_limits,
    refuses_parallel,
)


def told(**headers: str) -> list[RateLimitStatus]:
    """Read `x-ratelimit-…` headers, named with underscores."""
    return list(
        read_rate_limits(httpx.Headers({f"x-ratelimit-{n.replace('_', '-')}": v for n, v in headers.items()}))
    )


def test_rate_limit_headers_of_openai() -> None:
    """As in its documentation."""
    assert told(
        limit_requests="60",
        limit_tokens="150000",
        remaining_requests="59",
        remaining_tokens="149984",
        reset_requests="1s",
        reset_tokens="6m0s",
    ) == [RateLimitStatus("requests", 60, 59, 1), RateLimitStatus("tokens", 150_000, 149_984, 360)]


def test_rate_limit_headers_of_azure_have_resets_in_bare_seconds() -> None:
    """And limits may have separators of thousands."""
    assert told(limit_tokens="30,000", remaining_tokens=" 1,234 ", reset_tokens="7") == [
        RateLimitStatus("tokens", 30_000, 1234, 7)
    ]


def test_rate_limit_headers_of_project_and_organization_count_by_less_left() -> None:
    """The limit with less left counts."""
    both = {"limit_tokens": "1000", "limit_project_tokens": "500"}
    assert told(**both, remaining_tokens="900", remaining_project_tokens="20") == [
        RateLimitStatus("tokens", 500, 20, None)
    ]
    assert told(**both, remaining_tokens="10", remaining_project_tokens="20") == [
        RateLimitStatus("tokens", 1000, 10, None)
    ]
    assert told(limit_project_tokens="500", remaining_project_tokens="20") == [
        RateLimitStatus("tokens", 500, 20, None)
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"limit_requests": "60"},
        {"remaining_requests": "60"},
        {"reset_requests": "1s"},
        {"limit_requests": "0", "remaining_requests": "0"},
        {"limit_requests": "-1", "remaining_requests": "5"},
        {"limit_requests": "60", "remaining_requests": "-1"},
        {"limit_requests": "nan", "remaining_requests": "5"},
        {"limit_requests": "inf", "remaining_requests": "5"},
        {"limit_requests": "1e9", "remaining_requests": "5"},
        {"limit_requests": "unlimited", "remaining_requests": "unlimited"},
        {"limit_requests": "", "remaining_requests": ""},
        {"limit_requests": "9" * 400, "remaining_requests": "5"},
        {"limit_requests": "\N{ARABIC-INDIC DIGIT THREE}", "remaining_requests": "5"},
    ],
)
def test_rate_limit_headers_that_make_no_sense_are_left_out(headers: dict[str, str]) -> None:
    """A limit of 0, a missing header, words."""
    named = {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in headers.items()}
    assert not read_rate_limits(_Plain(named))


def test_rate_limit_headers_cap_remaining_at_the_limit() -> None:
    """A proxy that adds up several deployments exceeds it."""
    assert told(limit_requests="10", remaining_requests="500") == [RateLimitStatus("requests", 10, 10, None)]


@pytest.mark.parametrize(
    "reset", ["1735689600", "1735689600000", "2025-01-01T00:00:00Z", "soon", "-5", "0", ""]
)
def test_rate_limit_headers_reset_without_duration_is_none(reset: str) -> None:
    """A timestamp, a date, an empty value."""
    assert told(limit_requests="10", remaining_requests="5", reset_requests=reset) == [
        RateLimitStatus("requests", 10, 5, None)
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("12ms", 0.012),
        ("8.64s", 8.64),
        ("6m0s", 360),
        ("1h2m3s", 3723),
        ("1m0.5s", 60.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("10ns", 1e-8),
        (" 7 ", 7),
        ("7.5", 7.5),
        ("0s", 0),
        ("1d", None),
        ("s", None),
        ("1s later", None),
        ("nan", None),
        ("-1s", None),
        ("1e3s", None),
        (None, None),
    ],
)
def test_rate_limit_headers_durations_are_in_gos_format(text: str | None, seconds: float | None) -> None:
    """Or bare seconds; any other text is None."""
    assert read_go_duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("message", "kind", "unit"),
    [
        ("Rate limit reached for m on tokens per min (TPM): Limit 10, Used 8", None, "tokens"),
        ("Rate limit reached for m on requests per min (RPM): Limit 3", None, "requests"),
        ("… on requests per day (RPD): …", None, "requests"),
        ("exceeded (TPD)", None, "tokens"),
        ("… have exceeded the token rate limit of your current pricing tier", None, "tokens"),
        ("… have exceeded the call rate limit of your current pricing tier", None, "requests"),
        ("slow down", "tokens", "tokens"),
        ("tokens per min", "requests", "requests"),
        ("slow down", None, None),
        ("too many tokens in your prompt", None, None),
    ],
)
def test_rate_limit_headers_limited_unit_of_a_refusal(
    message: str, kind: str | None, unit: str | None
) -> None:
    """From its type or its message."""
    assert limited_unit(RateLimitError(message, status=429, type=kind)) == unit


NUMBERS = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.integers(-10, 10**16).map(str),
    st.floats().map(str),
    st.sampled_from(["30,000", "1s", "6m0s", "12ms", "0", "unlimited", "1735689600", "1,,2", "."]),
)


@given(st.lists(NUMBERS, min_size=9, max_size=9))
@example(["9" * 15, "9" * 15, "9" * 12 + "h"] * 3)
def test_rate_limit_headers_never_raise(values: list[str | None]) -> None:
    """For any header, the numbers are finite and not negative."""
    names = [
        f"x-ratelimit-{what}-{unit}"
        for unit in ("requests", "tokens", "project-tokens")
        for what in ("limit", "remaining", "reset")
    ]
    found = read_rate_limits(_Plain({n: v for n, v in zip(names, values, strict=True) if v is not None}))
    assert len(found) <= 2
    for status in found:
        assert 0 < status.limit < math.inf
        assert 0 <= status.remaining <= status.limit
        assert status.reset is None or 0 < status.reset <= 86_400


@given(st.text(max_size=60))
def test_rate_limit_headers_durations_are_finite_or_none(text: str) -> None:
    """And not negative."""
    seconds = read_go_duration(text)
    assert seconds is None or 0 <= seconds < math.inf


class _Plain:
    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def get(self, key: str, default: str | None = None, /) -> str | None:
        return self._headers.get(key, default)


@pytest.mark.parametrize(
    ("told", "limit"), [("4", 4), ("0", None), ("", None), ("-1", None), ("many", None), ("9" * 30, None)]
)
def test_rate_limit_headers_parallel_limit_of_litellm(told: str, limit: int | None) -> None:
    """As LiteLLM's proxy sends it for a key."""
    headers = httpx.Headers({"x-ratelimit-api_key-limit-max_parallel_requests": told})
    assert parallel_limit(headers) == limit
    assert parallel_limit(httpx.Headers()) is None


def test_rate_limit_headers_parallel_refusal_by_header_type_or_message() -> None:
    """And by nothing else."""
    refused = RateLimitError("Rate limit exceeded. Limit type: max_parallel_requests. Current limit: 4")
    assert refuses_parallel(httpx.Headers(), refused)
    assert refuses_parallel(httpx.Headers(), RateLimitError("slow", type="max_parallel_requests"))
    assert refuses_parallel(
        httpx.Headers({"rate_limit_type": "max_parallel_requests"}), RateLimitError("slow")
    )
    assert not refuses_parallel(httpx.Headers({"rate_limit_type": "requests"}), RateLimitError("slow"))
