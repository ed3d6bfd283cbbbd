"""Response heads: header fields by name, and the repair of heads that a strict parser refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from batchrt.providers.http.response import content_length

__all__ = ["HeaderFields", "end_of_head", "repaired"]

_END: Final = re.compile(rb"\r?\n\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n")
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_SPACE_BEFORE_COLON: Final = re.compile(rb"[ \t]+:")


class HeaderFields:
    """The header fields of a response, looked up by name whatever the case.

    Args:
        fields: names and values as they were received.
    """

    __slots__ = ("_by_name", "_fields")

    def __init__(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self._fields = fields
        self._by_name: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"<HeaderFields {len(self._fields)}>"  # a value may be a cookie

    def get(self, key: str, default: str | None = None, /) -> str | None:
        """Return the value of field `key`, or `default`; the values of a repeated field are joined."""
        by_name = self._by_name
        if by_name is None:
            by_name = self._by_name = self._index()
        value = by_name.get(key)
        return by_name.get(key.lower(), default) if value is None else value

    def raw(self) -> list[tuple[bytes, bytes]]:
        """Return names and values as they were received."""
        return list(self._fields)

    def _index(self) -> dict[str, str]:
        by_name = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._fields}
        if len(by_name) < len(self._fields):
            by_name.clear()
            for raw_name, raw_value in self._fields:
                name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
                by_name[name] = f"{by_name[name]}, {value}" if name in by_name else value
        return by_name


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
    start, *lines = _LINE_END.split(_FOLD.sub(b" ", head.rstrip(b"\r\n")))
    fields = [_SPACE_BEFORE_COLON.sub(b":", line, count=1) for line in lines]
    lengths = [value for name, value in map(_split, fields) if name == b"content-length"]
    if lengths:
        length = content_length(b",".join(lengths).decode("latin-1"))
        fields = [line for line in fields if _split(line)[0] != b"content-length"]
        if not any(name == b"transfer-encoding" for name, _ in map(_split, fields)):
            fields.append(b"content-length: %d" % length)
    return b"\r\n".join([start, *fields, b"", b""])


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()
