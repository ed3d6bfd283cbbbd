"""Connections over asyncio's protocols, which uvloop runs too.

A protocol costs a third of AnyIO's streams here: received bytes go from the loop to the parser in one call,
and the waiting task is woken once, at the end of the response. That needs asyncio itself, which is imported
here and in `runtime/event_loop.py`, and nowhere else.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  see above
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from batchrt.providers.http.connection_errors import CONNECT_TIMEOUT, ConnectFailed, reason_of
from batchrt.providers.http.response_parser import ResponseParser
from batchrt.providers.http.route import Route
from batchrt.providers.http.socket_streams import is_readable

__all__ = ["AsyncioConnection", "connect_asyncio", "loop_time"]

_MOST_UNREAD: Final = 64 * 1024
"""Bytes of a body that wait for a slow reader before the connection stops to receive; thousands of streams
may have one at the same time."""
_LONGEST_GREETING: Final = 4096
"""Bytes of a server that speaks before it is spoken to; more are no greeting."""


class AsyncioConnection(asyncio.BufferedProtocol):
    """A connection that carries one exchange after another on an asyncio loop.

    Args:
        sock: connected; the transport that is made over it closes it.
        buffer: to receive into. All connections of a loop may have the same one, as it is filled and parsed
            in one step.
        closed: called when the connection has ended.

    Attributes:
        parser: of the responses.
        idle_since: the loop's time at the end of the last exchange.
    """

    __slots__ = (
        "_buffer",
        "_busy",
        "_closed",
        "_eager",
        "_greeting",
        "_loop",
        "_lost",
        "_socket",
        "_transport",
        "_unread",
        "_waiter",
        "idle_since",
        "parser",
    )

    def __init__(
        self, sock: socket.socket, buffer: memoryview, closed: Callable[[AsyncioConnection], object]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._buffer = buffer
        self._closed = closed
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._waiter: asyncio.Future[None] | None = None
        self._busy = self._eager = self._lost = False
        self._unread = 0
        self._greeting = bytearray()
        self.parser: ResponseParser = ResponseParser()
        self.idle_since: float = 0.0

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return the buffer to receive into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse the bytes that have been received."""
        if not self._busy:
            self._receive_unasked(nbytes)
            return
        self.parser.feed(self._buffer[:nbytes])
        if self.parser.done:
            self._wake()
        elif self._eager:
            self._wake()
            self._unread += nbytes
            if self._unread > _MOST_UNREAD:
                self._transport.pause_reading()

    def eof_received(self) -> None:
        """Take the end of the bytes; the transport closes."""
        self._lost = True
        secured: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        self.parser.end(clean=secured is None or _is_closed(secured))
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Take the end of the connection."""
        if error is not None and self._busy and self._is_plain():
            self._receive_rest()
        self._lost = True
        if error is None:
            self.parser.end(clean=False)
        else:
            self.parser.fail(error)
        self._closed(self)
        self._wake()

    # Called by `connect_asyncio`

    async def secure(self, context: ssl.SSLContext, name: str, *, past_proxy: bool) -> None:
        """Start TLS.

        `create_connection` would do that too. But uvloop 0.23, where it is cancelled, leaves a TLS protocol
        behind that writes to a closed transport.
        """
        if self._greeting:
            start = bytes(self._greeting[:40])
            raise ConnectFailed(f"it begins with {start!r}", fault="protocol", past_proxy=past_proxy)
        try:
            secured = await self._loop.start_tls(
                self._transport,
                self,
                context,
                server_hostname=name,
                ssl_handshake_timeout=CONNECT_TIMEOUT,
            )
        except (OSError, ValueError) as error:  # OpenSSL's errors too
            raise ConnectFailed(reason_of(error), past_proxy=past_proxy) from error
        if secured is None:
            raise ConnectFailed("the connection ended within the TLS handshake", past_proxy=past_proxy)
        self._transport = secured

    # Called by pools and exchanges

    def is_usable(self, *, rested: bool) -> bool:
        """Whether another request may be sent.

        Args:
            rested: the connection has been idle for so long that the server may have closed it while the loop
                had no time to notice.
        """
        return not self._lost and not (rested and is_readable(self._socket))

    async def exchange(self, request: bytes, limit: float) -> None:
        """Send `request`, and return when the parser is done with the response."""
        self._start(request, limit, bodiless=False, eager=False)
        if not self.parser.done:
            self._waiter = self._loop.create_future()
            await self._waiter

    def send(self, request: bytes, limit: float, *, bodiless: bool = False) -> None:
        """Send `request`; its response is read by `advance`."""
        self._start(request, limit, bodiless=bodiless, eager=True)

    async def advance(self) -> None:
        """Return when more of the response is there, or the parser is done."""
        if self._unread > _MOST_UNREAD:
            self._transport.resume_reading()
        self._unread = 0
        if not self.parser.done:
            self._waiter = self._loop.create_future()
            await self._waiter

    def release(self) -> bool:
        """End an exchange; return whether the connection may carry another."""
        self._busy, self._waiter = False, None
        return self.parser.reusable and not self._lost and not self._transport.get_write_buffer_size()

    def cancel(self) -> None:
        """Close the connection at once, and wake the task that waits for it."""
        self._lost = True
        self._transport.abort()
        self.parser.fail(ConnectionAbortedError("closed by this side"))
        self._wake()

    def forget(self) -> None:
        """Close this process's handle of the connection alone, in a forked process."""
        self._lost = True
        with contextlib.suppress(OSError):
            self._socket.close()

    def _start(self, request: bytes, limit: float, *, bodiless: bool, eager: bool) -> None:
        parser = self.parser
        parser.begin(limit, bodiless=bodiless)
        self._busy, self._eager, self._unread = True, eager, 0
        if self._greeting:
            greeting, self._greeting = self._greeting, bytearray()
            parser.feed(memoryview(greeting))
        if self._lost:
            parser.end()
        elif not parser.done:
            self._transport.write(request)

    def _receive_unasked(self, nbytes: int) -> None:
        """Keep the first bytes of a server, which identify its protocol; later ones are an error."""
        if self.parser.status or len(self._greeting) > _LONGEST_GREETING:
            self._lost = True
            # Not at once: uvloop's TLS goes on with the transport when this callback returns.
            self._loop.call_soon(self.cancel)
        else:
            self._greeting += self._buffer[:nbytes]

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _is_plain(self) -> bool:
        return self._transport.get_extra_info("ssl_object") is None

    def _receive_rest(self) -> None:
        """Read an early answer that came before the server reset the connection under a request's body."""
        with contextlib.suppress(OSError, ValueError):
            while not self.parser.done and (size := self._socket.recv_into(self._buffer)):
                self.parser.feed(self._buffer[:size])


