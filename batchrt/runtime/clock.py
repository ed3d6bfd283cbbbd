"""Time and chance, both of which a caller can replace.

Monotonic time and sleeping are the event loop's own, so that Trio's `MockClock` moves a whole run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

__all__ = ["Clock"]


def _system_random() -> Callable[[], float]:
    return random.Random().random  # noqa: S311  jitter, not secrets


@dataclass(frozen=True, slots=True)
class Clock:
    """Tell the time and draw random numbers.

    Attributes:
        random: gives a float in [0, 1); jitter is drawn from it.
        wall: gives seconds since the epoch; only a provider's HTTP dates are read against it.
    """

    random: Callable[[], float] = field(default_factory=_system_random)
    wall: Callable[[], float] = time.time  # noqa: TID251  here it may be named

    def now(self) -> float:
        """Seconds on the event loop's monotonic clock."""
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Wait; cancellable, and a checkpoint even for 0."""
        await anyio.sleep(seconds)
