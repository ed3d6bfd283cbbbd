"""Pacing: how requests are spread out at the start, after a refusal and after an outage."""

from __future__ import annotations

import math
from typing import Final

from batchrt.limits.cooldown import ColdStart, CoolDown, HalfOpen, SlowStart
from batchrt.limits.error_kinds import Failure, FailureKind
from batchrt.limits.found_limits import FoundLimits
from batchrt.limits.refusal_wave import is_exact

__all__ = ["Pacing"]

_AT_ONCE: Final = 10
"""Requests that are sent at once to a provider about which nothing is known: the initial window of TCP (RFC
6928)."""
_BARE_SHARE: Final = 4
"""A recovery is over when this many times the requests in flight at the refusal may be in flight."""
_SEVERAL: Final = 4
"""Requests let in within one span before a refusal that show a bucket larger than one request."""
_SHORTEST_STEP: Final = 0.025
"""Seconds in which a recovery doubles at the least, as a cold start does."""
_SECOND: Final = 1.0
"""Seconds: the shortest span over which requests after a named wait are counted."""


class Pacing:
    """Hold requests back where no known limit does.

    Invariant: at most one of the two recoveries is under way, and a later refusal replaces it. TCP's slow
    start, a half-open circuit breaker and Retry-After (RFC 9110, 10.2.3) are the prior art.

    Attributes:
        cooldown: the time for which the provider asked for silence.
    """

    __slots__ = ("_began", "_cold_start", "_half_open", "_slow_start", "cooldown")

    def __init__(self) -> None:
        self.cooldown: CoolDown = CoolDown()
        self._began = False
        self._cold_start: ColdStart | None = None
        self._slow_start: SlowStart | None = None
        self._half_open: HalfOpen | None = None

    def recovery_due(self, in_flight: int, now: float) -> float:
        """Return when the recovery after a refusal or an outage lets the next request in."""
        if self._slow_start is not None and not self._slow_start.lets_in(in_flight):
            return math.inf
        return now if self._half_open is None else self._half_open.due(now)

    def is_over(self, now: float) -> bool:
        """Whether nothing is held back, and nothing will be before a failure."""
        recovers = self._slow_start is not None or self._half_open is not None
        return self._began and self._cold_start is None and not recovers and self.cooldown.until <= now

    def start_due(self, now: float) -> float:
        """Return when the cold start lets the next request in."""
        if self._cold_start is None:
            return now
        if self._cold_start.is_over(now):
            self._cold_start = None
            return now
        return self._cold_start.due(now)

    def sent(self, now: float) -> None:
        """Record that a request is sent."""
        if not self._began:
            self._began, self._cold_start = True, ColdStart(_AT_ONCE, now)
        if self._cold_start is not None:
            self._cold_start.sent()
        if self._half_open is not None:
            self._half_open.sent()

    def ended(self, sent_at: float, in_flight: int, now: float, *, answered: bool) -> None:
        """Record that a request ended; `in_flight` are left."""
        if self._cold_start is not None:
            self._cold_start.replied(now, answered=answered)
        if self._half_open is not None and self._half_open.ended(sent_at, answered=answered):
            self._grow(self._half_open.enough, in_flight, now)
        if answered and self._slow_start is not None and self._slow_start.answered():
            self._grow(self._slow_start.enough, in_flight, now)

    def _grow(self, enough: int, in_flight: int, now: float) -> None:
        """End the recovery; requests beyond `enough` in flight are sent as at the start, not all at once."""
        self._slow_start = self._half_open = None
        self._cold_start = ColdStart.from_recovery(enough, in_flight, now)

    def start_slowly(self, enough: int) -> None:
        """Send one request, and one more for each answer, until `enough` may be in flight."""
        self._slow_start = SlowStart(enough)

    def hurry(self, in_flight: int, now: float) -> None:
        """Let twice as many be in flight after a pause that turned out to be without reason."""
        if self._slow_start is not None and self._slow_start.hurry(2 * in_flight):
            self._grow(self._slow_start.enough, in_flight, now)

    def stop_slow_start(self) -> None:
        """Hold no request back any more after a pause."""
        self._slow_start = None

    def refused(
        self,
        failure: Failure,
        in_flight: int,
        now: float,
        found: FoundLimits,
        *,
        explained: bool,
        pause: float,
    ) -> None:
        """Begin a recovery after a refusal, unless its reason is known.

        Args:
            failure: the refusal.
            in_flight: requests in flight.
            now: the time.
            found: limits that were found from refusals.
            explained: a known limit explains it.
            pause: seconds for which nothing is sent.
        """
        if pause <= 0 and not explained and found.rate.bucket is None:
            return  # noise: sending goes on as before
        self._slow_start = self._half_open = None
        if explained or found.rate.bucket is not None:
            return
        wait, enough = failure.wait, _BARE_SHARE * in_flight
        if wait <= 0:
            self._slow_start = SlowStart(enough)
        elif failure.kind is not FailureKind.RATE_LIMITED:
            self._slow_start = SlowStart(in_flight)
        elif found.is_certain:
            # As many as before may go at once, and the queue behind them as those are answered.
            carried = found.log.carried()
            self._slow_start = SlowStart(_BARE_SHARE * carried, allowed=carried)
        else:
            span = max(wait, _SECOND)
            # A bucket that was full at first, and emptied before the first answer, shows nothing.
            let_in = found.log.let_in_within(span, now) if found.latency else 0.0
            at_first = _at_first(wait, span, let_in)
            # A wait that is no whole seconds is the time of a token: a second request needs another.
            step = wait if is_exact(wait) else max(found.log.settling, _SHORTEST_STEP)
            self._half_open = HalfOpen(step, enough, now + wait, at_first=at_first, span=span)

    def reopen(self, in_flight: int) -> None:
        """SlowStart up after a limit that was found is given up."""
        self._slow_start = SlowStart(_BARE_SHARE * in_flight)


def _at_first(wait: float, span: float, let_in: float) -> float:
    """Return how many requests may be sent in the first `span` seconds after a named wait."""
    if wait < span:
        return max(1.0, let_in / 2)
    return math.inf if let_in >= _SEVERAL else 1.0
