"""Content encodings: compressed bodies, decoded within a bound on their size."""

from __future__ import annotations

import zlib

from batchrt.errors import MalformedResponseError
from batchrt.providers.http.retry_after import advise

__all__ = ["ACCEPT_ENCODING", "decode", "too_large"]

ACCEPT_ENCODING = "identity"
"""Plain bodies: compressing a chat answer costs both sides more than the bytes it saves."""

_NO_ENCODINGS = frozenset(("", "identity", "none", "binary", "utf-8", "utf8"))
"""The last four are no content codings (RFC 9110, 8.4.1), but are sent by mistake, with plain bodies."""
_GZIP_OR_ZLIB = 47
_RAW_DEFLATE = -15
_MOST_MEMBERS = 1_000
"""Most members of a gzip body; each costs a copy of the rest."""


def decode(body: bytes, encoding: str, limit: int) -> bytes:
    """Decode `body` from `encoding`, a `content-encoding` header, to at most `limit` bytes.

    Servers and proxies compress although the request does not allow it, so gzip and deflate are supported.

    Raises:
        MalformedResponseError: another encoding, broken data, or more than `limit` bytes.
    """
    name = encoding.strip().lower()
    if name in _NO_ENCODINGS:
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        message = f"the answer is encoded as {encoding[:40]!r}, which was not asked for"
        raise MalformedResponseError(message)
    try:
        if name == "deflate" and not _has_zlib_header(body):
            return _inflate(body, _RAW_DEFLATE, limit)
        return _inflate(body, _GZIP_OR_ZLIB, limit)
    except zlib.error as error:
        raise MalformedResponseError(f"the answer's {name} data is broken: {error}") from error


def too_large(limit: int) -> MalformedResponseError:
    """Return the error for a response of over `limit` bytes, which is not retried."""
    error = MalformedResponseError(
        f"the answer is larger than {limit} bytes; raise max_response_bytes if it has to be"
    )
    advise(error, retry=False)
    return error


def _has_zlib_header(body: bytes) -> bool:
    # "deflate" means zlib-wrapped (RFC 9110, 8.4.1.2), yet some servers send raw deflate.
    method_is_deflate = body[:1] and body[0] & 0x0F == zlib.DEFLATED
    return bool(method_is_deflate) and int.from_bytes(body[:2]) % 31 == 0


def _inflate(body: bytes, window_bits: int, limit: int) -> bytes:
    parts: list[bytes] = []
    room = limit
    # A gzip body may consist of several members (RFC 1952, 2.2).
    for _ in range(_MOST_MEMBERS):
        if not body:
            return b"".join(parts)
        inflater = zlib.decompressobj(window_bits)
        part = inflater.decompress(body, room + 1)
        if len(part) > room:
            raise too_large(limit)
        if not inflater.eof:
            raise MalformedResponseError("the answer's compressed data is cut short")
        parts.append(part)
        room -= len(part)
        body = inflater.unused_data
    raise MalformedResponseError(f"the answer is packed in more than {_MOST_MEMBERS} pieces")
