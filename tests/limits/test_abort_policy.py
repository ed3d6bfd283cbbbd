"""When a job is aborted because its provider refuses every request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batchrt.errors import (
    AuthenticationError,
    ConnectionFailedError,
    InputError,
    OutageError,
    QuotaExhaustedError,
    RateLimitError,
    ServerError,
)
from batchrt.limits.abort_policy import MOST_FORBIDDEN, MOST_REFUSED, AbortPolicy


def outage() -> Exception:
    return OutageError("down", seconds=600)


def lost() -> Exception:
    error = ConnectionFailedError("no such host")
    error.fault = "host"
    return error


def too_long() -> Exception:
    return RateLimitError("no", status=429, attempts=0, retry_after=61)


@pytest.mark.parametrize(
    ("error", "most"),
    [
        (outage, MOST_REFUSED),
        (lambda: QuotaExhaustedError("no credit", status=429), MOST_REFUSED),
        (lambda: AuthenticationError("no", status=401), MOST_REFUSED),
        (lambda: AuthenticationError("no", status=403), MOST_FORBIDDEN),
        (too_long, 1),
        (lambda: ServerError("overloaded", status=503, retry_after=61), 1),
        (lambda: RateLimitError("no", status=429, retry_after=60), None),
        (lambda: RateLimitError("no", status=429), None),
        (lambda: ServerError("no", status=500, retry_after=61), None),
    ],
)
def test_abort_policy_so_many_in_a_row_stop_the_job(error: Callable[[], Exception], most: int | None) -> None:
    """Once; those that come with the end of the job are not failures of their own."""
    abort_policy = AbortPolicy(max_wait=60)
    halts: list[bool] = []
    abort_policy.on_abort = lambda: halts.append(abort_policy.is_aborted)
    by_itself = [abort_policy.record_failure(error()) for _ in range(100)]
    assert by_itself == [True] * (most or 100) + [False] * (100 - (most or 100))
    assert abort_policy.is_aborted == (most is not None)
    assert halts == [True] * abort_policy.is_aborted


def test_abort_policy_success_in_between_resets_the_count() -> None:
    """Also with an error of another kind; a row that was not sent shows nothing."""
    abort_policy = AbortPolicy(max_wait=60)
    for _ in range(10):
        for _ in range(MOST_REFUSED - 1):
            abort_policy.record_failure(outage())
            abort_policy.record_failure(InputError("no text"))
        abort_policy.record_failure(ServerError("no", status=500))
    assert not abort_policy.is_aborted


def test_abort_policy_success_after_the_abort_changes_nothing() -> None:
    """It was under way."""
    abort_policy = AbortPolicy(max_wait=60)
    for _ in range(MOST_REFUSED):
        abort_policy.record_failure(outage())
    abort_policy.record_success()
    assert abort_policy.is_aborted
    assert isinstance(abort_policy.refusal, OutageError)


def test_abort_policy_rows_of_a_list_count_once() -> None:
    """They have one error; those of the list that stops the job are failures of their own."""
    abort_policy = AbortPolicy(max_wait=60)
    for place in range(MOST_REFUSED):
        assert not abort_policy.is_aborted
        error = outage()
        by_itself = [abort_policy.record_failure(error) for _ in range(10)]
        assert by_itself == [True] * 10, place
    assert abort_policy.is_aborted
    assert not abort_policy.record_failure(outage())


@pytest.mark.parametrize(
    ("error", "is_of_provider"),
    [
        (outage, True),
        (lambda: QuotaExhaustedError("no credit", status=429), True),
        (lambda: AuthenticationError("no", status=401), True),
        (lambda: AuthenticationError("no", status=403), False),
        (too_long, True),
        (lambda: RateLimitError("no", status=429, retry_after=60), False),
        (lambda: ServerError("no", status=500), False),
        (lost, True),
        (lambda: InputError("no text"), False),
    ],
)
def test_abort_policy_tells_errors_of_the_provider(
    error: Callable[[], Exception], is_of_provider: bool
) -> None:
    """From those that may be about one item; without patience, an address without a server is one's too."""
    assert AbortPolicy(max_wait=60).is_of_provider(error()) is is_of_provider
    impatient = AbortPolicy(max_wait=60, patience=0)
    is_address = isinstance(error(), ConnectionFailedError)
    assert impatient.is_of_provider(error()) is (is_of_provider and not is_address)


def test_abort_policy_lost_address_stops_the_job() -> None:
    """After as many in a row as an outage, once a request had reached it."""
    abort_policy = AbortPolicy(max_wait=60)
    abort_policy.record_success()
    for _ in range(MOST_REFUSED):
        assert not abort_policy.is_aborted
        abort_policy.record_failure(lost())
    assert abort_policy.is_aborted
