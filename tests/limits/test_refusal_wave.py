"""The wave of refusals."""

from __future__ import annotations

from batchrt.limits.permit import Permit
from batchrt.limits.refusal_wave import Wave


def permit(beside: int, sent_at: float) -> Permit:
    made = Permit(1)
    made.beside, made.sent_at = beside, sent_at
    return made


def test_refusal_wave_holds_the_extremes_of_its_refusals() -> None:
    """In whatever order they come; it was sent when the first to be refused was."""
    wave = Wave.of(permit(5, 1.0), 0.2, 2.0).joined(permit(3, 1.1), 0.1, 2.1).joined(permit(9, 0.9), 0.3, 2.2)
    assert wave == Wave(beside=3, most=9, wait=0.3, least_wait=0.1, at=2.2, sent_at=1.0)
