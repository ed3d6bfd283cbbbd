"""Compression of files: gzip and Zstandard, by the suffix of an output and the first bytes of an input."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from contextlib import ExitStack
from typing import Any, Final, Literal, Protocol, TypeAlias

from batchrt.errors import InputError

__all__ = [
    "DECOMPRESSION_ERRORS",
    "Compression",
    "Compressor",
    "bare_name",
    "buffered",
    "compression_of",
    "decompressed",
    "new_compressor",
]

Compression: TypeAlias = Literal["gz", "zst"]

DECOMPRESSION_ERRORS: Final = (EOFError, zlib.error)
"""Errors of reading compressed data that are broken or cut; a bad checksum is an OSError."""

_SUFFIXES: Final[dict[str, Compression]] = {".gz": "gz", ".zst": "zst"}
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
"""RFC 1952, 2.3.1, and RFC 8878, 3.1.1."""
_GZIP_WBITS: Final = 31
_BUFFER: Final = 1 << 16


def compression_of(path: str) -> Compression | None:
    """Return the compression that the suffix of `path` tells."""
    lower = path.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lower.endswith(suffix)), None)


def bare_name(path: str) -> str:
    """Return `path` without the suffix of a compression."""
    kind = compression_of(path)
    return path if kind is None else path[: -len(kind) - 1]


class Compressor(Protocol):
    """Compress a stream."""

    def compress(self, data: bytes) -> bytes:
        """Return some compressed bytes."""

    def flush_block(self) -> bytes:
        """Return the bytes that are left, so that all data up to here can be decompressed."""

    def finish(self) -> bytes:
        """Return the bytes that are left and the end of the stream."""


class _Gzip:
    def __init__(self) -> None:
        self._zip = zlib.compressobj(wbits=_GZIP_WBITS)
        self.compress = self._zip.compress

    def flush_block(self) -> bytes:
        return self._zip.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._zip.flush(zlib.Z_FINISH)


class _Zstd:
    def __init__(self, path: str) -> None:
        library = _zstd(path)
        # As the zstd program has it; without a checksum most damage would go unnoticed.
        self._zip = library.ZstdCompressor(options={library.CompressionParameter.checksum_flag: 1})

    def compress(self, data: bytes) -> bytes:
        return bytes(self._zip.compress(data))

    def flush_block(self) -> bytes:
        return bytes(self._zip.flush(self._zip.FLUSH_BLOCK))

    def finish(self) -> bytes:
        return bytes(self._zip.flush(self._zip.FLUSH_FRAME))


def new_compressor(path: str) -> Compressor | None:
    """Return a compressor for a file of this name, or `None` if its suffix asks for none.

    Raises:
        InputError: a library is missing.
    """
    kind = compression_of(path)
    if kind is None:
        return None
    return _Gzip() if kind == "gz" else _Zstd(path)


def decompressed(stream: io.BufferedReader, path: str, stack: ExitStack) -> io.BufferedReader:
    """Return `stream` decompressed if its first bytes say that it is compressed, whatever the name.

    Raises:
        InputError: a library is missing.
    """
    head = stream.peek(4)
    if head.startswith(_GZIP):
        return stack.enter_context(buffered(_Pieces(gzip.GzipFile(fileobj=stream))))
    if head.startswith(_ZSTD):
        library = _zstd(path)
        return stack.enter_context(buffered(_Pieces(library.ZstdFile(stream), library.ZstdError)))
    return stream


def buffered(raw: Any) -> io.BufferedReader:
    """Return a buffer around any readable raw stream."""
    # Any: typeshed makes the class generic in its raw stream, and invariant.
    return io.BufferedReader(raw, _BUFFER)


class _Pieces(io.RawIOBase):
    """Read a compressed file up to its truncation, and then raise EOFError.

    `readinto` of the libraries' own readers fills the whole buffer, and drops its data if the stream breaks
    meanwhile: a file whose writer was killed would lose its last rows.
    """

    def __init__(self, file: Any, *broken: type[Exception]) -> None:
        super().__init__()
        self._file = file
        self._broken = broken

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        try:
            data = self._file.read1(len(buffer))
        except self._broken as error:
            raise EOFError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)


def _zstd(path: str) -> Any:
    """Return the `zstd` module of Python 3.14, or its backport.

    Raises:
        InputError: neither is installed.
    """
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        problem = "Zstandard needs a library: install batchrt[zstd], or use gzip"
        raise InputError(f"{path}: {problem}", path=path) from error
    return zstd
