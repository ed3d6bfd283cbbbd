"""Sampled sources: some rows of another source, drawn at random."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from random import Random
from typing import Any

from batchrt.errors import InputError
from batchrt.files.rows import BadRow, Row
from batchrt.files.source import Source

__all__ = ["SampledSource"]


class SampledSource(Source):
    """Draw `size` rows of `source`, each with the same chance, and yield them in their order.

    Reads the source to its end before the first row, which works for pipes too, and holds `size` rows in
    memory (reservoir sampling, Vitter's algorithm R). The same seed draws the same rows of the same input.

    Args:
        source: the rows; closed with this source.
        size: the most rows to draw.
        seed: of the random numbers.
        limit: draw from the first `limit` rows; from all by default.
    """

    def __init__(self, source: Source, size: int, *, seed: int = 0, limit: int | None = None) -> None:
        super().__init__(source.path, source.format, source.columns, self._drawn(size, seed))
        self.paths: tuple[str, ...] = source.paths
        self.is_table: bool = source.is_table
        self.delimiter: str | None = source.delimiter
        self.arrow_types: Mapping[str, Any] = source.arrow_types
        self.is_marked: bool = source.is_marked
        self._source = source
        self._size = size
        self._limit = limit

    def close(self) -> None:
        """Close the source. Iteration ends."""
        super().close()
        self._source.close()

    @property
    def fraction_read(self) -> float | None:
        """Always `None`: the first row waits for the last one to be read."""
        return None

    def is_same_file(self, other: os.stat_result) -> bool:
        """Return whether `other` is a file that is read, by any name or link."""
        return self._source.is_same_file(other)

    def survey(self, limit: int | None = None) -> tuple[str, ...]:  # noqa: ARG002  a drawn row may be any
        """Return the columns of all rows, as far as they can be known beforehand."""
        return self._source.survey(self._limit)

    def look_ahead(self, names: Iterable[str]) -> set[str]:
        """Return the `names` that are columns, as the source does, before rows are drawn."""
        return self._source.look_ahead(names)

    def count(self, most: int) -> int | None:
        """Return the number of rows that will be drawn, if the source is small."""
        rows = self._source.count(max(most, self._size))
        return None if rows is None else min(rows, self._size, self._limit or rows)

    def row_error(self, row: Row | BadRow, problem: str, *, column: str | None = None) -> InputError:
        """Return an error about a row, with the row's place."""
        return self._source.row_error(row, problem, column=column)

    def _drawn(self, size: int, seed: int) -> Iterator[Row | BadRow]:
        draw = Random(seed).randrange  # noqa: S311  no secret
        kept: list[Row | BadRow] = []
        most = None if self._limit is None else min(self._limit, sys.maxsize)
        for place, row in enumerate(islice(self._source, most)):
            if place < size:
                kept.append(row)
            else:
                chosen = draw(place + 1)
                if chosen < size:
                    kept[chosen] = row
        self.is_broken: bool = self._source.is_broken
        yield from sorted(kept, key=lambda row: row.number)
