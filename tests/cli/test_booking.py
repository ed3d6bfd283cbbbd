"""When a provider that lets nobody through is left alone."""

from __future__ import annotations

import pytest

from batchrt.cli.abort import MOST_FORBIDDEN, MOST_REFUSED, Gatekeeper
from batchrt.errors import (
    AuthenticationError,
    InputError,
    OutageError,
    QuotaExhaustedError,
    RateLimitError,
    ServerError,
)

OUTAGE = OutageError("down", seconds=600)
TOO_LONG = RateLimitError("no", status=429, attempts=0, retry_after=61)


@pytest.mark.parametrize(
    ("error", "most"),
    [
        (OUTAGE, MOST_REFUSED),
        (QuotaExhaustedError("no credit", status=429), MOST_REFUSED),
        (AuthenticationError("no", status=401), MOST_REFUSED),
        (AuthenticationError("no", status=403), MOST_FORBIDDEN),
        (TOO_LONG, 1),
        (ServerError("overloaded", status=503, retry_after=61), 1),
        (RateLimitError("no", status=429, retry_after=60), None),
        (RateLimitError("no", status=429), None),
        (ServerError("no", status=500, retry_after=61), None),
    ],
)
def test_so_many_in_a_row_stop_the_job(error: Exception, most: int | None) -> None:
    """Once; those that come with the end of the job are not failures of their own."""
    gate = Gatekeeper(max_wait=60)
    halts: list[bool] = []
    gate.halt = lambda: halts.append(gate.is_shut)
    by_itself = [gate.refused(error) for _ in range(100)]
    assert by_itself == [True] * (most or 100) + [False] * (100 - (most or 100))
    assert gate.is_shut == (most is not None)
    assert halts == [True] * gate.is_shut


def test_whoever_gets_through_in_between_shows_that_it_is_not_so() -> None:
    """Also with an error of another kind; a row that was not sent shows nothing."""
    gate = Gatekeeper(max_wait=60)
    for _ in range(10):
        for _ in range(MOST_REFUSED - 1):
            gate.refused(OUTAGE)
            gate.refused(InputError("no text"))
        gate.refused(ServerError("no", status=500))
    assert not gate.is_shut


def test_what_is_answered_when_the_job_is_stopped_already_changes_nothing() -> None:
    """It was under way."""
    gate = Gatekeeper(max_wait=60)
    for _ in range(MOST_REFUSED):
        gate.refused(OUTAGE)
    gate.passed()
    assert gate.is_shut
    assert gate.refusal is OUTAGE


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OUTAGE, "the provider was down for longer than --patience"),
        (AuthenticationError("no", status=401), "the provider lets no request through"),
        (
            RateLimitError("no", status=429, retry_after=1e300),
            "the provider asks to wait 1e+300 s, which is more than --max-wait",
        ),
    ],
)
def test_the_reason_names_the_option(error: Exception, reason: str) -> None:
    """With which it would have gone on."""
    gate = Gatekeeper(max_wait=60)
    gate.refused(error)
    assert gate.reason() == reason


def test_a_pause_is_told_as_a_time_of_day() -> None:
    """Somebody may come back then."""
    gate = Gatekeeper(max_wait=60)
    gate.refused(TOO_LONG)
    first, _, last = gate.reason().partition(" UTC")
    assert first.startswith("the provider asks to wait until 20")
    assert last == ", which is more than --max-wait"
