"""The timeline of a shared rate limit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.limits.shared.lease_messages import Slots, TellsLimit
from batchrt.limits.shared.timeline import Timeline


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5), st.floats(0, 2)), max_size=60))
def test_timeline_grants_no_more_than_rate_and_bucket(asks: list[tuple[int, int, float]]) -> None:
    """By any time, no more slots have begun than the refill since the start, and what the lag allows."""
    timeline = Timeline(10.0, 30.0, 0.0)
    now = 0.0
    granted: list[tuple[float, float]] = []
    for amount, least, pause in asks:
        now += pause
        timeline.advance(now)
        for start, part in timeline.take(amount, least, now, now + 1.0):
            assert part == int(part)
            granted += [(max(now, start + number / 10.0), 1.0) for number in range(int(part))]
    granted.sort()
    for place, (time, _) in enumerate(granted):
        assert place + 1 <= 10.0 * (time + timeline.lag) + 1 + 1e-6
    assert (timeline.lag + timeline.valid) * 10.0 <= 30.0 - timeline.reserve + 1e-6


def test_timeline_grants_the_least_or_nothing() -> None:
    """A request that needs more than is left before the horizon gets all of it, beyond the horizon."""
    timeline = Timeline(10.0, 10.0, 0.0)
    assert timeline.take(50, 50, 0.0, 1.0) == [(0.0, 50.0)]
    assert timeline.at == pytest.approx(5.0)
    assert timeline.take(5, 5, 0.0, 1.0) == []


def test_timeline_grants_returned_slots_again_at_their_time() -> None:
    """Slots that come back are the first to be granted, and each once."""
    timeline = Timeline(10.0, 10.0, 0.0)
    first = timeline.take(5, 1, 0.0, 2.0)
    second = timeline.take(5, 1, 0.0, 2.0)
    timeline.give_back(first, 0.0)
    assert timeline.take(5, 1, 0.0, 2.0) == first
    timeline.give_back(second, 0.0)
    assert timeline.at == pytest.approx(0.5)


def test_timeline_rests_after_a_refusal() -> None:
    """Nothing is given out before the end of a cool-down, nor the refill of that time afterwards."""
    timeline = Timeline(10.0, 100.0, -5.0)
    timeline.rest(3.0)
    assert timeline.take(5, 1, 0.0, 2.0) == []
    timeline.advance(3.0)
    assert timeline.take(5, 1, 3.0, 3.2) == [(3.0, 2.0)]


def test_timeline_takes_up_held_slots() -> None:
    """After a loss of state, slots that a worker still holds are not granted again."""
    timeline = Timeline(10.0, 10.0, 0.0)
    timeline.hold([Slots(0.2, 5.0)], 1.0)
    ((start, amount),) = timeline.take(1, 1, 1.0, 3.0)
    assert start == pytest.approx(1.7)
    assert amount == 1.0


def test_timeline_follows_a_level_that_is_higher() -> None:
    """A full bucket that an answer tells is given out, less the slots that may be used and the reserve."""
    timeline = Timeline(10.0, 600.0, 0.0)
    timeline.correct(TellsLimit(10.0, 600.0, 400.0, 0.5), 0.5, trust=1.0)
    slots = timeline.take(1_000, 1, 0.5, 0.5)
    assert sum(part for _, part in slots) == pytest.approx(
        400 - timeline.reserve - 10 * timeline.valid, abs=6
    )
    timeline.correct(TellsLimit(10.0, 600.0, 400.0, 0.0), 0.6, trust=1.0)
    # The slots of the first correction are not used yet.
    assert sum(part for _, part in timeline.take(1_000, 1, 0.6, 0.6)) <= 1


def test_timeline_follows_a_level_that_is_lower() -> None:
    """If another program has emptied the bucket, less is given out: once for all answers that tell so."""
    timeline = Timeline(10.0, 600.0, -30.0)
    timeline.correct(TellsLimit(10.0, 600.0, 0.0, 0.1), 0.0, trust=1.0)
    rested = timeline.at
    assert rested > 0
    timeline.correct(TellsLimit(10.0, 600.0, 0.0, 0.1), 0.2, trust=1.0)
    assert timeline.at == rested


def test_timeline_survives_json() -> None:
    """The state is the same after it was written and read."""
    timeline = Timeline(10.0, 10.0, 0.0)
    timeline.take(5, 1, 0.0, 2.0)
    timeline.give_back([(0.1, 1.0)], 0.0)
    again = Timeline.of_state(json.loads(json.dumps(timeline.to_state())))
    assert again.to_state() == timeline.to_state()
    assert again.free == [(0.1, 1.0)]
