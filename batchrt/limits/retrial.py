"""The retrial: one request that is sent right after a refusal, to tell a limit from noise.

A limit that refused a request a moment ago refuses the next one as well: its bucket is still empty, and as
many are still in flight. Refusals that have nothing to do with this client are as likely as before. So the
outcome of one request, which is known within a refusal's time, is stronger evidence than any number of
outcomes from before the refusal, and it costs one refusal where there is a limit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from batchrt.limits.refusal_log import PENDING, Explanation
from batchrt.limits.refusal_wave import Wave

if TYPE_CHECKING:
    from batchrt.limits.permit import Permit

__all__ = ["Retrial", "chance_let_in", "evidence_of_noise", "is_likely", "tells_nothing"]

_NATS: Final = 1.5
"""The logarithm of a likelihood ratio that counts as one refusal without an explanation: two are 20 to 1, the
bound of Wald's sequential test for errors of one in twenty."""
_LIKELY: Final = 0.5
_LIKELY_IF_CLEAR: Final = 0.1
"""How likely a limit has to let a request in for that to be no evidence, and that where the limit is beyond
doubt."""
_LEAST_NOISE: Final = 0.02
_MOST_NOISE: Final = 0.5
"""The bounds of the share of requests that noise refuses: few outcomes tell little about it."""
_SLIP: Final = 0.05
"""How likely a limit lets a request in that is over it: counts on both sides differ for a moment."""
_UNKNOWN: Final = 0.25
"""How likely a limit of which too little is known does so."""
_LOWER: Final = 1.3
"""The factor by which a rate has to be lower than the one that is kept to: that one always explains much."""
_MANY: Final = 6.0
"""The weight of refusals from which on a rate that is a third too high would be found."""
_LEAST_LACKED: Final = 0.05
"""The share of a token that a refused request lacked at the least: clocks on both sides differ."""


class Retrial:
    """Keep which request is sent again during a pause.

    Attributes:
        is_wanted: a request is to be sent.
        permit: the one that is sent; `None` without.
        has_failed: it was refused as well.
    """

    __slots__ = ("has_failed", "is_wanted", "permit")

    def __init__(self) -> None:
        self.is_wanted: bool = False
        self.permit: Permit | None = None
        self.has_failed: bool = False

    def want(self) -> None:
        """Have one request sent."""
        self.is_wanted, self.permit, self.has_failed = True, None, False

    def granted(self, permit: Permit) -> None:
        """Record that a request may be sent."""
        if self.is_wanted:
            self.is_wanted, self.permit = False, permit
            permit.verdict = PENDING

    def withdrawn(self, permit: Permit) -> None:
        """Record that a request was not sent after all."""
        if self.permit is permit:
            self.want()

    def refused(self, permit: Permit) -> bool:
        """Record a refusal; return whether it is that of the request that was sent again."""
        if self.permit is not permit:
            return False
        self.permit, self.has_failed = None, True
        return True

    def known_at(self, now: float, settling: float) -> float:
        """Return when the request would have been refused, `now` if it is known."""
        assert self.permit is not None
        return self.permit.sent_at + settling if self.permit.verdict == PENDING else now

    def end(self) -> Permit:
        """Forget the request, and return it."""
        assert self.permit is not None
        sent, self.permit = self.permit, None
        return sent


def chance_let_in(
    explanation: Explanation,
    wave: Wave,
    sent_at: float,
    beside: int,
    base: float | None,
    *,
    pace: float = math.inf,
) -> float:
    """Return how likely the limit that explains a wave lets a request in that is sent after it.

    A bucket that refuses holds anything between no token and one. If the requests come evenly, at a pace
    little above the refill, it runs dry little by little: the refused one lacks no more than its share of the
    difference, which the next milliseconds bring.

    Args:
        explanation: the limit.
        wave: the refusals.
        sent_at: when the request is sent.
        beside: requests in flight then.
        base: the rate that is believed so far; `None` for none.
        pace: the requests a second that were kept to; infinity for none.
    """
    if explanation.cause == "in flight":
        return 1.0 if beside < explanation.limit else _SLIP
    rate = explanation.rate if explanation.cause == "rate" else base
    if rate is None:
        return _UNKNOWN
    lacked = 1.0
    if explanation.cause == "rate" and pace < math.inf:
        lacked = max(1 - rate / pace, _LEAST_LACKED)
    elif explanation.refused < _MANY and pace < math.inf:
        lacked = 1 - 1 / _LOWER
    return min(1.0, max(rate * (sent_at - wave.refused_at) / lacked, _SLIP))


def is_likely(chance: float) -> bool:
    """Whether a limit rather lets a request in than not."""
    return chance >= _LIKELY


def tells_nothing(explanation: Explanation, chance: float, base: float | None) -> bool:
    """Whether a request that is let in is no evidence against a limit, which does so with this chance."""
    if explanation.clear and (base is None or explanation.rate * _LOWER < base):
        return chance >= _LIKELY_IF_CLEAR
    return chance >= _LIKELY and (explanation.cause == "in flight" or base is not None)


def evidence_of_noise(chance: float, refused: float) -> float:
    """Return what a request that was let in tells in favour of noise; one is a refusal's worth.

    Args:
        chance: that a limit lets it in.
        refused: the share of requests that are refused.
    """
    noise = min(max(refused, _LEAST_NOISE), _MOST_NOISE)
    return max(0.0, math.log((1 - noise) / chance) / _NATS)
