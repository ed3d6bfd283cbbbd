"""Content encodings: compressed bodies, decoded as they are received, within a bound on their size."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from batchrt.errors import MalformedResponseError
from batchrt.providers.http.retry_after import advise

__all__ = ["ACCEPT_ENCODING", "BodyDecoder", "decode", "too_large"]

ACCEPT_ENCODING = "identity"
"""Plain bodies: compressing a chat answer costs both sides more than the bytes it saves."""

_NO_ENCODINGS = frozenset(("", "identity", "none", "binary", "utf-8", "utf8"))
"""The last four are no content codings (RFC 9110, 8.4.1), but are sent by mistake, with plain bodies."""
_GZIP_OR_ZLIB = 47
_RAW_DEFLATE = -15
_MOST_MEMBERS = 1_000
"""Most members of a gzip body, or frames of a Zstandard one; each costs a copy of the rest."""


class _Unpacker(Protocol):
    """One member of a compressed body, as `zlib` and `zstd` have it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class BodyDecoder:
    """Decode a body while it is received.

    Servers and proxies compress although the request does not allow it. gzip and deflate are always decoded,
    zstd with `batchrt[zstd]` or from Python 3.14, br with the package brotli or brotlicffi, from 1.2 on.

    Args:
        encoding: the `content-encoding` header.
        limit: most bytes of the decoded body.

    Raises:
        MalformedResponseError: another encoding; from the methods, broken data or more than `limit` bytes.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        self._name = encoding.strip().lower()
        self._limit = self._room = limit
        self._members = 0
        self._member: _Unpacker | None = None
        self._begin = b""  # of a deflate body, whose first two bytes name its kind
        self._new: Callable[[], _Unpacker] | None = None
        self._failures: tuple[type[Exception], ...] = (zlib.error,)
        match self._name:
            case name if name in _NO_ENCODINGS:
                return
            case "gzip" | "x-gzip":
                self._new = _gzip_or_zlib
            case "deflate":
                pass
            case "zstd":
                zstd = _zstd()
                self._new, self._failures = zstd.ZstdDecompressor, (zstd.ZstdError,)
            case "br":
                brotli = _brotli()
                self._new, self._failures = lambda: _BrotliUnpacker(brotli), (brotli.error,)
            case _:
                raise _unsupported(encoding)

    def feed(self, data: bytes) -> bytes:
        """Return the decoded bytes of the next part of the body."""
        if self._name in _NO_ENCODINGS:
            return self._take(data)
        if self._new is None:
            data = self._begin + data
            if len(data) < 2:  # noqa: PLR2004
                self._begin = data
                return b""
            self._new = _gzip_or_zlib if _has_zlib_header(data) else _raw_deflate
        try:
            return self._unpack(data, self._new)
        except self._failures as error:
            raise MalformedResponseError(f"the answer's {self._name} data is broken: {error}") from error

    def end(self) -> None:
        """Check that the body is whole."""
        if self._begin and self._new is None:
            raise MalformedResponseError("the answer's compressed data is cut short")
        if self._member is not None and not self._member.eof:
            raise MalformedResponseError("the answer's compressed data is cut short")

    def _unpack(self, data: bytes, new: Callable[[], _Unpacker]) -> bytes:
        parts: list[bytes] = []
        # A body may consist of several members (RFC 1952, 2.2) or frames (RFC 8878, 3.1).
        while data:
            if self._member is None or self._member.eof:
                self._members += 1
                if self._members > _MOST_MEMBERS:
                    raise MalformedResponseError(f"the answer is packed in more than {_MOST_MEMBERS} pieces")
                self._member = new()
            parts.append(self._take(self._member.decompress(data, self._room + 1)))
            data = self._member.unused_data if self._member.eof else b""
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, part: bytes) -> bytes:
        if len(part) > self._room:
            raise too_large(self._limit)
        self._room -= len(part)
        return part


def decode(body: bytes, encoding: str, limit: int) -> bytes:
    """Decode a whole `body` from `encoding` to at most `limit` bytes; see `BodyDecoder`.

    Raises:
        MalformedResponseError: another encoding, broken data, or more than `limit` bytes.
    """
    decoder = BodyDecoder(encoding, limit)
    decoded = decoder.feed(body)
    decoder.end()
    return decoded


def too_large(limit: int) -> MalformedResponseError:
    """Return the error for a response of over `limit` bytes, which is not retried."""
    error = MalformedResponseError(
        f"the answer is larger than {limit} bytes; raise max_response_bytes if it has to be"
    )
    advise(error, retry=False)
    return error


def _unsupported(encoding: str, remedy: str = "") -> MalformedResponseError:
    error = MalformedResponseError(
        f"the answer is encoded as {encoding[:40]!r}, which was not asked for{remedy}"
    )
    advise(error, retry=False)  # another attempt would get the same
    return error


def _gzip_or_zlib() -> _Unpacker:
    return zlib.decompressobj(_GZIP_OR_ZLIB)


def _raw_deflate() -> _Unpacker:
    return zlib.decompressobj(_RAW_DEFLATE)


def _has_zlib_header(body: bytes) -> bool:
    # "deflate" means zlib-wrapped (RFC 9110, 8.4.1.2), yet some servers send raw deflate.
    method_is_deflate = body[:1] and body[0] & 0x0F == zlib.DEFLATED
    return bool(method_is_deflate) and int.from_bytes(body[:2]) % 31 == 0


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise _unsupported("zstd", "; batchrt[zstd] can decode it") from None
    return zstd


class _BrotliUnpacker:
    """A Brotli body, which is a single member."""

    unused_data: Final = b""

    def __init__(self, brotli: Any) -> None:
        self._unpacker = brotli.Decompressor()
        self.eof: bool = False

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return the decoded bytes of `data`, or a few more than `max_length` of them."""
        parts: list[bytes] = []
        room = max_length
        while room > 0:
            part = self._unpacker.process(data, output_buffer_limit=room)
            self.eof = self._unpacker.is_finished()
            parts.append(part)
            room -= len(part)
            data = b""
            if self.eof or not part:
                break
        return b"".join(parts)


def _brotli() -> Any:
    """Return a library for Brotli that bounds its output, as both have from 1.2 on."""
    for name in ("brotli", "brotlicffi"):
        try:
            library = __import__(name)
        except ImportError:
            continue
        if hasattr(library.Decompressor, "can_accept_more_data"):
            return library
    raise _unsupported("br", "; the package brotli, from 1.2 on, can decode it")
