"""Seeded random numbers: hashes of their purpose, the same in every run."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

__all__ = ["SeededDice", "digest_of", "digests_of", "draw"]

_FULL = 1 << 64


def digest_of(data: bytes) -> int:
    """Return 64 bits of the hash of `data`."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def digests_of(inputs: Sequence[str | Sequence[int]]) -> array[int]:
    """Return 64 bits of the hash of each text or token list."""
    return array(
        "Q", (digest_of((text if isinstance(text, str) else repr(text)).encode()) for text in inputs)
    )


def draw(*purpose: object) -> float:
    """Draw a number from [0, 1) that depends on `purpose` alone."""
    return digest_of(repr(purpose).encode()) / _FULL


class SeededDice:
    """A sequence of numbers that the `seed` determines on every Python.

    `random.Random` promises that for `random()` alone, and takes ten times as long to set up.
    """

    __slots__ = ("_rolls", "_seed")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rolls = 0

    def roll(self) -> int:
        """Return the next 64 bits."""
        self._rolls += 1
        return digest_of(b"%d/%d" % (self._seed, self._rolls))

    def below(self, sides: int) -> int:
        """Return an integer from 0 to `sides - 1`."""
        return self.roll() % sides

    def between(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return low + self.below(high - low + 1)
