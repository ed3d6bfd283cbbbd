"""Output files: buffered writes to a file or stdout, with errors that name the remedy."""

from __future__ import annotations

import io
import os
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeAlias

from batchrt.errors import InputError, OutputClosedError, OutputError
from batchrt.files.compression import Compressor, new_compressor
from batchrt.files.destinations import open_new_file
from batchrt.files.formats import STANDARD_STREAM
from batchrt.files.new_file import NewFile, refuse_source, write_error
from batchrt.files.source import Source

__all__ = [
    "Closeable",
    "Encode",
    "OutputFile",
    "TextOutput",
    "encode_json",
    "open_output",
    "write_all",
]

Encode: TypeAlias = Callable[[str], bytes]

_CHUNK: Final = 1 << 16


class Closeable(ABC):
    """An output that is closed at the end of its `with` block.

    It is complete then, unless an exception ends the block or `mark_partial` was called. An incomplete output
    does not replace an old file (see `NewFile`).
    """

    _is_partial = False

    @abstractmethod
    def close(self) -> None:
        """Write the buffered rows and close the file; raises OutputError."""

    @property
    @abstractmethod
    def _new_files(self) -> tuple[NewFile, ...]:
        """The files that are written; none for stdout."""

    @property
    def kept_old(self) -> bool:
        """Whether it was closed incomplete, so that an older file is unchanged."""
        return any(file.kept_old for file in self._new_files)

    @property
    def partial_paths(self) -> tuple[str, ...]:
        """Paths of the rows of an output that did not replace an older file; empty without rows."""
        return tuple(path for file in self._new_files for path in file.partial_paths)

    @property
    def left_over_paths(self) -> tuple[str, ...]:
        """Paths of rows left by a killed process that was replacing the same file."""
        return tuple(path for file in self._new_files for path in file.left_over_paths)

    def mark_partial(self) -> None:
        """Record that rows are missing."""
        self._is_partial = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.mark_partial()
        # A failing close must not hide the exception that ended the block, such as a cancellation.
        with nullcontext() if error is None else suppress(OutputError):
            self.close()


