"""Scepticism: for how long a rate is believed, and after how many disappointments another one is."""

from __future__ import annotations

import math
from typing import Final

from batchrt.limits.rate_estimator import RateEstimator
from batchrt.limits.refusal_log import Explanation

__all__ = ["Scepticism"]

_SURPRISES: Final = 3
_MOST_SURPRISES: Final = 24
"""Refusals in a row below the rate that is kept to, after which it is no explanation; doubling each time that
a rate is given up, for a rate beside noise is found again and again."""
_SCEPTICAL: Final = 15.0
_MOST_SCEPTICAL: Final = 120.0
"""Seconds for which no rate is inferred after one turned out to be none, doubling from time to time; more
than twice the refusals end it."""
_MANY: Final = 2.0


class Scepticism:
    """Count refusals below a rate that is believed, and doubt rates for some time after one was given up."""

    __slots__ = ("_doubt", "_doubted_share", "_patience", "_surprises", "_until")

    def __init__(self) -> None:
        self._surprises = 0
        self._patience = _SURPRISES
        self._doubt = _SCEPTICAL
        self._doubted_share = 0.0
        self._until = -math.inf

    def calm(self) -> None:
        """Record a refusal that is no surprise."""
        self._surprises = 0

    def is_surprised(self) -> bool:
        """Record a refusal below the rate; return whether it was one too many."""
        self._surprises += 1
        return self._surprises >= self._patience

    def rise(self, now: float, refused: float) -> None:
        """Record that a rate was given up beside refusals of this weight."""
        self._patience = min(2 * self._patience, _MOST_SURPRISES)
        self._doubted_share = max(refused, 1.0)
        self._until = now + self._doubt
        self._doubt = min(2 * self._doubt, _MOST_SCEPTICAL)

    def accepts(self, explanation: Explanation, now: float) -> bool:
        """Whether a rate that explains refusals is to be believed."""
        if explanation.clear or now >= self._until:
            return True
        return explanation.refused > _MANY * self._doubted_share

    def lowering_helps(self, explanation: Explanation, rate: RateEstimator, refused_at: float) -> bool:
        """Whether a lower rate may bring the refusals down: not where it did not, time and again."""
        if explanation.clear or self.is_expected(explanation, rate, refused_at):
            self.calm()
            return True
        return not self.is_surprised()

    @staticmethod
    def is_expected(explanation: Explanation, rate: RateEstimator, refused_at: float) -> bool:
        """Whether a refusal does not contradict the rate that is kept to.

        Growing may also run into the limit that the rate told: a small bucket has no cushion. A guess above
        whatever explains the refusals was made to be lowered.
        """
        base, grown = rate.base, rate.rate
        if base is None or grown is None or rate.probed(refused_at):
            return True
        highest = explanation.highest
        return grown > highest >= base or (rate.is_guess and 0 < highest < base)
