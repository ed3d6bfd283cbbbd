"""The pause after a refusal that names no wait."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

__all__ = ["FIRST_PAUSE", "Pause"]

FIRST_PAUSE: Final = 0.5
_SHORTEST: Final = 0.02
_LONGEST: Final = 8.0
"""Seconds without a request after a refusal that names no wait, doubling while nothing is answered: the
openai SDK's 0.5 and 8, and half a round trip where that is shorter. An answer ends the pause."""
_NAMED_ARE_ENOUGH: Final = 4
"""Refusals in a row, without an answer, whose named wait is taken for enough."""
_CHANCE: Final = 0.01
"""The probability of a run of random refusals, below which it is taken for more than chance."""
_MOST_FREQUENT: Final = 0.4
"""The share of random refusals up to which sending goes on after one."""


class Pause:
    """Send nothing for some time after a refusal.

    Attributes:
        until: when the pause after a refusal without a wait is over; minus infinity if there is none.
    """

    __slots__ = ("_in_a_row", "until")

    def __init__(self) -> None:
        self.until: float = -math.inf
        self._in_a_row = 0

    def answered(self) -> None:
        """Record an answer: the pause is over."""
        if self._in_a_row:
            self._in_a_row = 0
            self.until = -math.inf

    def end(self) -> None:
        """End the pause, but not the row of refusals."""
        self.until = -math.inf

    def begin(
        self, now: float, wait: float, latency: float, random: Callable[[], float], *, noise: float
    ) -> float:
        """Return the seconds of quiet after the first refusal of a wave.

        Args:
            now: the time.
            wait: the seconds that it asks for; 0 for none.
            latency: mean seconds of a round trip; 0 before the first answer.
            random: draws a number below 1, for the jitter.
            noise: the share of requests that is refused at random; 0 as long as that is not known.
        """
        self._in_a_row += 1
        row = self._in_a_row - (_NAMED_ARE_ENOUGH if wait > 0 else 1)
        if row < 0:
            return wait
        if wait <= 0:
            row -= _likely_run(noise)
            if row < 0:
                return 0.0
        first = min(max(latency / 2, _SHORTEST), FIRST_PAUSE) if latency else FIRST_PAUSE
        pause = min(first * 2.0 ** min(row, 16), _LONGEST) * (1 - random() / 4)
        if wait > 0:
            return max(wait, pause)
        self.until = now + pause
        return pause


def _likely_run(noise: float) -> int:
    """Return how many refusals in a row are likely at random, where such a share is refused."""
    if not 0 < noise <= _MOST_FREQUENT:
        return 0
    return max(1, math.ceil(math.log(_CHANCE) / math.log(noise)) - 1)
