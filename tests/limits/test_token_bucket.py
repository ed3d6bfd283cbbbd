"""The token bucket: its capacity and its refill, and not a request more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.limits.token_bucket import TokenBucket


def bucket(rate: float = 1.0, capacity: float = 10.0, **options: float) -> TokenBucket:
    return TokenBucket("requests", "minute", rate=rate, capacity=capacity, now=0.0, **options)


def test_token_bucket_is_full_at_first_and_no_fuller_later() -> None:
    """The refill above its capacity is lost."""
    full = bucket()
    full.advance(100)
    assert full.level == 10
    assert full.wait_for(10) == 0
    assert full.wait_for(11) == 0, "more than it holds goes when it is full"


def test_token_bucket_refills_at_its_rate() -> None:
    """The wait that it names is the one after which it fits."""
    one = bucket(rate=2)
    one.charge(10)
    assert one.wait_for(1) == 0.5
    one.advance(0.4)
    assert one.wait_for(1) == pytest.approx(0.1)
    one.advance(0.5)
    assert one.wait_for(1) == 0


def test_token_bucket_pays_a_debt_first() -> None:
    """Requests after one larger than the bucket wait for its debt."""
    one = bucket(rate=1)
    one.charge(25)
    assert one.level == -15
    assert one.wait_for(1) == 16
    assert one.used == 1.0


def test_token_bucket_takes_back_no_more_than_its_capacity() -> None:
    """A refund to a full bucket is nothing."""
    one = bucket()
    one.charge(3)
    one.charge(-8)
    assert one.level == 10
    assert one.used == 0.0


def test_token_bucket_ignores_time_that_runs_backwards() -> None:
    """Loops whose clocks differ may look at it."""
    one = bucket()
    one.charge(5)
    one.advance(2)
    one.advance(1)
    assert one.level == 7
    one.advance(2)
    assert one.level == 7


def test_token_bucket_limit_is_its_rate_times_the_period() -> None:
    """In a minute or in a day."""
    assert bucket(rate=2).limit == 120
    assert TokenBucket("tokens", "day", rate=2, capacity=1, now=0).limit == 172_800


def test_token_bucket_refills_for_a_late_timer_while_requests_wait() -> None:
    """A bucket of one at 200 a second gives 200 a second, though timers are late; up to a tenth."""
    one = bucket(rate=200, capacity=1)
    one.charge(1)
    one.advance(0.05, late=0.045)
    assert one.level == pytest.approx(10)
    idle = bucket(rate=200, capacity=1)
    idle.charge(1)
    idle.advance(0.05)
    assert idle.level == 1
    long = bucket(rate=200, capacity=1)
    long.charge(1)
    long.advance(60, late=59)
    assert long.level == pytest.approx(21)


def test_token_bucket_stock_is_used_at_the_rate_while_it_is_wanted() -> None:
    """A burst of unknown size is found out slowly."""
    one = bucket(rate=1, capacity=1, stock=59)
    one.advance(10)
    assert (one.level, one.stock) == (1, 59)
    one.charge(1)
    one.advance(20, wanted=True)
    assert one.stock == 49
    assert one.level == pytest.approx(11)
    one.charge(20)
    assert one.wait_for(1) == pytest.approx(10 / 2)


def test_token_bucket_has_no_stock_after_a_refusal() -> None:
    """And how little is left: so little that it takes as long as was said."""
    one = bucket(rate=2, capacity=10, stock=50)
    one.exhausted(1, wait=3)
    assert one.stock == 0
    assert one.wait_for(1) == pytest.approx(3)


def test_token_bucket_is_never_filled_by_a_refusal() -> None:
    """It is known to be empty for longer than was said."""
    one = bucket()
    one.charge(30)
    one.exhausted(1, wait=0.5)
    assert one.level == -20


def test_token_bucket_has_its_stock_at_once_when_trusted() -> None:
    """The provider tells the level of its own bucket."""
    one = bucket(capacity=1, stock=9)
    one.trust()
    one.trust()
    assert (one.level, one.capacity, one.stock) == (10, 10, 0)


def test_token_bucket_fills_up_to_the_capacity_less_the_outstanding() -> None:
    """It is charged over there when the answer comes, and has to fit then."""
    one = bucket(capacity=10, level=0.0)
    one.outstanding = 8
    one.advance(100)
    assert one.level == 2
    assert one.wait_for(2) == 0
    assert one.wait_for(5) == math.inf, "answers have to come first"
    one.outstanding = 0
    assert one.wait_for(5) == 3


def test_token_bucket_weight_is_the_share_of_the_outstanding_that_has_to_fit() -> None:
    """The rest may go beyond the capacity, and answers come first only for more than the share leaves."""
    one = bucket(rate=2, capacity=10, level=0.0)
    one.outstanding, one.weight = 8, 0.5
    assert one.wait_for(4) == 0
    assert one.wait_for(6) == pytest.approx(1.0)
    assert one.wait_for(7) == math.inf
    one.outstanding, one.weight = 0.5, 1.0
    assert one.wait_for(10) == math.inf, "half a token is enough to keep a full bucket from fitting"


def test_token_bucket_wait_counts_on_its_stock() -> None:
    """At twice the rate until the stock is used up, and at the rate from then on."""
    one = bucket(rate=2, capacity=10, level=0.0, stock=30)
    one.outstanding = 8
    assert one.wait_for(10) == pytest.approx(10 / 4), "the stock makes room beside the outstanding"
    few = bucket(rate=2, capacity=10, level=0.0, stock=4)
    assert few.wait_for(10) == pytest.approx(3.0)


def test_token_bucket_keeps_its_reserve() -> None:
    """But a request that needs all of it goes when it is full."""
    one = bucket()
    one.reserve = 2
    one.charge(7)
    assert one.wait_for(1) == 0
    assert one.wait_for(2) == pytest.approx(1)
    assert one.wait_for(10) == pytest.approx(7)


@given(
    st.floats(0.01, 1000),
    st.floats(1, 100),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.001, 50)), max_size=60),
)
def test_token_bucket_gives_no_window_more_than_capacity_and_rate(
    rate: float, capacity: float, arrivals: list[tuple[float, float]]
) -> None:
    """For requests that wait as long as it says, from any moment to any later one."""
    one = bucket(rate=rate, capacity=capacity)
    now, gone = 0.0, []
    for pause, size in arrivals:
        amount = min(size, capacity)
        now += pause
        one.advance(now)
        wait = one.wait_for(amount)
        assert math.isfinite(wait)
        now += wait
        one.advance(now)
        assert one.wait_for(amount) <= 1e-6 * max(1.0, 1 / rate)
        one.charge(amount)
        gone.append((now, amount))
    for first in range(len(gone)):
        total = 0.0
        for at, amount in gone[first:]:
            total += amount
            assert total <= capacity + rate * (at - gone[first][0]) + 1e-3
