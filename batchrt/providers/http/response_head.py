"""Response heads: header fields by name, and the repair of heads that a strict parser refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from batchrt.providers.http.response import content_length

__all__ = ["HeaderFields", "end_of_head", "repaired"]

_END: Final = re.compile(rb"\r?\n\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n")
_FOLD: Final = re.compile(rb"\r?\n[ \t]+")
_SPACE_BEFORE_COLON: Final = re.compile(rb"[ \t]+:")


class HeaderFields(dict[str, str]):
    """The header fields of a response by their names in lower case; values of a repeated field are joined.

    Args:
        fields: names and values as they were received.
    """

    __slots__ = ()

    def __init__(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__({_name(name): value.decode("latin-1") for name, value in fields})
        if len(self) < len(fields):
            self.clear()
            for raw_name, raw_value in fields:
                name, value = _name(raw_name), raw_value.decode("latin-1")
                self[name] = f"{self[name]}, {value}" if name in self else value

    def __repr__(self) -> str:
        return f"<HeaderFields {list(self)}>"  # a value may be a cookie


@lru_cache(maxsize=1024)
def _name(raw: bytes) -> str:
    """Return the name of a field in lower case; a server sends the same ones each time."""
    return raw.decode("latin-1").lower()


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
