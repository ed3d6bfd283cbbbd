"""The explanation of refusals: which limit they come from, if any."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from batchrt.limits.refusal_wave import is_exact

__all__ = ["Cause", "Explanation"]

Cause: TypeAlias = Literal["rate", "in flight", "noise", "too little evidence"]

_UNBOUND: Final = 0.9
"""Requests that a rate allows in a round trip, from which on it holds none back that is sent alone."""


class Explanation(NamedTuple):
    """Say why requests were refused.

    Attributes:
        cause: of the refusals, the likeliest.
        rate: requests a second, for the cause `rate`.
        highest: the highest rate that explains them equally well.
        limit: requests in flight, for the cause `in flight`.
        refused: weight of the refusals looked at.
        unexplained: weight of the outcomes that the cause does not predict.
        mixed: most requests that were sent right after the last refused one were accepted.
        clear: the rate is beyond doubt.
        guess: too little was let in to tell a rate.
        blind: nothing was let in yet.
    """

    cause: Cause
    rate: float = 0.0
    highest: float = 0.0
    limit: int = 0
    refused: float = 0.0
    unexplained: float = 0.0
    mixed: bool = False
    clear: bool = False
    guess: bool = False
    blind: bool = False

    def is_vague(self, wait: float) -> bool:
        """Whether a rate is told by nothing but refusals, or hardly more if a `wait` is in whole seconds."""
        return self.blind or (self.guess and wait > 0 and not is_exact(wait))

    def at_most(self, rate: float) -> Explanation:
        """Return the explanation with no higher rate than that."""
        return self._replace(rate=min(self.rate, rate), highest=min(self.highest, rate))

    def alone(self, latency: float) -> Explanation:
        """Return the explanation for requests that were sent one at a time, and took so many seconds each.

        A rate that holds none of them back is theirs, and no limit's: each is at the edge of such a bucket.
        """
        if self.cause == "rate" and self.rate * latency >= _UNBOUND:
            return self._replace(cause="noise")
        return self
