"""What a failed request says about its provider."""

from __future__ import annotations

from typing import Final

from batchrt.errors import (
    ConnectionFailedError,
    MalformedResponseError,
    ProviderError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)

__all__ = ["blames_address", "is_outage", "is_overloaded", "is_paced", "may_be_billed", "reason", "shorten"]

_OVERLOADED: Final = frozenset(("server_is_overloaded", "slow_down", "overloaded"))


def is_overloaded(error: ProviderError) -> bool:
    """Whether `error` says that there is too much for now: a 429, or a 503 that says so or names a time."""
    if isinstance(error, RateLimitError):
        return True
    return (
        isinstance(error, ServerError)
        and error.status == 503  # noqa: PLR2004
        and (error.retry_after is not None or error.code in _OVERLOADED or error.type in _OVERLOADED)
    )


def is_outage(error: ProviderError) -> bool:
    """Whether every other request may fail like this as well: no connection, no answer in time, a 5xx."""
    if isinstance(error, ConnectionFailedError | RequestTimeoutError):
        return True
    return isinstance(error, ServerError) and error.status is not None and error.status >= 500  # noqa: PLR2004


def blames_address(error: Exception | None) -> bool:
    """Whether `error` says that the address may be wrong: no such host, no such certificate, nobody there."""
    return isinstance(error, ConnectionFailedError) and error.fault is not None


def may_be_billed(error: ProviderError) -> bool:
    """Whether what ended like this may be billed: given up, it may go on; or the answer is broken."""
    return isinstance(error, RequestTimeoutError | MalformedResponseError)


def is_paced(error: ProviderError) -> bool:
    """Whether `error` says that there is too much for now, and until when."""
    return is_overloaded(error) and bool(error.retry_after)


def reason(error: ProviderError) -> str:
    """Return what kind of error it is, for those who listen."""
    name = type(error).__name__
    return name if error.status is None else f"{name} (status {error.status})"


def shorten(text: str, longest: int = 300) -> str:
    """Return `text` on one line of at most `longest` characters."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
