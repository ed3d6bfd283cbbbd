"""The error of a command that cannot be carried out."""

from __future__ import annotations

__all__ = ["UsageProblem"]


class UsageProblem(Exception):  # noqa: N818  it is the user's and not the program's
    """Say in one line what has to be put right; exit code 2."""
