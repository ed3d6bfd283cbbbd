from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrt.testing.admission.schedules import Schedule
from batchrt.testing.admission.token_bucket import BackgroundLoad, MockTokenBucket

Steps = list[tuple[float, float]]

amounts = st.lists(st.tuples(st.floats(0, 40), st.floats(0, 30)), min_size=1, max_size=30)
scripts = st.sampled_from([600.0, [(0.0, 600.0), (20.0, 120.0)], [(0.0, 120.0), (15.0, 600.0), (30.0, 60.0)]])


def at(script: float | Steps, second: float) -> float:
    if isinstance(script, float):
        return script
    return max(step for step in script if step[0] <= second)[1]


def slowly(script: float | Steps, taken: list[tuple[float, float]], burst: float, until: float) -> float:
    """Compute the level by refills in small steps."""
    left = at(script, 0) / 60 * burst
    step = 0.005
    done = 0
    for count in range(round(until / step)):
        second = count * step
        size = max(1.0, at(script, second) / 60 * burst)
        # The moment of a change belongs to the new limit, also for an amount taken in it.
        left = min(left, size)
        while done < len(taken) and taken[done][0] <= second:
            left -= taken[done][1]
            done += 1
        left = min(left + step * at(script, second) / 60, size)
    return left - sum(amount for _, amount in taken[done:])


@example(script=[(0.0, 120.0), (15.0, 600.0), (30.0, 60.0)], taken=[(30.0, 16.0)], burst=1.0)
@given(script=scripts, taken=amounts, burst=st.sampled_from([1.0, 6.0, 60.0]))
def test_token_bucket_refills_continuously(
    script: float | Steps, taken: list[tuple[float, float]], burst: float
) -> None:
    """For any charges and any change of the limit: as many small refills."""
    taken = sorted((round(second, 2), amount) for second, amount in taken)
    bucket = MockTokenBucket("tokens", "minute", script, burst)
    for second, amount in taken:
        bucket.take(amount, second)
    expected = slowly(script, taken, burst, 45.0)
    assert bucket.left_before(45.0) == pytest.approx(expected, abs=0.3)


@given(taken=amounts, script=scripts)
def test_token_bucket_recalls_past_levels(taken: list[tuple[float, float]], script: float | Steps) -> None:
    """The rest before each charge can be read later, changes of the limit included."""
    taken = sorted(taken)
    bucket = MockTokenBucket("tokens", "minute", script, 6.0)
    seen: dict[float, float] = {}
    for second, amount in taken:
        bucket.level(second)
        seen.setdefault(second, bucket._left)
        bucket.take(amount, second)
    assert {second: bucket.left_before(second) for second in seen} == pytest.approx(seen)


def test_token_bucket_wait_is_exact() -> None:
    """600 a minute, 10 at once: the 11th waits for a tenth of a second, and then it fits."""
    bucket = MockTokenBucket("requests", "minute", 600, 1.0)
    for _ in range(10):
        assert bucket.wait_for(1, 0.0) == 0
        bucket.take(1, 0.0)
    assert bucket.wait_for(1, 0.0) == pytest.approx(0.1)
    assert bucket.wait_for(1, 0.1) == 0
    assert bucket.wait_for(10, 0.1) == pytest.approx(0.9)


def test_token_bucket_holds_at_least_one_request() -> None:
    """A limit below one in its burst would admit nothing, ever."""
    bucket = MockTokenBucket("requests", "minute", 6, 1.0)
    assert bucket.wait_for(1, 0.0) == 0
    bucket.take(1, 0.0)
    assert bucket.wait_for(1, 0.0) == pytest.approx(10)


def test_token_bucket_admits_more_than_its_size_when_full() -> None:
    """It goes into debt, so that the rate is still kept."""
    bucket = MockTokenBucket("tokens", "minute", 600, 1.0)
    assert bucket.wait_for(50, 0.0) == 0
    bucket.take(50, 0.0)
    assert bucket.wait_for(50, 0.0) == pytest.approx(5)
    assert bucket.level(0.0).left == 0
    assert not bucket.never_fits(600, 0.0)
    assert bucket.never_fits(601, 0.0)


def test_token_bucket_of_a_day_refills_in_a_day() -> None:
    """For any burst."""
    bucket = MockTokenBucket("requests", "day", 8_640, 1.0)
    bucket.take(8_640, 0.0)
    assert bucket.wait_for(1, 0.0) == pytest.approx(10)
    assert bucket.level(0.0).until_full == pytest.approx(86_400)


def test_token_bucket_refund_does_not_exceed_its_size() -> None:
    """A refund is no burst."""
    bucket = MockTokenBucket("tokens", "minute", 600, 60.0)
    bucket.take(100, 0.0)
    bucket.take(-100, 60.0)
    assert bucket.level(60.0).left == pytest.approx(600, abs=0.01)


def test_token_bucket_tolerates_a_clock_that_steps_back() -> None:
    """Event loops in several threads do not agree to the microsecond."""
    bucket = MockTokenBucket("requests", "minute", 600, 1.0)
    bucket.take(10, 5.0)
    bucket.take(0, 4.0)
    assert bucket.wait_for(1, 4.5) == pytest.approx(0.1)


def test_token_bucket_history_is_bounded() -> None:
    """The newest changes at least, and twice as many at most."""
    bucket = MockTokenBucket("requests", "minute", 60, 60.0, keep=10)
    levels = []
    for second in range(100):
        levels.append(bucket.left_before(float(second)))
        bucket.take(2, float(second))
        assert len(bucket._times) <= 20
    assert [bucket.left_before(float(second)) for second in range(91, 100)] == levels[91:]
    assert not math.isclose(levels[0], levels[99])


@given(
    rates=st.lists(st.sampled_from([0.0, 60.0, 300.0, 1200.0]), min_size=1, max_size=4),
    taken=amounts,
    looks=st.lists(st.floats(0, 45), max_size=10),
)
def test_token_bucket_background_is_independent_of_reads(
    rates: list[float], taken: list[tuple[float, float]], looks: list[float]
) -> None:
    """It has its own times, and its use can be read later."""
    background = BackgroundLoad(Schedule([(10.0 * place, rate) for place, rate in enumerate(rates)]), 1.0)
    buckets = [MockTokenBucket("requests", "minute", 600, 6.0, background=background) for _ in range(2)]
    moments = [(second, amount, False) for second, amount in taken] + [
        (second, 0.0, True) for second in looks
    ]
    for second, amount, only_looks in sorted(moments):
        if not only_looks:
            for bucket in buckets:
                bucket.take(amount, second)
        else:
            buckets[0].level(second)
    once, twice = (bucket.background_taken(0.0, 45.0) for bucket in buckets)
    assert once == twice
    parts = buckets[0].background_taken(0.0, 20.0) + buckets[0].background_taken(20.0, 45.0)
    assert parts == once
    assert buckets[0].left_before(45.0) == pytest.approx(buckets[1].left_before(45.0), abs=1e-6)


def test_token_bucket_background_takes_evenly_and_never_from_empty() -> None:
    """Two a second of the ten that come; of an empty bucket none."""
    bucket = MockTokenBucket("requests", "minute", 600, 1.0, background=BackgroundLoad(Schedule(120), 1.0))
    assert bucket.level(0.45).left == pytest.approx(10)
    assert bucket.level(0.5).left == pytest.approx(9, abs=1e-5)
    bucket.take(30, 0.5)
    assert bucket.background_taken(0.5, 2.5) == 0
    assert bucket.background_taken(0.0, 10.0) == 1 + 15
