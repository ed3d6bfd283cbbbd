"""A number in flight that was found: kept to, and probed by one request more."""

from __future__ import annotations

import pytest

from batchrt.limits.in_flight_limit import InFlightLimit


def test_in_flight_limit_is_kept_to_until_the_hold_is_over() -> None:
    """Then one more, apart from the request before, and 1, 2, 4 … more for each round trip."""
    limit = InFlightLimit()
    assert limit.lets_in_at(1000, 0.1, 0.0, 0.0) == 0.0, "none is believed"
    limit.found(4, 0.1, 0.0, 10.0)
    assert limit.lets_in_at(3, 0.1, 10.0, 10.0) == 10.0
    due = limit.lets_in_at(4, 0.1, 10.0, 10.0)
    assert 11 <= due <= 12
    assert limit.lets_in_at(4, 0.1, due, due) > due, "not at the same moment as another"
    grown: list[int] = []
    for _ in range(4):
        due = limit.lets_in_at(limit.limit or 0, 0.1, due - 1, due)
        due = limit.lets_in_at(limit.limit or 0, 0.1, due - 1, due + 0.2)
        grown.append(limit.limit or 0)
    assert grown == sorted(grown)
    assert grown[-1] > 20


def test_in_flight_limit_holds_longer_after_a_probe_that_failed() -> None:
    """Up to half a minute, or 25 times the wait that a refusal asks for."""
    limit, holds = InFlightLimit(), []
    now = 0.0
    for _ in range(8):
        limit.found(4, 0.1, 0.0, now)
        due = limit.lets_in_at(4, 0.1, now - 1, now)
        holds.append(due - now)
        now = due
    assert holds == sorted(holds)
    assert holds[0] == pytest.approx(1.2)
    assert holds[-1] == pytest.approx(30)
    other, holds = InFlightLimit(), []
    for _ in range(5):
        other.found(4, 0.1, 2.0, 0.0)
        holds.append(other.lets_in_at(4, 0.1, -1.0, 0.0))
    assert holds[0] == pytest.approx(12), "a wrong limit costs as much as a probe that fails"
    assert holds[-1] == pytest.approx(50)


def test_in_flight_limit_is_outgrown_by_several_times_as_many() -> None:
    """What the last refusal told stays known meanwhile."""
    limit = InFlightLimit()
    assert limit.base is None
    limit.found(2, 0.1, 0.0, 0.0)
    now = 0.0
    while not limit.is_outgrown:
        assert (limit.limit or 0) <= 8
        now = max(limit.lets_in_at(limit.limit or 0, 0.1, now - 1, now), now) + 0.1
    assert limit.base == 2


def test_in_flight_limit_that_is_dropped_holds_nothing() -> None:
    """And begins anew with a short hold."""
    limit = InFlightLimit()
    limit.found(0, 0.1, 0.0, 0.0)
    assert limit.limit == 1
    limit.hold(0.0, 0.5)
    assert limit.lets_in_at(1, 0.1, -1.0, 0.0) == 0.5
    limit.drop()
    assert limit.lets_in_at(99, 0.1, 0.0, 0.0) == 0.0
