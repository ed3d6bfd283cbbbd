"""Lines for the person who runs the command; stdout is for rows."""

from __future__ import annotations

import contextlib

import typer

__all__ = ["complain", "say"]


def say(text: str) -> None:
    """Write `text` to stderr; a stderr that has gone is no reason to fail."""
    with contextlib.suppress(OSError):
        typer.echo(text, err=True)


def complain(text: str) -> None:
    """Write one line to stderr about what is wrong."""
    say(f"batchrt: {' '.join(text.split())}")
