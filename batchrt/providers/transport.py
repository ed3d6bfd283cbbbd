"""Send these bytes, get status, headers, bytes: the only module that knows an HTTP library.

Three ways lead out, and all keep the same bounds in time and size:

- by default pyqwest, spoken to directly: httpx's request and response objects cost as much again;
- a user's httpx transport (`httpx.MockTransport`, a respx router, `httpx.ASGITransport` …);
- a user's `httpx.AsyncClient`.
"""

# ruff: noqa: TID251  this is the one place
from __future__ import annotations

import atexit
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Protocol, TypeAlias

import anyio
import certifi
import httpx

from batchrt.errors import (
    ConnectionFailedError,
    MalformedResponseError,
    ProviderError,
    RequestTimeoutError,
)
from batchrt.providers.address import check_headers, origin_of
from batchrt.providers.decoding import ACCEPT_ENCODING, decode, too_large
from batchrt.providers.leaving import let_threads_out
from batchrt.providers.reply import HeaderMap, Reply
from batchrt.runtime.blocking import LoopBound

if TYPE_CHECKING:
    from typing import Self

    import pyqwest

__all__ = ["HTTPClient", "HTTPTransport", "PyqwestTransport", "Transport"]

HTTPClient: TypeAlias = httpx.AsyncClient
HTTPTransport: TypeAlias = httpx.AsyncBaseTransport

_CONNECT_TIMEOUT: Final = 30.0
_IDLE_CONNECTIONS: Final = 2**31
"""Idle connections kept for a host; pyqwest's default of 2 closes all others after each burst."""


class Sink(Protocol):
    """Take a body in as it comes."""

    def feed(self, data: bytes | memoryview | bytearray) -> None:
        """Take the next piece."""

    def end(self) -> bytes:
        """Return what stands for the body, once all of it was fed."""


class Transport:
    """Post bodies to one provider; may be used from any event loop and from several at once.

    Args:
        headers: sent with every request.
        tls: the URLs are `https`.
        timeout: seconds for a whole exchange, from connecting to the last byte; `None` for no end.
        max_response_bytes: bounds an answer as it is received and as it unpacks.
        http_client: send through this client; it stays the caller's to close.
        transport: send through this httpx transport, which is closed with this object.

    Raises:
        ValueError: for a header that HTTP cannot carry.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        tls: bool,
        timeout: float | None,
        max_response_bytes: int,
        http_client: httpx.AsyncClient | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if http_client is not None and transport is not None:
            raise ValueError("give either http_client or transport, not both")
        sent = check_headers({**headers, "accept-encoding": ACCEPT_ENCODING})
        self._channel: _Channel
        if http_client is not None:
            self._channel = _ClientChannel(sent, timeout, max_response_bytes, http_client)
        elif transport is not None:
            self._channel = _TransportChannel(sent, timeout, max_response_bytes, transport)
        else:
            self._channel = _DirectChannel(sent, timeout, max_response_bytes, tls=tls)

    def post(self, url: str, body: bytes, sink: Sink | None = None) -> Coroutine[Any, Any, Reply]:
        """Send `body` and return the answer, whatever its status; redirects are not followed.

        When the caller is cancelled the connection is closed at once. With a `sink`, the body of a success
        is fed to it as it comes, and what `end` gives stands for it in the `Reply`.

        Raises:
            ConnectionFailedError: there is no connection, or it broke.
            RequestTimeoutError: the exchange took longer than `timeout`.
            MalformedResponseError: the answer is too large, cut short or not decodable.
        """
        return self._channel.post(url, body, sink)

    async def aclose(self) -> None:
        """Close idle connections; requests under way are not waited for."""
        await self._channel.aclose()


class _Channel(Protocol):
    async def post(self, url: str, body: bytes, sink: Sink | None) -> Reply: ...

    async def aclose(self) -> None: ...


class _DirectChannel:
    """Speak to pyqwest without httpx's types in between."""

    def __init__(self, headers: Mapping[str, str], timeout: float | None, limit: int, *, tls: bool) -> None:
        import pyqwest

        self._http = PyqwestTransport(timeout=timeout, tls=tls)
        self._execute: Callable[[pyqwest.Request], Awaitable[pyqwest.Response]]
        self._execute = self._http.native.execute
        self._request = pyqwest.Request
        self._headers = pyqwest.Headers(list(headers.items()))
        self._failures = (
            OSError,  # ConnectionError and TimeoutError are its kinds
            pyqwest.ReadError,
            pyqwest.WriteError,
            pyqwest.RemoteProtocolError,
        )
        self._timeout = timeout
        self._limit = limit

    async def post(self, url: str, body: bytes, sink: Sink | None) -> Reply:
        self._http.check_process()
        try:
            response = await self._execute(self._request("POST", url, self._headers, body))
        except self._failures as error:
            raise _translate(error, url, self._timeout) from error
        try:
            return await self._read(response, sink)
        except BaseException as error:
            await _release(response)
            if isinstance(error, self._failures):
                raise _translate(error, url, self._timeout, reading=True) from error
            raise

    async def _read(self, response: pyqwest.Response, sink: Sink | None) -> Reply:
        headers: HeaderMap = response.headers
        # Every chunk is a round trip through pyqwest's threads, and so is the end of the body:
        # where the length is known there is no need to ask for the end.
        length = headers.get("content-length")
        expected = None if length is None else int(length)
        if expected == 0:
            return Reply(response.status, headers, b"")
        if expected is not None and expected > self._limit:
            raise too_large(self._limit)
        encoding = headers.get("content-encoding") or ""
        body = await _read_body(
            response.content, response.status, encoding, self._limit, sink=sink, expected=expected
        )
        return Reply(response.status, headers, body)

    async def aclose(self) -> None:
        self._execute = _refuse
        await self._http.aclose()


