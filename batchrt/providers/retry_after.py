"""How long a provider asks to be left alone, and whether to come back at all."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from batchrt.errors import (
    ConnectionFailedError,
    ContextLengthError,
    MalformedResponseError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from batchrt.providers.rate_limits import read_duration
from batchrt.runtime.retrying import MAX_RETRY_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrt.providers.reply import HeaderMap

__all__ = ["MAX_RETRY_AFTER", "advise", "retry_after", "should_retry", "wait_before_retry"]

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0
_OVERLOADED: Final = frozenset(("server_is_overloaded", "slow_down"))
_PASSING: Final = (
    RateLimitError,
    ServerError,
    ConnectionFailedError,
    RequestTimeoutError,
    MalformedResponseError,
)
_LASTING: Final = (QuotaExhaustedError, ContextLengthError)
_AZURE: Final = re.compile(r"retry after ([0-9]{1,9}(?:\.[0-9]{1,9})?) (milli)?seconds?", re.IGNORECASE)
_OPENAI: Final = re.compile(
    r"try again in ((?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|h|m|s))+)(?![0-9a-z])", re.IGNORECASE
)
_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15}")


def retry_after(headers: HeaderMap, message: str = "", *, now: float) -> float | None:
    """Return the seconds to wait that a reply asks for, or `None` if it asks for none.

    Looked for in this order: `retry-after-ms`; `retry-after` in seconds or as a date (RFC 9110,
    10.2.3, in its three forms), which is read against the reply's own `date`, else against `now`
    (seconds since the epoch); `llm_provider-retry-after`, which LiteLLM's proxy sends; and in the error's
    `message` Azure's "Please retry after 7 seconds" and OpenAI's "Please try again in 9.816s". A date that
    has passed gives 0.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    for name in ("retry-after", "llm_provider-retry-after"):
        value = headers.get(name)
        seconds = _number(value)
        if seconds is None and value:
            seconds = _until(value, headers.get("date"), now)
        if seconds is not None:
            return seconds
    return _in_words(message)


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
    try:
        moment = parsedate_to_datetime(text.strip())
        if moment.tzinfo is None:  # asctime's form names no zone: it is UTC (RFC 9110, 5.6.7)
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _in_words(message: str) -> float | None:
    message = message[:10_000]
    found = _AZURE.search(message)
    if found is None:
        found = _OPENAI.search(message)
        return None if found is None else read_duration(found[1].lower())
    seconds = float(found[1])
    return seconds / 1000 if found[2] else seconds


def advise(error: ProviderError, *, retry: bool | None) -> None:
    """Note on `error` that another attempt is worth it, or is not, whatever its class."""
    error.retry_advised = retry


def should_retry(error: BaseException | None, longest: float = MAX_RETRY_AFTER) -> bool:
    """Whether another attempt may give what `error` did not.

    Rate limits, 408, 409, 5xx, broken connections, timeouts and answers that are malformed; where
    something else was `advise`d (`x-should-retry`), that. Never an exhausted quota or an input that
    is too long, and never when the wait asked for is over `longest` seconds.
    """
    if not isinstance(error, ProviderError) or isinstance(error, _LASTING):
        return False
    if error.retry_after is not None and error.retry_after > longest:
        return False
    advice = error.retry_advised
    return isinstance(error, _PASSING) if advice is None else advice


def wait_before_retry(error: BaseException | None, attempts: int, random: Callable[[], float]) -> float:
    """Return the seconds to wait after `attempts` attempts, the last of which raised `error`.

    What the provider asked for, else the openai SDK's min(0.5 · 2^n, 8) s less up to a quarter,
    which `random` (in [0, 1)) decides; twice that where the provider says that it is overloaded.
    """
    asked = error.retry_after if isinstance(error, ProviderError) else None
    if asked:
        return asked
    wait = min(_FIRST_WAIT * 2.0 ** min(attempts - 1, 16), _LONGEST_WAIT) * (1 - random() / 4)
    overloaded = isinstance(error, ProviderError) and error.code in _OVERLOADED
    return wait * 2 if overloaded else wait
