"""Time and chance, both of which a caller can replace.

Monotonic time and sleeping are the event loop's own, so that Trio's `MockClock` moves a whole run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import anyio
from anyio.lowlevel import RunVar

__all__ = ["Clock", "clock_time", "common_offset"]

_offset: Final[RunVar[float]] = RunVar("batchrt_common_offset")


def _system_random() -> Callable[[], float]:
    # A generator with a state of its own would cost each run more to seed than all of its steps to build, and
    # most runs draw nothing.
    return random.SystemRandom().random


def _system_time() -> float:
    return time.time()  # noqa: TID251  here it may be named


@dataclass(frozen=True, slots=True)
class Clock:
    """Tell the time and draw random numbers.

    Attributes:
        random: gives a float in [0, 1); jitter is drawn from it.
        wall: gives seconds since the epoch; only a provider's HTTP dates are read against it.
    """

    random: Callable[[], float] = field(default_factory=_system_random)
    wall: Callable[[], float] = _system_time

    def now(self) -> float:
        """Seconds on the event loop's monotonic clock."""
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Wait; cancellable, and a checkpoint even for 0."""
        await anyio.sleep(seconds)


def common_offset() -> float:
    """Return the difference between the running loop's time and a time that all event loops have in common.

    Each loop's clock has its own zero. Shared state, such as a quota, needs one time; of a loop whose
    time is virtual the differences stay virtual.
    """
    offset = _offset.get(None)
    if offset is None:
        offset = time.monotonic() - anyio.current_time()
        _offset.set(offset)
    return offset


def clock_time(wall: float) -> str:
    """Write seconds since the epoch as a time of day; those beyond any calendar as seconds."""
    try:
        return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{wall:g} s after 1970"
