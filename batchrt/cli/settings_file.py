"""Settings files: `batchrt.toml`, and the table `tool.batchrt` of `pyproject.toml`."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import typer

from batchrt.cli.console import complain
from batchrt.cli.errors import UsageError

__all__ = ["SettingsFile", "find_files", "read_settings_file", "unknown_name", "user_folder"]

_NAME: Final = "batchrt.toml"
_PROJECT: Final = "pyproject.toml"
_MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """Hold the settings of one file.

    Attributes:
        path: the file.
        data: its tables, as parsed.
        prefix: the names of the tables around them, each with a dot.
        is_found: whether it was found in the current folder or above it, and not named by the user.
    """

    path: Path
    data: Mapping[str, Any]
    prefix: str = ""
    is_found: bool = False
    _text: str = field(default="", repr=False)

    def error(self, key: str, problem: str) -> UsageError:
        """Return the error about a key, dotted for one in a table, with its line if that is certain."""
        last = re.escape(key.rpartition(".")[2].strip('"'))
        definition = rf"""^[ \t]*(?:[^\s=#]+\.)?["']?{last}["']?[ \t]*=|^[ \t]*\[[^\]]*\b{last}\b[^\]]*\]"""
        found = list(re.finditer(definition, self._text, re.MULTILINE))
        line = f":{self._text.count(chr(10), 0, found[0].start()) + 1}" if len(found) == 1 else ""
        return UsageError(f"{self.path}{line}: {self.prefix}{key} {problem}")


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return what to say of a name that is none of the known ones."""
    names = sorted(known)
    near = get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}The names are {', '.join(names) or 'none'}"


def user_folder() -> Path:
    """Return the folder of the user's own settings: `~/.config/batchrt` on Linux."""
    return Path(typer.get_app_dir("batchrt"))


def find_files(named: str | None) -> list[SettingsFile]:
    """Return the settings files that hold, those that others override first.

    Args:
        named: the only file to read; without it, the user's own file and the nearest one in the current
            folder or above it are read.

    Raises:
        UsageError: a file cannot be read, or is no TOML.
    """
    if named is not None:
        return [read_settings_file(Path(named))]
    own = user_folder() / _NAME
    files = [read_settings_file(own)] if own.is_file() else []
    found = next(_search(), None)
    return files if found is None or found.path == own else [*files, found]


def _search() -> Iterator[SettingsFile]:
    try:
        current = Path.cwd()
    except OSError:  # the folder was deleted
        return
    for folder in (current, *current.parents):
        for name in (_NAME, _PROJECT):
            path = folder / name
            if path.is_file() and (name == _NAME or _has_table(path)) and _is_ours(path):
                yield read_settings_file(path, is_found=True)


def _has_table(path: Path) -> bool:
    """Whether a `pyproject.toml`, which is any project's, is about batchrt."""
    try:
        return b"tool.batchrt" in path.read_bytes()
    except OSError:
        return False


def _is_ours(path: Path) -> bool:
    """Whether a file that was found is the user's or the administrator's, and nobody else's to change."""
    if os.name == "nt":
        return True
    status = path.stat()
    if status.st_uid in (os.getuid(), 0) and not status.st_mode & stat.S_IWOTH:
        return True
    complain(f"{path} is ignored, since another user can change it; --config {path} uses it nevertheless")
    return False


def read_settings_file(path: Path, *, is_found: bool = False) -> SettingsFile:
    """Return the settings in a file.

    Raises:
        UsageError: it cannot be read, or is no TOML.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: is no file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UsageError(f"{path}: is larger than 1 MiB, which no file of settings is")
        text = content.decode("utf-8-sig")
        data: Any = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: is nested too deeply") from None
    prefix = ""
    if path.name == _PROJECT:
        prefix = "tool.batchrt."
        tool = data.get("tool")
        data = tool.get("batchrt", {}) if isinstance(tool, dict) else {}
        if not isinstance(data, dict):
            raise UsageError(f"{path}: tool.batchrt must be a table")
    return SettingsFile(path, data, prefix, is_found, text)
