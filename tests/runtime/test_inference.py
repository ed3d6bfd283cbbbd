"""A rate that nobody tells, found from when requests are refused."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.runtime.inference import Inferred, Refusal


def test_two_refusals_give_the_rate() -> None:
    """Between them exactly that was let in which the provider's bucket was refilled with."""
    inferred = Inferred(0.0)
    inferred.refused(Refusal(10, 700, 1), 1.0)
    inferred.refused(Refusal(40, 1000, 2), 1.0)
    assert inferred.keep(40).rate == pytest.approx(10)


def drain(inferred: Inferred, until: float, now: float) -> list[float]:
    """Send whenever it may be, as somebody does who always waits."""
    bucket, sent = inferred.bucket, []
    assert bucket is not None
    while now < until:
        wait = inferred.wait_for(now)
        assert 0 <= wait < math.inf
        now += wait
        inferred.advance(now, wanted=True)
        assert inferred.wait_for(now) < 1e-6, "what it named is enough"
        bucket.charge(1)
        sent.append(now)
    return sent


def test_the_first_guess_is_careful_and_doubles() -> None:
    """There may have been a full bucket to use up before it."""
    inferred = Inferred(0.0)
    inferred.refused(Refusal(10, 1000, 1), 2.0)
    inferred.keep(10)
    sent = drain(inferred, 30, 10.0)
    assert sent[0] == pytest.approx(12)
    assert sum(at < 13 for at in sent) == 1, "in the first second no more than surely came in"
    rates = [sum(start <= at < start + 2 for at in sent) for start in (14, 16, 18, 20)]
    assert all(1.7 < after / before < 2.3 for before, after in pairwise(rates))


def test_nothing_goes_until_the_wait_is_over_and_then_one() -> None:
    """Not what came in meanwhile."""
    inferred = Inferred(0.0)
    inferred.refused(Refusal(10, 100, 1), 5.0)
    bucket = inferred.keep(10)
    assert inferred.wait_for(10) == 5
    inferred.advance(15, wanted=True)
    assert inferred.wait_for(15) == 0
    bucket.charge(1)
    assert inferred.wait_for(15) > 0


def test_a_rate_that_was_told_grows_slowly_and_only_while_it_is_wanted() -> None:
    """By little in ten seconds, for a limit that stays; by all of it in a minute, for one that was raised."""
    inferred = Inferred(0.0)
    inferred.refused(Refusal(10, 700, 1), 1.0)
    inferred.refused(Refusal(40, 1000, 2), 1.0)
    bucket = inferred.keep(40)
    now = 41.0
    for _ in range(100):
        now += 1
        inferred.advance(now, wanted=False)
    assert bucket.rate == pytest.approx(10)
    for second in range(1, 61):
        now += 1
        inferred.advance(now, wanted=True)
        if second == 10:
            assert 10 < bucket.rate < 10.2
    assert bucket.rate == pytest.approx(20, rel=0.05)


def test_what_happened_long_ago_is_forgotten() -> None:
    """Refusals are remembered only so far back."""
    inferred = Inferred(0.0)
    for number in range(100):
        inferred.refused(Refusal(10.0 * number, 100 * number, number), 1.0)
    assert len(inferred.recent(0.0)) < 30
    assert [refusal.time for refusal in inferred.recent(970)] == [970, 980, 990]
    assert inferred.keep(990).rate == pytest.approx(10)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100), st.integers(0, 1000), st.floats(0, 3600), st.booleans(), st.floats(0, 1000)
        ),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_comes_the_rate_is_a_number_above_nothing(
    events: list[tuple[float, int, float, bool, float]],
) -> None:
    """However close refusals are, and whatever they ask for."""
    inferred, now, let_in = Inferred(0.0), 0.0, 0
    for refused, (pause, more, wait, wanted, later) in enumerate(events, 1):
        now += pause
        let_in += more
        inferred.refused(Refusal(now, let_in, refused), wait)
        bucket = inferred.keep(now)
        assert 0 < bucket.rate < math.inf
        assert 0 <= inferred.wait_for(now) < math.inf
        inferred.advance(now + later, wanted=wanted)
        assert 0 <= inferred.wait_for(now + later) < math.inf
        assert 0 < bucket.rate < math.inf
        assert 1 <= bucket.capacity < math.inf
        assert math.isfinite(bucket.level)
