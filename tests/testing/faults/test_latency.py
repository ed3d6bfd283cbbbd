from __future__ import annotations

import math

import pytest

from batchrt.testing import LogNormal, MockProvider
from batchrt.testing.faults.latency import seconds_of


def test_lognormal_has_its_median_and_sigma() -> None:
    """Half of the latencies are within the median, and the logarithm has the deviation sigma."""
    latency = LogNormal(0.2, 0.5)
    drawn = sorted(seconds_of(latency, 0, digest, 1) for digest in range(2000))
    assert drawn[1000] == pytest.approx(0.2, rel=0.1)
    logs = [math.log(seconds / 0.2) for seconds in drawn]
    assert math.sqrt(sum(x * x for x in logs) / len(logs)) == pytest.approx(0.5, rel=0.1)


def test_latency_is_drawn_for_each_attempt() -> None:
    """It depends on seed, body and attempt, not on the order of arrival."""
    latency = LogNormal(0.2, 0.5)
    first = seconds_of(latency, 7, 123, 1)
    assert seconds_of(latency, 7, 123, 1) == first
    assert len({first, seconds_of(latency, 7, 123, 2), seconds_of(latency, 8, 123, 1)}) == 3


def test_latency_may_be_fixed() -> None:
    """Seconds stay seconds."""
    assert seconds_of(0.25, 1, 2, 3) == 0.25


@pytest.mark.parametrize("latency", [-1.0, math.inf, math.nan])
def test_latency_rejects_invalid_seconds(latency: float) -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match="latency"):
        MockProvider(latency=latency)


@pytest.mark.parametrize(("median", "sigma"), [(0, 1), (-1, 1), (1, -1), (math.inf, 1)])
def test_lognormal_rejects_invalid_parameters(median: float, sigma: float) -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match="median"):
        LogNormal(median, sigma)
