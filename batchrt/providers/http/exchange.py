"""Exchanges: one request and its response, over a connection of a pool."""

from __future__ import annotations

import math
from typing import NoReturn, Self

import anyio

from batchrt.providers.http.connection_errors import ConnectFailed
from batchrt.providers.http.connector import Connection
from batchrt.providers.http.pool import Pool
from batchrt.providers.http.response_parser import Disconnected, ResponseParser
from batchrt.providers.http.route import Route

__all__ = ["Exchange", "RequestBytes"]


class RequestBytes(bytes):
    """The bytes of a request, which hold a key: a traceback that shows variables does not show them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<request of {len(self)} bytes>"

    __str__ = __repr__


class Exchange:
    """Send a request and receive the response, at once or part by part.

    A server may close an idle connection at the moment at which a request is sent on it. So a request that
    meets the end of a used connection before any byte of a response is sent again, once, on a new one
    (RFC 9112, 9.3.1). The caller does not see that.

    Args:
        pool: gives the connection.
        route: to the server; interned.
        request: head and body.
        limit: most bytes of the response's body.

    Attributes:
        response: the parser that holds it. It is the connection's, so that a response that is complete is to
            be taken from it before anything is awaited.
        deadline: on the loop's clock, if there is one; see `Deadlines`.
        bodiless: the response has no body, whatever its head says.
        connect_timeout: seconds for a connection to be made; `None` for no limit but the connector's own.
        read_timeout: seconds for each part of a response that is read part by part.
        ended: the whole body was received, part by part, and the connection given back.
    """

    response: ResponseParser
    deadline: float = math.inf
    bodiless: bool = False
    connect_timeout: float | None = None
    read_timeout: float | None = None
    ended: bool = False
    _expired = False
    _connection: Connection | None = None
    _scope: anyio.CancelScope | None = None

    def __init__(self, pool: Pool, route: Route, request: RequestBytes, limit: float) -> None:
        self._pool = pool
        self._route = route
        self._request = request
        self._limit = limit

    async def complete(self, now: float) -> None:
        """Send the request, and return when the whole response is there and the connection back in its pool.

        Args:
            now: the loop's time.

        Raises:
            ConnectFailed: there is no connection.
            Disconnected: the connection ended before the response's head.
            BrokenResponse: the response is not HTTP/1.1, or ended before its end.
            MalformedResponseError: it is too long.
            TimeoutError: the deadline came.
        """
        connection = self._pool.take(self._route, now)
        try:
            if connection is not None:
                self._connection, self.response = connection, connection.parser
                await connection.exchange(self._request, self._limit)
            if connection is None or self._is_stale(connection):
                connection = await self._connect()
                await connection.exchange(self._request, self._limit)
            if self.response.error is not None:
                self._raise(self.response.error)
        finally:
            self.close()

    async def begin(self, now: float) -> None:
        """Send the request, and return when the head of the response is there; see `complete`."""
        connection = self._pool.take(self._route, now)
        try:
            if connection is not None:
                self._connection, self.response = connection, connection.parser
                await self._receive_head(connection)
            if connection is None or self._is_stale(connection):
                await self._receive_head(await self._connect())
            error = self.response.error
            if error is not None and not self.response.has_head:
                self._raise(error)
        except BaseException:
            self.close()
            raise

    def __aiter__(self) -> Self:
        """Iterate over the parts of the body as they are received."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next part of the body, which is not empty."""
        part = await self.receive()
        if not part:
            raise StopAsyncIteration
        return part

    async def receive(self) -> bytes:
        """Return the next part of the body, or nothing at its end."""
        if self.ended:
            return b""
        response = self.response
        while not response.chunks and not response.done:
            await self._advance()
        chunks = response.take()
        if response.done and response.error is None:
            # The parser is the connection's, which may be used for another exchange from now on.
            self.ended = True
            self.close()
        if chunks:
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.close()
        if not self.ended and response.error is not None:
            self._raise(response.error)
        return b""

    def close(self) -> None:
        """Give the connection back, or close it if the response is incomplete."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._pool.give_back(self._route, connection)

    def expire(self) -> None:
        """Close the connection, or end the connection attempt, because the deadline has passed."""
        self._expired = True
        if self._connection is not None:
            self._connection.cancel()
        elif self._scope is not None:
            self._scope.cancel()

    async def _connect(self) -> Connection:
        self._connection = None
        with anyio.move_on_after(self.connect_timeout) as scope:
            self._scope = scope
            connection = await self._pool.connect(self._route)
        self._scope = None
        if scope.cancelled_caught:
            if self._expired or self.connect_timeout is None:
                raise TimeoutError
            reason = f"no connection within {self.connect_timeout:g} s"
            raise ConnectFailed(reason, explained=True) from TimeoutError()
        self._connection, self.response = connection, connection.parser
        if self._expired:
            raise TimeoutError
        return connection

    async def _receive_head(self, connection: Connection) -> None:
        connection.send(self._request, self._limit, bodiless=self.bodiless)
        while not (connection.parser.has_head or connection.parser.done):
            await self._advance()

    async def _advance(self) -> None:
        assert self._connection is not None
        if self.read_timeout is None:
            await self._connection.advance()
            return
        with anyio.fail_after(self.read_timeout):
            await self._connection.advance()

    def _is_stale(self, connection: Connection) -> bool:
        """Whether the request is to be sent on another connection; this one is closed then."""
        error = connection.parser.error
        if error is None or self._expired or not (isinstance(error, Disconnected) and error.unanswered):
            return False
        connection.cancel()
        return True

    def _raise(self, error: Exception) -> NoReturn:
        if self._expired:
            raise TimeoutError from error
        raise error
