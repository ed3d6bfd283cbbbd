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


def refused(error: ProviderError, *, unexplained: int = 0, explained: bool = False) -> Pacing:
    """Return the pacing after `error`, beside five requests in flight; three were answered before."""
    found = FoundLimits(lambda *_: None, lambda _: None, lambda _: None, lambda: None)
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
    pacing.ended(0.5, 1.0, answered=True)
    assert pacing.recovery_due(1, 1.0) == 1.0
    pacing.ended(0.5, 1.0, answered=False)
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
