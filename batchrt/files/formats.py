"""File formats: how one is chosen, and how the system's errors are worded."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

from batchrt.errors import InputError
from batchrt.files.compression import bare_name, compression_of

__all__ = [
    "DELIMITERS",
    "FORMATS",
    "STANDARD_STREAM",
    "TEXT_TABLES",
    "Format",
    "SourceFormat",
    "check_delimiter",
    "choose_format",
    "known_format",
    "os_problem",
]

Format: TypeAlias = Literal["csv", "tsv", "jsonl", "parquet"]
SourceFormat: TypeAlias = Literal["csv", "tsv", "jsonl", "parquet", "table"]
F = TypeVar("F", bound=str)

FORMATS: Final[tuple[Format, ...]] = ("csv", "tsv", "jsonl", "parquet")
TEXT_TABLES: Final[tuple[Format, ...]] = ("csv", "tsv")
"""Formats whose rows have a text for each column."""
DELIMITERS: Final[dict[Format, str]] = {"csv": ",", "tsv": "\t"}
STANDARD_STREAM: Final = "-"
"""The path of stdin or stdout."""

_NAMES: Final[dict[Format, str]] = {"csv": "CSV", "tsv": "TSV", "jsonl": "JSONL", "parquet": "Parquet"}
_NO_DELIMITERS: Final = '"\n\r\0\ufeff'
_SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_SAY_WHICH: Final = "say which with `format` csv, tsv, jsonl or parquet"


def choose_format(path: str, explicit: str | None = None) -> Format:
    """Return `explicit`, or the format of the suffix; a compression's suffix after it changes nothing.

    Raises:
        InputError: `explicit` is not a format, or there is neither it nor a known suffix.
    """
    if explicit is not None:
        return _checked(known_format(explicit, FORMATS, path), path)
    if path == STANDARD_STREAM:
        raise InputError(
            "stdin has no suffix to tell its format; say which with `format` csv, tsv or jsonl",
            path=path,
            parameter="format",
        )
    suffix = Path(bare_name(_without_query(path)).lower()).suffix
    if suffix in _SUFFIXES:
        return _checked(_SUFFIXES[suffix], path)
    if suffix == ".json":
        problem = "a .json suffix does not tell whether there is one JSON object a line"
        raise InputError(f"{path}: {problem}; if so, add `format` jsonl", path=path, parameter="format")
    named = (
        f"no format has the suffix {suffix!r}"
        if suffix
        else "the name has no suffix that would name a format"
    )
    raise InputError(f"{path}: {named}; {_SAY_WHICH}", path=path, parameter="format")


def _without_query(path: str) -> str:
    return path.split("?", 1)[0] if path.lower().startswith(("http://", "https://")) else path


def _checked(kind: Format, path: str) -> Format:
    """Return `kind`; InputError if a file of this name cannot have it."""
    if kind == "parquet" and path == STANDARD_STREAM:
        raise InputError("Parquet is no format for stdin or stdout; name a file", path=path)
    packed = compression_of(path)
    if kind == "parquet" and packed is not None:
        raise InputError(f"{path}: Parquet is not compressed like this; leave .{packed} out", path=path)
    return kind


def known_format(name: str, formats: tuple[F, ...], path: str) -> F:
    """Return the one of `formats` called `name`; InputError if there is none."""
    for known in formats:
        if name == known:
            return known
    known_names = f"{', '.join(formats[:-1])} or {formats[-1]}"
    raise InputError(f"unknown format {name!r}; use {known_names}", path=path)


def check_delimiter(delimiter: str | None, kind: Format) -> None:
    """Raise InputError for a delimiter that a file of this format cannot have."""
    if delimiter is None:
        return
    if kind not in TEXT_TABLES:
        raise InputError(f"a delimiter is for CSV; {_NAMES[kind]} has none")
    if len(delimiter) != 1 or delimiter in _NO_DELIMITERS:
        raise InputError(f"a delimiter must be one character such as ';', not {delimiter[:40]!r}")


def os_problem(error: OSError) -> str:
    """Return a few words about the failure of a system call, without the errno."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder; check the path"
    if isinstance(error, IsADirectoryError):
        return "this is a folder; name a file in it"
    if isinstance(error, PermissionError):
        return "permission denied; check who may use it"
    return (error.strerror or str(error) or type(error).__name__).lower()
