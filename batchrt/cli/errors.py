"""The error of a command that cannot be carried out."""

from __future__ import annotations

__all__ = ["UsageError"]


class UsageError(Exception):
    """A command that cannot be carried out as given; one line, exit code 2."""
