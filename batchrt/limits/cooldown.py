"""The cool-down that a provider asked for, and the recovery after it: slow start and half-open probes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Final

from batchrt.errors import ProviderError, RateLimitError
from batchrt.runtime.clock import clock_time

__all__ = ["LONGEST_QUIET", "ColdStart", "CoolDown", "HalfOpen", "SlowStart", "longest_quiet"]

_MARGIN: Final = 0.1
"""The share of its span by which a half-open recovery's first allowance lasts longer: arrival is not
sending."""
_MANY_TIMES: Final = 8
"""How many times as many as enough may be sent until a half-open recovery is over in any case."""
_CONNECTING: Final = 0.15
"""Seconds without a reply in which a cold start does not double: a new connection takes three round trips
until the first (TCP, TLS 1.3 and the request), of 50 ms each."""
_DOUBLING: Final = 0.025
_DOUBLINGS: Final = 16
"""Seconds in which a cold start doubles, and after how many doublings it holds nothing back."""
LONGEST_QUIET: Final = 3600.0
"""Seconds for which a provider is left alone at the most, whatever it asks for, unless a policy is willing to
wait for longer: then a half-open probe is sent. Azure has been seen to say a day when it meant seconds."""


def longest_quiet(longest: float) -> float:
    """Return for how many seconds a provider is left alone at the most.

    Args:
        longest: seconds for which the refused request is willing to wait; infinity for no bound.
    """
    return LONGEST_QUIET if longest == math.inf else max(LONGEST_QUIET, longest)


class CoolDown:
    """Keep until when no request is to be sent; the request that caused it may be cancelled meanwhile.

    Attributes:
        until: when it is over; minus infinity if there was none.
    """

    __slots__ = ("_asked_until", "_cause", "_since", "until")

    def __init__(self) -> None:
        self.until: float = -math.inf
        self._since = -math.inf
        self._asked_until = -math.inf
        self._cause: ProviderError | None = None

    def is_new(self, sent_at: float, now: float) -> bool:
        """Whether a request sent then is the first of its wave to be refused; records that it was."""
        if sent_at < self._since:
            return False
        self._since = now
        return True

    def prolong(self, wait: float, cause: ProviderError, now: float, longest: float = math.inf) -> bool:
        """Go on for `wait` seconds from now; return whether that is longer than it was.

        For `longest` see `longest_quiet`.
        """
        self._asked_until = max(self._asked_until, now + wait)
        until = now + min(wait, longest_quiet(longest))
        if until <= self.until:
            return False
        # A copy has no traceback and no context. The frames in there lead to the run, and to the transport by
        # whose end the registry forgets this quota, so that neither would ever be collected.
        self.until, self._cause = until, copy.copy(cause)
        return True

    def left(self, now: float) -> float:
        """Return for how many seconds it goes on."""
        return max(0.0, self.until - now)

    def too_long(self, now: float, longest: float, wall: Callable[[], float]) -> RateLimitError | None:
        """Return the error for a request that waits for `longest` seconds at most, if that is too short."""
        if now >= self.until or self._asked_until - now <= longest:
            return None
        left, cause = self._asked_until - now, self._cause
        error = RateLimitError(
            f"the provider asked to be left alone for {left:.3g} s more, which is more than is waited for "
            f"({longest:g} s): until {clock_time(wall() + left)}; nothing was sent",
            status=None if cause is None else cause.status,
            code=None if cause is None else cause.code,
            attempts=0,
            retry_after=left,
        )
        error.__cause__ = cause
        return error


class SlowStart:
    """Slow start after a pause, as TCP has it: one more request at first, and another one for each answer.

    Args:
        enough: how many are no reason to hold back.
        allowed: how many may be in flight at first; 0 for one more than there are when the pause ends.

    Attributes:
        allowed: how many may be in flight; 0 until the pause is over.
        enough: as given, at least 2.
    """

    __slots__ = ("allowed", "enough")

    def __init__(self, enough: int, allowed: int = 0) -> None:
        self.allowed: int = allowed
        self.enough: int = max(2, enough)

    def lets_in(self, in_flight: int) -> bool:
        """Whether one more may be sent."""
        if not self.allowed:
            self.allowed = in_flight + 1
        return in_flight < self.allowed

    def answered(self) -> bool:
        """Record an answer; return whether the slow start is over."""
        if self.allowed:
            self.allowed += 1
        return self.allowed >= self.enough

    def hurry(self, allowed: int) -> bool:
        """Let so many be in flight at least; return whether the slow start is over."""
        self.allowed = max(self.allowed, allowed)
        return self.allowed >= self.enough


class ColdStart:
    """Send few requests to an unknown provider, and twice as many every 25 ms from its first reply on.

    A limit shows in a round trip, which takes longest while connections are being made. An answer makes room
    for one request beside that: answers come in bursts at first, and twice as many in return would be
    refused in bursts.

    Args:
        first: how many may be sent at once.
        now: the time.
    """

    __slots__ = ("_allowed", "_began", "_sent")

    def __init__(self, first: int, now: float) -> None:
        self._began = now + _CONNECTING
        self._allowed = first
        self._sent = 0

    @classmethod
    def from_recovery(cls, enough: int, in_flight: int, now: float) -> ColdStart:
        """Return one that doubles from `enough` requests in flight on, of which some are, from now on."""
        start = cls(enough, now)
        start._began = now
        start._sent = in_flight
        return start

    def sent(self) -> None:
        """Record that a request was sent."""
        self._sent += 1

    def replied(self, now: float, *, answered: bool) -> None:
        """Record an answer or a refusal."""
        self._began = min(self._began, now)
        self._allowed += answered

    def due(self, now: float) -> float:
        """Return when the next request may be sent, `now` at the earliest."""
        if self._sent < self._allowed:
            return now
        return max(now, self._began + _DOUBLING * math.log2((self._sent + 1) / self._allowed))

    def is_over(self, now: float) -> bool:
        """Whether it holds nothing back any more."""
        return now - self._began > _DOUBLING * _DOUBLINGS


class HalfOpen:
    """After a named wait: one request, and more as those are answered that were sent since.

    The name is a circuit breaker's. Answers to requests that were sent before the wait say nothing about the
    provider's limits now. Twice as many may be sent after each further `step`, so that slow answers do not
    make the recovery slow.

    Args:
        step: seconds after which a request that is not refused was let in.
        enough: how many in flight are no reason to hold back.
        began: when the wait is over.
        at_first: how many requests may be sent in the first `span` seconds.
        span: the seconds.

    Attributes:
        enough: as given, at least 2.
    """

    __slots__ = (
        "_again",
        "_allowed",
        "_answers",
        "_at_first",
        "_began",
        "_fresh",
        "_sent",
        "_step",
        "enough",
    )

    def __init__(self, step: float, enough: int, began: float, *, at_first: float, span: float) -> None:
        self._step = step
        self.enough: int = max(2, enough)
        self._began = began
        self._at_first = at_first
        self._again = began + span * (1 + _MARGIN)
        self._allowed = 1
        self._answers = 0
        self._fresh = 0
        self._sent = 0

    def due(self, now: float) -> float:
        """Return when one more may be sent."""
        doubles_from, first = self._began, 1.0
        if self._sent >= self._at_first:
            doubles_from, first = self._again, self._at_first
            if now < self._again:
                return self._again
        if self._fresh < self._allowed:
            return now
        return max(now, doubles_from + self._step * math.log2((self._sent + 1) / first))

    def sent(self) -> None:
        """Record that a request was sent."""
        self._fresh += 1
        self._sent += 1

    def ended(self, sent_at: float, *, answered: bool) -> bool:
        """Record that a request ended that was sent at `sent_at`; return whether the recovery is over."""
        if sent_at < self._began:
            return False
        self._fresh -= 1
        if answered:
            self._answers += 1
            if self._answers > 1:
                self._allowed += 1
        return self._allowed >= self.enough or self._sent >= _MANY_TIMES * self.enough