class _HTTPXChannel:
    """Send an `httpx.Request` and read the raw stream of the answer."""

    def __init__(self, headers: Mapping[str, str], timeout: float | None, limit: int) -> None:
        self._headers = headers
        self._timeout = timeout
        self._limit = limit
        self._pool: LoopBound | None = None

    def _use(self, transport: object) -> None:
        """Note that requests go through `transport`; httpx's own keeps connections, of one loop each."""
        if isinstance(transport, httpx.AsyncHTTPTransport):
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
        except (httpx.TransportError, httpx.DecodingError, OSError) as error:
            raise _translate(error, url, self._timeout, reading=reading) from error

    async def _read(self, response: httpx.Response, sink: Sink | None) -> Reply:
        if response.is_stream_consumed:  # made of bytes by a mock, or read by a hook of the client
            body = response.content
            if len(body) > self._limit:
                raise too_large(self._limit)
            return Reply(response.status_code, response.headers, _drained(body, response.status_code, sink))
        stream = response.stream
        if not isinstance(stream, AsyncIterable):
            raise TypeError("the transport gave a response that cannot be read asynchronously")
        parts = aiter(stream)
        try:
            encoding = response.headers.get("content-encoding", "")
            body = await _read_body(parts, response.status_code, encoding, self._limit, sink=sink)
        finally:
            await _close_generator(parts)
        return Reply(response.status_code, response.headers, body)

    async def _send(self, url: str, body: bytes) -> httpx.Response:
        raise NotImplementedError


class _TransportChannel(_HTTPXChannel):
    """Go through a user's httpx transport."""

    def __init__(
        self,
        headers: Mapping[str, str],
        timeout: float | None,
        limit: int,
        transport: httpx.AsyncBaseTransport,
    ) -> None:
        super().__init__(headers, timeout, limit)
        self._transport = transport
        self._use(transport)
        self._extensions = {"timeout": httpx.Timeout(timeout).as_dict()}

    async def _send(self, url: str, body: bytes) -> httpx.Response:
        request = httpx.Request("POST", url, headers=self._headers, content=body, extensions=self._extensions)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


