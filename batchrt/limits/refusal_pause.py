"""The pause after a refusal that names no wait, or one that is not enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

__all__ = ["FIRST_PAUSE", "RefusalPause"]

FIRST_PAUSE: Final = 0.5
_SHORTEST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 8.0
"""Seconds without a request after a refusal that names no wait, doubling while nothing is answered: the
openai SDK's 0.5 and 8, and half a round trip where that is shorter. An answer ends the pause."""
_NAMED_ARE_ENOUGH: Final = 4
"""Refusals in a row, without an answer, whose named wait is taken for enough."""


class RefusalPause:
    """Back off exponentially while requests are refused and none is answered.

    Attributes:
        until: when the pause is over; minus infinity without one.
    """

    __slots__ = ("_row", "until")

    def __init__(self) -> None:
        self.until: float = -math.inf
        self._row = 0

    def begin(self, now: float, wait: float, latency: float, random: Callable[[], float]) -> float:
        """Return the seconds of quiet after the first refusal of a wave.

        Args:
            now: the time.
            wait: the seconds that it asks for; 0 for none.
            latency: the seconds of a round trip; 0 before the first answer.
            random: returns a number from 0 to 1.
        """
        self._row += 1
        row = self._row - (_NAMED_ARE_ENOUGH if wait > 0 else 1)
        if row < 0:
            return wait
        first = min(max(latency / 2, _SHORTEST_PAUSE), FIRST_PAUSE) if latency else FIRST_PAUSE
        pause = min(first * 2.0 ** min(row, 16), _LONGEST_PAUSE) * (1 - random() / 4)
        if wait > 0:
            return max(wait, pause)
        self.until = now + pause
        return pause

    def end(self) -> None:
        """Go on: a request was let in."""
        if self._row:
            self._row = 0
            self.until = -math.inf
