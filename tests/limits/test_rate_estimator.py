"""A rate that was found: kept to, and probed from below."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.limits.rate_estimator import RateEstimator


def found(rate: float, *, highest: float = 0.0, wait: float = 0.0, now: float = 10.0) -> RateEstimator:
    estimator = RateEstimator()
    estimator.found(rate, highest or rate, wait, now)
    return estimator


def drain(estimator: RateEstimator, now: float, until: float) -> list[float]:
    """Send whenever the estimator allows it, as a client with a full queue does."""
    sent = []
    assert estimator.bucket is not None
    while now < until:
        wait = estimator.wait_for(now)
        assert 0 <= wait < math.inf
        now += wait
        estimator.advance(now, wanted=True)
        assert estimator.wait_for(now) < 1e-5, "the wait that it names is enough"
        estimator.bucket.charge(1)
        sent.append(now)
    return sent


def test_rate_estimator_sends_nothing_until_the_wait_is_over_and_one_then() -> None:
    """Not the refill of the wait."""
    estimator = found(10, wait=5.0)
    sent = drain(estimator, 10, 17)
    assert sent[0] == pytest.approx(15)
    assert len(sent) == pytest.approx(21, abs=1)


def test_rate_estimator_grows_hardly_at_first_and_to_twice_in_a_while() -> None:
    """About a twentieth in the time of 150 requests, and far more in three times of that."""
    estimator = found(50)
    sent = drain(estimator, 10, 22)
    early = sum(10 < at <= 13 for at in sent) / 3
    late = sum(19 < at <= 22 for at in sent) / 3
    assert 50 <= early <= 53
    assert 85 <= late <= 160


@pytest.mark.parametrize("base", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("factor", [1.5, 2.0, 8.0])
def test_rate_estimator_searches_in_requests_where_the_rate_is_low(base: float, factor: float) -> None:
    """The highest rate that is as likely is reached after some requests, not after a few seconds."""
    estimator, now, sent = found(base, highest=factor * base), 10.0, 0
    while (estimator.rate or 0.0) < factor * base:
        now += estimator.wait_for(now)
        estimator.advance(now, wanted=True)
        assert estimator.bucket is not None
        estimator.bucket.charge(1)
        sent += 1
    assert 8 <= sent <= 13


def test_rate_estimator_waits_for_little_more_than_a_token_at_a_low_rate() -> None:
    """A small bucket is full by then, and loses what comes in; at a high rate a second token is a cushion."""
    assert drain(found(0.5), 10, 20)[0] == pytest.approx(12.2)
    assert drain(found(50), 10, 20)[0] == pytest.approx(10.04)


def test_rate_estimator_grows_only_while_requests_wait() -> None:
    """A rate that is not used up is not tested."""
    estimator = found(10)
    for second in range(1, 100):
        estimator.advance(10.0 + second, wanted=False)
    assert estimator.rate == pytest.approx(10)


def test_rate_estimator_tries_the_mean_of_what_is_as_likely() -> None:
    """And grows fast, for the next refusal tells more than it costs; a wait for one request is a bound."""
    assert found(10, highest=40).base == pytest.approx(20)
    assert found(10, highest=40, wait=0.1).base == pytest.approx(10)
    assert found(10, highest=40, wait=1.0).base == pytest.approx(20), "rounded up to seconds"
    assert found(1, highest=4, wait=1.0).base == pytest.approx(1)


def test_rate_estimator_sends_one_a_minute_whatever_is_refused() -> None:
    """A provider that refuses for an hour is asked often enough to notice that it is over."""
    estimator, now, sent = found(1), 10.0, [10.0]
    while now < 3600:
        now += estimator.wait_for(now)
        estimator.advance(now, wanted=True)
        assert estimator.bucket is not None
        estimator.bucket.charge(1)
        sent.append(now)
        estimator.found(0.0, 0.0, 0.0, now, clear=True)
    assert max(after - before for before, after in itertools.pairwise(sent)) <= 61


def test_rate_estimator_never_falls_below_a_share_of_what_it_was_of_late() -> None:
    """Refusals that no pace ends must not end the work; a rate of long ago does not count."""
    estimator = found(100)
    for second in range(20):
        estimator.found(0.1, 0.1, 0.0, 11.0 + second)
    assert estimator.base is not None
    assert estimator.base >= 10
    for second in range(5):
        estimator.found(0.1, 0.1, 0.0, 1000.0 + 100.0 * second)
    assert estimator.base < 1


def test_rate_estimator_knows_whether_growing_explains_a_refusal() -> None:
    """Not right after the last one."""
    estimator = found(50)
    assert not estimator.probed(10.1)
    drain(estimator, 10, 15)
    assert estimator.probed(15.0)
    estimator.drop()
    assert (estimator.rate, estimator.base, estimator.wait_for(20)) == (None, None, 0.0)


def test_rate_estimator_tells_the_rate_that_growing_ran_into() -> None:
    """It lies between the mean and the last rate of the growth: a large or a small bucket."""
    estimator = found(50)
    assert estimator.overrun == pytest.approx(50)
    drain(estimator, 10, 40)
    assert estimator.rate is not None
    assert 50 < estimator.overrun < estimator.rate
    assert estimator.has_grown
    estimator.drop()
    assert not estimator.has_grown


@given(
    st.lists(
        st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 3600), st.floats(0, 100), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_rate_estimator_keeps_to_numbers(events: list[tuple[float, float, float, float, bool]]) -> None:
    """Whatever was found, a request may go in finite time."""
    estimator, now = RateEstimator(), 0.0
    for rate, highest, wait, later, wanted in events:
        estimator.found(rate, highest, wait, now)
        now += later
        estimator.advance(now, wanted=wanted)
        assert estimator.rate is not None
        assert 0 < estimator.rate < math.inf
        assert 0 <= estimator.wait_for(now) < math.inf


def test_rate_estimator_leaves_a_guess_behind_in_seconds() -> None:
    """The refusals may be over at any time, also at the lowest rate; any other that was found stays."""

    def rate_after_a_minute(rate: float, *, guess: bool) -> float:
        estimator = RateEstimator()
        estimator.found(rate, rate, 0.0, 0.0, guess=guess)
        now = 0.0
        while now < 60:
            now += 0.1
            estimator.advance(now, wanted=True)
        return estimator.rate or 0.0

    assert rate_after_a_minute(0.05, guess=True) > 100
    assert rate_after_a_minute(0.0, guess=False) > 100
    assert rate_after_a_minute(0.05, guess=False) < 1
