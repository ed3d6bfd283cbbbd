"""What is noted on an exception that is somebody else's."""

from __future__ import annotations

from contextlib import suppress

__all__ = ["add_note"]


def add_note(error: BaseException, note: str) -> None:
    """Note something on `error`, once, and only if it can be: an exception may be frozen."""
    if note not in getattr(error, "__notes__", ()):
        with suppress(Exception):
            error.add_note(note)
