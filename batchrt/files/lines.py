"""Lines of a stream, bounded in length."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final, Protocol, TypeVar

__all__ = ["MAX_RECORD", "bounded_lines", "skip_line"]

MAX_RECORD: Final = 64 * 1024 * 1024
"""Characters (bytes for JSONL) in one row. A longer one is an unclosed quote or not a file of rows: no model
reads that much."""

T_co = TypeVar("T_co", str, bytes, covariant=True)
T = TypeVar("T", str, bytes)


class _Readable(Protocol[T_co]):
    def readline(self, size: int = -1, /) -> T_co:
        """Return a line with its end, or its first `size` characters."""


def bounded_lines(stream: _Readable[T], end: T) -> Iterator[T]:
    """Yield the lines of `stream`; a line longer than `MAX_RECORD` is yielded in pieces.

    A piece is one character longer than that, and has no line end unless it is the last of its line.

    Args:
        stream: a text or binary stream.
        end: its value at the end of the file.
    """
    return iter(partial(stream.readline, MAX_RECORD + 1), end)


def skip_line(lines: Iterator[T], ends: tuple[T, ...]) -> None:
    """Read and drop the remaining pieces of a line that is too long."""
    for piece in lines:
        if piece.endswith(ends):
            return
