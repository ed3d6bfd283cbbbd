"""The trial of a rate: requests sent faster than it allows, right after a refusal.

A rate that is kept to is confirmed by whatever is refused: each request is at the edge of a bucket with that
rate. So refusals at random keep a low rate for minutes once a few of them, close together, have told it. What
tells the two apart is a request that the rate does not allow. After a refusal the bucket holds less than a
token, so that a limit refuses the second or third request of a few at once, while most random refusals are
followed by an accepted request.

The trial is a sequential test (Wald): it ends with the first refusal, or as soon as more was let in than the
rate allows. Under a true limit it costs one refusal.
"""

from __future__ import annotations

from typing import Final

from batchrt.limits.refusal_log import ACCEPTED, PENDING, Entry
from batchrt.limits.refusal_wave import Wave, is_exact

__all__ = ["RateTrial"]

_LET_IN: Final = frozenset({PENDING, ACCEPTED})
_TOLERANCE: Final = 1.1
"""Requests more than the refill that are let in by a bucket that held less than a token, at the most: arrival
is not sending, and the rate is an estimate."""
_LONGEST: Final = 6
"""Requests after which a trial ends that tells nothing, since the rate is near what is sent in any case."""
_CONVINCED: Final = 20.0
"""The odds of a limit against random refusals, from which on no trial is held."""
_STEADY: Final = 16
"""Requests in a row, after which a refusal is none of random ones that are frequent."""
_FEW_TOKENS: Final = 2.0
"""Tokens that come in while a wait is kept, up to which a few requests tell a rate."""
_MOST: Final = 0.45
_FEW: Final = 8.0
_MOST_OF_FEW: Final = 0.75
"""The share of the requests that may be refused at random; that of few refusals, by weight."""
_FIRST_ODDS: Final = 14.0
"""The odds before the first trial: most refusals are a limit's."""
_NARROWED: Final = 0.7
"""The factor by which a refusal lowers a rate that is searched for."""
_SOON: Final = 0.3
"""The factor by which a refusal soon after the last one lowers them: growth up to a limit takes longer."""
_LEAST: Final = 0.05
"""The probability of an outcome that a limit does not predict, for the rate is an estimate; and the least
share of random refusals."""


class RateTrial:
    """Test whether a provider lets in more than a rate that refusals told.

    Attributes:
        is_open: a trial is going on.
    """

    __slots__ = (
        "_began",
        "_failed",
        "_granted",
        "_granted_at",
        "_kept",
        "_last",
        "_odds",
        "_rate",
        "_refused_at",
        "_sent",
        "_skipped",
        "is_open",
    )

    def __init__(self) -> None:
        self.is_open: bool = False
        self._rate = 0.0
        self._last: float | None = None
        self._refused_at = 0.0
        self._began = 0.0
        self._granted = 0
        self._granted_at = 0.0
        self._sent: list[Entry] = []
        self._failed = 0
        self._kept = 0
        self._odds = _FIRST_ODDS
        self._skipped = 0

    def refused(self, rate: float | None, wave: Wave, now: float, *, refused: float, share: float) -> None:
        """Begin a trial after a wave of refusals that may be random, unless the last ones failed.

        Args:
            rate: the rate that is believed; `None` if none is.
            wave: the refusals.
            now: the time.
            refused: the weight of the newest refusals.
            share: their share of the newest requests.
        """
        self.is_open = False
        kept, self._kept = self._kept, 0
        former, self._last = self._last, rate
        if rate is not None and former is not None and rate < _NARROWED * former:
            return  # the search for the rate goes on
        if rate is None or kept >= _STEADY or is_exact(wave.wait) or rate * wave.wait > _FEW_TOKENS:
            return
        if share > (_MOST_OF_FEW if refused <= _FEW else _MOST):
            return
        self._odds *= _SOON
        if self._skipped < self._failed:
            self._skipped += 1
        elif self._odds < _CONVINCED:
            self._skipped = 0
            self._begin(rate, wave.sent_at, now)

    def _begin(self, rate: float, sent_at: float, now: float) -> None:
        self.is_open = True
        self._rate, self._refused_at, self._began = rate, sent_at, now
        self._granted = 0
        self._sent.clear()

    def is_failed_by(self, wave: Wave) -> bool:
        """Whether a wave of refusals ends the trial."""
        return self.is_open and self._granted > 0 and wave.sent_at >= self._began

    def failed(self, wave: Wave, share: float) -> None:
        """End the trial by a refusal; each further one is held after one refusal more.

        `share` is that of the newest requests that were refused.
        """
        share = min(max(share, _LEAST), 0.5)
        let_in = sum(entry.verdict in _LET_IN for entry in self._sent)
        # Of a token less than one, and the refill.
        whole, part = divmod(self._rate * (wave.sent_at - self._refused_at), 1.0)
        by_limit = {whole: 1 - part, whole + 1: part}.get(let_in, 0.0)
        if let_in <= whole:
            by_limit = max(by_limit, 1 / (whole + 2))  # the rate may be lower
        self._odds *= max(by_limit, _LEAST) / (share * (1 - share) ** let_in)
        self._odds = min(self._odds, _CONVINCED)
        self._failed += 1
        self.is_open = False

    def granted(self, now: float) -> None:
        """Record that a request may be sent."""
        self._kept += 1
        if self.is_open:
            self._granted += 1
            self._granted_at = now
            self.is_open = self._granted <= _LONGEST

    def sent(self, entry: Entry) -> None:
        """Record that a request is sent."""
        if self.is_open:
            self._sent.append(entry)

    def due(self, now: float, settling: float) -> float:
        """Return when the next request may be sent: once the one before was not refused for `settling`."""
        return max(now, self._granted_at + settling) if self._granted else now

    def disproves(self, now: float, settling: float) -> bool:
        """Whether more was let in than the rate allows."""
        if not self.is_open:
            return False
        let_in = [
            entry.sent_at
            for entry in self._sent
            if entry.verdict in _LET_IN and entry.sent_at + settling <= now
        ]
        if not let_in or len(let_in) < _TOLERANCE + self._rate * (let_in[-1] - self._refused_at):
            return False
        self.is_open = False
        self._failed = self._skipped = 0
        self._odds = _FIRST_ODDS
        return True
