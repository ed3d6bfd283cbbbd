"""Rate limits in responses: headers `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, and messages.

The reset is the time until the whole limit is available again, not a time to wait. It is written as `1s`,
`6m0s` or `12ms`, by Azure as bare seconds. A limit may be written as `30,000`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from batchrt.errors import RateLimitError
from batchrt.limits.rate_limits import RateLimitStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrt.errors import ProviderError
    from batchrt.limits.token_bucket import Unit
    from batchrt.providers.http.response import HeaderMap

__all__ = ["limited_unit", "parallel_limit", "read_go_duration", "read_rate_limits", "refuses_parallel"]

_Names: TypeAlias = tuple[str, str, str]


def _names(counted: str) -> _Names:
    return (
        f"x-ratelimit-limit-{counted}",
        f"x-ratelimit-remaining-{counted}",
        f"x-ratelimit-reset-{counted}",
    )


_REQUESTS: Final = _names("requests")
_TOKENS: Final = _names("tokens")
_PROJECT_TOKENS: Final = _names("project-tokens")
_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART: Final = r"[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ms|us|µs|ns|h|m|s)"
_DURATION: Final = re.compile(rf"(?:{_PART})+")
_PARTS: Final = re.compile(r"([0-9.]+)(ms|us|µs|ns|h|m|s)")
_WORDS: Final = re.compile(
    r"\b(tokens|requests) per (?:min|day)|\((T|R)P[MD]\)|\b(token|call) rate limit", re.IGNORECASE
)
_UNITS: Final[dict[str, Unit]] = {
    "tokens": "tokens",
    "token": "tokens",
    "t": "tokens",
    "requests": "requests",
    "call": "requests",
    "r": "requests",
}
_PARALLEL_TYPE: Final = "max_parallel_requests"
_PARALLEL: Final = "x-ratelimit-api_key-limit-max_parallel_requests"
_DIGITS: Final = 9
_LONGEST: Final = 86_400.0
"""Seconds; a longer reset is a timestamp, or makes no sense."""


def read_rate_limits(headers: HeaderMap) -> Sequence[RateLimitStatus]:
    """Return the rate limits in `headers`; values that make no sense are left out.

    Of several limits for the same unit, as a project's and an organization's, the one with less left counts.
    """
    get = headers.get
    requests, tokens, of_project = get(_REQUESTS[0]), get(_TOKENS[0]), get(_PROJECT_TOKENS[0])
    if requests is None and tokens is None and of_project is None:
        return ()
    found: list[RateLimitStatus] = []
    if requests is not None:
        found += _read_status("requests", requests, _REQUESTS, headers)
    of_tokens = [] if tokens is None else _read_status("tokens", tokens, _TOKENS, headers)
    if of_project is not None:
        of_tokens += _read_status("tokens", of_project, _PROJECT_TOKENS, headers)
    if of_tokens:
        found.append(min(of_tokens, key=lambda status: status.remaining))
    return found


def parallel_limit(headers: HeaderMap) -> int | None:
    """Return the most requests in flight, which LiteLLM's proxy states for a key; `None` if unstated."""
    stated = headers.get(_PARALLEL)
    return (
        int(stated)
        if stated is not None and stated.isdecimal() and 0 < len(stated) <= _DIGITS and int(stated)
        else None
    )


def refuses_parallel(headers: HeaderMap, error: ProviderError) -> bool:
    """Whether a refusal is for too many requests in flight, by LiteLLM's header or message (1.108.7)."""
    if headers.get("rate_limit_type") == _PARALLEL_TYPE or _PARALLEL_TYPE in (error.type, error.code):
        return True
    return isinstance(error, RateLimitError) and _PARALLEL_TYPE in error.message[:2_000]


def _read_status(unit: Unit, stated: str, names: _Names, headers: HeaderMap) -> list[RateLimitStatus]:
    """Return the status in the headers `names`, if it makes sense."""
    limit, remaining = _number(stated), _number(headers.get(names[1]))
    # Proxies send 0 where there is no limit.
    if not limit or remaining is None:
        return []
    reset = read_go_duration(headers.get(names[2]))
    if not reset or reset > _LONGEST:
        reset = None
    return [RateLimitStatus(unit, limit, min(remaining, limit), reset)]


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    text = text.strip().replace(",", "")
    return float(text) if _NUMBER.fullmatch(text) else None


def read_go_duration(text: str | None) -> float | None:
    """Return the seconds of a duration such as `6m0s`, `8.64s`, `12ms` or `7`; `None` for another text."""
    if text is None:
        return None
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if _DURATION.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _PARTS.findall(text))
    return None


def limited_unit(error: ProviderError) -> Unit | None:
    """Return the unit of the limit that a refusal names, in its type (OpenAI) or message (OpenAI, Azure)."""
    if error.type is not None and error.type in ("requests", "tokens"):
        return _UNITS[error.type]
    found = _WORDS.search(error.message[:2_000])
    return None if found is None else _UNITS[next(filter(None, found.groups())).lower()]
