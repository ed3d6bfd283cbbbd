"""Uploaded files: outputs for a remote address, written to the local disk first."""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

from batchrt.errors import InputError, OutputError
from batchrt.files.formats import os_problem
from batchrt.files.new_file import PARTIAL, NewFile
from batchrt.files.remote import file_system, remote_exists, shown_name, translated
from batchrt.files.source import Source

__all__ = ["UploadedFile", "open_upload"]

_PREFIX: Final = "batchrt-"


class UploadedFile(NewFile):
    """Hold a local file that is uploaded when it is closed.

    A remote file cannot be appended to, nor be renamed in one step. So nothing is uploaded before the end: an
    old file is unchanged until then, and is replaced by one upload, which object stores make visible when it
    is whole. A partial file is uploaded as `NAME.partial` (or with a number) if there is an old one, else
    under its own name. If the upload fails, the local file is kept, and the error names it.

    Args:
        stream: the local file.
        local: its path.
        path: the address as it was given.
        system: fsspec's file system.
        target: the path in it.
        exists: whether there is an old file.
        rebuildable: as for `NewFile`.
    """

    def __init__(
        self,
        stream: io.FileIO,
        local: str,
        path: str,
        system: Any,
        target: str,
        *,
        exists: bool,
        rebuildable: bool,
    ) -> None:
        super().__init__(stream, shown_name(path), target=target, unfinished=local, rebuildable=rebuildable)
        self._system: Any = system
        self._exists = exists

    def _settle(self, target: str, *, complete: bool, keep: bool) -> None:
        self.stream.close()
        if not complete and not keep:
            with suppress(OSError):
                Path(self._unfinished).unlink()
            self.kept_old = self._exists
            return
        self.kept_old = self._exists and not complete
        name = target
        try:
            with translated():
                if self.kept_old:
                    name = self._unused(target)
                    self.partial_paths = (self._address(name),)
                self._system.put_file(self._unfinished, name)
        except OSError as error:
            self.kept_old: bool = self._exists
            self.partial_paths: tuple[str, ...] = (self._unfinished,)
            problem = f"it cannot be uploaded: {os_problem(error)}; the file is {self._unfinished}"
            raise OutputError(f"{self.path}: {problem}", path=self.path) from error
        with suppress(OSError):
            Path(self._unfinished).unlink()

    def _address(self, target: str) -> str:
        return shown_name(str(self._system.unstrip_protocol(target)))

    def _unused(self, target: str) -> str:
        name = target + PARTIAL
        if self._rebuildable:
            return name
        names = chain([name], (f"{name}.{number}" for number in count(2)))
        unused: str = next(each for each in names if not self._system.exists(each))
        return unused


def open_upload(path: str, *, overwrite: bool, source: Source | None, rebuildable: bool) -> UploadedFile:
    """Open a file for a remote address.

    Raises:
        InputError: `path` is the input of `source`, exists and `overwrite` is false, or cannot be reached.
    """
    shown = shown_name(path)
    if source is not None and shown in source.paths:
        raise InputError(f"{shown}: this is the input; name another file for the output", path=shown)
    system, target = file_system(path)
    exists = remote_exists(path)
    if exists and not overwrite:
        problem = "the file exists already; name another one or add `overwrite`"
        raise InputError(f"{shown}: {problem}", path=shown, parameter="overwrite")
    try:
        descriptor, local = tempfile.mkstemp(prefix=_PREFIX, suffix=f"-{os.path.basename(target)[-100:]}")  # noqa: PTH119
    except OSError as error:
        problem = f"there is no place for it on the local disk: {os_problem(error)}"
        raise InputError(f"{shown}: {problem}", path=shown) from error
    stream = io.FileIO(descriptor, "w")
    return UploadedFile(stream, local, path, system, target, exists=exists, rebuildable=rebuildable)
