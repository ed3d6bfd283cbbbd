"""Whether a provider is down, and who looks whether it is back."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["CircuitBreaker"]

_FAILURES: Final = 10
"""Requests in a row without an answer, from which on the provider counts as down."""
_FIRST_LOOK: Final = 1.0
_LONGEST_LOOK: Final = 5.0
"""Seconds between one request and the next that looks whether it is back, doubling up to this. The longest
bounds what is lost when it is."""

_KNOWN_SECONDS: Final = 3 * _LONGEST_LOOK


class CircuitBreaker:
    """Count failures, and say when to look.

    Attributes:
        since: when the provider went down; `None` while it is not.
        failures: requests in a row that had no answer.
        look_at: when the next request may look whether it is back; infinity while one does.
        looked_at: when somebody saw last that it is not.
        answered_at: when the last request was sent that was answered.
    """

    __slots__ = ("_failing_since", "_pause", "answered_at", "failures", "look_at", "looked_at", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        self.failures: int = 0
        self.look_at: float = math.inf
        self.looked_at: float = -math.inf
        self.answered_at: float = -math.inf
        self._failing_since = -math.inf
        self._pause = _FIRST_LOOK

    def answered(self, sent_at: float, now: float) -> float | None:
        """Note an answer to a request that was sent then; return how long the provider was down, if it was.

        Answers to what was sent before the first failure say nothing about what came after it.
        """
        self.answered_at = max(self.answered_at, sent_at)
        if sent_at < self._failing_since:
            return None
        self.failures = 0
        if self.since is None:
            return None
        seconds, self.since = now - self.since, None
        return seconds

    def failed(self, sent_at: float, now: float) -> bool:
        """Note a request without an answer; return whether that makes the provider count as down."""
        if not self.failures:
            self._failing_since = sent_at
        self.failures += 1
        return self.since is None and self.failures >= _FAILURES and self.begin(now)

    def begin(self, now: float) -> bool:
        """Have it count as down."""
        if self.since is None:
            self.since = now
            self._pause = _FIRST_LOOK
            self.look_at = now + self._pause
            self.looked_at = now
            return True
        return False

    def is_known(self, now: float) -> bool:
        """Whether somebody has looked lately: what nobody has asked for long may be back."""
        return now - self.looked_at < _KNOWN_SECONDS

    def look(self) -> None:
        """Note that a request looks."""
        self.look_at = math.inf

    def looked(self, now: float) -> None:
        """Note that it saw nothing, or was given up."""
        self.looked_at = now
        self._pause = min(2 * self._pause, _LONGEST_LOOK)
        self.look_at = now + self._pause
