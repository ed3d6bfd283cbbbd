"""What named waits tell about a rate."""

from __future__ import annotations

import math

import pytest

from batchrt.limits.explanation import Explanation
from batchrt.limits.named_waits import NamedWaits
from batchrt.limits.refusal_wave import Wave

RATE = Explanation("rate", rate=30.0, highest=90.0, refused=4.0)
WAVE = Wave(beside=4, most=8, wait=0.0, least_wait=0.0, at=10.005, sent_at=9.9)


def learnt(*waits: float) -> NamedWaits:
    made = NamedWaits()
    for wait in waits:
        made.learn(WAVE._replace(wait=wait, least_wait=wait))
    return made


def test_named_waits_bound_a_rate_by_the_longest_of_them() -> None:
    """The wait for one request is its share of a token; the mean of the bounds is tried."""
    bound = learnt(0.004, 0.02, 0.009).bound(RATE, None)
    assert bound.highest == pytest.approx(50)
    assert bound.rate == pytest.approx(math.sqrt(30 * 50))
    assert learnt(0.02).bound(RATE, 40.0).highest == 40, "which was refused"
    assert learnt(0.02).bound(RATE._replace(rate=40.0), None).rate == 40, "close enough"


@pytest.mark.parametrize("waits", [(), (1.0, 2.0), (0.0, math.nan, math.inf), (0.05, 0.05, 0.05)])
def test_named_waits_tell_nothing_in_whole_seconds_or_always_the_same(waits: tuple[float, ...]) -> None:
    """They were rounded up, or set by hand."""
    made = learnt(*waits)
    assert made.highest_rate is None
    assert made.bound(RATE, None) == RATE
    assert made.are_fixed is (len(waits) == 3 and waits[0] == waits[2])


def test_named_waits_are_forgotten_where_more_is_let_in() -> None:
    """They are no shares of a token then, or the limit was raised."""
    made = learnt(0.02, 0.05)
    assert made.bound(RATE, None) == RATE
    assert made.highest_rate is None
    other = Explanation("in flight", limit=3)
    assert learnt(0.02).bound(other, None) == other


def test_named_waits_of_one_wave_that_differ_are_shares_of_a_token() -> None:
    """They bound a rate that is somewhat higher; one that is far higher has other reasons."""
    made = learnt()
    made.learn(WAVE._replace(wait=0.05, least_wait=0.01))
    assert made.differ
    assert made.bound(RATE, None) == RATE._replace(rate=20.0, highest=20.0)
    assert made.bound(RATE._replace(rate=50.0), None).rate == 50
    made.learn(WAVE._replace(wait=0.05, least_wait=0.05))
    assert not made.differ
