"""Notes on exceptions of user code."""

from __future__ import annotations

from contextlib import suppress

__all__ = ["add_note"]


def add_note(error: BaseException, note: str) -> None:
    """Note something on `error`, once, and only if it can be.

    An exception may be frozen, and its attributes may be anything: asking for them may raise.
    """
    with suppress(Exception):
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
