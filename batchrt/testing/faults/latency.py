"""Latency of the mock's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

from batchrt.testing.faults.seeded import draw

__all__ = ["Latency", "LogNormal", "check_latency", "check_seconds", "seconds_of"]

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Log-normal latency, as of real services: half the answers within `median` seconds, and a long tail.

    `sigma` is the standard deviation of the logarithm: 0.5 puts one answer in a hundred above 3.2 medians,
    1.0 above 10.
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        if not (0 < self.median < math.inf and 0 <= self.sigma < math.inf):
            raise ValueError("LogNormal needs median > 0 and sigma >= 0")

    def quantile(self, share: float) -> float:
        """Return the seconds within which `share` of the answers come; `share` in (0, 1)."""
        return self.median * math.exp(self.sigma * _NORMAL.inv_cdf(share))


Latency: TypeAlias = float | LogNormal


def check_latency(latency: Latency) -> Latency:
    """Return `latency`, or raise ValueError for negative or infinite seconds."""
    if not isinstance(latency, LogNormal) and not 0 <= latency < math.inf:
        raise ValueError(f"latency must be seconds >= 0 or a LogNormal, not {latency!r}")
    return latency


def check_seconds(seconds: float, name: str = "latency_per_input") -> float:
    """Return `seconds`, or raise ValueError, which begins with `name`, if negative or infinite."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} must be seconds >= 0, not {seconds!r}")
    return seconds


def seconds_of(latency: Latency, seed: int, digest: int, attempt: int) -> float:
    """Draw the latency of one request; it depends on the request alone, not on earlier ones."""
    if not isinstance(latency, LogNormal):
        return latency
    # inv_cdf is undefined at 0; the smallest draw stands in for it.
    return latency.quantile(draw(seed, "latency", digest, attempt) or 2.0**-64)
