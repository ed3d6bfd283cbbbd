"""The event stream: Server-Sent Events, parsed from bytes in pieces of any size; no I/O.

The format is that of the HTML standard (9.2.6), with one difference: an event whose blank line is missing at
the end of the stream counts, since servers leave it out and the answer was paid for.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from batchrt.providers.http.content_encoding import too_large

__all__ = ["Event", "EventStream"]

_MARK: Final = b"\xef\xbb\xbf"
"""A byte order mark in UTF-8, which may stand at the beginning."""

_LF: Final = 10
_CR: Final = 13


class Event(NamedTuple):
    """One event.

    Attributes:
        data: its `data` fields, joined by line feeds; not empty.
        name: its `event` field; empty if it has none.
    """

    data: bytes
    name: bytes = b""


class EventStream:
    r"""Parse the bytes of an event stream.

    Lines end with `\n`, `\r` or `\r\n`, and with no other character that `str.splitlines` knows: U+2028 may
    stand in JSON. Comments, the fields `id` and `retry`, unknown fields and events without data are skipped.

    Invariant: the events do not depend on how the bytes were cut. A `\r` at the end of a piece ends its line
    at once, and a `\n` at the beginning of the next piece belongs to it.

    Args:
        limit: most bytes of one event.
    """

    __slots__ = ("_after_return", "_data", "_limit", "_line", "_name", "_size", "_start")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        self._line = bytearray()
        self._after_return = False
        self._start: bytes | None = b""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that end in the next piece.

        Raises:
            MalformedResponseError: an event has more than `limit` bytes.
        """
        lines, rest = self._split(data)
        events: list[Event] = []
        if lines and self._line:
            self._line += lines[0]
            lines[0] = bytes(self._line)
            self._line.clear()
        for line in lines:
            if line:
                self._take(line)
            elif self._data or self._name:
                self._dispatch(events)
        if rest:
            self._line += rest
            self._check(len(self._line))
        return events

    def end(self) -> list[Event]:
        """Return the event that the end of the stream completes, if there is one."""
        events: list[Event] = []
        if self._start:
            self._line += self._start
        if self._line:
            self._take(bytes(self._line))
            self._line.clear()
        self._dispatch(events)
        return events

    def _split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the lines that end in a piece, and the beginning of the next."""
        if self._start is not None:
            data = self._begin(data)
        if self._after_return and data:
            self._after_return = False
            if data[0] == _LF:
                data = data[1:]
        if not data:
            return [], b""
        lines = data.splitlines()
        last = data[-1]
        if last == _LF:
            return lines, b""
        if last == _CR:
            self._after_return = True
            return lines, b""
        rest = lines.pop()
        return lines, rest

    def _begin(self, data: bytes) -> bytes:
        """Return what follows the byte order mark; nothing while it may still be one."""
        assert self._start is not None
        data = self._start + data
        if len(data) < len(_MARK) and _MARK.startswith(data):
            self._start = data
            return b""
        self._start = None
        return data.removeprefix(_MARK)

    def _take(self, line: bytes) -> None:
        """Take one line, which is not empty."""
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
            self._check(self._size)
        elif name == b"event":
            self._name = value.removeprefix(b" ")
            self._check(len(value))

    def _dispatch(self, events: list[Event]) -> None:
        lines = self._data
        data = lines[0] if len(lines) == 1 else b"\n".join(lines)
        if data and not data.isspace():
            events.append(Event(data, self._name))
        self._data, self._name, self._size = [], b"", 0

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise too_large(self._limit)
