"""Percentiles of times, from a histogram whose size does not depend on their number."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

__all__ = ["Percentiles"]

_SHORTEST: Final = 1e-5
_LONGEST: Final = 1e7
_RATIO: Final = math.log(1.005)
"""Bins are half a percent wide, from the shortest to the longest time, in seconds, that is told apart."""
_BINS: Final = math.ceil(math.log(_LONGEST / _SHORTEST) / _RATIO)


class Percentiles:
    """Count times in bins of equal ratio; a percentile is right to half a percent.

    Attributes:
        count: of the times.
        longest: the longest one, in seconds.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self.longest: float = 0.0
        self._counts = np.zeros(_BINS, dtype=np.int64)

    def add(self, seconds: Any) -> None:
        """Add an array of times; those that are not a number are left out."""
        seconds = seconds[~np.isnan(seconds)]
        if not len(seconds):
            return
        self.count += len(seconds)
        seconds = np.maximum(seconds, _SHORTEST)
        self.longest = max(self.longest, float(seconds.max()))
        places = np.log(seconds / _SHORTEST) / _RATIO
        self._counts += np.bincount(np.minimum(places.astype(np.int64), _BINS - 1), minlength=_BINS)

    def at(self, share: float) -> float:
        """Return the time that `share` (0 to 1) of the times do not exceed; `nan` without times."""
        if not self.count:
            return math.nan
        rank = min(max(math.ceil(share * self.count), 1), self.count)
        if rank == self.count:
            return self.longest
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_SHORTEST * math.exp((place + 0.5) * _RATIO), self.longest)
