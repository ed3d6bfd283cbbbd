"""Named waits: what the seconds that refusals ask for say about a rate.

The wait for one request is its share of a token, so that the longest of some is nearly that for a whole one,
and bounds the rate from above. Waits in whole seconds were rounded up and bound nothing. A wait that is the
same each time was set by hand: a bucket is never found at the same level three times in a row. Waits that
differ say that time is what is lacking, not a place among those in flight.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from batchrt.limits.explanation import Explanation
from batchrt.limits.refusal_wave import Wave, is_exact

__all__ = ["NamedWaits"]

_THE_SAME: Final = 3
"""Waves in a row with the same wait, from which on it is a fixed one."""
_UNCERTAIN: Final = 1.5
"""The factor between the rates that explain refusals, from which on their geometric mean is tried."""
_MUCH_LESS: Final = 2.0
"""The factor by which a rate may explain the refusals of a burst better than the waits that they ask for."""
_NEARLY: Final = 1e-6


class NamedWaits:
    """Remember the waits that are shares of a token.

    Attributes:
        longest: the longest of them; 0 without any.
        are_told: some were no whole seconds, so that a rate has other evidence than refusals.
        differ: those of the newest wave are not the same.
    """

    __slots__ = ("_newest", "are_told", "differ", "longest")

    def __init__(self) -> None:
        self.longest: float = 0.0
        self.differ: bool = False
        self.are_told: bool = False
        self._newest: deque[float] = deque(maxlen=_THE_SAME)

    def learn(self, wave: Wave) -> None:
        """Learn from the waits of a wave of refusals."""
        wait = wave.wait
        self.differ = False
        if not is_exact(wait):
            return
        self.are_told = True
        self.differ = 0 < wave.least_wait < wait - _NEARLY
        self._newest.append(wait)
        self.longest = 0.0 if self.are_fixed else max(self.longest, wait)

    @property
    def are_fixed(self) -> bool:
        """Whether the wait is the same each time, whatever is left in a bucket."""
        newest = self._newest
        return len(newest) == _THE_SAME and max(newest) - min(newest) <= _NEARLY

    @property
    def highest_rate(self) -> float | None:
        """Requests a second at the most, `None` if the waits do not tell."""
        return 1 / self.longest if self.longest else None

    def bound(self, explanation: Explanation, base: float | None) -> Explanation:
        """Return an explanation by a rate within what the waits, and the refused rate `base`, allow."""
        told = self.highest_rate
        if told is None or explanation.cause != "rate":
            return explanation
        rate = explanation.rate
        if told < rate <= _MUCH_LESS * told and self.differ:
            return explanation._replace(rate=told, highest=told)
        if told < rate:
            self.longest = 0.0  # they are no shares of a token, or the limit was raised
            return explanation
        highest = min(told, explanation.highest)
        if base is not None and base > rate:
            highest = min(highest, base)
        if highest > _UNCERTAIN * rate:
            rate = math.sqrt(rate * highest)
        return explanation._replace(rate=rate, highest=highest)