def _is_closed(secured: ssl.SSLObject) -> bool:
    """Whether the server has closed TLS (`close_notify`).

    asyncio reports the end of a connection that was cut off in the same way (Python 3.11 to 3.13, and not
    uvloop 0.23).
    """
    try:
        return not secured.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


def loop_time() -> Callable[[], float]:
    """Return the running loop's function for its time."""
    return asyncio.get_running_loop().time


async def connect_asyncio(
    route: Route, sock: socket.socket, buffer: memoryview, closed: Callable[[AsyncioConnection], object]
) -> AsyncioConnection:
    """Return a connection over `sock`, which leads to the server or the proxy of `route`.

    There is one layer of TLS at most.

    Raises:
        ConnectFailed: the TLS handshake failed.
    """
    loop = asyncio.get_running_loop()
    connection = AsyncioConnection(sock, buffer, closed)
    if route.unix_path is not None:
        await loop.create_unix_connection(lambda: connection, sock=sock)
        return connection
    await loop.create_connection(lambda: connection, sock=sock)
    try:
        if route.proxy_tls is not None:
            assert route.proxy is not None
            await connection.secure(route.proxy_tls, route.proxy.host, past_proxy=False)
        elif route.tls is not None:
            await connection.secure(route.tls, route.server_hostname, past_proxy=route.proxy is not None)
    except BaseException:
        connection.cancel()
        raise
    return connection