class OutputFile(Closeable):
    """Buffer text and write it in large pieces; a terminal gets each line at once.

    `encode` turns text into bytes. Every failed system call raises `OutputError`; after one, no more text is
    accepted.

    Args:
        stream: the file, or stdout.
        path: its name.
        encode: turns text into bytes.
        new_file: the file, if it is no standard stream.
        compressor: compresses the bytes.

    Attributes:
        path: as given.
        is_empty: whether there are no rows, but perhaps a header: such a file is not kept if it is partial.
    """

    def __init__(
        self,
        stream: BinaryIO | io.FileIO,
        path: str,
        encode: Encode,
        *,
        new_file: NewFile | None = None,
        compressor: Compressor | None = None,
    ) -> None:
        self.path: str = path
        self.is_empty: bool = True
        self._encode = encode
        self._stream = stream
        self._new_file = new_file
        # A partial row can be truncated from a regular file of our own, but not from stdout, which may be
        # appended to.
        self._is_file = new_file is not None and _is_regular(stream)
        self._start = 0
        self._compressor = compressor
        self._threshold = 0 if stream.isatty() else _CHUNK
        self._pending: list[str] = []
        self._size = 0
        self._failure: OutputError | None = None
        self._closed = False

    @property
    def _new_files(self) -> tuple[NewFile, ...]:
        return () if self._new_file is None else (self._new_file,)

    def put(self, text: str) -> None:
        """Accept one whole line."""
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        if self._failure is not None:
            raise self._failure
        self.is_empty = False
        self._pending.append(text)
        self._size += len(text)
        if self._size > self._threshold:
            self._drain()

    def put_header(self, text: str) -> None:
        """Accept text before the first row."""
        self.put(text)
        self.is_empty = True

    def flush(self) -> None:
        """Hand all accepted text to the operating system."""
        if self._closed:
            return
        if self._failure is not None:
            raise self._failure
        self._drain()
        if self._compressor is not None:
            self._write(self._compressor.flush_block())

    def close(self) -> None:
        """Write the remaining text and close the file; stdout stays open. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._failure is None:
                self._drain()
                if self._compressor is not None:
                    self._write(self._compressor.finish())
        finally:
            if self._new_file is not None:
                self._close_file(self._new_file)

    def _close_file(self, file: NewFile) -> None:
        complete = self._failure is None and not self._is_partial
        with nullcontext() if self._failure is None else suppress(OutputError):
            file.close(complete=complete, keep=not self.is_empty)

    def _drain(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        self._size = 0
        data = self._encode("".join(pending))
        if self._is_file:
            self._start = os.lseek(self._stream.fileno(), 0, os.SEEK_CUR)
        try:
            self._write(data if self._compressor is None else self._compressor.compress(data))
        except OutputError:
            self._truncate_partial_row(pending)
            raise

    def _truncate_partial_row(self, pending: list[str]) -> None:
        """Truncate the partial row that a full disk leaves at the end of an uncompressed file."""
        if self._compressor is not None or not self._is_file:
            return
        with suppress(OSError):
            end = self._start
            for text in pending:
                length = len(self._encode(text))
                if end + length > os.fstat(self._stream.fileno()).st_size:
                    break
                end += length
            os.ftruncate(self._stream.fileno(), end)

    def _write(self, data: bytes) -> None:
        try:
            write_all(self._stream, data)
            self._stream.flush()
        except OSError as error:
            self._failure = write_error(self.path, error)
            raise self._failure from error


class TextOutput(Closeable):
    """An output whose rows are lines of one `OutputFile`, in `_file`."""

    _file: OutputFile

    def flush(self) -> None:
        """Hand all rows written so far to the operating system; raises as `write` does."""
        self._file.flush()

    def close(self) -> None:
        """Write the remaining rows and close the file; stdout stays open. Raises as `write` does."""
        if self._is_partial:
            self._file.mark_partial()
        self._file.close()

    @property
    def _new_files(self) -> tuple[NewFile, ...]:
        return self._file._new_files


def _is_regular(stream: BinaryIO | io.FileIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:  # a stream in memory
        return False


def write_all(stream: BinaryIO | io.FileIO, data: bytes) -> None:
    """Write all of `data`; raises OSError."""
    rest = memoryview(data)
    while rest:
        # A raw stream may accept only a part, and nothing where it is non-blocking.
        taken = stream.write(rest)
        if taken is None:
            raise BlockingIOError("it is set not to block and is full")
        rest = rest[taken:]


def encode_json(text: str) -> bytes:
    """Return JSON text as UTF-8."""
    # Only a lone surrogate needs the handler; it stands in a string, where the handler's `\ud83d` is JSON's
    # own way to write it.
    return text.encode("utf-8", "backslashreplace")


def open_output(
    path: str, encode: Encode, *, overwrite: bool, source: Source | None, rebuildable: bool = False
) -> OutputFile:
    """Open `path` for writing; `"-"` is stdout, and `.gz` and `.zst` compress.

    Raises:
        InputError: `path` is the file that `source` reads, exists and `overwrite` is false, or cannot be
            created; or a library is missing.
    """
    if path == STANDARD_STREAM:
        return _open_stdout(encode, source)
    compressor = new_compressor(path)
    # Rows that were in a journal come at once: there is nothing to see before the file is complete.
    file = open_new_file(
        path, overwrite=overwrite, source=source, rebuildable=rebuildable, in_place=not rebuildable
    )
    return OutputFile(file.stream, path, encode, new_file=file, compressor=compressor)


def _open_stdout(encode: Encode, source: Source | None) -> OutputFile:
    stdout: Any = sys.stdout
    if stdout is None or not hasattr(stdout, "buffer"):
        raise InputError("stdout is closed; name a file", path="stdout")
    try:
        stdout.flush()
        status = os.fstat(stdout.fileno())
    except BrokenPipeError:
        raise OutputClosedError("stdout: its reader has gone", path="stdout") from None
    except OSError:  # a stream in memory, as tests put in stdout's place
        return OutputFile(stdout.buffer, "stdout", encode)
    refuse_source("stdout", status, source)
    # Bypasses Python's own buffer, which would complain at exit about a broken pipe.
    raw = io.FileIO(stdout.fileno(), "w", closefd=False)
    return OutputFile(raw, "stdout", encode)
