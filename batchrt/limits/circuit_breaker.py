"""The circuit breaker: whether a provider is down, and when to probe it."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["CircuitBreaker"]

_FAILURES: Final = 10
"""Requests in a row without an answer that open the breaker."""
_FIRST_PROBE: Final = 1.0
_LONGEST_PROBE: Final = 5.0
"""Seconds between one half-open probe and the next, doubling up to the longest, which bounds the time lost
when the provider is back."""

_RECENT: Final = 3 * _LONGEST_PROBE
"""Seconds for which a failed probe shows that the provider is down."""


class CircuitBreaker:
    """Count failures, open on too many, and pace the half-open probes.

    Invariants: the breaker opens on failures in a row alone, and only an answer to a request that was sent
    after the first of them closes it; at most one probe is in flight, while `probe_at` is infinity.

    Attributes:
        since: when the provider went down; `None` while the breaker is closed.
        failures: requests in a row that had no answer.
        probe_at: when the next probe may be sent; infinity while one is in flight.
        probed_at: when a probe failed last.
        answered_at: when the latest request was sent that was answered.
    """

    __slots__ = ("_failing_since", "_pause", "answered_at", "failures", "probe_at", "probed_at", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        self.failures: int = 0
        self.probe_at: float = math.inf
        self.probed_at: float = -math.inf
        self.answered_at: float = -math.inf
        self._failing_since = -math.inf
        self._pause = _FIRST_PROBE

    def answered(self, sent_at: float, now: float) -> float | None:
        """Record an answer to a request that was sent then; return how long the provider was down, if it was.

        An answer to a request sent before the first failure says nothing about the time after it.
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
        """Record a request without an answer; return whether that opens the breaker."""
        if not self.failures:
            self._failing_since = sent_at
        self.failures += 1
        return self.since is None and self.failures >= _FAILURES and self.open(now)

    def open(self, now: float) -> bool:
        """Open the breaker; return whether it was closed."""
        if self.since is None:
            self.since = now
            self._pause = _FIRST_PROBE
            self.probe_at = now + self._pause
            self.probed_at = now
            return True
        return False

    def is_recent(self, now: float) -> bool:
        """Whether a probe failed lately: a provider that was not probed for long may be up again."""
        return now - self.probed_at < _RECENT

    def probe_sent(self) -> None:
        """Record that a half-open probe is in flight."""
        self.probe_at = math.inf

    def probe_failed(self, now: float) -> None:
        """Record that a probe was not answered, or was given up."""
        self.probed_at = now
        self._pause = min(2 * self._pause, _LONGEST_PROBE)
        self.probe_at = now + self._pause