class _ClientChannel(_HTTPXChannel):
    """Go through a user's httpx client: its proxies, certificates, hooks and pool."""

    def __init__(
        self,
        headers: Mapping[str, str],
        timeout: float | None,
        limit: int,
        client: httpx.AsyncClient,
    ) -> None:
        super().__init__(headers, timeout, limit)
        self._client = client
        self._use(getattr(client, "_transport", None))

    async def _send(self, url: str, body: bytes) -> httpx.Response:
        request = self._client.build_request(
            "POST", url, headers=self._headers, content=body, timeout=self._timeout
        )
        return await self._client.send(request, stream=True, follow_redirects=False)

    async def aclose(self) -> None:
        """Do nothing: the client is the caller's to close."""


class PyqwestTransport(httpx.AsyncBaseTransport):
    """Carry httpx requests over pyqwest, on asyncio, uvloop and Trio.

    One object serves all event loops: connections live in pyqwest's own threads. Proxies are taken
    from the environment and certificates from certifi and the system (`SSL_CERT_FILE` counts), as
    httpx users expect. HTTP/1.1 only: over HTTP/2 all requests would share one connection, and
    servers allow some hundred at once on it.

    Args:
        timeout: seconds for a whole exchange. Besides, httpx's own read timeout bounds the wait
            for the head and for each part of the body; httpx's other timeouts are not looked at.
        tls: load certificates; without them `https` URLs fail.
    """

    _home: ClassVar[int | None] = None
    """The process that the first request was sent from."""

    def __init__(self, *, timeout: float | None = None, tls: bool = True) -> None:
        import pyqwest

        self.native: pyqwest.HTTPTransport = pyqwest.HTTPTransport(
            tls_include_system_certs=tls,
            tls_ca_cert=Path(certifi.where()).read_bytes() if tls else None,
            http_version=pyqwest.HTTPVersion.HTTP1,
            timeout=timeout,
            connect_timeout=_CONNECT_TIMEOUT,
            pool_max_idle_per_host=_IDLE_CONNECTIONS,
            # Unpacked over there an answer could not be bounded.
            enable_gzip=False,
            enable_brotli=False,
            enable_zstd=False,
            follow_redirects=False,
            enable_otel=False,
        )

    @classmethod
    def check_process(cls) -> None:
        """Raise RuntimeError in a process forked after the first request.

        pyqwest's threads are started by the first request of a process and do not survive a fork:
        without this check the child's requests would wait forever.
        """
        process = os.getpid()
        if cls._home != process:
            if cls._home is not None:
                raise RuntimeError(
                    "requests were sent before this process was forked, and connections do not "
                    "survive that: start processes with multiprocessing's 'spawn' or "
                    "'forkserver', or pass transport=httpx.AsyncHTTPTransport()"
                )
            PyqwestTransport._home = process

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; the body of the answer is left to be streamed."""
        import pyqwest

        self.check_process()
        outgoing = pyqwest.Request(
            request.method,
            str(request.url),
            pyqwest.Headers(_end_to_end(request)),
            await request.aread(),
        )
        patience = request.extensions.get("timeout", {}).get("read")
        try:
            with anyio.fail_after(patience):
                response = await self.native.execute(outgoing)
        except Exception as error:
            raise _to_httpx(error, request) from error
        return httpx.Response(
            response.status,
            headers=list(response.headers.items()),
            stream=_PyqwestStream(response, request, patience),
        )

    async def aclose(self) -> None:
        """Close idle connections."""
        await self.native.aclose()


def _let_threads_out() -> None:
    if PyqwestTransport._home == os.getpid():
        let_threads_out()


# Registered on import, and so called after the handlers of users, which may still send requests.
atexit.register(_let_threads_out)


class _PyqwestStream(httpx.AsyncByteStream, AsyncIterator[bytes]):
    def __init__(self, response: pyqwest.Response, request: httpx.Request, patience: float | None) -> None:
        self._response = response
        self._parts = aiter(response.content)
        self._request = request
        self._patience = patience

    # No generator: one that is given up half-way would have to be closed by each of its readers.
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            with anyio.fail_after(self._patience):
                return bytes(await anext(self._parts))
        except StopAsyncIteration:
            raise
        except Exception as error:
            raise _to_httpx(error, self._request) from error

    async def aclose(self) -> None:
        await _release(self._response)


async def _read_body(
    parts: AsyncIterable[bytes | memoryview | bytearray],
    status: int,
    encoding: str,
    limit: int,
    *,
    sink: Sink | None,
    expected: int | None = None,
) -> bytes:
    if encoding.strip().lower() not in ("", "identity") or sink is None or not _is_success(status):
        body = decode(await _gather(parts, limit, expected), encoding, limit)
        return _drained(body, status, sink)
    size = 0
    async for part in parts:
        size += len(part)
        if size > limit:
            raise too_large(limit)
        sink.feed(part)
        if size == expected:
            break
    return sink.end()


def _is_success(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004


def _drained(body: bytes, status: int, sink: Sink | None) -> bytes:
    if sink is None or not _is_success(status):
        return body
    sink.feed(body)
    return sink.end()


async def _gather(
    parts: AsyncIterable[bytes | memoryview | bytearray], limit: int, expected: int | None = None
) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for part in parts:
        chunks.append(bytes(part))
        size += len(part)
        if size == expected:
            break
        if size > limit:
            raise too_large(limit)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _close_generator(parts: object) -> None:
    # Trio, and asyncio in debug mode, want a generator closed by whoever gives it up half-way.
    aclose = getattr(parts, "aclose", None)
    if aclose is not None:
        with anyio.CancelScope(shield=True):
            await aclose()


async def _release(response: pyqwest.Response) -> None:
    # Waiting for the garbage collector would leave the connection open for as long as somebody
    # looks at the traceback.
    with anyio.CancelScope(shield=True):
        await response.aclose()


def _refuse(_request: object) -> NoReturn:
    raise RuntimeError("this client is closed")


def _translate(
    error: BaseException, url: str, timeout: float | None, *, reading: bool = False
) -> ProviderError:
    """Return what `error` means to a caller; `reading`: the head of the answer had come."""
    _hide_url(error)
    origin = origin_of(url)
    if isinstance(error, ConnectionError | httpx.ConnectError | httpx.ConnectTimeout):
        return ConnectionFailedError(f"cannot connect to {origin}: {_reason(error)}")
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        within = "in time" if timeout is None else f"within {timeout:g} s"
        return RequestTimeoutError(f"no whole answer from {origin} {within}")
    if reading and type(error).__name__ in ("RemoteProtocolError", "StreamError", "DecodingError"):
        return MalformedResponseError(f"the answer from {origin} is broken: {_reason(error)}")
    return ConnectionFailedError(f"the connection to {origin} failed: {_reason(error)}")


_URL_IN_MESSAGE: Final = re.compile(r" for url \(\S*\)")


def _hide_url(error: BaseException) -> None:
    # pyqwest puts the URL into its messages, and a URL's query may hold a key.
    error.args = tuple(_URL_IN_MESSAGE.sub("", arg) if isinstance(arg, str) else arg for arg in error.args)


def _reason(error: BaseException) -> str:
    return str(error).removeprefix("Request failed: ") or type(error).__name__


def _to_httpx(error: Exception, request: httpx.Request) -> Exception:
    """Return `error`, one of pyqwest's, as the httpx error that means the same."""
    _hide_url(error)
    kinds: dict[str, type[httpx.TransportError]] = {
        "ReadError": httpx.ReadError,
        "WriteError": httpx.WriteError,
        "RemoteProtocolError": httpx.RemoteProtocolError,
        "ConnectTimeout": httpx.ConnectTimeout,
        "ConnectionError": httpx.ConnectError,
        "TimeoutError": httpx.ReadTimeout,
    }
    for base in type(error).__mro__:
        kind = kinds.get(base.__name__)
        if kind is not None:
            return kind(str(error) or "timed out", request=request)
    return error


_HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
)


def _end_to_end(request: httpx.Request) -> list[tuple[str, str]]:
    # httpx adds the host of the URL, which pyqwest does too; only another one is passed on.
    host = request.url.netloc.decode("ascii").lower()
    return [
        (name, value)
        for name, value in request.headers.multi_items()
        if name not in _HOP_BY_HOP and not (name == "host" and value.lower() == host)
    ]
