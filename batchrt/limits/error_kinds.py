"""Failure kinds: the one classification of a failed request, made once and handed on as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from batchrt.errors import (
    ConnectionFailedError,
    ContextLengthError,
    MalformedResponseError,
    OutageError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)

__all__ = ["Failure", "FailureKind", "kind_of", "reason", "shorten"]

_OVERLOADED: Final = frozenset(("server_is_overloaded", "slow_down", "overloaded"))
_LASTING_FAULTS: Final = frozenset(("certificate", "protocol", "proxy"))
"""Faults of an address that the next attempt meets again. A DNS lookup may fail for a moment, and a server
that refuses connections may be about to start."""


class FailureKind(Enum):
    """Name the kind of a failure; the attributes say how quotas and retries treat it.

    Attributes:
        overloaded: too much for now; no fault of the request, and no attempt of it is used up.
        outage: every other request may fail in the same way: no connection, no answer in time, a 5xx.
        wrong_address: the address itself may be wrong. While no request has ever been answered there,
            waiting does not help.
        billed: the provider may bill it all the same: generation may go on after a timeout, and a malformed
            answer was generated.
        retryable: another attempt may succeed; `None` where only the provider's own advice
            (`x-should-retry`) says so.
    """

    overloaded: bool
    outage: bool
    wrong_address: bool
    billed: bool
    retryable: bool | None

    RATE_LIMITED = "rate limited", "overloaded", "retryable"
    """A 429."""
    OVERLOADED = "overloaded", "overloaded", "outage", "retryable"
    """A 503 that says so, or that names a time to wait."""
    SERVER_FAILED = "server failed", "outage", "retryable"
    """Any other 5xx."""
    CONFLICT = "conflict", "retryable"
    """408, 409, and errors of the server that came within a success."""
    UNREACHABLE = "unreachable", "outage", "retryable"
    """No connection, or one that broke."""
    WRONG_ADDRESS = "wrong address", "outage", "wrong_address", "retryable"
    """An unknown host, or a port on which nothing listens."""
    WRONG_PROTOCOL = "wrong protocol", "outage", "wrong_address"
    """A refused certificate, a port that speaks another protocol, or a proxy that refuses to connect."""
    NO_RESOURCES = "no resources", "retryable"
    """Not sent: this process has no file descriptor or port left until other requests end."""
    TIMED_OUT = "timed out", "outage", "billed", "retryable"
    MALFORMED = "malformed", "billed", "retryable"
    """An answer that is not of the API's shape."""
    DOWN = "down", "final"
    """Not sent: the provider was down for longer than the request's patience."""
    EXHAUSTED = "exhausted", "final"
    """No credit, or a spending limit."""
    TOO_LONG = "too long", "final"
    """The input does not fit the model."""
    REJECTED = ("rejected",)
    """The request or its key is wrong."""

    def __new__(cls, label: str, *traits: str) -> Self:
        """Make a member whose value is `label`, with the attributes that `traits` name."""
        kind = object.__new__(cls)
        kind._value_ = label
        for name in ("overloaded", "outage", "wrong_address", "billed"):
            setattr(kind, name, name in traits)
        kind.retryable = True if "retryable" in traits else False if "final" in traits else None
        return kind

    @staticmethod
    def of(error: BaseException | None) -> FailureKind:
        """Return the kind of `error`; `REJECTED` for an error that is not a provider's."""
        return kind_of(error)


def kind_of(error: BaseException | None) -> FailureKind:
    """Return the kind of `error`; `REJECTED` for an error that is not a provider's."""
    if isinstance(error, ServerError):
        return _kind_of_server_error(error)
    if isinstance(error, ConnectionFailedError):
        if error.fault is None:
            return FailureKind.UNREACHABLE
        if error.fault == "resources":
            return FailureKind.NO_RESOURCES
        lasting = error.fault in _LASTING_FAULTS
        return FailureKind.WRONG_PROTOCOL if lasting else FailureKind.WRONG_ADDRESS
    return next((kind for cls, kind in _KINDS if isinstance(error, cls)), FailureKind.REJECTED)


_KINDS: Final = (
    (RateLimitError, FailureKind.RATE_LIMITED),
    (RequestTimeoutError, FailureKind.TIMED_OUT),
    (MalformedResponseError, FailureKind.MALFORMED),
    (OutageError, FailureKind.DOWN),
    (QuotaExhaustedError, FailureKind.EXHAUSTED),
    (ContextLengthError, FailureKind.TOO_LONG),
)


def _kind_of_server_error(error: ServerError) -> FailureKind:
    if error.status is None or error.status < 500:  # noqa: PLR2004
        return FailureKind.CONFLICT
    says_so = error.retry_after is not None or error.code in _OVERLOADED or error.type in _OVERLOADED
    overloaded = error.status == 503 and says_so  # noqa: PLR2004
    return FailureKind.OVERLOADED if overloaded else FailureKind.SERVER_FAILED


@dataclass(frozen=True, slots=True)
class Failure:
    """Hold a failed attempt: the error and its kind, found once.

    Attributes:
        error: the error.
        kind: its kind.
        wait: seconds that the provider asks to wait; 0 for none.
    """

    error: ProviderError
    kind: FailureKind
    wait: float = 0.0

    @classmethod
    def of(cls, error: ProviderError) -> Failure:
        """Classify `error`."""
        return cls(error, kind_of(error), error.retry_after or 0.0)

    @property
    def paced(self) -> bool:
        """Whether the provider is overloaded and names a time to wait."""
        return self.kind.overloaded and self.wait > 0

    @property
    def refused(self) -> bool:
        """Whether the request was refused for now, rather than failed: it waits at the quota."""
        return self.kind is FailureKind.RATE_LIMITED or self.paced

    def is_worth_retrying(self, longest: float, *, wrong_address: bool = False) -> bool:
        """Whether another attempt may succeed.

        Rate limits, 408, 409, 5xx, broken connections, timeouts and malformed answers are worth one; the
        provider's own advice (`x-should-retry`) overrules that. An exhausted quota, an input that is too
        long and an outage that was waited for never are, nor is a wait over `longest` seconds.

        Args:
            longest: the most seconds that the request will wait.
            wrong_address: no request has ever been answered at an address that the error says is wrong.
        """
        if self.kind.retryable is False or self.wait > longest:
            return False
        if self.kind is FailureKind.WRONG_PROTOCOL:
            # Later on it may be the network between, such as a captive portal.
            return not wrong_address
        advice = self.error.retry_advised
        return bool(self.kind.retryable) if advice is None else advice


def reason(error: ProviderError) -> str:
    """Return the class and status of `error`, for listeners."""
    name = type(error).__name__
    return name if error.status is None else f"{name} (status {error.status})"


def shorten(text: str, longest: int = 300) -> str:
    """Return `text` on one line of at most `longest` characters."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
