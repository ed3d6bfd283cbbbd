"""The provider's own time: seconds since its first request."""

from __future__ import annotations

import math

__all__ = ["Timeline"]


class Timeline:
    """Count seconds from the first request on; event loops count from zeros of their own."""

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began: float | None = None

    def begin(self, now: float) -> None:
        """Record the first request; later ones change nothing."""
        if self._began is None:
            self._began = now

    def restart(self) -> None:
        """Wait for another first request."""
        self._began = None

    def second(self, now: float) -> float:
        """Return the second that the event loop calls `now`, to the nanosecond; 0 before the first request."""
        # Rounded, so that who waits for exactly 7 seconds comes at second 7 and not just before.
        return 0.0 if self._began is None else max(0.0, round(now - self._began, 9))

    def moment(self, second: float) -> float:
        """Return what the event loop calls `second`; infinity while nothing has begun."""
        return math.inf if self._began is None else self._began + second
