"""Schedules: numbers that change at given seconds."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

__all__ = ["Schedule", "Scripted", "check_scripted"]

Scripted: TypeAlias = float | Sequence[tuple[float, float]]
"""A number, or steps `(second, number)`, the first at 0: `[(0, 600), (60, 300)]` halves after a minute.
Seconds count from the provider's first request."""


def check_scripted(
    name: str, given: Scripted, *, whole: bool = False, zero: bool = False, most: float = math.inf
) -> Scripted:
    """Return `given` as an immutable value; ValueError, which begins with `name`, if it is invalid.

    Numbers are finite, above 0 or with `zero` not below it, `most` at most, and integers if they must be
    `whole`; seconds rise.
    """
    try:
        made = given if isinstance(given, int | float) else tuple((at, number) for at, number in given)
        sane = _are_sane(_steps(made), whole=whole, zero=zero, most=most)
    except (TypeError, ValueError):
        sane = False
    if not sane:
        kind = "a whole number" if whole else "a number"
        span = f"from {'0' if zero else 'above 0'} to {most:g}" if most < math.inf else ""
        span = span or ("not below 0" if zero else "above 0")
        raise ValueError(
            f"{name} must be {kind} {span}, or steps (second, number) of which the first is at 0; "
            f"not {given!r}"
        )
    return made


def _are_sane(steps: Sequence[tuple[float, float]], *, whole: bool, zero: bool, most: float) -> bool:
    return (
        bool(steps)
        and steps[0][0] == 0
        and all(at < later < math.inf for (at, _), (later, _) in pairwise(steps))
        and all(0 <= number < math.inf and number <= most for _, number in steps)
        and all((zero or number) and not (whole and number % 1) for _, number in steps)
    )


def _steps(scripted: Scripted) -> Sequence[tuple[float, float]]:
    return ((0.0, scripted),) if isinstance(scripted, int | float) else scripted


class Schedule:
    """A checked `Scripted` as a step function of time."""

    __slots__ = ("_numbers", "_times")

    def __init__(self, scripted: Scripted) -> None:
        steps = _steps(scripted)
        self._times = [float(at) for at, _ in steps]
        self._numbers = [float(number) for _, number in steps]

    def at(self, second: float) -> float:
        """Return the number that holds at `second`; before 0 the first."""
        return self._numbers[self._index(second)]

    def change_after(self, second: float) -> float:
        """Return the second of the next change, infinity if there is none."""
        return self._end(self._index(second))

    def pieces(self, since: float, until: float) -> Iterator[tuple[float, float]]:
        """Yield seconds and number of each piece between the two, the one that holds at `until` included."""
        for index in range(self._index(since), len(self._times)):
            following = self._end(index)
            yield max(0.0, min(following, until) - since), self._numbers[index]
            if following > until:
                return
            since = following

    def area(self, since: float, until: float) -> float:
        """Return number times seconds, summed between the two."""
        # `sum` rounds in one way up to Python 3.11 and in another after it.
        return math.fsum(seconds * number for seconds, number in self.pieces(since, until))

    def minus(self, other: Schedule) -> Schedule:
        """Return the difference to `other` at each second; 0 where it is negative."""
        seconds = sorted({*self._times, *other._times})
        return Schedule([(second, max(0.0, self.at(second) - other.at(second))) for second in seconds])

    def second_of(self, area: float, since: float = 0.0) -> float:
        """Return the second at which the area from `since` on reaches `area`; infinity if it never does."""
        for index in range(self._index(since), len(self._times)):
            following = self._end(index)
            number, begin = self._numbers[index], max(since, self._times[index])
            if number and begin + area / number <= following:
                return begin + area / number
            if following < math.inf:
                area -= number * (following - begin)
        return math.inf

    def _index(self, second: float) -> int:
        return max(0, bisect_right(self._times, second) - 1)

    def _end(self, index: int) -> float:
        return self._times[index + 1] if index + 1 < len(self._times) else math.inf
