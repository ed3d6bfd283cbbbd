"""Lines for the person who runs the command; stdout is for rows."""

from __future__ import annotations

import contextlib
from typing import Final

import typer

from batchrt.files.cells import shorten

__all__ = ["complain", "say"]

_LONGEST: Final = 1200
"""Characters: less than a terminal of 80 times 24 shows at once."""


def say(text: str) -> None:
    """Write `text` to stderr; a stderr that has gone is no reason to fail."""
    with contextlib.suppress(OSError):
        typer.echo(text, err=True)


def complain(text: str) -> None:
    """Write one line to stderr about what is wrong; of a very long one its beginning and its end."""
    say(f"batchrt: {shorten(' '.join(text.split()), _LONGEST)}")
