"""What a suite hands back: tables of rows of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.measuring import Series

__all__ = ["Column", "Row", "Table"]


@dataclass(frozen=True, slots=True)
class Column:
    """Say how a figure is shown: under which heading, with how many decimals."""

    key: str
    heading: str
    digits: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """Hold what one contender measured in one case.

    Attributes:
        contender: who.
        loop: the event loop it ran on; empty where that means nothing.
        figures: each figure's values, by the key of its column.
        note: what the reader has to know, above all why figures are missing.
    """

    contender: str
    loop: str = ""
    figures: dict[str, Series] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "contender": self.contender,
            "loop": self.loop,
            "note": self.note,
            "figures": {key: series.to_dict() for key, series in self.figures.items()},
        }


@dataclass(frozen=True, slots=True)
class Table:
    """Hold one case: contenders that did the same work, side by side."""

    case: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    def figure(self, contender: str, key: str, loop: str) -> Series | None:
        """Return a figure, or `None` if it was not measured."""
        for row in self.rows:
            if (row.contender, row.loop) == (contender, loop):
                return row.figures.get(key)
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"case": self.case, "rows": [row.to_dict() for row in self.rows]}
