"""A row on its way from the input to the output."""

from __future__ import annotations

from typing import Any

from batchrt.jobs import BadRow, Row

__all__ = ["Entry"]


class Entry:
    """Hold a row and what became of it.

    Attributes:
        row: as it was read.
        output: the answer, or `None`.
        error: why there is none, or `None`.
        ended: whether there will be nothing else.
    """

    __slots__ = ("ended", "error", "output", "row")

    def __init__(self, row: Row | BadRow) -> None:
        self.row: Row | BadRow = row
        self.output: Any = None
        self.error: Exception | None = None
        self.ended: bool = False
