"""Response heads: header fields by name, and the repair of heads that a strict parser refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from batchrt.providers.http.response import HeaderMap, content_length

__all__ = ["HeaderFields", "end_of_head", "last_head", "may_have", "repaired"]

_END: Final = re.compile(rb"\r?\n\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n")
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_SPACE_BEFORE_COLON: Final = re.compile(rb"[ \t]+:")


class HeaderFields:
    """The header fields of a response by their names in lower case; values of a repeated field are joined.

    A client looks at few of the twenty or thirty fields that a provider sends. So the head is kept as it was
    received, and searched for a field that is asked for.

    Args:
        head: as a strict parser has accepted it, from the status line to the end of the last field's line.
    """

    __slots__ = ("_head", "_lower")

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._lower: bytes = head.lower()

    def __repr__(self) -> str:
        return f"<HeaderFields {[name.decode('latin-1') for name, _ in self.raw]}>"  # a value may be a cookie

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """The names and values as they were received."""
        lines = self._head.lstrip(b"\r\n").split(b"\r\n")[1:-1]
        return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]

    def get(self, key: str, default: str | None = None, /) -> str | None:
        """Return the value of header `key`, which is in lower case, or `default`."""
        before, head, find = _before_value(key), self._head, self._lower.find
        start = find(before)
        if start < 0:
            return default
        end = head.find(b"\r\n", start + 1)
        value = head[start + len(before) : end].strip(b" \t")
        while (start := find(before, end)) >= 0:
            end = head.find(b"\r\n", start + 1)
            value = b"%b, %b" % (value, head[start + len(before) : end].strip(b" \t"))
        return value.decode("latin-1")


@lru_cache(maxsize=256)
def _before_value(name: str) -> bytes:
    """Return the bytes before the value of a field."""
    return b"\r\n%b:" % name.encode("latin-1")


def may_have(headers: HeaderMap, part: bytes) -> bool:
    """Whether there may be fields with `part` in their names; one look instead of one for each of them."""
    return not isinstance(headers, HeaderFields) or part in headers._lower


def last_head(received: bytes, interim: int) -> bytes:
    """Return the head after `interim` other ones at the beginning of `received`, without its empty line."""
    head = b""
    for _ in range(interim + 1):
        received = received.lstrip(b"\r\n")
        end = end_of_head(received)
        head, received = received[:end], received[end:]
    return head.removesuffix(b"\r\n")


def end_of_head(received: bytes | bytearray, start: int = 0) -> int | None:
    """Return the length of the head in `received`, its empty line included; `None` if its end is missing.

    Args:
        received: the bytes that have come.
        start: no end begins before it.
    """
    end = _END.search(received, start)
    return None if end is None else end.end()


def repaired(head: bytes) -> bytes:
    r"""Return `head` in the form that RFC 9112 prescribes, for a parser that takes no other.

    Servers and proxies send what browsers accept: lines that end in `\n` alone (2.2), folded lines (5.2),
    blanks before a colon (5.1), a length that is repeated (RFC 9110, 8.6), a length besides chunks (6.3).

    Raises:
        MalformedResponseError: there are different lengths, or one is not a number.
    """
    start, *lines = _LINE_END.split(_FOLD.sub(b" ", head.strip(b"\r\n")))
    fields = [_SPACE_BEFORE_COLON.sub(b":", line, count=1) for line in lines]
    lengths = [value for name, value in map(_split, fields) if name == b"content-length"]
    if lengths:
        length = content_length(b",".join(lengths).decode("latin-1"))
        if any(name == b"transfer-encoding" for name, _ in map(_split, fields)):
            # One of the two is wrong, and so may be the end of the response.
            fields = [*_without(fields, b"content-length", b"connection"), b"connection: close"]
        else:
            fields = [*_without(fields, b"content-length"), b"content-length: %d" % length]
    return b"\r\n".join([start, *fields, b"", b""])


def _without(fields: Sequence[bytes], *names: bytes) -> list[bytes]:
    return [line for line in fields if _split(line)[0] not in names]


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()
