"""Seconds of CPU and of the wall, and bytes of memory, taken alike for each contender."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

__all__ = ["Sample", "Series", "peak_megabytes", "per_item", "rotated", "settle", "stopwatch"]

T = TypeVar("T")


@dataclass(slots=True)
class Sample:
    """Hold one measurement, in seconds; `cpu` is that of the process, its threads and its descendants."""

    cpu: float = 0.0
    wall: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Sample]:
    """Measure the block; the sample is filled in when the block ends."""
    sample = Sample()
    wall, cpu = time.perf_counter(), time.process_time() + _cpu_of_descendants()
    yield sample
    sample.cpu = time.process_time() + _cpu_of_descendants() - cpu
    sample.wall = time.perf_counter() - wall


def _cpu_of_descendants() -> float:
    """Return the CPU seconds of all processes below this one, where Linux tells; Ray has several."""
    root = Path("/proc")
    if not root.exists():
        return 0.0
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in root.glob("[0-9]*/stat"):
        try:
            # The second field is the program's name in parentheses, and may have spaces: proc(5).
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    found = {os.getpid()}
    for _ in parents:
        below = {pid for pid, parent in parents.items() if parent in found} - found
        if not below:
            break
        found |= below
    return sum(ticks[pid] for pid in found - {os.getpid()}) / os.sysconf("SC_CLK_TCK")


def peak_megabytes() -> float:
    """Return the most memory that this process has had so far, imports included, in millions of bytes."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e6


def settle() -> None:
    """Collect garbage and freeze everything else.

    Collection stays on during the measurement: the garbage of a contender is part of its cost. Objects that
    were alive before (imports, inputs) are not.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True)
class Series:
    """Hold one figure's value in each round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The value that stands for all."""
        return median(self.values)

    @property
    def min(self) -> float:
        """The least disturbed round, for a cost."""
        return min(self.values)

    @property
    def max(self) -> float:
        """The most disturbed round, for a cost."""
        return max(self.values)

    def over(self, reference: Series) -> Series:
        """Return the ratios to `reference`, round by round, for the rounds that both have."""
        pairs = zip(self.values, reference.values, strict=False)
        return Series(tuple(mine / other for mine, other in pairs))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "median": self.median,
            "min": self.min,
            "max": self.max,
            "values": list(self.values),
        }


def per_item(seconds: Sequence[float], items: int) -> Series:
    """Return microseconds an item."""
    return Series(tuple(value / items * 1e6 for value in seconds))


def rotated(contenders: Sequence[T], round_number: int) -> list[T]:
    """Return the contenders in another order for each round: the first one has a colder cache."""
    start = round_number % len(contenders)
    return [*contenders[start:], *contenders[:start]]
