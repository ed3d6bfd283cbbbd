"""Seconds of CPU and of the wall, taken alike for everybody."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

__all__ = ["Sample", "Series", "per_item", "rotated", "settle", "stopwatch"]

T = TypeVar("T")


@dataclass(slots=True)
class Sample:
    """Hold one measurement, in seconds; `cpu` is the whole process's, its threads included."""

    cpu: float = 0.0
    wall: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Sample]:
    """Measure the block; the sample is filled in when the block ends."""
    sample = Sample()
    wall, cpu = time.perf_counter(), time.process_time()
    yield sample
    sample.cpu = time.process_time() - cpu
    sample.wall = time.perf_counter() - wall


def settle() -> None:
    """Clear away what is garbage and set aside what is not.

    Collection stays on while something is measured: what a contender leaves for the collector is
    part of its price. What was there before (imports, other contenders, inputs) is not.
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
    """Return the contenders in another order for each round: who comes first has a colder cache."""
    start = round_number % len(contenders)
    return [*contenders[start:], *contenders[:start]]
