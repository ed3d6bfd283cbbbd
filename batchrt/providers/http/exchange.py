"""Exchanges: one request and its response, over a connection of a pool."""

from __future__ import annotations

from typing import Self

import anyio

from batchrt.providers.http.connection_errors import ConnectFailed
from batchrt.providers.http.connector import Connection
from batchrt.providers.http.deadlines import Deadline
from batchrt.providers.http.pool import Pool
from batchrt.providers.http.response_parser import Disconnected, ResponseParser
from batchrt.providers.http.route import Route

__all__ = ["Exchange", "RequestBytes"]


class RequestBytes(bytes):
    """The bytes of a request, which hold a key: a traceback that shows variables does not show them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<request of {len(self)} bytes>"


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
        deadline: of the exchange.
        bodiless: the response has no body, whatever its head says.
        connect_timeout: seconds for a connection to be made; `None` for no limit but the connector's own.
        read_timeout: seconds for each part of a response that is read part by part.

    Attributes:
        response: the parser that holds it.
    """

    __slots__ = (
        "_bodiless",
        "_connect_timeout",
        "_connection",
        "_deadline",
        "_limit",
        "_pool",
        "_read_timeout",
        "_request",
        "_route",
        "response",
    )

    def __init__(
        self,
        pool: Pool,
        route: Route,
        request: RequestBytes,
        limit: float,
        deadline: Deadline | None = None,
        *,
        bodiless: bool = False,
        connect_timeout: float | None = None,
        read_timeout: float | None = None,
    ) -> None:
        self._pool = pool
        self._route = route
        self._request = request
        self._limit = limit
        self._deadline = deadline
        self._bodiless = bodiless
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._connection: Connection | None = None
        self.response: ResponseParser

    async def complete(self) -> None:
        """Send the request, and return when the whole response is there and the connection back in its pool.

        Raises:
            ConnectFailed: there is no connection.
            Disconnected: the connection ended before the response's head.
            BrokenResponse: the response is not HTTP/1.1, or ended before its end.
            MalformedResponseError: it is too long.
            TimeoutError: the deadline came.
        """
        connection = self._take()
        if connection is not None:
            try:
                await connection.exchange(self._request, self._limit)
                if not self._is_stale():
                    self._finish()
                    return
            except BaseException:
                self.close()
                raise
            connection.cancel()
        connection = await self._connect()
        try:
            await connection.exchange(self._request, self._limit)
            self._finish()
        except BaseException:
            self.close()
            raise

    async def begin(self) -> None:
        """Send the request, and return when the head of the response is there; raises as `complete` does."""
        connection = self._take()
        try:
            if connection is None:
                connection = await self._connect()
                await self._receive_head(connection)
            else:
                await self._receive_head(connection)
                if self._is_stale():
                    connection.cancel()
                    await self._receive_head(await self._connect())
            if not self.response.has_head:
                self._check()
        except BaseException:
            self.close()
            raise

    def __aiter__(self) -> Self:
        """Iterate over the parts of the body, as they come."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next part of the body, which is not empty."""
        response = self.response
        while not response.chunks and not response.done:
            await self._advance()
        if response.chunks:
            chunks = response.take()
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._finish()
        raise StopAsyncIteration

    def close(self) -> None:
        """Give the connection back, or close it if the response has not come to its end."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._pool.give_back(self._route, connection)

    def _take(self) -> Connection | None:
        connection = self._pool.take(self._route)
        if connection is not None:
            self._use(connection)
        return connection

    async def _connect(self) -> Connection:
        self._connection = None
        if self._deadline is not None:
            with anyio.CancelScope() as scope:
                self._deadline.bind(scope)
                connection = await self._pool.connect(self._route)
            if scope.cancelled_caught:
                raise TimeoutError
        elif self._connect_timeout is not None:
            try:
                with anyio.fail_after(self._connect_timeout):
                    connection = await self._pool.connect(self._route)
            except TimeoutError as error:
                raise ConnectFailed(f"no connection within {self._connect_timeout:g} s") from error
        else:
            connection = await self._pool.connect(self._route)
        self._use(connection)
        return connection

    def _use(self, connection: Connection) -> None:
        self._connection = connection
        self.response = connection.parser
        if self._deadline is not None:
            self._deadline.bind(connection)

    async def _receive_head(self, connection: Connection) -> None:
        connection.send(self._request, self._limit, bodiless=self._bodiless)
        while not (connection.parser.has_head or connection.parser.done):
            await self._advance()

    async def _advance(self) -> None:
        assert self._connection is not None
        if self._read_timeout is None:
            await self._connection.advance()
            return
        with anyio.fail_after(self._read_timeout):
            await self._connection.advance()

    def _is_stale(self) -> bool:
        error = self.response.error
        if not isinstance(error, Disconnected) or not error.unanswered:
            return False
        return self._deadline is None or not self._deadline.expired

    def _finish(self) -> None:
        self._check()
        self.close()

    def _check(self) -> None:
        error = self.response.error
        if error is not None:
            self.close()
            if self._deadline is not None and self._deadline.expired:
                raise TimeoutError from error
            raise error
