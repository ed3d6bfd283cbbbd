"""Mock transport: an httpx transport that answers in process."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import anyio
import httpx  # noqa: TID251 the only module of this layer with httpx
from anyio.lowlevel import checkpoint

from batchrt.testing.endpoints.replies import Ending

if TYPE_CHECKING:
    from batchrt.testing.admission.queue import QueueEntry
    from batchrt.testing.provider import MockProvider
    from batchrt.testing.serving.exchange import Exchange

__all__ = ["MockTransport"]


class MockTransport(httpx.AsyncBaseTransport):
    """Answer requests in the task that sends them, on any event loop.

    No task is started, so a cancelled request ends at once, and the log counts a disconnect. The request's
    read timeout applies, dropped connections and short bodies raise httpx's own exceptions, and large bodies
    come part by part.

    Attributes:
        endpoint: the provider; models that use it share a quota, whichever transport they have.
    """

    def __init__(self, provider: MockProvider) -> None:
        self.endpoint: object = provider
        self._provider = provider

    def __batchrt_endpoint__(self) -> object:
        """Return the object that identifies the quota; see `batchrt.limits.registry`."""
        return self.endpoint

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer `request`, whatever its host."""
        body = await request.aread()
        exchange = self._provider.open(
            request.method,
            request.url.path,
            body,
            authorization=request.headers.get("authorization", "").encode(),
            query=request.url.query,
        )
        pause = _Pause(exchange, request)
        if exchange.queue_entry is not None:
            await pause.for_turn(exchange.queue_entry)
        await pause(exchange.reply.delay)
        reply = exchange.reply
        if reply.status is None:
            exchange.finish()
            if reply.ending is Ending.REFUSE:
                raise httpx.ConnectError("All connection attempts failed", request=request)
            raise httpx.RemoteProtocolError(
                "Server disconnected without sending a response.", request=request
            )
        if reply.is_plain:
            exchange.finish()
        stream = _ReplyStream(exchange, request, pause)
        return httpx.Response(reply.status, headers=list(exchange.headers), stream=stream, request=request)


class _Pause:
    """Waits of a server, bounded by the client's read timeout."""

    def __init__(self, exchange: Exchange, request: httpx.Request) -> None:
        self._exchange = exchange
        self._request = request
        timeouts = request.extensions.get("timeout", {})
        limit = timeouts.get("read")
        self._limit: float = math.inf if limit is None else limit
        self._waited = 0.0

    async def __call__(self, seconds: float) -> None:
        # To the client the wait for a turn and that for the first byte are one.
        limit, self._waited = self._limit - self._waited, 0.0
        try:
            if not seconds:
                await checkpoint()
                return
            await anyio.sleep(min(seconds, limit))
        except BaseException:
            self._exchange.finish(gone=True)
            raise
        if seconds > limit:
            self._time_out()

    async def for_turn(self, queue_entry: QueueEntry) -> None:
        began = anyio.current_time()
        idle = (
            anyio.sleep_forever
            if self._limit == math.inf
            else partial(anyio.sleep_until, began + self._limit)
        )
        try:
            late = await queue_entry.wait_turn(idle)
        except BaseException:
            self._exchange.finish(gone=True)
            raise
        if late:
            self._time_out()
        self._waited = anyio.current_time() - began

    def _time_out(self) -> NoReturn:
        self._exchange.finish(gone=True)
        raise httpx.ReadTimeout("The read operation timed out.", request=self._request)


class _ReplyStream(httpx.AsyncByteStream):
    """The body in parts; a client that stops reading counts as a disconnect."""

    def __init__(self, exchange: Exchange, request: httpx.Request, pause: _Pause) -> None:
        self._exchange = exchange
        self._request = request
        self._pause = pause
        self._parts = enumerate(exchange.reply.timed_parts())

    # An iterator and not a generator: Trio complains about unfinished generators, and a client that has read
    # enough leaves one.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        reply = self._exchange.reply
        for place, (pause, part) in self._parts:
            if not reply.is_plain:
                await self._pause(pause)
            if place == reply.parts_before_last:
                self._exchange.finish()
            return part
        self._exchange.finish()
        if reply.ending is Ending.CLOSE:
            raise httpx.RemoteProtocolError(
                "peer closed connection without sending complete message body",
                request=self._request,
            )
        if reply.ending is Ending.RESET:
            raise httpx.ReadError("Connection reset by peer", request=self._request)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._exchange.finish(gone=True)
