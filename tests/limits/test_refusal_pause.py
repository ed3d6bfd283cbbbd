"""The pause after a refusal that names no wait."""

from __future__ import annotations

import pytest

from batchrt.limits.refusal_pause import Pause

LATENCY = 0.1


def pauses(count: int, noise: float, wait: float = 0.0) -> list[float]:
    """Return the pauses after so many refusals in a row."""
    pause = Pause()
    return [pause.begin(0.0, wait, LATENCY, lambda: 0.0, noise=noise) for _ in range(count)]


def test_pause_doubles_from_half_a_round_trip_on() -> None:
    """While nothing is answered."""
    assert pauses(4, 0.0) == pytest.approx([0.05, 0.1, 0.2, 0.4])


@pytest.mark.parametrize(("noise", "likely"), [(0.02, 1), (0.2, 2), (0.4, 5)])
def test_pause_begins_after_more_refusals_than_random_ones_come_in_a_row(noise: float, likely: int) -> None:
    """Once in a hundred times."""
    assert pauses(likely + 2, noise) == pytest.approx([0.0] * likely + [0.05, 0.1])


def test_pause_begins_at_once_where_most_is_refused() -> None:
    """A run of refusals tells nothing then."""
    assert pauses(2, 0.5) == pytest.approx([0.05, 0.1])


def test_pause_ends_with_an_answer() -> None:
    """The next one is as short as the first."""
    pause = Pause()
    for _ in range(3):
        pause.begin(0.0, 0.0, LATENCY, lambda: 0.0, noise=0.0)
    assert pause.until == pytest.approx(0.2)
    pause.answered()
    assert pause.until < 0
    assert pause.begin(0.0, 0.0, LATENCY, lambda: 0.0, noise=0.0) == pytest.approx(0.05)


def test_pause_keeps_a_named_wait_whatever_is_random() -> None:
    """It is longer only after some refusals in a row."""
    assert pauses(4, 0.2, wait=1.0) == pytest.approx([1.0] * 4)
