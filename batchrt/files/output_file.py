"""Output files: buffered writes to a file or stdout, with errors that name the remedy."""

from __future__ import annotations

import io
import os
import stat
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeAlias

from batchrt.errors import InputError, OutputClosedError, OutputError
from batchrt.files.formats import STANDARD_STREAM, os_problem
from batchrt.files.sources import Source

__all__ = [
    "Closeable",
    "Encode",
    "OutputFile",
    "encode_json",
    "open_file",
    "open_output",
    "write_all",
    "write_error",
]

Encode: TypeAlias = Callable[[str], bytes]

_CHUNK: Final = 1 << 16
_GZIP_WBITS: Final = 31
_MODE: Final = 0o666
"""Mode of a new file before the umask, as `open` has it."""


class Closeable(ABC):
    """An output that is closed at the end of its `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left and close the file; raises OutputError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A failing close must not hide the exception that ended the block, such as a cancellation.
        with nullcontext() if error is None else suppress(OutputError):
            self.close()


class OutputFile(Closeable):
    """Buffer text and write it in large pieces; a terminal gets each line at once.

    `encode` turns text into bytes. Every failed system call raises `OutputError`; after one, no more text is
    accepted.
    """

    def __init__(
        self,
        stream: BinaryIO | io.FileIO,
        path: str,
        encode: Encode,
        *,
        compress: bool,
        owned: bool,
    ) -> None:
        self.path = path
        self._encode = encode
        self._stream = stream
        self._owned = owned
        # A partial row can be truncated from a regular file of our own, but not from stdout, which may be
        # appended to.
        self._is_file = owned and getattr(stream, "closefd", False) and _is_regular(stream)
        self._start = 0
        self._zip = zlib.compressobj(wbits=_GZIP_WBITS) if compress else None
        self._threshold = 0 if stream.isatty() else _CHUNK
        self._pending: list[str] = []
        self._size = 0
        self._failure: OutputError | None = None
        self._closed = False

    def put(self, text: str) -> None:
        """Accept one whole line."""
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        if self._failure is not None:
            raise self._failure
        self._pending.append(text)
        self._size += len(text)
        if self._size > self._threshold:
            self._drain()

    def flush(self) -> None:
        """Hand all accepted text to the operating system."""
        if self._closed:
            return
        if self._failure is not None:
            raise self._failure
        self._drain()
        if self._zip is not None:
            self._write(self._zip.flush(zlib.Z_SYNC_FLUSH))

    def close(self) -> None:
        """Write the remaining text and close the file; stdout stays open. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._failure is None:
                self._drain()
                if self._zip is not None:
                    self._write(self._zip.flush(zlib.Z_FINISH))
        finally:
            self._close_stream()

    def _drain(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        self._size = 0
        data = self._encode("".join(pending))
        if self._is_file:
            self._start = os.lseek(self._stream.fileno(), 0, os.SEEK_CUR)
        try:
            self._write(data if self._zip is None else self._zip.compress(data))
        except OutputError:
            self._truncate_partial_row(pending)
            raise

    def _truncate_partial_row(self, pending: list[str]) -> None:
        """Truncate the partial row that a full disk leaves at the end of an uncompressed file."""
        if self._zip is not None or not self._is_file:
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

    def _close_stream(self) -> None:
        if not self._owned:
            return
        try:
            self._stream.close()
        except OSError as error:  # a network file system may report a lost write only now
            if self._failure is None:
                raise write_error(self.path, error) from error


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


def write_error(path: str, error: OSError) -> OutputError:
    """Return the exception for a failed write to `path`."""
    if isinstance(error, BrokenPipeError):
        return OutputClosedError(f"{path}: its reader has gone", path=path)
    message = f"{path}: cannot write: {os_problem(error)}; make room or name another file"
    return OutputError(message, path=path)


def encode_json(text: str) -> bytes:
    """Return JSON text as UTF-8."""
    # Only a lone surrogate needs the handler; it stands in a string, where the handler's `\ud83d` is JSON's
    # own way to write it.
    return text.encode("utf-8", "backslashreplace")


def open_output(path: str, encode: Encode, *, overwrite: bool, source: Source | None) -> OutputFile:
    """Open `path` for writing; `"-"` is stdout, and `.gz` compresses.

    Raises:
        InputError: `path` is the file that `source` reads, exists and `overwrite` is false, or cannot be
            created.
    """
    if path == STANDARD_STREAM:
        return _open_stdout(encode, source)
    stream = open_file(path, overwrite=overwrite, source=source)
    return OutputFile(stream, path, encode, compress=path.lower().endswith(".gz"), owned=True)


def open_file(path: str, *, overwrite: bool, source: Source | None, keep: bool = False) -> io.FileIO:
    """Open `path` for writing; with `keep` its content is left. Raises as `open_output` does."""
    try:
        status = Path(path).stat()
    except OSError:  # missing or out of reach: opening it tells which
        status = None
    if status is not None:
        _refuse_source(path, status, source)
    # Only a regular file has content to lose; a device or a named pipe is named on purpose.
    fresh = not overwrite and (status is None or stat.S_ISREG(status.st_mode))
    mode = "x" if fresh else "w"
    try:
        return io.FileIO(path, mode, opener=_open_keeping) if keep else io.FileIO(path, mode)
    except OSError as error:
        parameter = "overwrite" if isinstance(error, FileExistsError) else None
        raise InputError(f"{path}: {_open_problem(path, error)}", path=path, parameter=parameter) from error


def _open_keeping(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, _MODE)


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
        return OutputFile(stdout.buffer, "stdout", encode, compress=False, owned=False)
    _refuse_source("stdout", status, source)
    # Bypasses Python's own buffer, which would complain at exit about a broken pipe.
    raw = io.FileIO(stdout.fileno(), "w", closefd=False)
    return OutputFile(raw, "stdout", encode, compress=False, owned=True)


def _refuse_source(path: str, status: os.stat_result, source: Source | None) -> None:
    if source is not None and source.is_same_file(status):
        problem = f"this is the input ({source.path}); name another file for the output"
        raise InputError(f"{path}: {problem}", path=path)


def _open_problem(path: str, error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return "the file exists already; name another one or add `overwrite`"
    folder = str(Path(path).parent)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return f"there is no folder {folder!r}; make it first"
    return os_problem(error)
