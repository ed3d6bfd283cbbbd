"""Channels over httpx: a user's client or transport."""

# ruff: noqa: TID251  one of the files that know an HTTP library
from __future__ import annotations

import sys
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx

from batchrt.errors import RequestTimeoutError
from batchrt.providers.http.connection_errors import translate
from batchrt.providers.http.content_encoding import too_large
from batchrt.providers.http.response import Reply, Sink, drained, read_body
from batchrt.providers.http.response_stream import ResponseStream, no_answer, stalled
from batchrt.runtime.blocked_loops import LoopBound

if TYPE_CHECKING:
    from batchrt.errors import ProviderError
    from batchrt.providers.http.transport import HTTPClient, HTTPTransport

__all__ = ["ClientChannel", "TransportChannel"]

_LIBRARIES: Final = ("httpx", "httpx2")
"""Libraries whose clients and transports are accepted; openai and LangChain have moved to httpx2."""

_MOST_BUFFERED: Final = 1_000
"""Parts that were received before a stream was left, at most; then the next read waits, and is cancelled."""


class _HTTPXChannel:
    """Send a request of httpx's, or of httpx2's, and read the raw stream of the answer."""

    def __init__(
        self,
        headers: Mapping[str, str],
        timeout: float | None,
        limit: int,
        library: Any,
    ) -> None:
        self._headers = headers
        self._timeout = timeout
        self._limit = limit
        self._library = library
        self._failures = (library.TransportError, library.DecodingError, OSError)
        self._pool: LoopBound | None = None
        self._owned: Any = None

    def _use(self, transport: object) -> None:
        """Hold all requests to one event loop if `transport` keeps connections, as the library's own does."""
        if isinstance(transport, self._library.AsyncHTTPTransport):
            self._pool = LoopBound()

    async def post(self, url: str, body: bytes, sink: Sink | None) -> Reply:
        reading = False
        if self._pool is not None:
            self._pool.use("a connection of the httpx client or transport")
        try:
            with anyio.fail_after(self._timeout):
                response = await self._send(url, body)
                reading = True
                try:
                    return await self._read(response, sink)
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
        except self._failures as error:
            raise translate(error, url, self._timeout, library=self._library, reading=reading) from error

    async def _read(self, response: httpx.Response, sink: Sink | None) -> Reply:
        if response.is_stream_consumed:  # made of bytes by a mock, or read by a hook of the client
            body = response.content
            if len(body) > self._limit:
                raise too_large(self._limit)
            return Reply(response.status_code, response.headers, drained(body, response.status_code, sink))
        stream = response.stream
        if not isinstance(stream, AsyncIterable):
            raise TypeError("the transport gave a response that cannot be read asynchronously")
        parts = aiter(stream)
        try:
            encoding = response.headers.get("content-encoding", "")
            body = await read_body(parts, response.status_code, encoding, self._limit, sink=sink)
        finally:
            await _close_generator(parts)
        return Reply(response.status_code, response.headers, body)

    async def stream(self, url: str, body: bytes) -> ResponseStream:
        """Send `body`; see `Transport.stream`."""
        if self._pool is not None:
            self._pool.use("a connection of the httpx client or transport")
        try:
            with anyio.fail_after(self._timeout):
                response = await self._send(url, body)
        except self._failures as error:
            raise self._translated(error, url, reading=False) from error
        try:
            return _HTTPXStream(response, self, url)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await response.aclose()
            raise

    def _translated(self, error: BaseException, url: str, *, reading: bool) -> ProviderError:
        """Return the error of a stream."""
        translated = translate(error, url, self._timeout, library=self._library, reading=reading)
        if isinstance(translated, RequestTimeoutError):
            return stalled(url, self._timeout) if reading else no_answer(url, self._timeout)
        return translated

    async def _send(self, url: str, body: bytes) -> httpx.Response:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Do nothing: only a transport that was passed in is closed with its model."""


class _HTTPXStream(ResponseStream):
    """Receive the raw stream of a response of httpx's, or httpx2's."""

    __slots__ = ("_channel", "_raw", "_response", "_unread", "_url")

    def __init__(self, response: httpx.Response, channel: _HTTPXChannel, url: str) -> None:
        encoding = response.headers.get("content-encoding", "")
        consumed = response.is_stream_consumed  # made of bytes by a mock, or read by a hook of the client
        super().__init__(response.status_code, response.headers, "" if consumed else encoding, channel._limit)
        self._response = response
        self._channel = channel
        self._url = url
        self._unread = True
        self._raw: AsyncIterator[bytes] | bytes
        if consumed:
            self._raw = response.content
        elif isinstance(response.stream, AsyncIterable):
            self._raw = aiter(response.stream)
        else:
            raise TypeError("the transport gave a response that cannot be read asynchronously")

    async def _receive(self) -> bytes:
        raw = self._raw
        if isinstance(raw, bytes):
            self._raw = b""
            return raw
        part: bytes | None = b""
        self._unread = False
        try:
            with anyio.fail_after(self._channel._timeout):
                while part == b"":
                    part = await anext(raw, None)
        except self._channel._failures as error:
            raise self._channel._translated(error, self._url, reading=True) from error
        if part is not None:
            self._unread = True
            return part
        await self.aclose()
        return b""

    async def aclose(self) -> None:
        """Close the response, which gives its connection back or closes it."""
        raw = self._raw
        if self._unread and not isinstance(raw, bytes):
            self._unread = False
            await self._cancel(raw)
        await _close_generator(raw)
        with anyio.CancelScope(shield=True):
            await self._response.aclose()
            if self._channel._owned is not None:
                await self._channel._owned.aclose()

    async def _cancel(self, raw: AsyncIterator[bytes]) -> None:
        """Cancel the next read.

        httpx nests generators, and to close the outermost leaves the others to the garbage collector, which
        Trio warns of; a cancellation ends them all.
        """
        for _ in range(_MOST_BUFFERED):
            with anyio.CancelScope(shield=True) as scope:
                scope.cancel()
                try:
                    if await anext(raw, None) is None:
                        return
                except self._channel._failures:
                    return
            if scope.cancelled_caught:
                return


class TransportChannel(_HTTPXChannel):
    """Send through a user's httpx transport.

    Raises:
        TypeError: it is not an async transport.
    """

    def __init__(
        self, headers: Mapping[str, str], timeout: float | None, limit: int, transport: HTTPTransport
    ) -> None:
        library = _library_of_transport(transport)
        super().__init__(headers, timeout, limit, library)
        self._transport = transport
        self._use(transport)
        self._extensions = {"timeout": library.Timeout(timeout).as_dict()}

    async def _send(self, url: str, body: bytes) -> Any:
        request = self._library.Request(
            "POST", url, headers=self._headers, content=body, extensions=self._extensions
        )
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()


class ClientChannel(_HTTPXChannel):
    """Send through a user's httpx client: its proxies, certificates, hooks and pool.

    One that is `owned` is closed with the first stream.

    Raises:
        TypeError: it is not an async client.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        timeout: float | None,
        limit: int,
        client: HTTPClient,
        *,
        owned: bool = False,
    ) -> None:
        super().__init__(headers, timeout, limit, _library_of_client(client))
        self._client: Any = client
        self._owned = client if owned else None
        self._use(getattr(client, "_transport", None))

    async def _send(self, url: str, body: bytes) -> Any:
        request = self._client.build_request(
            "POST", url, headers=self._headers, content=body, timeout=self._timeout
        )
        return await self._client.send(request, stream=True, follow_redirects=False)


