"""Streams of bytes over a non-blocking socket, with TLS or without, on any event loop of AnyIO's."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

import anyio

from batchrt.runtime.event_loop import runs_asyncio

__all__ = ["PlainStream", "Stream", "TLSStream", "closed_errors", "is_readable"]

_READ_SIZE: Final = 64 * 1024


class Stream(Protocol):
    """A connection as a stream of bytes; one task receives, and one flushes."""

    def write(self, data: bytes) -> None:
        """Send as much of `data` as takes no waiting, and keep the rest."""

    def has_unsent(self) -> bool:
        """Whether bytes are kept."""

    async def flush(self) -> None:
        """Send the bytes that are kept."""

    async def receive(self) -> bytes:
        """Return the next bytes; none at the orderly end."""

    def has_unread(self) -> bool:
        """Whether bytes or an end are there that the socket no longer has."""


class PlainStream:
    """A stream of the bytes of a socket, on the running loop."""

    __slots__ = ("_error", "_socket", "_unsent", "_wait_readable")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._wait_readable = _readable_wait()
        self._unsent = bytearray()
        self._error: OSError | None = None

    def write(self, data: bytes) -> None:
        """Send as much of `data` as takes no waiting, and keep the rest."""
        if self._error is not None:
            return
        sent = 0 if self._unsent else self._send(data)
        if sent < len(data) and self._error is None:
            self._unsent += memoryview(data)[sent:]

    def has_unsent(self) -> bool:
        """Whether bytes are kept."""
        return bool(self._unsent)

    async def flush(self) -> None:
        """Send the bytes that are kept; none is left after an error, which `receive` finds too."""
        while self._unsent:
            await anyio.wait_writable(self._socket)
            # Not the whole of it: a copy for each part would be quadratic.
            part = bytes(memoryview(self._unsent)[:_READ_SIZE])
            del self._unsent[: self._send(part)]
            if self._error is not None:
                self._unsent.clear()

    async def receive(self) -> bytes:
        """Return the next bytes; none at the end."""
        while True:
            await self._wait_readable(self._socket)
            try:
                return self._socket.recv(_READ_SIZE)
            except (BlockingIOError, InterruptedError):
                pass

    def has_unread(self) -> bool:
        """Whether bytes are kept, which are not."""
        return False

    def _send(self, data: bytes) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:  # a response may have been received nevertheless
            self._error = error
            return 0


class TLSStream:
    """A stream within TLS over another.

    Args:
        lower: carries the records.
        context: of the client.
        name: that the certificate must have.
    """

    __slots__ = ("_incoming", "_lower", "_object", "_outgoing")

    def __init__(self, lower: Stream, context: ssl.SSLContext, name: str) -> None:
        self._lower = lower
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def handshake(self) -> None:
        """Agree on keys.

        Raises:
            ssl.SSLError: the server refuses, is not trusted, or does not speak TLS.
        """
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                self._pass_on()
                await self._lower.flush()
                await self._receive_records()
            except ssl.SSLError:
                self._pass_on()  # the alert
                raise
            else:
                self._pass_on()
                await self._lower.flush()
                return

    def write(self, data: bytes) -> None:
        """Send as much of `data` as takes no waiting, and keep the rest."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._object.write(rest) :]
        self._pass_on()

    def has_unsent(self) -> bool:
        """Whether records are kept."""
        return self._lower.has_unsent()

    async def flush(self) -> None:
        """Send the records that are kept."""
        await self._lower.flush()

    async def receive(self) -> bytes:
        """Return the next bytes; none after a `close_notify`.

        Raises:
            ssl.SSLEOFError: the connection ended without one, and anything may have been cut off.
        """
        while True:
            try:
                return self._object.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                self._pass_on()
                await self._receive_records()
            except ssl.SSLZeroReturnError:
                return b""

    def has_unread(self) -> bool:
        """Whether bytes or an end are in records that have been received."""
        try:
            self._object.read(1)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass
        return True

    def _pass_on(self) -> None:
        if self._outgoing.pending:
            self._lower.write(self._outgoing.read())

    async def _receive_records(self) -> None:
        data = await self._lower.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


def _readable_wait() -> Callable[[socket.socket], Awaitable[None]]:
    """Return the running library's wait for a socket; AnyIO's would look for the library at each call."""
    if runs_asyncio():
        return anyio.wait_readable
    trio: Any = sys.modules["trio"]
    return cast("Callable[[socket.socket], Awaitable[None]]", trio.lowlevel.wait_readable)


def closed_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a wait for a socket that was closed meanwhile."""
    trio: Any = sys.modules.get("trio")
    return (
        (anyio.ClosedResourceError,)
        if trio is None
        else (anyio.ClosedResourceError, trio.ClosedResourceError)
    )


def is_readable(sock: socket.socket) -> bool:
    """Whether an idle connection has received bytes, an end of stream or an error."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True
    return True
