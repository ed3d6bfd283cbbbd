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
from batchrt.providers.http.tunnel import LONGEST_HEAD, check_tunnel, connect_request, end_of_head

__all__ = ["AsyncioConnection", "connect_asyncio"]

_MOST_UNREAD: Final = 1024 * 1024
"""Bytes of a body that wait for a slow reader before the connection stops to receive."""


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
        if not self._busy:  # no request asked for them
            self.cancel()
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
        """Take the end of what the server sends."""
        self._lost = True
        self.parser.end(clean=self._has_ended_cleanly())
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
        parser = self.parser
        parser.begin(limit)
        if self._lost:
            parser.end()
            return
        self._busy, self._eager = True, False
        self._transport.write(request)
        self._waiter = self._loop.create_future()
        await self._waiter

    def send(self, request: bytes, limit: float, *, bodiless: bool = False) -> None:
        """Send `request`; its response is read by `advance`."""
        self.parser.begin(limit, bodiless=bodiless)
        if self._lost:
            self.parser.end()
            return
        self._busy = self._eager = True
        self._unread = 0
        self._transport.write(request)

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

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _is_plain(self) -> bool:
        return self._transport.get_extra_info("ssl_object") is None

    def _has_ended_cleanly(self) -> bool:
        """Whether a TLS stream ended with a `close_notify`; asyncio reports either end alike."""
        tls = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            return not tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def _receive_rest(self) -> None:
        """Read an early answer that came before the server reset the connection under a request's body."""
        with contextlib.suppress(OSError, ValueError):
            while not self.parser.done and (size := self._socket.recv_into(self._buffer)):
                self.parser.feed(self._buffer[:size])


async def connect_asyncio(
    route: Route, sock: socket.socket, buffer: memoryview, closed: Callable[[AsyncioConnection], object]
) -> AsyncioConnection:
    """Return a connection over `sock`, which leads to the server or the proxy of `route`.

    Raises:
        ConnectFailed: a TLS handshake or the tunnel failed.
    """
    loop = asyncio.get_running_loop()
    connection = AsyncioConnection(sock, buffer, closed)
    if route.unix_path is not None:
        await loop.create_unix_connection(lambda: connection, sock=sock)
        return connection
    try:
        if route.proxy_tls is not None and route.tunneled:
            await _connect_through(route, sock, connection)
        else:
            context = route.proxy_tls or route.tls
            name = _proxy_host(route) if route.proxy_tls is not None else route.server_hostname
            await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=context,
                server_hostname=None if context is None else name,
                ssl_handshake_timeout=None if context is None else CONNECT_TIMEOUT,
            )
    except ConnectFailed:
        raise
    except (OSError, ValueError) as error:  # OpenSSL's errors too
        raise ConnectFailed(reason_of(error), past_proxy=route.tunneled) from error
    return connection


async def _connect_through(route: Route, sock: socket.socket, connection: AsyncioConnection) -> None:
    """Open a tunnel through a proxy that speaks TLS, and start the server's TLS in it."""
    loop = asyncio.get_running_loop()
    assert route.tls is not None
    transport, tunnel = await loop.create_connection(
        _Tunnel,
        sock=sock,
        ssl=route.proxy_tls,
        server_hostname=_proxy_host(route),
        ssl_handshake_timeout=CONNECT_TIMEOUT,
    )
    try:
        transport.write(connect_request(route))
        await tunnel.answered
        check_tunnel(route, tunnel.received)
        inner = await loop.start_tls(
            transport,
            connection,
            route.tls,
            server_hostname=route.server_hostname,
            ssl_handshake_timeout=CONNECT_TIMEOUT,
        )
    except ssl.SSLError as error:
        transport.abort()
        raise ConnectFailed(reason_of(error), past_proxy=True) from error
    except BaseException:
        transport.abort()
        raise
    if inner is None:
        raise ConnectFailed("the connection ended within the TLS handshake", past_proxy=True)
    connection.connection_made(inner)


def _proxy_host(route: Route) -> str:
    assert route.proxy is not None
    return route.proxy.host


class _Tunnel(asyncio.Protocol):
    """Receive a proxy's answer to `CONNECT`."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if end_of_head(self.received) is not None or len(self.received) > LONGEST_HEAD:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self._wake()

    def _wake(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)
