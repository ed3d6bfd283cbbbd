"""A response: status, headers, and a body that is read within bounds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable
from typing import Any, Protocol

from pydantic_core import from_json

from batchrt.errors import MalformedResponseError
from batchrt.providers.http.content_encoding import decode, too_large
from batchrt.providers.http.retry_after import advise

__all__ = ["HeaderMap", "Reply", "Sink", "content_length", "drained", "load_json", "read_body"]


class HeaderMap(Protocol):
    """Headers, looked up by name."""

    def get(self, key: str, default: str | None = None, /) -> str | None:
        """Return the value of header `key`, which is in lower case, or `default`."""


class Reply:
    """A response: its status, its headers as the HTTP library keeps them, its whole body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: HeaderMap, body: bytes) -> None:
        self.status: int = status
        self.headers: HeaderMap = headers
        self.body: bytes = body

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.body)} bytes>"

    @property
    def request_id(self) -> str | None:
        """The provider's identifier of the request."""
        get = self.headers.get
        return get("x-request-id") or get("request-id") or get("apim-request-id")


class Sink(Protocol):
    """Receives a body in pieces while it arrives."""

    def feed(self, data: bytes | memoryview | bytearray) -> None:
        """Take the next piece."""

    def end(self) -> bytes:
        """Return the bytes to keep in place of the body, after its last piece."""


async def read_body(
    parts: AsyncIterable[bytes | memoryview | bytearray],
    status: int,
    encoding: str,
    limit: int,
    *,
    sink: Sink | None,
    expected: int | None = None,
) -> bytes:
    """Return the decoded body; with a `sink`, a success is fed to it and the sink's end is returned.

    Args:
        parts: the body as it was sent.
        status: of the response.
        encoding: its `content-encoding`.
        limit: most bytes, as received and as decoded.
        sink: receives the body of a success; one that is not encoded, piece by piece.
        expected: the length that the headers state, if they do: the end of the body is then not awaited.

    Raises:
        MalformedResponseError: the body is larger than `limit`, or cannot be decoded.
    """
    if encoding.strip().lower() not in ("", "identity") or sink is None or not _is_success(status):
        body = decode(await _gather(parts, limit, expected), encoding, limit)
        return drained(body, status, sink)
    size = 0
    async for part in parts:
        size += len(part)
        if size > limit:
            raise too_large(limit)
        sink.feed(part)
        if size == expected:
            break
    return sink.end()


def _is_success(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004


def drained(body: bytes, status: int, sink: Sink | None) -> bytes:
    """Return `body`, or the end of `sink` after it was fed the body of a success."""
    if sink is None or not _is_success(status):
        return body
    sink.feed(body)
    return sink.end()


async def _gather(
    parts: AsyncIterable[bytes | memoryview | bytearray], limit: int, expected: int | None = None
) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for part in parts:
        chunks.append(bytes(part))
        size += len(part)
        if size == expected:
            break
        if size > limit:
            raise too_large(limit)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def content_length(field: str) -> int:
    """Return the number in a `content-length` field, which may repeat it (RFC 9110, 8.6).

    Raises:
        MalformedResponseError: it is not a number, or there are different ones.
    """
    numbers = {number.strip() for number in field.split(",")}
    number = numbers.pop()
    if numbers or not (number.isascii() and number.isdecimal()):
        unreadable = MalformedResponseError(f"the answer's content-length is no number: {field[:40]!r}")
        advise(unreadable, retry=False)
        raise unreadable
    return int(number)


def load_json(body: bytes) -> Any:
    r"""Return the value of a JSON `body`.

    Like httpx and requests, accept a byte order mark, UTF-16 and UTF-32 (RFC 8259, 8.1, lets a parser ignore
    the mark). Models cut characters in two, which servers send as a lone `\ud83d` or as the bytes that there
    are of it, and servers that write JSON by hand leave line breaks in strings as they are: these are
    accepted too, as another attempt would have to be paid for.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return from_json(body)
    except ValueError:
        # The standard library's parser is more tolerant; it recurses, and fails where the depth is too great.
        try:
            return json.loads(body.decode(json.detect_encoding(body), "replace"), strict=False)
        except (ValueError, RecursionError):
            pass
        raise
