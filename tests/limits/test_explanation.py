"""The explanation of refusals: when it is worth something."""

from __future__ import annotations

import pytest

from batchrt.limits.explanation import Explanation

RATE = Explanation("rate", rate=10.0, highest=20.0)


@pytest.mark.parametrize(
    ("explanation", "wait", "vague"),
    [
        (RATE, 0.0, False),
        (RATE, 1.0, False),
        (RATE._replace(guess=True), 0.0, False),
        (RATE._replace(guess=True), 1.0, True),
        (RATE._replace(guess=True), 0.25, False),
        (RATE._replace(blind=True), 0.0, True),
        (RATE._replace(blind=True), 0.25, True),
    ],
)
def test_explanation_is_vague_where_little_was_let_in(
    explanation: Explanation, wait: float, *, vague: bool
) -> None:
    """Or where nothing was; a wait that is a share of a token tells a rate of its own."""
    assert explanation.is_vague(wait) is vague


def test_explanation_is_bounded_by_what_was_sent() -> None:
    """Both the likeliest rate and the highest."""
    assert RATE.at_most(15.0)[1:3] == (10.0, 15.0)
    assert RATE.at_most(5.0)[1:3] == (5.0, 5.0)


@pytest.mark.parametrize(("latency", "cause"), [(0.05, "rate"), (0.1, "noise"), (0.0, "rate")])
def test_explanation_by_the_rate_of_requests_one_at_a_time_is_none(latency: float, cause: str) -> None:
    """A bucket that holds none of them back refuses none of them."""
    assert RATE.alone(latency).cause == cause
    assert RATE._replace(cause="in flight").alone(latency).cause == "in flight"
