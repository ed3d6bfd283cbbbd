"""The error of a command that cannot be carried out."""

from __future__ import annotations

__all__ = ["UsageError", "option_of"]


class UsageError(Exception):
    """A command that cannot be carried out as given; one line, exit code 2."""


def option_of(name: str) -> str:
    """Return the option that sets the parameter `name`."""
    return f"--{name.replace('_', '-')}"
