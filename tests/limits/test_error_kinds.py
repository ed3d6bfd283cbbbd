"""Failure kinds: each error has one, and everything else follows from it."""

from __future__ import annotations

import pytest

from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    ConnectionFault,
    ContextLengthError,
    MalformedResponseError,
    OutageError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from batchrt.limits.error_kinds import Failure, FailureKind, kind_of


def unreachable(fault: ConnectionFault | None) -> ProviderError:
    error = ConnectionFailedError("x")
    error.fault = fault
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RateLimitError("x", status=429), FailureKind.RATE_LIMITED),
        (ServerError("x", status=503, retry_after=1), FailureKind.OVERLOADED),
        (ServerError("x", status=503, retry_after=0), FailureKind.OVERLOADED),
        (ServerError("x", status=503, code="slow_down"), FailureKind.OVERLOADED),
        (ServerError("x", status=503, type="overloaded"), FailureKind.OVERLOADED),
        (ServerError("x", status=503), FailureKind.SERVER_FAILED),
        (ServerError("x", status=500, retry_after=1), FailureKind.SERVER_FAILED),
        (ServerError("x", status=409), FailureKind.CONFLICT),
        (ServerError("x"), FailureKind.CONFLICT),
        (unreachable(None), FailureKind.UNREACHABLE),
        (unreachable("host"), FailureKind.WRONG_ADDRESS),
        (unreachable("refused"), FailureKind.WRONG_ADDRESS),
        (unreachable("certificate"), FailureKind.WRONG_PROTOCOL),
        (unreachable("protocol"), FailureKind.WRONG_PROTOCOL),
        (unreachable("proxy"), FailureKind.WRONG_PROTOCOL),
        (unreachable("resources"), FailureKind.NO_RESOURCES),
        (RequestTimeoutError("x"), FailureKind.TIMED_OUT),
        (MalformedResponseError("x"), FailureKind.MALFORMED),
        (OutageError("x", seconds=1), FailureKind.DOWN),
        (QuotaExhaustedError("x", status=402), FailureKind.EXHAUSTED),
        (ContextLengthError("x", status=400), FailureKind.TOO_LONG),
        (BadRequestError("x", status=400), FailureKind.REJECTED),
        (AuthenticationError("x", status=401), FailureKind.REJECTED),
        (ValueError("x"), FailureKind.REJECTED),
        (None, FailureKind.REJECTED),
    ],
)
def test_kind_of_error(error: Exception | None, kind: FailureKind) -> None:
    """Every class of error, status and fault has its kind."""
    assert kind_of(error) is kind


def test_failure_kind_traits() -> None:
    """Quotas and retries read these attributes, and nothing else, off a kind."""

    def having(trait: str) -> set[str]:
        return {kind.name for kind in FailureKind if getattr(kind, trait)}

    assert having("overloaded") == {"RATE_LIMITED", "OVERLOADED"}
    assert having("wrong_address") == {"WRONG_ADDRESS", "WRONG_PROTOCOL"}
    assert having("billed") == {"TIMED_OUT", "MALFORMED"}
    assert having("outage") == having("wrong_address") | {
        "OVERLOADED",
        "SERVER_FAILED",
        "UNREACHABLE",
        "TIMED_OUT",
    }
    assert {kind.name for kind in FailureKind if kind.retryable is False} == {"DOWN", "EXHAUSTED", "TOO_LONG"}


@pytest.mark.parametrize("wrong_address", [True, False])
def test_failure_with_wrong_protocol_is_retried_where_the_address_has_answered(wrong_address: bool) -> None:
    """A certificate is refused for good, unless an answer has come from that address before."""
    failure = Failure.of(unreachable("certificate"))
    assert failure.is_worth_retrying(10, wrong_address=wrong_address) is not wrong_address
    assert Failure.of(unreachable("host")).is_worth_retrying(10, wrong_address=wrong_address)


@pytest.mark.parametrize(("wait", "paced"), [(None, False), (0, False), (2, True)])
def test_failure_is_paced_by_a_named_wait(wait: float | None, paced: bool) -> None:
    """A 503 that says overloaded is a refusal only where it names a wait; a 429 always is."""
    busy = Failure.of(ServerError("x", status=503, code="overloaded", retry_after=wait))
    assert (busy.paced, busy.refused) == (paced, paced)
    limited = Failure.of(RateLimitError("x", status=429, retry_after=wait))
    assert (limited.paced, limited.refused) == (paced, True)


def test_failure_kind_of_an_error_is_that_of_its_class() -> None:
    """As users ask for it; an error that is no provider's is rejected, as is none."""
    assert FailureKind.of(RateLimitError("slow", status=429)) is FailureKind.RATE_LIMITED
    assert FailureKind.of(ValueError("x")) is FailureKind.REJECTED
    assert FailureKind.of(None) is FailureKind.REJECTED
