"""Dice of a simulation: draws that are the same on every Python."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Dice", "pick"]

T = TypeVar("T")


class Dice:
    """Draw from a seed, by `random()` alone: the other methods of `random.Random` differ between versions."""

    def __init__(self, seed: object) -> None:
        self._draw = random.Random(f"{seed}").random

    def chance(self, share: float) -> bool:
        return self._draw() < share

    def number(self, least: int, most: int) -> int:
        return least + int(self._draw() * (most - least + 1))

    def one_of(self, values: Sequence[T]) -> T:
        return values[int(self._draw() * len(values))]


def pick(values: Sequence[T], *key: object) -> T:
    """Return the value that belongs to `key`, the same one each time."""
    return values[zlib.crc32("/".join(map(str, key)).encode()) % len(values)]
