"""Connections over a socket and AnyIO's waiting for it: the way on Trio."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import anyio

from batchrt.providers.http.connection_errors import CONNECT_TIMEOUT, ConnectFailed, reason_of
from batchrt.providers.http.response_head import end_of_head
from batchrt.providers.http.response_parser import ResponseParser
from batchrt.providers.http.route import Route
from batchrt.providers.http.socket_streams import PlainStream, Stream, TLSStream, closed_errors, is_readable
from batchrt.providers.http.tunnel import LONGEST_HEAD, check_tunnel, connect_request

__all__ = ["SocketConnection", "connect_socket"]


class SocketConnection:
    """A connection that carries one exchange after another.

    Args:
        sock: connected and non-blocking.
        stream: of its bytes.
        closed: called when the connection is closed.

    Attributes:
        parser: of the responses.
        idle_since: the loop's time at the end of the last exchange.
    """

    __slots__ = ("_closed", "_lost", "_socket", "_stream", "idle_since", "parser")

    def __init__(
        self, sock: socket.socket, stream: Stream, closed: Callable[[SocketConnection], object]
    ) -> None:
        self._socket = sock
        self._stream = stream
        self._closed = closed
        self._lost = False
        self.parser: ResponseParser = ResponseParser()
        self.idle_since: float = 0.0

    def is_usable(self, *, rested: bool) -> bool:  # noqa: ARG002  the loop does not watch the socket
        """Whether another request may be sent."""
        return not self._lost and not is_readable(self._socket)

    async def exchange(self, request: bytes, limit: float) -> None:
        """Send `request`, and return when the parser is done with the response."""
        self.send(request, limit)
        while not self.parser.done:
            if self._stream.has_unsent():
                await self.advance()
            else:
                await self._receive()

    def send(self, request: bytes, limit: float, *, bodiless: bool = False) -> None:
        """Send `request`; its response, and what is left of the request, are up to `advance`."""
        self.parser.begin(limit, bodiless=bodiless)
        if self._lost:
            self.parser.end()
        else:
            self._stream.write(request)

    async def advance(self) -> None:
        """Return when more of the response is there, or the parser is done."""
        if self.parser.done:
            return
        if not self._stream.has_unsent():
            await self._receive()
            return
        # A server may answer before it has the whole request, and receive no more of it.
        async with anyio.create_task_group() as group:
            group.start_soon(self._flush)
            await self._receive()
            group.cancel_scope.cancel()

    def release(self) -> bool:
        """End an exchange; return whether the connection may carry another."""
        if not self.parser.reusable or self._lost or self._stream.has_unsent():
            return False
        # `is_usable` detects bytes that are still in the socket.
        return not self._stream.has_unread()

    def cancel(self) -> None:
        """Close the connection at once, and wake the task that waits for it."""
        if not self._lost:
            self._lost = True
            anyio.notify_closing(self._socket)
            self._socket.close()
            self._closed(self)

    def forget(self) -> None:
        """Close this process's handle of the connection alone, in a forked process."""
        self._lost = True
        with contextlib.suppress(OSError):
            self._socket.close()

    async def _receive(self) -> None:
        parser = self.parser
        try:
            data = await self._stream.receive()
        except closed_errors():
            parser.fail(ConnectionAbortedError("closed by this side"))
        except OSError as error:  # OpenSSL's errors too
            parser.fail(error)
        else:
            if data:
                parser.feed(memoryview(data))
            else:
                parser.end()

    async def _flush(self) -> None:
        with contextlib.suppress(anyio.ClosedResourceError):
            await self._stream.flush()


async def connect_socket(
    route: Route, sock: socket.socket, closed: Callable[[SocketConnection], object]
) -> SocketConnection:
    """Return a connection over `sock`, which leads to the server or the proxy of `route`.

    Raises:
        ConnectFailed: a TLS handshake or the tunnel failed.
    """
    stream: Stream = PlainStream(sock)
    try:
        if route.tls is not None or route.proxy_tls is not None:
            with anyio.fail_after(CONNECT_TIMEOUT):
                stream = await _secure(route, stream)
    except ConnectFailed:
        sock.close()
        raise
    except TimeoutError as error:
        sock.close()
        raise ConnectFailed(f"no TLS handshake within {CONNECT_TIMEOUT:g} s") from error
    except BaseException:
        sock.close()
        raise
    return SocketConnection(sock, stream, closed)


async def _secure(route: Route, stream: Stream) -> Stream:
    if route.proxy_tls is not None:
        assert route.proxy is not None
        stream = await _handshake(TLSStream(stream, route.proxy_tls, route.proxy.host))
        if route.tunneled:
            await _open_tunnel(route, stream)
    if route.tls is not None:
        past_proxy = route.proxy is not None
        stream = await _handshake(TLSStream(stream, route.tls, route.server_hostname), past_proxy=past_proxy)
    return stream


async def _handshake(stream: TLSStream, *, past_proxy: bool = False) -> TLSStream:
    try:
        await stream.handshake()
    except TimeoutError:
        raise
    except OSError as error:  # OpenSSL's errors too
        raise ConnectFailed(reason_of(error), past_proxy=past_proxy) from error
    return stream


async def _open_tunnel(route: Route, stream: Stream) -> None:
    stream.write(connect_request(route))
    await stream.flush()
    received = bytearray()
    while end_of_head(received) is None and len(received) <= LONGEST_HEAD:
        data = await stream.receive()
        if not data:
            break
        received += data
    check_tunnel(route, received)
