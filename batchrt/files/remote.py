"""Remote files: addresses such as `s3://bucket/key`, by fsspec."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from batchrt.errors import InputError
from batchrt.files.cells import shorten
from batchrt.files.formats import os_problem

__all__ = [
    "RemoteReader",
    "file_system",
    "is_remote",
    "local_path",
    "remote_exists",
    "remote_glob",
    "shown_name",
    "translated",
]

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOCAL: Final = "file://"
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@]*@")
_SIGNATURE: Final = re.compile(r"(?<=^http)(s?://[^?#]*)[?#].*", re.IGNORECASE)


def is_remote(name: str) -> bool:
    """Return whether `name` is the address of a remote file."""
    return _ADDRESS.match(name) is not None and not name.startswith(_LOCAL)


def local_path(name: str) -> str:
    """Return `name` without `file://`."""
    return name.removeprefix(_LOCAL)


def shown_name(name: str) -> str:
    """Return `name` for messages: without a password, and without the query of an HTTP address."""
    return _SIGNATURE.sub(r"\1", _CREDENTIALS.sub("", name)) if is_remote(name) else name


@contextmanager
def translated() -> Iterator[None]:
    """Raise any error of a file system as OSError; each library has its own classes."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(shorten(reason, 200)) from error


def file_system(name: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        InputError: a library is missing, or there is no such file system.
    """
    shown = shown_name(name)
    try:
        import fsspec.core
    except ImportError as error:
        problem = "a remote file needs fsspec: install batchrt[fsspec], and the library of its file system"
        raise InputError(f"{shown}: {problem}", path=shown) from error
    try:
        system, path = fsspec.core.url_to_fs(name)
    except ImportError as error:  # such as s3fs; the message names it
        raise InputError(f"{shown}: {' '.join(str(error).split())}", path=shown) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{shown}: it cannot be reached: {shorten(reason, 200)}", path=shown) from error
    return system, str(path)


def remote_glob(name: str) -> list[str]:
    """Return the addresses that match a pattern, sorted; raises as `file_system`, and OSError."""
    system, path = file_system(name)
    with translated():
        return sorted(str(system.unstrip_protocol(found)) for found in system.glob(path))


def remote_exists(name: str) -> bool:
    """Return whether there is a remote file; raises InputError if that cannot be told."""
    shown = shown_name(name)
    system, path = file_system(name)
    try:
        with translated():
            return bool(system.exists(path))
    except OSError as error:
        raise InputError(f"{shown}: {os_problem(error)}", path=shown) from error


class RemoteReader(io.RawIOBase):
    """Read a remote file; every error is an OSError.

    Raises:
        InputError: as `file_system` does.
        OSError: it cannot be opened.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        system, path = file_system(name)
        with translated():
            self._file = system.open(path, "rb")

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def seekable(self) -> bool:
        """Return whether the file system can read from any place on."""
        return bool(self._file.seekable())

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer` with some bytes; return how many, 0 at the end."""
        with translated():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to another place."""
        with translated():
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the place."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file."""
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()
