"""The wave of refusals: those of requests that were sent before the first of them was known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from batchrt.limits.permit import Permit

__all__ = ["Wave", "is_exact"]


def is_exact(wait: float) -> bool:
    """Whether the `wait` that a refusal names was not rounded up to whole seconds; not without one."""
    return 0 < wait < math.inf and wait != round(wait)


class Wave(NamedTuple):
    """Hold what the refusals of one wave have in common.

    Attributes:
        beside: the fewest that one of them was sent beside.
        most: the most that one of them was sent beside.
        wait: the longest wait that was asked for.
        least_wait: the shortest wait that was asked for.
        at: when the last of them came.
        sent_at: when the first of them was sent.
        sure: the number in flight is the reason, not one of several.
    """

    beside: int
    most: int
    wait: float
    least_wait: float
    at: float
    sent_at: float
    sure: bool = False

    @classmethod
    def of(cls, permit: Permit, wait: float, now: float) -> Wave:
        """Return the wave that one refusal begins, which came just now."""
        return cls(permit.beside, permit.beside, wait, wait, now, permit.sent_at)

    def joined(self, permit: Permit, wait: float, now: float) -> Wave:
        """Return it with one refusal more, which came just now."""
        return self._replace(
            beside=min(self.beside, permit.beside),
            most=max(self.most, permit.beside),
            wait=max(self.wait, wait),
            least_wait=min(self.least_wait, wait),
            at=now,
        )
