"""The wait that a provider asks for before another attempt, in headers, bodies and messages."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from batchrt.errors import ProviderError
from batchrt.providers.http.durations import read_duration, read_rfc3339, wait_in_words
from batchrt.runtime.retry import MAX_RETRY_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrt.providers.http.response import HeaderMap

__all__ = [
    "MAX_RETRY_AFTER",
    "advise",
    "retry_after",
    "wait_before_retry",
]

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0
_OVERLOADED: Final = frozenset(("server_is_overloaded", "slow_down"))
_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15}")

_WAITS: Final = ("retry-after", "llm_provider-retry-after", "x-retry-after")
"""RFC 9110, 10.2.3; LiteLLM's proxy, for its upstream's header; gateways."""
_WAITS_IN_MS: Final = ("retry-after-ms", "x-ms-retry-after-ms")
"""OpenAI and Azure; Azure's other services."""
_RESETS: Final = tuple(
    (f"{family}reset{counted}", f"{family}remaining{counted}")
    for family, units in (
        ("x-ratelimit-", ("", "-requests", "-tokens", "-project-tokens")),
        ("x-ratelimit-", ("-requests-minute", "-tokens-minute", "-requests-day", "-tokens-day")),  # Cerebras
        ("ratelimit-", ("",)),  # IETF, draft-ietf-httpapi-ratelimit-headers, to 06
        ("x-rate-limit-", ("",)),
        ("ratelimitbysize-", ("",)),  # Mistral
    )
    for counted in units
) + tuple(
    (f"anthropic-ratelimit-{counted}-reset", f"anthropic-ratelimit-{counted}-remaining")
    for counted in ("requests", "tokens", "input-tokens", "output-tokens")
)
"""Pairs of headers: the time until a limit has room again, and the room that is left. A limit with room left
asks for no wait."""
_UNTIL_FULL: Final = (
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-reset-project-tokens",
)
"""Resets that are the time until the whole limit is available again; a part of it is available before."""
_LONGEST_UNTIL_FULL: Final = 60.0
"""Seconds; of a longer one the part to wait for is unknown."""
_IN_BODIES: Final = (
    ("retry_after_ms", 1e-3),
    ("retryAfterMs", 1e-3),
    ("retry_after", 1.0),
    ("retryAfter", 1.0),
    ("retry_after_seconds", 1.0),
    ("retryAfterSeconds", 1.0),
    ("retry-after", 1.0),
    ("retryDelay", 1.0),
    ("retry_delay", 1.0),
)
"""Members of an error that hold a wait, and the unit of a number in seconds."""


def retry_after(
    headers: HeaderMap, message: str = "", *, now: float, details: object = None, limited: bool = True
) -> float | None:
    """Return the seconds to wait that a reply asks for, or `None` if it asks for none.

    The first of these that is more than 0 counts:

    1. `retry-after-ms`; then `retry-after` in seconds, with a unit (`2s`, `1m30s`, `2 minutes`), as a date
       (RFC 9110, 10.2.3, in its three forms, or RFC 3339) or as a moment since the epoch in seconds or
       milliseconds; then under the names that proxies give it. Dates are read against the reply's own
       `date`, else against `now` (seconds since the epoch); one that has passed gives 0.
    2. The error's `details`: Google's RetryInfo and quotaResetDelay, members such as `retry_after`, and the
       headers of an upstream that OpenRouter has in `metadata`.
    3. Words of the `message`: "Please retry after 7 seconds", "try again in 9.816s" and the like.
    4. With `limited`, the resets of limits without room left; see `_RESETS`.
    """
    explicit = _in_headers(headers, now)
    if explicit:
        return explicit
    found = _in_details(details, now) or wait_in_words(message, now)
    if not found and limited:
        found = _in_resets(headers, now)
    return explicit if found is None else found


def _in_headers(headers: HeaderMap, now: float) -> float | None:
    found: float | None = None
    for name in _WAITS_IN_MS:
        milliseconds = _number(headers.get(name))
        if milliseconds:
            return milliseconds / 1000
        found = milliseconds if found is None else found
    for name in _WAITS:
        value = headers.get(name)
        seconds = None if value is None else _wait(value, now, headers.get("date"))
        if seconds:
            return seconds
        found = seconds if found is None else found
    return found


def _in_resets(headers: HeaderMap, now: float) -> float | None:
    """Return the seconds until every limit that is used up has room again."""
    waits: list[float] = []
    for reset, remaining in _RESETS:
        value = headers.get(reset)
        if value is None or _left(headers.get(remaining)):
            continue
        seconds = _wait(value, now, headers.get("date"))
        if seconds and reset in _UNTIL_FULL:
            # The bucket fills continuously: its reset is a wait only if the headers say that it is empty.
            unsaid = headers.get(remaining) is None
            seconds = None if unsaid or seconds > _LONGEST_UNTIL_FULL else seconds
        if seconds:
            waits.append(seconds)
    draft = headers.get("ratelimit")
    if draft is not None:
        waits += _of_draft(draft)
    return max(waits, default=None)


def _left(remaining: str | None) -> bool:
    """Whether the header `remaining` says that a limit has room left."""
    return bool(remaining is not None and _number(remaining.replace(",", "")))


