"""The error of a command that cannot be carried out."""

from __future__ import annotations

from batchrt import InputError

__all__ = ["UsageError", "option_named", "option_of", "output_option_named"]


class UsageError(Exception):
    """A command that cannot be carried out as given; one line, exit code 2."""


def option_of(name: str) -> str:
    """Return the option that sets the parameter `name`."""
    return f"--{name.replace('_', '-')}"


def option_named(error: InputError) -> str:
    """Return the error's message with the option in place of the parameter that it names."""
    if error.parameter is None:
        return str(error)
    return str(error).replace(f"`{error.parameter}`", option_of(error.parameter))


def output_option_named(error: InputError) -> str:
    """Do `option_named` for an error of the output, whose format has an option of its own."""
    if error.parameter != "format":
        return option_named(error)
    return str(error).replace("`format`", "--output-format")
