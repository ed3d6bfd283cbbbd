"""The retrial: what one request right after a refusal tells about its reason."""

from __future__ import annotations

import pytest

from batchrt.limits.permit import Permit
from batchrt.limits.refusal_log import ACCEPTED, Explanation
from batchrt.limits.refusal_wave import Wave
from batchrt.limits.retrial import Retrial, chance_let_in, evidence_of_noise, is_likely, tells_nothing

WAVE = Wave(beside=4, most=8, wait=0.0, at=10.005, sent_at=9.9, refused_at=10.0)
RATE = Explanation("rate", rate=10.0, highest=10.0, refused=4.0)
IN_FLIGHT = Explanation("in flight", limit=4, refused=4.0)
UNKNOWN = Explanation("too little evidence")


def test_retrial_is_one_request_at_a_time() -> None:
    """One that is withdrawn is replaced by another; its refusal is known as that of the retrial."""
    retrial, first, second, other = Retrial(), Permit(1), Permit(1), Permit(1)
    retrial.granted(other)
    assert not retrial.refused(other), "none was wanted"
    retrial.want()
    retrial.granted(first)
    assert (retrial.is_wanted, retrial.permit) == (False, first)
    retrial.withdrawn(other)
    assert retrial.permit is first
    retrial.withdrawn(first)
    assert retrial.is_wanted
    retrial.granted(second)
    assert not retrial.refused(other)
    assert retrial.refused(second)
    assert retrial.has_failed
    assert not retrial.refused(second), "it is over"


def test_retrial_outcome_is_known_when_a_refusal_would_be() -> None:
    """Or as soon as there is an answer."""
    retrial, permit = Retrial(), Permit(1)
    permit.verdict = ACCEPTED  # of an attempt before
    retrial.want()
    retrial.granted(permit)
    permit.sent_at = 10.0
    assert retrial.known_at(10.001, 0.008) == pytest.approx(10.008)
    permit.verdict = ACCEPTED
    assert retrial.known_at(10.001, 0.008) == 10.001
    assert retrial.end() is permit
    assert retrial.permit is None


@pytest.mark.parametrize(
    ("explanation", "beside", "base", "chance"),
    [
        (RATE, 9, None, 0.2),
        (RATE._replace(rate=1000.0), 9, None, 1.0),
        (RATE._replace(rate=0.1), 9, None, 0.05),
        (IN_FLIGHT, 4, None, 0.05),
        (IN_FLIGHT, 3, None, 1.0),
        (UNKNOWN, 3, None, 0.25),
        (UNKNOWN, 3, 30.0, 0.6),
    ],
)
def test_retrial_chance_is_that_of_a_token_or_of_a_free_place(
    explanation: Explanation, beside: int, base: float | None, chance: float
) -> None:
    """After 20 ms: a rate brings its share of a token, and a number in flight bars all beside as many."""
    assert chance_let_in(explanation, WAVE, 10.02, beside, base) == pytest.approx(chance)


@pytest.mark.parametrize(
    ("explanation", "pace", "chance"),
    [
        (RATE, 12.5, 1.0),
        (RATE, 40.0, 0.2 / 0.75),
        (RATE, 9.0, 1.0),
        (UNKNOWN, 12.5, 0.25 * 1.3 / 0.3),
        (Explanation("noise", refused=2.0), 12.5, 0.25 * 1.3 / 0.3),
        (Explanation("noise", refused=20.0), 12.5, 0.25),
    ],
)
def test_retrial_chance_is_high_where_a_pace_is_little_above_the_limit(
    explanation: Explanation, pace: float, chance: float
) -> None:
    """The refused request lacked only its share of the difference; noise in great number lacks nothing."""
    found = chance_let_in(explanation, WAVE, 10.02, 9, 12.5, pace=pace)
    assert found == pytest.approx(min(chance, 1.0))


@pytest.mark.parametrize(
    ("explanation", "chance", "base", "nothing"),
    [
        (RATE, 0.6, 10.0, True),
        (RATE, 0.4, 10.0, False),
        (RATE, 0.9, None, False),
        (RATE._replace(clear=True), 0.3, None, True),
        (RATE._replace(clear=True), 0.17, None, True),
        (RATE._replace(clear=True), 0.05, None, False),
        (RATE._replace(clear=True), 0.3, 20.0, True),
        (RATE._replace(clear=True), 0.3, 10.0, False),
        (IN_FLIGHT, 1.0, None, True),
        (IN_FLIGHT, 0.05, None, False),
    ],
)
def test_retrial_tells_nothing_where_a_limit_would_let_it_in(
    explanation: Explanation, chance: float, base: float | None, *, nothing: bool
) -> None:
    """And less is enough for a rate beyond doubt, other than the one that is kept to."""
    assert tells_nothing(explanation, chance, base) is nothing


def test_retrial_evidence_adds_up_to_certainty_of_twenty_to_one() -> None:
    """Two units; what a limit would let in as well is no evidence, and noise that refuses more tells less."""
    assert 2 * evidence_of_noise(0.05, 0.2) > 2
    assert evidence_of_noise(1.0, 0.2) == 0
    assert evidence_of_noise(0.2, 0.5) < evidence_of_noise(0.2, 0.1)
    assert evidence_of_noise(0.2, 1.0) == evidence_of_noise(0.2, 0.5)
    assert is_likely(0.5)
    assert not is_likely(0.49)
