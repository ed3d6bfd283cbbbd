"""Text blocks: rectangles of text with a middle column, put below or beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["TextBlock", "box", "side_by_side", "stacked"]

_GAP = 2
"""Blanks between blocks that are side by side."""


class TextBlock(NamedTuple):
    """Lines of equal length; lines to blocks above and below meet them at `middle`."""

    lines: list[str]
    middle: int

    @property
    def width(self) -> int:
        """The length of the lines."""
        return len(self.lines[0])


def box(text: str) -> TextBlock:
    """Return a text in a frame."""
    edge = f"+{'-' * (len(text) + 2)}+"
    return TextBlock([edge, f"| {text} |", edge], len(edge) // 2)


def stacked(blocks: Sequence[TextBlock]) -> TextBlock:
    """Return blocks one below the other, their middles in one column and joined by lines."""
    left = max(block.middle for block in blocks)
    width = left + max(block.width - block.middle for block in blocks)
    join = (" " * left + "|").ljust(width)
    lines: list[str] = []
    for block in blocks:
        if lines:
            lines.append(join)
        lines += [(" " * (left - block.middle) + line).ljust(width) for line in block.lines]
    return TextBlock(lines, left)


def side_by_side(blocks: Sequence[TextBlock], *, broken: bool = False) -> TextBlock:
    """Return blocks beside one another, joined by a line above and one below, `broken` or not."""
    height = max(len(block.lines) for block in blocks)
    columns: list[int] = []
    rows = [""] * height
    for block in blocks:
        begin = len(rows[0]) + (_GAP if rows[0] else 0)
        columns.append(begin + block.middle)
        down = (" " * block.middle + "|").ljust(block.width)
        for row in range(height):
            text = block.lines[row] if row < len(block.lines) else down
            rows[row] = rows[row].ljust(begin) + text
    width = len(rows[0])
    middle = (columns[0] + columns[-1]) // 2
    line = _joining(columns, width, "." if broken else "-")
    return TextBlock([line, _marks(columns, width), *rows, _marks(columns, width), line], middle)


def _joining(columns: Sequence[int], width: int, stroke: str) -> str:
    line = " " * columns[0] + stroke * (columns[-1] - columns[0] + 1)
    return "".join("+" if place in columns else mark for place, mark in enumerate(line)).ljust(width)


def _marks(columns: Sequence[int], width: int) -> str:
    return "".join("|" if place in columns else " " for place in range(width))
