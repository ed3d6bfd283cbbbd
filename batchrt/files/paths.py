"""Paths of inputs: patterns expanded to the files that match."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from batchrt.errors import InputError
from batchrt.files.formats import STANDARD_STREAM, os_problem
from batchrt.files.remote import is_remote, local_path, remote_glob, shown_name

__all__ = ["expand_paths"]


def expand_paths(names: Iterable[str]) -> tuple[str, ...]:
    """Return the files of `names`, each once; a pattern (`*`, `?`, `[…]`, `**`) gives its files sorted.

    A file whose name looks like a pattern is that file.

    Raises:
        InputError: there are none, a pattern has no file, or stdin is one of several.
    """
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(_expanded(name)))
    if not found:
        raise InputError("there is no input; name a file")
    if STANDARD_STREAM in found and len(found) > 1:
        raise InputError("stdin cannot be read beside files; give it alone", path="stdin")
    return tuple(found)


def _expanded(given: str) -> list[str]:
    if is_remote(given):
        return _expanded_address(given)
    name = local_path(given)
    if not glob.has_magic(name) or Path(name).exists():
        return [name]
    files = sorted(path for path in glob.glob(name, recursive=True) if not Path(path).is_dir())  # noqa: PTH207
    return _some(name, files)


def _expanded_address(name: str) -> list[str]:
    if "*" not in name:  # a question mark may begin a query
        return [name]
    try:
        return _some(shown_name(name), remote_glob(name))
    except OSError as error:
        shown = shown_name(name)
        raise InputError(f"{shown}: {os_problem(error)}", path=shown) from error


def _some(name: str, files: list[str]) -> list[str]:
    if not files:
        raise InputError(f"{name}: no file matches this pattern; check it", path=name)
    return files
