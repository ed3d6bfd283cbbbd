"""Pacing: how requests are spread out after a refusal."""

from __future__ import annotations

import math

import pytest

from batchrt.errors import ProviderError, RateLimitError, ServerError
from batchrt.limits.error_kinds import Failure
from batchrt.limits.found_limits import FoundLimits
from batchrt.limits.pacing import Pacing
from batchrt.limits.permit import Permit
from batchrt.limits.refusal_log import ACCEPTED


def found_limits() -> FoundLimits:
    return FoundLimits(lambda *_: None, lambda _: None, lambda _: None, lambda: None)


def refused(error: ProviderError, *, unexplained: int = 0, explained: bool = False) -> Pacing:
    """Return the pacing after `error`, beside five requests in flight; three were answered before."""
    found = found_limits()
    found.unexplained = unexplained
    for _ in range(3):
        permit = Permit(0)
        found.sent(permit)
        permit.verdict = ACCEPTED
    pacing = Pacing()
    pacing.refused(Failure.of(error), 5, 0.0, found, explained=explained, pause=1.0)
    return pacing


def test_pacing_sends_as_many_as_before_where_refusals_have_no_limit_as_reason() -> None:
    """Three went at once before the named wait, and three may again."""
    pacing = refused(RateLimitError("x", status=429, retry_after=1), unexplained=2)
    assert pacing.recovery_due(2, 1.0) == 1.0
    assert pacing.recovery_due(3, 1.0) == math.inf


@pytest.mark.parametrize(
    "error",
    [RateLimitError("x", status=429), ServerError("x", status=503, retry_after=1)],
    ids=["429", "503"],
)
def test_pacing_starts_slowly_after_a_wave(error: ProviderError) -> None:
    """One more than is in flight, and another one for each answer."""
    pacing = refused(error)
    assert pacing.recovery_due(0, 1.0) == 1.0
    assert pacing.recovery_due(1, 1.0) == math.inf
    pacing.ended(0.5, 0, 1.0, answered=True)
    assert pacing.recovery_due(1, 1.0) == 1.0
    pacing.ended(0.5, 1, 1.0, answered=False)
    assert pacing.recovery_due(2, 1.0) == math.inf


def test_pacing_probes_with_one_request_after_a_named_wait() -> None:
    """A half-open probe goes first; the next waits for its answer, or for as long again."""
    pacing = refused(RateLimitError("x", status=429, retry_after=2))
    assert pacing.recovery_due(0, 2.0) == 2.0
    pacing.sent(2.0)
    assert pacing.recovery_due(1, 2.0) > 2.0


def test_pacing_holds_nothing_back_after_an_explained_refusal() -> None:
    """The limit that explains it does."""
    pacing = refused(RateLimitError("x", status=429, retry_after=1), explained=True)
    assert pacing.recovery_due(1000, 1.0) == 1.0


def test_pacing_recovery_is_replaced_by_that_of_a_later_refusal() -> None:
    """One recovery at a time: a half-open probe that is awaited does not hold a later ramp back."""
    pacing = refused(RateLimitError("x", status=429, retry_after=2))
    pacing.sent(2.0)
    assert pacing.recovery_due(0, 2.0) > 2.0
    found = found_limits()
    pacing.refused(Failure.of(RateLimitError("x", status=429)), 5, 2.0, found, explained=False, pause=1.0)
    assert pacing.recovery_due(0, 2.0) == 2.0
    assert pacing.recovery_due(1, 2.0) == math.inf
    pacing.refused(Failure.of(RateLimitError("x", status=429)), 5, 2.0, found, explained=True, pause=1.0)
    assert pacing.recovery_due(1, 2.0) == 2.0


def test_pacing_slow_start_of_a_parent_process_is_forgotten() -> None:
    """Its answers do not come in a fork."""
    pacing = refused(RateLimitError("x", status=429))
    assert pacing.recovery_due(0, 1.0) == 1.0
    assert pacing.recovery_due(5, 1.0) == math.inf
    pacing.stop_slow_start()
    assert pacing.recovery_due(5, 1.0) == 1.0


@pytest.mark.parametrize(("accepted", "second"), [(3, 4.2), (4, 2.5)])
def test_pacing_sends_one_request_at_first_unless_several_were_accepted_within_the_wait(
    accepted: int, second: float
) -> None:
    """Four within the named wait before show a bucket of more than one request."""
    found = found_limits()
    found.latency = 0.1
    for _ in range(accepted):
        permit = Permit(0)
        found.sent(permit)
        permit.verdict = ACCEPTED
    pacing = Pacing()
    error = RateLimitError("x", status=429, retry_after=2)
    pacing.refused(Failure.of(error), 5, 0.0, found, explained=False, pause=1.0)
    assert pacing.recovery_due(0, 2.0) == 2.0
    pacing.sent(2.0)
    pacing.ended(2.0, 0, 2.0, answered=True)
    assert pacing.recovery_due(0, 2.5) == pytest.approx(second)
