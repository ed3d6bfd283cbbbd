"""A row on its way from the input to the output."""

from __future__ import annotations

from typing import Any

from batchrt.files import BadRow, Row

__all__ = ["Entry", "without_traces"]


class Entry:
    """Hold a row and what became of it.

    Attributes:
        row: as it was read.
        output: the answer, or `None`.
        error: why there is none, or why it is not good, or `None`.
        finish_reason: why the model's answer ended, or `None`.
        ended: whether there will be nothing else.
    """

    __slots__ = ("ended", "error", "finish_reason", "output", "row")

    def __init__(self, row: Row | BadRow) -> None:
        self.row: Row | BadRow = row
        self.output: Any = None
        self.error: Exception | None = None
        self.finish_reason: str | None = None
        self.ended: bool = False

    def fail(self, error: Exception) -> None:
        """End with `error`, of which only the message is of use from now on."""
        self.error = without_traces(error)
        self.ended = True


def without_traces(error: Exception) -> Exception:
    """Return `error` without its traceback, and without what led to it.

    A traceback holds the frames of the call, which hold the row, which holds the error: a cycle that keeps
    the row with all its columns until a garbage collection, and those are rare while a job runs.
    """
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        chain += (link.__cause__, link.__context__)
        if isinstance(link, BaseExceptionGroup):
            chain += link.exceptions
        link.__traceback__ = None
    error.__cause__ = error.__context__ = None
    return error
