"""Concurrency limits: requests in flight, as given by hand, told by the provider, and found by `"auto"`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from batchrt.limits.adaptive_concurrency import AdaptiveConcurrency
from batchrt.limits.events import BY_HAND
from batchrt.limits.found_limits import FoundLimits
from batchrt.limits.permit import Permit
from batchrt.limits.refusal_wave import Wave

__all__ = ["Changed", "ConcurrencyLimits"]

Changed: TypeAlias = "Callable[[str, float | None, float | None, str], object]"
"""Called when a limit changes, with its name, the values before and after, and the reason."""


class ConcurrencyLimits:
    """Hold the limits of requests in flight, all of which apply.

    Args:
        changed: called when a limit changes.

    Attributes:
        given: the limit that was set by hand; `None` for none.
        told: the limit that the provider's answers tell; `None` if they tell none.
        auto: finds the limit of requests that run under `max_concurrency="auto"`; `None` before the first.
    """

    __slots__ = ("_changed", "auto", "given", "told")

    def __init__(self, changed: Changed) -> None:
        self.given: int | None = None
        self.told: int | None = None
        self.auto: AdaptiveConcurrency | None = None
        self._changed = changed

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.given is not None or self.told is not None or self.auto is not None

    def set_given(self, limit: int | None) -> None:
        """Replace the limit that was set by hand; `None` lifts it."""
        before, self.given = self.given, limit
        if before != limit:
            self._changed("max_in_flight", before, limit, "lifted by hand" if limit is None else BY_HAND)

    def set_told(self, limit: int) -> None:
        """Keep to a limit that an answer tells."""
        before, self.told = self.told, limit
        if before != limit:
            self._changed("max_in_flight", before, limit, "told by the provider")

    def begin_auto(self) -> None:
        """Begin to look for the best number of requests in flight."""
        self.auto = AdaptiveConcurrency(self._auto_changed)

    def _auto_changed(self, before: float, after: float, reason: str) -> None:
        self._changed("max_concurrency", before, after, reason)

    def due(self, permit: Permit, in_flight: int, now: float, found: FoundLimits) -> float:
        """Return when one more request may be in flight: `now`, or infinity when another has to end.

        Args:
            permit: the request's.
            in_flight: requests in flight.
            now: the time.
            found: tells how far apart requests are sent that come close to a limit, or are more than ever.
        """
        for limit in (self.given, self.told):
            if limit is not None and in_flight >= limit:
                return math.inf
        if not permit.auto or self.auto is None:
            return now
        best, grows = self.auto.limit, in_flight >= self.auto.carried
        if in_flight >= best:
            self.auto.wanted = True
            return math.inf
        if not grows and in_flight < best - 1:
            return now
        due = max(now, found.paced(best) if grows else found.apart(max(1, best - 1)))
        self.auto.wanted = self.auto.wanted or due > now
        return due

    def crowded(self, wave: Wave) -> None:
        """Lower the `"auto"` limit: the number in flight may be the reason of a wave of refusals."""
        if self.auto is not None:
            self.auto.rejected(wave.sent_at, wave.at, wave.beside, wave.wait, sure=wave.sure)

    def acquit(self) -> None:
        """Undo the cuts of the `"auto"` limit: the number in flight was no reason of the refusals."""
        if self.auto is not None:
            self.auto.acquit()
