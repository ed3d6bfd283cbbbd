from __future__ import annotations

import math

import pytest

from batchrt.testing import LogNormal, MockProvider
from batchrt.testing.faults.latency import seconds_of


def test_half_of_the_lognormal_latencies_are_within_the_median() -> None:
    """The median is the median, and the logarithm spreads by sigma."""
    latency = LogNormal(0.2, 0.5)
    drawn = sorted(seconds_of(latency, 0, digest, 1) for digest in range(2000))
    assert drawn[1000] == pytest.approx(0.2, rel=0.1)
    logs = [math.log(seconds / 0.2) for seconds in drawn]
    assert math.sqrt(sum(x * x for x in logs) / len(logs)) == pytest.approx(0.5, rel=0.1)


def test_a_request_keeps_its_latency_and_each_attempt_draws_anew() -> None:
    """Latency depends on seed, body and attempt, not on the order of arrival."""
    latency = LogNormal(0.2, 0.5)
    first = seconds_of(latency, 7, 123, 1)
    assert seconds_of(latency, 7, 123, 1) == first
    assert len({first, seconds_of(latency, 7, 123, 2), seconds_of(latency, 8, 123, 1)}) == 3


def test_a_fixed_latency_is_what_it_says() -> None:
    """Seconds stay seconds."""
    assert seconds_of(0.25, 1, 2, 3) == 0.25


@pytest.mark.parametrize("latency", [-1.0, math.inf, math.nan])
def test_seconds_that_cannot_be_waited_are_refused(latency: float) -> None:
    """A wrong latency fails where it is written."""
    with pytest.raises(ValueError, match="latency"):
        MockProvider(latency=latency)


@pytest.mark.parametrize(("median", "sigma"), [(0, 1), (-1, 1), (1, -1), (math.inf, 1)])
def test_a_lognormal_without_a_meaning_is_refused(median: float, sigma: float) -> None:
    """The parameters are checked at once."""
    with pytest.raises(ValueError, match="median"):
        LogNormal(median, sigma)
