from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.testing.admission.schedules import Schedule, Scripted, check_scripted


def test_schedule_of_a_number_is_constant() -> None:
    """It has no next change."""
    schedule = Schedule(600)
    assert (schedule.at(0), schedule.at(1e9), schedule.change_after(0)) == (600, 600, math.inf)
    assert schedule.area(10, 20) == 6000


def test_schedule_steps_hold_from_their_second_on() -> None:
    """The moment of a change belongs to the new step."""
    schedule = Schedule([(0, 600), (60, 300), (120, 900)])
    assert [schedule.at(second) for second in (-1, 0, 59.9, 60, 119, 120, 1e6)] == [
        *(600, 600, 600, 300, 300, 900, 900)
    ]
    assert [schedule.change_after(second) for second in (0, 59, 60, 120)] == [60, 60, 120, math.inf]
    assert list(schedule.pieces(50, 120)) == [(10, 600), (60, 300), (0, 900)]
    assert list(schedule.pieces(60, 60)) == [(0, 300)]


@given(
    numbers=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    span=st.tuples(st.floats(0, 60), st.floats(0, 60)),
)
def test_schedule_area_is_the_sum_of_its_pieces(numbers: list[int], span: tuple[float, float]) -> None:
    """Split anywhere, the parts add up, and so do small steps."""
    schedule = Schedule([(10.0 * place, number) for place, number in enumerate(numbers)])
    start, end = sorted(span)
    middle = (start + end) / 2
    whole = schedule.area(start, end)
    assert whole == pytest.approx(schedule.area(start, middle) + schedule.area(middle, end), abs=1e-6)
    width = (end - start) / 2000
    summed = sum(schedule.at(start + (step + 0.5) * width) for step in range(2000)) * width
    assert whole == pytest.approx(summed, abs=50 * 5 * width + 1e-6)


def test_check_scripted_returns_an_independent_value() -> None:
    """Lists, as JSON has them, become tuples."""
    steps = [(0.0, 600.0), (60.0, 300.0)]
    made = check_scripted("capacity", steps)
    steps.clear()
    assert made == ((0, 600), (60, 300))


@pytest.mark.parametrize(
    "given",
    [0, -1, math.nan, math.inf, (), [(1, 600)], [(0, 600), (0, 300)], [(0, 0)], [(0, 6, 0)], "600", None],
)
def test_check_scripted_rejects_invalid_scripts(given: Scripted) -> None:
    """The message begins with the parameter's name."""
    with pytest.raises(ValueError, match="capacity must be a number above 0, or steps"):
        check_scripted("capacity", given)


def test_check_scripted_requires_whole_counts() -> None:
    """Half a place is an error."""
    assert check_scripted("capacity", 3.0, whole=True) == 3
    with pytest.raises(ValueError, match="capacity must be a whole number"):
        check_scripted("capacity", [(0, 2), (5, 1.5)], whole=True)


@given(
    numbers=st.lists(st.integers(0, 50), min_size=1, max_size=5),
    since=st.floats(0, 60),
    area=st.floats(0, 900),
)
def test_schedule_second_of_is_the_inverse_of_area(numbers: list[int], since: float, area: float) -> None:
    """Over steps of zero too; infinity where the rest is too small."""
    schedule = Schedule([(10.0 * place, number) for place, number in enumerate(numbers)])
    second = schedule.second_of(area, since)
    if second < math.inf:
        assert second >= since
        assert schedule.area(since, second) == pytest.approx(area, abs=1e-6)
    else:
        assert schedule.area(since, 1e6) <= area + 1e-6
        assert numbers[-1] == 0


def test_check_scripted_allows_zero_and_bounds_on_request() -> None:
    """The error message says so."""
    assert check_scripted("share", [(0, 0), (5, 1)], zero=True, most=1) == ((0, 0), (5, 1))
    with pytest.raises(ValueError, match="share must be a number from 0 to 1, or steps"):
        check_scripted("share", 1.5, zero=True, most=1)
    with pytest.raises(ValueError, match="rate must be a number not below 0, or steps"):
        check_scripted("rate", -1, zero=True)
