"""The reason of an aborted job."""

from __future__ import annotations

import pytest

from batchrt import AbortPolicy, AuthenticationError, OutageError, RateLimitError
from batchrt.cli.abort import abort_reason


def outage() -> Exception:
    return OutageError("down", seconds=600)


def too_long() -> Exception:
    return RateLimitError("no", status=429, attempts=0, retry_after=61)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (outage(), "the provider was down for longer than --patience"),
        (AuthenticationError("no", status=401), "the provider refuses every request"),
        (
            RateLimitError("no", status=429, retry_after=1e300),
            "the provider asks to wait 1e+300 s, which is more than --max-wait",
        ),
    ],
)
def test_abort_reason_names_the_option(error: Exception, reason: str) -> None:
    """With which it would have gone on."""
    abort_policy = AbortPolicy(max_wait=60)
    abort_policy.record_failure(error)
    assert abort_reason(abort_policy) == reason


def test_abort_pause_is_told_as_a_time_of_day() -> None:
    """The job can be started again then."""
    abort_policy = AbortPolicy(max_wait=60)
    abort_policy.record_failure(too_long())
    first, _, last = abort_reason(abort_policy).partition(" UTC")
    assert first.startswith("the provider asks to wait until 20")
    assert last == ", which is more than --max-wait"
