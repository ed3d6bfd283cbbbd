"""The chain of the lists suite: three steps that only wait, and what is noted of them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from statistics import median, quantiles

__all__ = ["Load", "Steps"]

PREP, SLOW_PREP, SLOW_SHARE = 0.02, 1.0, 0.02
LIST, AN_ITEM = 0.05, 0.0002
STORE = 0.005
_SEED = 7


@dataclass(frozen=True, slots=True)
class Load:
    """Say how many items there are, how many calls may run at once, and how long a list may be."""

    size: int
    in_flight: int
    items: int

    @property
    def name(self) -> str:
        """The case's title."""
        return (
            f"{self.items:,} items, {SLOW_SHARE:.0%} of them {SLOW_PREP / PREP:.0f} x slower in the first "
            f"step, lists of {self.size}, {self.in_flight} in flight"
        )


class Steps:
    """Wait as a service's steps do, and keep count.

    Each call of a method is one that the cap is about: `prep` and `store` for an item, `embed` for a list.
    """

    def __init__(self, load: Load) -> None:
        draw = random.Random(_SEED)
        self._load = load
        self._seconds = [SLOW_PREP if draw.random() < SLOW_SHARE else PREP for _ in range(load.items)]
        self._running = self._peak = 0
        self._begun = 0.0
        self._ready = [0.0] * load.items
        self._waits = [0.0] * load.items
        self._lists: list[tuple[float, int]] = []

    async def prep(self, x: int) -> int:
        """Take one item, a few of them slowly."""
        self._begun = _now()
        await self._wait(self._seconds[x])
        self._ready[x] = _now()
        return x

    async def embed(self, values: list[int]) -> list[int]:
        """Take a list: a call costs something, and so does each item."""
        now = _now()
        self._lists.append((now, len(values)))
        for x in values:
            self._waits[x] = now - self._ready[x]
        await self._wait(LIST + AN_ITEM * len(values))
        return [2 * x for x in values]

    async def store(self, x: int) -> int:
        """Take one item, always as fast."""
        await self._wait(STORE)
        return x + 1

    async def _wait(self, seconds: float) -> None:
        self._running += 1
        self._peak = max(self._peak, self._running)
        await asyncio.sleep(seconds)
        self._running -= 1

    def figures(self) -> dict[str, float]:
        """Return what was seen: calls, fill in percent, waits in milliseconds.

        "Under load" are lists that were sent before the last item began its first step.
        """
        sizes = [size for _, size in self._lists]
        loaded = [size for sent, size in self._lists if sent < self._begun] or sizes[:1]
        return {
            "calls": len(sizes),
            "fill": self._fill(sizes),
            "fill_loaded": self._fill(loaded),
            "wait": median(self._waits) * 1e3,
            "wait_p99": quantiles(self._waits, n=100)[-1] * 1e3,
            "peak": self._peak,
        }

    def _fill(self, sizes: list[int]) -> float:
        return 100 * sum(sizes) / len(sizes) / self._load.size


def _now() -> float:
    return asyncio.get_running_loop().time()
