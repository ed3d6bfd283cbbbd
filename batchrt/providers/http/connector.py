"""Connectors: make the connections of one event loop, in the way that suits its library."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

import anyio

from batchrt.providers.http.dialer import open_socket
from batchrt.providers.http.response_parser import ResponseParser
from batchrt.providers.http.route import Route
from batchrt.runtime.event_loop import runs_asyncio

__all__ = ["Connection", "Connector", "connector"]


class Connection(Protocol):
    """A connection that carries one exchange after another.

    Attributes:
        parser: of the responses.
        idle_since: the loop's time at the end of the last exchange.
    """

    parser: ResponseParser
    idle_since: float

    def is_usable(self, *, rested: bool) -> bool:
        """Whether another request may be sent.

        Args:
            rested: the connection has been idle for so long that the server may have closed it while the loop
                had no time to notice.
        """

    def exchange(self, request: bytes, limit: float) -> Awaitable[None]:
        """Send `request`, and return what ends when the parser is done with the response.

        Args:
            request: head and body.
            limit: most bytes of the response's body.
        """

    def send(self, request: bytes, limit: float, *, bodiless: bool = False) -> None:
        """Send `request`; its response is up to `advance`.

        Args:
            request: head and body.
            limit: most bytes of the response's body.
            bodiless: the response has no body, whatever its head says.
        """

    async def advance(self) -> None:
        """Return when more of the response is there, or the parser is done."""

    def release(self) -> bool:
        """End an exchange; return whether the connection may carry another."""

    def cancel(self) -> None:
        """Close the connection at once, and wake the task that waits for it."""

    def forget(self) -> None:
        """Close this process's handle of the connection alone, in a forked process."""


Closed: TypeAlias = Callable[[Connection], object]
Connector: TypeAlias = Callable[[Route, Closed], Awaitable[Connection]]

READ_SIZE: Final = 256 * 1024
"""Bytes that are received at once, at most: asyncio's own size."""


def connector() -> tuple[Connector, Callable[[], float]]:
    """Return a function that connects on the current event loop, and one that returns the loop's time."""
    from batchrt.providers.http.socket_connection import connect_socket

    async def connect(route: Route, closed: Closed) -> Connection:
        return await connect_socket(route, await open_socket(route), closed)

    if not runs_asyncio():
        return connect, anyio.current_time

    from batchrt.providers.http.asyncio_connection import connect_asyncio, loop_time

    buffer = memoryview(bytearray(READ_SIZE))

    async def connect_by_protocol(route: Route, closed: Closed) -> Connection:
        if route.proxy_tls is not None and route.tunneled:
            # asyncio's TLS within TLS fails with a TypeError where the inner handshake does (Python 3.11.7).
            return await connect(route, closed)
        return await connect_asyncio(route, await open_socket(route), buffer, closed)

    return connect_by_protocol, loop_time()
