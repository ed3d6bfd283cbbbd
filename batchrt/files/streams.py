"""Streams: the bytes of an input file or of stdin."""

from __future__ import annotations

import io
import os
import stat
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from batchrt.errors import InputError
from batchrt.files.compression import buffered
from batchrt.files.followed_file import FollowedFile
from batchrt.files.formats import STANDARD_STREAM
from batchrt.files.remote import RemoteReader, is_remote, shown_name

__all__ = ["Stream", "open_stream"]


class Stream:
    """Hold an open file and its facts.

    Args:
        name: as it was given.
        file: the open file.
        stack: closes it.

    Attributes:
        path: the file's name as it was given, `stdin` for `"-"`, an address without its secrets.
        file: as given.
        size: its bytes; 0 if that is not known.
        can_seek: whether it can be read from its end.
    """

    def __init__(
        self, name: str, file: io.BufferedReader, stack: ExitStack, *, follows: bool = False
    ) -> None:
        self.path: str = "stdin" if name == STANDARD_STREAM else shown_name(name)
        self.file: io.BufferedReader = file
        self._name = name
        self._status = _regular_status(file)
        self._follows = follows
        self.size: int = 0 if self._status is None else self._status.st_size
        self.can_seek: bool = self._status is not None or (is_remote(name) and file.seekable())
        self._stack = stack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def leave(self) -> None:
        """Have a file that is followed end here: a thread may wait in it, which nothing else interrupts."""
        raw = self.file.raw
        if isinstance(raw, FollowedFile):
            raw.leave()

    @property
    def can_reopen(self) -> bool:
        """Whether it is a file of this machine, and no pipe, that can be read twice."""
        return self._status is not None and not self._follows

    @property
    def position(self) -> int:
        """The number of bytes read."""
        # The raw stream's position: the buffer's is that of the current row, but gzip and the decoder read
        # ahead of the rows anyway.
        return self.file.raw.tell()

    @property
    def fraction_read(self) -> float | None:
        """The share of the bytes read so far, 0 to 1; `None` for a pipe, a terminal or a remote file."""
        if not self.can_reopen or self.file.closed:
            return None
        return min(1.0, self.position / max(1, self.size))

    def is_same_file(self, other: os.stat_result) -> bool:
        """Return whether `other` is this very file, by any name or link."""
        return self._status is not None and os.path.samestat(self._status, other)

    def reopened(self) -> Stream:
        """Open the file once more.

        Raises:
            OSError: the path is another file by now, or cannot be opened.
        """
        again = open_stream(self._name)
        if again._status is None or not self.is_same_file(again._status):
            with again:
                raise FileNotFoundError(self._name)
        return again


def open_stream(name: str, *, follow: bool = False) -> Stream:
    """Open a file, a remote one by fsspec, or stdin for `"-"`; with `follow`, one that grows.

    Raises:
        InputError: stdin is closed, or a library is missing.
        OSError: the file cannot be opened.
    """
    with ExitStack() as stack:
        if follow and not (is_remote(name) or name == STANDARD_STREAM):
            file = stack.enter_context(buffered(FollowedFile(name)))
        else:
            file = _open_bytes(name, stack)
        return Stream(name, file, stack.pop_all(), follows=follow)
    raise AssertionError  # pragma: no cover  the stack swallows nothing


def _open_bytes(name: str, stack: ExitStack) -> io.BufferedReader:
    if is_remote(name):
        return stack.enter_context(buffered(RemoteReader(name)))
    if name != STANDARD_STREAM:
        return stack.enter_context(buffered(io.FileIO(name)))
    stdin: Any = getattr(sys.stdin, "buffer", None)
    if stdin is None:
        raise InputError("stdin is closed; name a file", path="stdin")
    if isinstance(stdin, io.BufferedReader):
        return stdin
    wrapped = buffered(stdin)
    stack.callback(wrapped.detach)
    return wrapped


def _regular_status(stream: io.BufferedReader) -> os.stat_result | None:
    """Return the status of a file that has a size, `None` for pipes, terminals and memory."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a stream in memory, as tests put in stdin's place
        return None
    return status if stat.S_ISREG(status.st_mode) else None
