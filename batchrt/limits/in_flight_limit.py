"""The found limit of requests in flight: kept to, and probed from below."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["InFlightLimit"]

_HOLD_ROUNDS: Final = 12.0
"""Round trips for which a limit is kept before one request more is tried."""
_SHORTEST_HOLD: Final = 1.0
_LONGEST_HOLD: Final = 30.0
"""Seconds: a failed probe doubles the hold up to this."""
_SHORTEST_ROUND: Final = 0.01
_FIRST_HOLD_WAITS: Final = 6.0
_HOLD_WAITS: Final = 25.0
"""The first and the longest hold, in terms of the wait that a refusal asks for: a failed probe costs all
requests that wait."""
_DOUBTS: Final = 2
_MOST_DOUBTS: Final = 24
"""Refusals beside fewer that bring the next probe forward; twice as many after each failed probe."""
_OUTGROWN: Final = 4
"""The factor over the limit that was found from which on it is none."""


class InFlightLimit:
    """Keep to a number of requests in flight that was found.

    Slow start from the limit: one request more after the hold, and while that is answered 1, 2, 4 … more for
    each round trip. A failed probe goes back to the limit that was found and doubles the hold.

    Attributes:
        limit: how many may be in flight; `None` while none is believed.
        since: when it was found first.
        found_at: when it was found last.
    """

    __slots__ = (
        "_doubts",
        "_found",
        "_hold",
        "_hold_until",
        "_most_doubts",
        "_step",
        "found_at",
        "limit",
        "since",
    )

    def __init__(self) -> None:
        self.limit: int | None = None
        self.since: float = 0.0
        self.found_at: float = -math.inf
        self._found = 0
        self._hold = _SHORTEST_HOLD
        self._hold_until = 0.0
        self._doubts = 0
        self._most_doubts = _DOUBTS
        self._step = 1

    def found(self, limit: int, latency: float, wait: float, now: float) -> None:
        """Keep to `limit`; a round trip takes `latency` seconds, and the refusal asked for `wait`."""
        again = self.limit is not None and self._found - 1 <= limit <= self.limit
        shortest = max(_SHORTEST_HOLD, _HOLD_ROUNDS * latency, _FIRST_HOLD_WAITS * wait)
        longest = max(_LONGEST_HOLD, shortest, _HOLD_WAITS * wait)
        self._hold = min(max(2 * self._hold if again else 0.0, shortest), longest)
        if again:
            self._most_doubts = min(2 * self._most_doubts, _MOST_DOUBTS)
        if self.limit is None:
            self.since = now
        self.limit = self._found = max(1, limit)
        self.found_at = now
        self._hold_until = now + self._hold
        self._doubts = 0
        self._step = 1

    def refused_beside_fewer(self, now: float) -> bool:
        """Record refusals beside fewer; return whether they bring the next probe forward."""
        self._doubts += 1
        if self._doubts < self._most_doubts:
            return False
        self._doubts = 0
        self._hold_until = min(self._hold_until, now)
        return True

    @property
    def base(self) -> int | None:
        """The limit that the last refusal told, before probes raised it; `None` without a limit."""
        return None if self.limit is None else self._found

    def hold(self, now: float, seconds: float) -> None:
        """Try one request more after so many seconds, whatever else would be the hold."""
        self._hold_until = now + seconds

    @property
    def is_outgrown(self) -> bool:
        """Whether several times as many were let in since: it was no limit, or is none any more."""
        return self.limit is not None and self.limit > _OUTGROWN * self._found

    def drop(self) -> None:
        """Believe in no limit any more."""
        self.limit = None
        self._hold = _SHORTEST_HOLD
        self._most_doubts = _DOUBTS

    def lets_in_at(self, in_flight: int, latency: float, sent_at: float, now: float) -> float:
        """Return when one more may be sent beside `in_flight`: `now`, or when the limit may be probed.

        A probe keeps some distance from the request before, which was sent at `sent_at`: two at the same
        moment are refused by a bucket of one as well.
        """
        if self.limit is None or in_flight < self.limit:
            return now
        due = max(self._hold_until, sent_at + latency / (2 * self.limit))
        if due > now:
            return due
        self.limit += self._step
        self._step *= 2
        self._hold_until = now + max(latency, _SHORTEST_ROUND)
        return now
