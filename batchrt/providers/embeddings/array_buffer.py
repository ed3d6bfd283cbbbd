"""Vectors as the rows of a numpy matrix, and the texts they are for."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from batchrt.batching.list_call import ListCall, Part, carry
from batchrt.providers.embeddings.response_json import FLOAT_BYTES, Store, Stored
from batchrt.runtime.exception_notes import add_note
from batchrt.runtime.strand import Strand

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix: TypeAlias = npt.NDArray[np.float32]

__all__ = ["Distinct", "Lists", "Rows", "fill", "numpy"]

_COPIED: Final = 1024
"""Rows that are copied at a time: what numpy takes out of a matrix by places is a copy first."""


def numpy() -> ModuleType:
    """Return numpy.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError(
            "a matrix needs numpy: install batchrt[numpy], or use embed_documents for lists of numbers"
        ) from error
    return np


class _Landed:
    """Stand for a vector that is in the matrix already, in a row that may not be its own."""

    __slots__ = ("row", "size")

    def __init__(self, row: int, size: int) -> None:
        self.row = row
        self.size = size

    def __len__(self) -> int:
        return self.size


class Rows:
    """Fill a matrix row by row; it is made for the first vector.

    Args:
        height: how many rows there are.
        width: how wide they are if no vector comes.
    """

    def __init__(self, height: int, width: int | None) -> None:
        self._np: Any = numpy()
        self._missing = bytearray(b"\1") * height
        self._width = width or 0
        self._matrix: Any = None
        self._bytes = memoryview(bytearray())
        self._size = 0  # of a row, in bytes

    def land(self, row: int, vector: bytes) -> bytes | Stored:
        """Put a vector where it may belong, if it fits: `put` says whether it does."""
        if self._matrix is None:
            self._make(len(vector))
        if len(vector) != self._size:
            return vector
        self._write(row, vector)
        return _Landed(row, len(vector))

    def put(self, places: Sequence[int], vectors: Sequence[Any]) -> None:
        """Fill rows with little-endian float32, or with what `land` gave for it; leave errors out.

        All that are put are of one size.
        """
        # An answer may have them in another order: whoever is to move must not be overwritten before.
        moving = {
            vector.row: bytes(self._row(vector.row))
            for row, vector in zip(places, vectors, strict=True)
            if isinstance(vector, _Landed) and vector.row != row
        }
        for row, vector in zip(places, vectors, strict=True):
            if isinstance(vector, Exception):
                continue
            if len(vector) != self._size:
                self._make(len(vector))  # the vector that landed first was not as the others are
            if not isinstance(vector, _Landed):
                self._write(row, vector)
            elif vector.row != row:
                self._write(row, moving[vector.row])
            self._missing[row] = 0

    def _make(self, size: int) -> None:
        self._size = size
        self._matrix = self._np.empty((len(self._missing), size // FLOAT_BYTES), dtype="f4")
        self._bytes = memoryview(self._matrix).cast("B")

    def _row(self, row: int) -> memoryview:
        return self._bytes[row * self._size : (row + 1) * self._size]

    def _write(self, row: int, vector: bytes) -> None:
        self._bytes[row * self._size : (row + 1) * self._size] = vector

    def copy(self, rows: Sequence[int], originals: Sequence[int]) -> None:
        """Fill `rows` with what is in `originals`."""
        matrix = self._matrix
        for start in range(0, len(rows) if matrix is not None else 0, _COPIED):
            some = slice(start, start + _COPIED)
            matrix[rows[some]] = matrix[originals[some]]
        for row, original in zip(rows, originals, strict=True):
            self._missing[row] = self._missing[original]

    def missing(self) -> list[int]:
        """Return the rows that were not filled."""
        missing = self._missing
        return [row for row in range(len(missing)) if missing[row]] if 1 in missing else []

    def end(self) -> Matrix:
        """Return the matrix, with NaN in the rows that were not filled."""
        self._bytes.release()
        matrix: Any = self._matrix
        if matrix is None or self._missing.count(1) == len(self._missing):
            matrix = self._np.empty((len(self._missing), self._width), dtype="f4")
        elif sys.byteorder == "big":
            matrix.byteswap(inplace=True)
        if missing := self.missing():
            matrix[missing] = self._np.nan
        return cast("Matrix", matrix)


class Lists(NamedTuple):
    """Say how lists are embedded.

    Attributes:
        call: their packing, and what is done with those that fail.
        embed: gives the vectors of one; see `Store`.
    """

    call: ListCall
    embed: Callable[[Sequence[str], Strand, Store], Awaitable[Sequence[Any]]]


class Distinct:
    """Look texts over: what is wrong with one by itself, and which ones are equal.

    Attributes:
        count: how many were added; the next one's row.
        texts: those to send.
        rows: the rows of `texts`.
        copies: the rows of those that are equal to one before.
        originals: whose vectors the `copies` get, row by row.
        errors: why a text has no vector, by its row.
    """

    def __init__(self, call: ListCall) -> None:
        self._prepare = call.prepare
        self._known: dict[str, int] = {}
        self.count: int = 0
        self.texts: list[str] = []
        self.rows: array[int] = array("q")
        self.copies: array[int] = array("q")
        self.originals: array[int] = array("q")
        self.errors: dict[int, Exception] = {}

    def add(self, text: str) -> None:
        """Take one more text in."""
        row = self.count
        self.count += 1
        try:
            if self._prepare is not None:
                text = self._prepare(text)
        except Exception as error:  # noqa: BLE001  this text's outcome
            self.errors[row] = error
            return
        first = self._known.setdefault(text, row)
        if first == row:
            self.texts.append(text)
            self.rows.append(row)
        else:
            self.copies.append(row)
            self.originals.append(first)

    def seal(self) -> None:
        """Let go of what only telling equal texts apart needed."""
        self._known = {}

    def end(self, rows: Rows) -> Matrix:
        """Return the matrix once `rows` is filled; copied texts share their errors too."""
        rows.copy(self.copies, self.originals)
        for row, original in zip(self.copies, self.originals, strict=True) if self.errors else ():
            if original in self.errors:
                self.errors[row] = self.errors[original]
        return rows.end()

    def raise_first(self, start: int = 0) -> None:
        """Raise the error of the first text that has one; the first text of all is number `start`."""
        if self.errors:
            row = min(self.errors)
            error = self.errors[row]
            add_note(error, f"batchrt: text {start + row} failed; the rest was cancelled")
            raise error


async def fill(rows: Rows, distinct: Distinct, lists: Lists, strand: Strand, span: range) -> None:
    """Have a span of the texts of `distinct` embedded as one list, and the vectors put into their rows."""
    item, texts, places = strand.item, distinct.texts, distinct.rows

    async def embed(sent: Sequence[int], strand: Strand) -> Sequence[Any]:
        def store(number: int, vector: bytes) -> bytes | Stored:
            return rows.land(places[sent[number]], vector) if number < len(sent) else vector

        return await lists.embed([texts[place] for place in sent], strand, store)

    def give(part: Part) -> None:
        given = places[span.start + part.start : span.start + part.stop]
        item.retries += part.book.retries
        item.add_bills(part.book.bills)
        item.add_request(part.book.request_seconds)
        results: Sequence[Any] = [part.error] * len(given) if part.error else part.results
        rows.put(given, results)
        for row, result in zip(given, results, strict=True):
            if isinstance(result, Exception):
                distinct.errors[row] = result

    cost = lists.call.cost
    by_place = replace(lists.call, call=embed, cost=cost and (lambda place: cost(texts[place])))
    if span:
        await carry(by_place, span, strand, give)
