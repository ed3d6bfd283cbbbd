"""Values of options: texts of the command line, checked and read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn

from batchrt.cli.errors import UsageError

__all__ = [
    "READERS",
    "check_text",
    "read_concurrency",
    "read_delimiter",
    "read_headers",
    "read_options",
    "read_ray",
    "read_whole",
    "with_ray_address",
]

_MOST_DIGITS: Final = 20
_NOT_TEXT: Final = frozenset(
    (
        *("-o", "--output", "--schema", "-q", "--quiet", "--overwrite", "--fail-cut-off", "--flatten"),
        *("--retry-failed", "--fresh", "--journal", "--no-journal", "--unordered", "--follow"),
    )
)
"""Options whose value is a path, of any bytes, and flags that may stand before one."""
_DELIMITER_NAMES: Final = {"tab": "\t", "\\t": "\t"}


def check_text(arguments: Iterable[str]) -> None:
    """Check that `arguments` are text in the system's encoding, except paths.

    Raises:
        UsageError: one is not; names its option.
    """
    before = ""
    for argument in arguments:
        name, value = before, argument
        if argument.startswith("--"):
            name, _, value = argument.partition("=")
        elif argument.startswith("-") and len(argument) > 1:
            name, value = argument[:2], argument[2:]
        before = argument if argument.startswith("-") else ""
        if _is_text(value) and _is_text(name):
            continue
        if not _is_text(name) or (name.startswith("-") and name not in _NOT_TEXT and value[:1] != "@"):
            shown = name.encode("utf-8", "replace").decode()[:40]
            raise UsageError(
                f"{shown} is not in this system's encoding ({sys.getfilesystemencoding()}); "
                "write it in that, or in a file where one can be named"
            )


_RAY: Final = "--ray"
_RAY_ADDRESS: Final = re.compile(r"auto|local|ray://.+|[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+")


def with_ray_address(arguments: Sequence[str]) -> list[str]:
    """Return `arguments` with `local` behind a `--ray` that no address follows.

    An option with a value that may be left out would take the next argument for it, as a file's name.
    """
    spelled: list[str] = []
    for place, argument in enumerate(arguments):
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        if argument == "--":
            return [*spelled, *arguments[place:]]
        bare = argument == _RAY and not _RAY_ADDRESS.fullmatch(following)
        spelled.append(f"{_RAY}=local" if bare else argument)
    return spelled


def read_ray(option: str | None) -> str | None:
    """Return the address that `--ray` names.

    Raises:
        UsageError: it is none.
    """
    if option is None or _RAY_ADDRESS.fullmatch(option):
        return option
    raise UsageError(f"--ray must be auto, HOST:PORT, ray://HOST:PORT or nothing, not {option[:60]!r}")


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:  # bytes that Python could not decode
        return False
    return True


def read_concurrency(option: str) -> int | Literal["auto"]:
    """Return the value of `--max-concurrency`.

    Raises:
        UsageError: it is neither.
    """
    if option == "auto":
        return "auto"
    number = read_whole(option)
    if number is not None:
        return number
    raise UsageError(f"--max-concurrency must be a positive whole number or auto, not {option[:40]!r}")


def read_whole(option: str) -> int | None:
    """Return a positive whole number, at most `sys.maxsize`; `None` for any other text."""
    if not (option.isascii() and option.isdecimal()):
        return None
    digits = option.lstrip("0")
    number = sys.maxsize if len(digits) > _MOST_DIGITS else min(int(digits or "0"), sys.maxsize)
    return number or None


def read_delimiter(option: str | None) -> str | None:
    """Return the character that `--delimiter` names."""
    return None if option is None else _DELIMITER_NAMES.get(option.lower(), option)


def read_headers(given: Iterable[str] | None) -> dict[str, str]:
    """Return the headers of `--header`. A value, which may be a key, is in no message.

    Raises:
        UsageError: there is no name.
    """
    headers: dict[str, str] = {}
    for header in given or ():
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise UsageError("--header must be NAME:VALUE, as 'X-Team: search'")
        headers[name.strip()] = value.strip()
    return headers


def read_options(given: Iterable[str] | None) -> dict[str, Any]:
    """Return the options of `--option`: JSON values, or the text where it is not JSON.

    Raises:
        UsageError: there is no name, or a number that JSON has not.
    """
    options: dict[str, Any] = {}
    for option in given or ():
        name, equals, text = option.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--option must be KEY=VALUE, as top_p=0.9, not {option[:40]!r}")
        options[name.strip()] = _value(text, name.strip())
    return options


def _value(text: str, name: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise UsageError(f"--option {name[:40]}: {constant} is no number that JSON can carry")

    try:
        value = json.loads(text, parse_constant=refuse)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


READERS: Final[Mapping[str, tuple[Any, Callable[[Any], Any]]]] = {
    "source": (list[str], tuple),
    "max_concurrency": (str, read_concurrency),
    "delimiter": (str | None, read_delimiter),
    "options": (list[str] | None, read_options),
    "headers": (list[str] | None, read_headers),
    "ray": (str | None, read_ray),
}
"""Options that are texts on the command line and are read by a function; with the type that Typer sees."""
