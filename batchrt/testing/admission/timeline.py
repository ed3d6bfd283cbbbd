"""Timeline of the provider: seconds since its first request."""

from __future__ import annotations

import math

__all__ = ["Timeline"]


class Timeline:
    """Convert between event loop time and seconds since the first request."""

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began: float | None = None

    def begin(self, now: float) -> None:
        """Record the first request; later ones have no effect."""
        if self._began is None:
            self._began = now

    def restart(self) -> None:
        """Wait for another first request."""
        self._began = None

    def second(self, now: float) -> float:
        """Return the second of the loop time `now`, to the nanosecond; 0 before the first request."""
        # Rounded, so that a client that waits for exactly 7 seconds arrives at second 7 and not just before.
        return 0.0 if self._began is None else max(0.0, round(now - self._began, 9))

    def moment(self, second: float) -> float:
        """Return the loop time of `second`; infinity before the first request."""
        return math.inf if self._began is None else self._began + second
