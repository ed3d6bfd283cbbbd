"""Doubts about a rate that was found: refusals below it, and what is refused once it is given up.

A refusal while requests keep to a rate, before growth has used up the cushion, is a *surprise*. Several in a
row give the rate up: refusals at random come at any pace. Giving it up is an experiment. If the rate was not
the reason, the share of refused requests stays as it was. If the share doubles, refusals depend on the pace:
the limit was lowered, or another user of the key takes a part of it, and the rate is kept to again.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from batchrt.limits.explanation import Explanation
from batchrt.limits.rate_estimator import RateEstimator
from batchrt.limits.refusal_log import RefusalLog
from batchrt.limits.refusal_wave import Wave

__all__ = ["RateDoubts"]

_SURPRISES: Final = 3
_MOST_SURPRISES: Final = 24
"""Surprises in a row after which a rate is no explanation; doubling each time that a rate is given up, for a
rate beside noise is found again and again."""
_SCEPTICAL: Final = 15.0
_MOST_SCEPTICAL: Final = 120.0
"""Seconds for which no rate is inferred after one turned out to be none, doubling from time to time; more
than twice the refusals end it."""
_MANY: Final = 2.0
_FEW_KEPT: Final = 8
_SAME: Final = 0.9
"""Requests at a rate, before which a refusal that tells the same rate or more is a surprise: at a true rate
there are far more between two."""
_TEMPERED: Final = 0.95
"""The part of a rate that is kept to once it was refused and nothing tells a lower one."""
_FEWEST_SINCE: Final = 12
_MOST_SINCE: Final = 60
_LONGEST_SINCE: Final = 60.0
"""Requests since a rate was given up, and seconds, within which the share of refused ones is compared."""
_REFUSED_SINCE: Final = 0.4
_RISEN: Final = 2.0
"""The share of refused requests since then, at the least and in terms of the share before, that shows that
refusals depend on the pace. Where a fifth is refused at random, five of twelve are once in fourteen times."""
_LEAST_RETURN: Final = 0.5
"""The part of the rate that is returned to at the least: a slow start tells too low a rate."""
_MOMENT: Final = 0.001


class _GivenUp(NamedTuple):
    """Hold a rate that was given up, when, and the share of refused requests while it was kept to."""

    rate: float
    at: float
    refused: float


class RateDoubts:
    """Doubt a rate that is kept to, and rates that were given up.

    Args:
        rate: the rate that is kept to, if one is believed.
        log: the newest requests.
    """

    __slots__ = (
        "_doubt",
        "_doubted_share",
        "_given_up",
        "_kept",
        "_log",
        "_patience",
        "_rate",
        "_sceptical_until",
        "_surprised_at",
        "_surprises",
    )

    def __init__(self, rate: RateEstimator, log: RefusalLog) -> None:
        self._rate = rate
        self._log = log
        self._surprises = self._kept = 0
        self._surprised_at = 0.0
        self._patience = _SURPRISES
        self._doubt = _SCEPTICAL
        self._doubted_share = 0.0
        self._sceptical_until = -math.inf
        self._given_up: _GivenUp | None = None

    @property
    def are_none(self) -> bool:
        """Whether the last refusal was no surprise."""
        return not self._surprises

    def kept(self) -> None:
        """Record that a request keeps to the rate."""
        self._kept += 1

    def expects(self, explanation: Explanation, wave: Wave) -> bool:
        """Record refusals that a rate explains; return whether that rate is to be kept to.

        It is not where a lower rate did not bring the refusals down, time and again.
        """
        base, grown = self._rate.base, self._rate.rate
        kept, self._kept = self._kept, 0
        if base is None or grown is None or self._rate.probed(wave.at):
            expected = True
        elif kept < _FEW_KEPT and explanation.rate >= _SAME * base:
            expected = False  # refused again after a few requests, at a rate that is no lower than it was
        else:
            # Growing may have run into the limit that the base told: a small bucket has no cushion.
            expected = explanation.clear or grown > explanation.highest >= base
        self._surprises = 0 if expected else self._surprises + 1
        return self._surprises < self._patience

    def tempered(self, explanation: Explanation) -> Explanation:
        """Return an explanation with less than the rate that was kept to, if refusals are a surprise.

        At the very rate of a bucket of one request, each that arrives a moment too early is refused.
        """
        base = self._rate.base
        if base is None or not self._surprises:
            return explanation
        return explanation._replace(rate=min(explanation.rate, _TEMPERED * base))

    def surprised(self, wave: Wave) -> bool:
        """Record refusals that nothing explains; return whether the rate is to be kept to."""
        if self._rate.probed(wave.at):
            self._surprises = 0
        else:
            if not self._surprises:
                self._surprised_at = wave.sent_at
            self._surprises += 1
        return self._surprises < self._patience

    def accepted_rate(self, now: float) -> float | None:
        """Return how much was let in a second between refusals, `None` for too little.

        With several surprises in a row it is the lower one of that of late and that since the first of them.
        """
        rate = self._log.rate_between_refusals(now)
        if rate is None or self._surprises <= 1:
            return rate
        recent = self._log.rate_between_refusals(now, self._surprised_at)
        return rate if recent is None else min(rate, recent)

    def is_credible(self, explanation: Explanation, now: float) -> bool:
        """Whether refusals are evidence of a rate, beside those of a rate that turned out to be none."""
        if explanation.clear or now >= self._sceptical_until:
            return True
        return explanation.refused > _MANY * self._doubted_share

    def end(self) -> None:
        """Forget surprises: another explanation is believed."""
        self._surprises = 0

    def give_up(self, now: float) -> None:
        """Believe in no rate any more, nor for a while."""
        base = self._rate.base
        assert base is not None
        self._given_up = _GivenUp(base, now, 1 - self._log.let_in(now)[0])
        self._rate.drop()
        self._surprises = 0
        self._patience = min(2 * self._patience, _MOST_SURPRISES)
        self._doubted_share = max(self._log.weight(now), 1.0)
        self._sceptical_until = now + self._doubt
        self._doubt = min(2 * self._doubt, _MOST_SCEPTICAL)

    def given_up_in_vain(self, now: float) -> float | None:
        """Return the rate to go back to where far more is refused since it was given up; or `None`.

        What was sent before is forgotten then: the limit was another one.
        """
        given_up = self._given_up
        if given_up is None or self._rate.bucket is not None:
            return None
        let_in, refused = self._log.outcomes_since(given_up.at, now)
        sent = let_in + refused
        if sent > _MOST_SINCE or now > given_up.at + _LONGEST_SINCE:
            self._given_up = None
            return None
        share = max(_REFUSED_SINCE, _RISEN * given_up.refused)
        if sent < _FEWEST_SINCE or refused < share * sent:
            return None
        self._given_up, self._sceptical_until, self._surprises = None, -math.inf, 0
        self._log.forget(given_up.at)
        accepted = max(let_in, 1) / (now - given_up.at + _MOMENT)
        return min(given_up.rate, max(accepted, _LEAST_RETURN * given_up.rate))