def _of_draft(value: str) -> list[float]:
    """Return the resets of used-up limits in a header `RateLimit` of the newer IETF drafts.

    `limit=100, remaining=0, reset=50` until draft 07, `"default";r=0;t=50, "day";r=9;t=80000` since then.
    """
    newer = ";" in value
    found: list[float] = []
    for policy in value.split(",") if newer else [value]:
        fields = [part.partition("=") for part in policy.replace(",", ";").split(";")]
        told = {name.strip().lower(): _number(number) for name, _, number in fields}
        left, reset = told.get("r", told.get("remaining")), told.get("t", told.get("reset"))
        if reset and not left:
            found.append(reset)
    return found


def _in_details(details: object, now: float) -> float | None:
    """Return the wait in an error's object: in its members, its list of details or its metadata."""
    if not isinstance(details, dict):
        return None
    holders = [details]
    more = details.get("details")
    holders += [part for part in more[:_DETAILS] if isinstance(part, dict)] if isinstance(more, list) else []
    for holder in holders:
        metadata = holder.get("metadata")
        if not isinstance(metadata, dict):
            metadata = {}
        for name, unit in _IN_BODIES:
            seconds = _of_member(holder.get(name), unit, now) or _of_member(metadata.get(name), unit, now)
            if seconds:
                return seconds
        seconds = _of_member(metadata.get("quotaResetDelay"), 1.0, now)  # google.rpc.ErrorInfo
        headers = metadata.get("headers")
        if not seconds and isinstance(headers, dict):
            upstream = _Upstream(headers)
            seconds = _in_headers(upstream, now) or _in_resets(upstream, now)
        if seconds:
            return seconds
    return None


_DETAILS: Final = 20
"""Most details of an error that are read."""


class _Upstream:
    """Headers that came as an object in a body."""

    def __init__(self, headers: dict[str, object]) -> None:
        self._headers = {
            name.lower(): value if isinstance(value, str) else str(value)
            for name, value in headers.items()
            if isinstance(value, str | int | float)
        }

    def get(self, key: str, default: str | None = None, /) -> str | None:
        return self._headers.get(key, default)


def _of_member(value: object, unit: float, now: float) -> float | None:
    if isinstance(value, dict):  # protobuf's Duration: {"seconds": 5, "nanos": 900000000}
        seconds, nanos = _of_member(value.get("seconds"), 1.0, now), value.get("nanos")
        part = nanos / 1e9 if type(nanos) is int and nanos >= 0 else 0.0
        return part or None if seconds is None else seconds + part
    if isinstance(value, str):
        number = _number(value)
        return _wait(value, now, None) if number is None else _since(number, now) * unit
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _since(value, now) * unit if 0 <= value < _LARGEST else None


def _wait(value: str, now: float, date: str | None) -> float | None:
    """Return the seconds that a header's `value` stands for."""
    value = value.strip()
    number = _number(value)
    if number is None:
        found = None if len(value) > _LONGEST_VALUE else read_duration(value)
        return _until(value, date, now) if found is None else found
    return _since(number, now)


def _since(number: float, now: float) -> float:
    """Return seconds from `now`; a number near `now` itself is a timestamp, in seconds or milliseconds."""
    for moment in (number, number / 1000):
        if abs(moment - now) < _YEAR < moment:
            return max(0.0, moment - now)
    return float(number)


_YEAR: Final = 31_536_000.0
"""Seconds. Limits are renewed before that, so a wait is never as long."""
_LARGEST: Final = 1e15
_LONGEST_VALUE: Final = 100


def _number(text: str | None) -> float | None:
    # float() would take "nan", "inf", "1_0" and "-5".
    if text is None or not _NUMBER.fullmatch(text.strip()):
        return None
    return float(text)


def _until(value: str, date: str | None, now: float) -> float | None:
    then = _epoch(value)
    if then is None:
        return None
    sent = _epoch(date) if date else None
    return max(0.0, then - (now if sent is None else sent))


def _epoch(text: str) -> float | None:
    text = text.strip()
    moment = read_rfc3339(text)
    if moment is not None:
        return moment
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:  # asctime's form has no zone: it is UTC (RFC 9110, 5.6.7)
            date = date.replace(tzinfo=UTC)
        return date.timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def advise(error: ProviderError, *, retry: bool | None) -> None:
    """Record on `error` whether another attempt is worth it, whatever its class."""
    error.retry_advised = retry


def wait_before_retry(error: BaseException | None, attempts: int, random: Callable[[], float]) -> float:
    """Return the seconds to wait after `attempts` attempts, the last of which raised `error`.

    The wait that the provider asked for; else the openai SDK's exponential backoff, min(0.5 · 2^n, 8) s less
    up to a quarter as jitter from `random` (in [0, 1)), doubled if the provider reports an overload.
    """
    asked = error.retry_after if isinstance(error, ProviderError) else None
    if asked:
        return asked
    wait = min(_FIRST_WAIT * 2.0 ** min(attempts - 1, 16), _LONGEST_WAIT) * (1 - random() / 4)
    overloaded = isinstance(error, ProviderError) and error.code in _OVERLOADED
    return wait * 2 if overloaded else wait