async def _close_generator(parts: object) -> None:
    # Trio, and asyncio in debug mode, want a generator closed that is not read to its end.
    aclose = getattr(parts, "aclose", None)
    if aclose is not None:
        with anyio.CancelScope(shield=True):
            await aclose()


def _library_of_client(client: object) -> Any:
    """Return the library of an async `client`; httpx for a class with the same methods."""
    library = _library_of(client, "AsyncClient")
    if library is not None:
        return library
    looks_like_one = all(callable(getattr(client, name, None)) for name in ("build_request", "send"))
    if looks_like_one and not isinstance(client, type) and _library_of(client, "Client") is None:
        return httpx
    kind = f"{type(client).__module__.partition('.')[0]}.{type(client).__name__}"
    hint = "httpx.AsyncClient(...)"
    if _library_of(client, "Client") is not None:
        hint = f"{type(client).__module__.partition('.')[0]}.AsyncClient(...): this one is synchronous"
    elif hasattr(client, "handle_async_request"):
        hint = "it as transport="
    raise TypeError(f"http_client must be an httpx.AsyncClient, or httpx2's, not {kind}; pass {hint}")


def _library_of_transport(transport: object) -> Any:
    """Return the library of an async `transport`; httpx for a class with the same methods."""
    library = _library_of(transport, "AsyncBaseTransport")
    if library is not None:
        return library
    kind = f"{type(transport).__module__.partition('.')[0]}.{type(transport).__name__}"
    if _library_of(transport, "AsyncClient") is not None:
        raise TypeError(f"transport must be an async transport, not {kind}; pass it as http_client=")
    if not callable(getattr(transport, "handle_async_request", None)):
        raise TypeError(
            f"transport must be an async transport of httpx's, or httpx2's, not {kind}; it has no "
            "handle_async_request"
        )
    return httpx


def _library_of(thing: object, name: str) -> Any:
    """Return the library whose class `name` has `thing` as an instance; imports none."""
    for library in _LIBRARIES:
        module = sys.modules.get(library)
        if module is not None and isinstance(thing, getattr(module, name)):
            return module
    return None
