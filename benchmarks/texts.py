"""The texts that are embedded: about as long as a dictionary's definitions, or shorter."""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Iterator
from pathlib import Path

__all__ = ["VARIABLE", "glosses", "origin", "short_texts"]

VARIABLE = "BATCHRT_BENCHMARK_TEXTS"
"""The environment variable that may name a CSV file to take the definitions from."""
_COLUMNS = ("text", "definition", "gloss")

_SEED = 7
_CONSONANTS, _VOWELS = "bcdfglmnprstv", "aeio"
_JOINTS = ("of", "the", "a", "in", "or", "and", "to", "with", "for", "that", "as", "by")
# WordNet's definitions: half of them have fifty characters or less, one in a hundred two hundred.
_MEDIAN_CHARACTERS, _SIGMA, _MOST_CHARACTERS = 50, 0.6, 340


def origin() -> str:
    """Say where the definitions come from."""
    named = os.environ.get(VARIABLE)
    return Path(named).name if named else f"generated, seed {_SEED}"


def glosses(count: int) -> list[str]:
    """Return `count` definitions: those of the CSV file, if one is named, or made up.

    Raises:
        ValueError: the file has no column for them, or too few rows.
    """
    named = os.environ.get(VARIABLE)
    return _from_csv(Path(named), count) if named else list(_made_up(count))


def short_texts(count: int) -> list[str]:
    """Return `count` texts of a few words, no two alike."""
    draw = random.Random(_SEED)
    words = _vocabulary(draw)
    return [f"{draw.choice(words)} {draw.choice(words)} {number}" for number in range(count)]


def _made_up(count: int) -> Iterator[str]:
    draw = random.Random(_SEED)
    words = _vocabulary(draw)
    for _ in range(count):
        length = min(_MOST_CHARACTERS, _MEDIAN_CHARACTERS * draw.lognormvariate(0, _SIGMA))
        said, size = [draw.choice(words), draw.choice(words)], 0
        while size < length:
            said.append(draw.choice(_JOINTS if draw.random() < 0.4 else words))
            size = sum(map(len, said)) + len(said) - 1
        yield " ".join(said)


def _vocabulary(draw: random.Random) -> list[str]:
    return ["".join(_syllable(draw) for _ in range(draw.randint(2, 4))) for _ in range(5_000)]


def _syllable(draw: random.Random) -> str:
    return draw.choice(_CONSONANTS) + draw.choice(_VOWELS)


def _from_csv(path: Path, count: int) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        column = next((name for name in _COLUMNS if name in (rows.fieldnames or ())), None)
        if column is None:
            raise ValueError(f"{path.name} has none of the columns {', '.join(_COLUMNS)}")
        found = [row[column] for row, _ in zip(rows, range(count), strict=False)]
    if len(found) < count:
        raise ValueError(f"{path.name} has {len(found)} rows, and {count} are wanted")
    return found
