"""The texts that are embedded: about as long as a dictionary's definitions."""

from __future__ import annotations

import random

__all__ = ["definitions"]

_SEED = 7
_CONSONANTS, _VOWELS = "bcdfglmnprstv", "aeio"
_JOINTS = ("of", "the", "a", "in", "or", "and", "to", "with", "for", "that", "as", "by")
# WordNet's definitions: half of them have fifty characters or less, one in a hundred two hundred.
_MEDIAN_CHARACTERS, _SIGMA, _MOST_CHARACTERS = 50, 0.6, 340


def definitions(count: int) -> list[str]:
    """Return `count` texts that are the same in every run, no two alike."""
    draw = random.Random(_SEED)
    words = ["".join(_syllable(draw) for _ in range(draw.randint(2, 4))) for _ in range(5_000)]
    return [f"{number}: {_definition(draw, words)}" for number in range(count)]


def _syllable(draw: random.Random) -> str:
    return draw.choice(_CONSONANTS) + draw.choice(_VOWELS)


def _definition(draw: random.Random, words: list[str]) -> str:
    length = min(_MOST_CHARACTERS, _MEDIAN_CHARACTERS * draw.lognormvariate(0, _SIGMA))
    chosen, size = [draw.choice(words), draw.choice(words)], 0
    while size < length:
        chosen.append(draw.choice(_JOINTS if draw.random() < 0.4 else words))
        size = sum(map(len, chosen)) + len(chosen) - 1
    return " ".join(chosen)
