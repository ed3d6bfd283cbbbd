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
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, Protocol

import anyio
import certifi
import httpx

from batchrt.errors import (
    ConnectionFailedError,
    MalformedResponseError,
    ProviderError,
    RequestTimeoutError,
)
from batchrt.providers.http.address import check_headers, origin_of
from batchrt.providers.http.connection import (
    connection_failed,
    fault_of,
    is_unreadable,
    speaks_http,
    speaks_tls,
)
from batchrt.providers.http.content_encoding import ACCEPT_ENCODING, decode, too_large
from batchrt.providers.http.native_threads import let_threads_out
from batchrt.providers.http.proxies import Proxy, proxy_for
from batchrt.providers.http.response import HeaderMap, Reply
from batchrt.providers.http.retry_after import advise
from batchrt.runtime.blocked_loops import LoopBound

if TYPE_CHECKING:
    from typing import Self

    import pyqwest

__all__ = ["HTTPClient", "HTTPTransport", "PyqwestTransport", "Transport"]

_LIBRARIES: Final = ("httpx", "httpx2")
"""Whose clients and transports are taken: httpx2 is what openai and LangChain use by now."""


class HTTPClient(Protocol):
    """An `httpx.AsyncClient`, httpx2's, or what looks like one; others are refused when a model is made."""

    def build_request(self, method: str, url: str, /) -> Any:
        """Return a request."""

    async def send(self, request: Any, /) -> Any:
        """Send it."""


class HTTPTransport(Protocol):
    """A transport of httpx's for async clients, or of httpx2's, or what looks like one."""

    async def handle_async_request(self, request: Any, /) -> Any:
        """Send a request."""

    async def aclose(self) -> None:
        """Close it."""


_CONNECT_TIMEOUT: Final = 30.0
_NO_PROXY: Final = "http://no-proxy.invalid"
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
        url: what the URLs begin with, to find out about proxies for; without one, the environment's hold
            as pyqwest understands them.
        timeout: seconds for a whole exchange, from connecting to the last byte; `None` for no end.
        max_response_bytes: bounds an answer as it is received and as it unpacks.
        http_client: send through this client of httpx's or httpx2's; it stays the caller's to close.
        transport: send through this transport of httpx's or httpx2's, which is closed with this object.

    Raises:
        ValueError: for a header that HTTP cannot carry.
        TypeError: for what is no client or no transport, or a synchronous one.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        tls: bool,
        timeout: float | None,
        max_response_bytes: int,
        url: str = "",
        http_client: HTTPClient | None = None,
        transport: HTTPTransport | None = None,
    ) -> None:
        if http_client is not None and transport is not None:
            raise ValueError("give either http_client or transport, not both")
        sent = check_headers({**headers, "accept-encoding": ACCEPT_ENCODING})
        self._channel: _Channel
        if http_client is not None:
            library = _library_of_client(http_client)
            self._channel = _ClientChannel(sent, timeout, max_response_bytes, http_client, library)
        elif transport is not None:
            library = _library_of_transport(transport)
            self._channel = _TransportChannel(sent, timeout, max_response_bytes, transport, library)
        else:
            self._channel = _DirectChannel(sent, timeout, max_response_bytes, tls=tls, url=url)

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
    """Speak to pyqwest without httpx's types in between.

    Where pyqwest knows no way and httpx does, it is changed for that: a name that only the system's
    resolver knows (one with an underscore, for instance), a certificate that `SSL_CERT_FILE` names and that
    signs itself, an answer of more than a hundred headers.
    """

    def __init__(
        self, headers: Mapping[str, str], timeout: float | None, limit: int, *, tls: bool, url: str
    ) -> None:
        import pyqwest

        self._proxy = proxy_for(url) if url else None
        self._direct = bool(url) and self._proxy is None
        self._tls = tls
        self._timeout = timeout
        self._limit = limit
        self._http = self._native()
        self._execute: Callable[[pyqwest.Request], Awaitable[pyqwest.Response]]
        self._execute = self._http.native.execute
        self._request = pyqwest.Request
        self._plain_headers = headers
        self._headers = pyqwest.Headers(list(headers.items()))
        self._failures = (
            OSError,  # ConnectionError and TimeoutError are its kinds
            pyqwest.ReadError,
            pyqwest.WriteError,
            pyqwest.RemoteProtocolError,
        )
        self._by_system_dns = False
        self._system: PyqwestTransport | None = None
        self._other_scheme: bool | None = None
        self._unpooled: _UnpooledChannel | None = None

    def _native(self, *, system_dns: bool = False) -> PyqwestTransport:
        proxy = None if self._proxy is None else self._proxy.url
        return PyqwestTransport(
            timeout=self._timeout, tls=self._tls, proxy=proxy, direct=self._direct, system_dns=system_dns
        )

    async def post(self, url: str, body: bytes, sink: Sink | None) -> Reply:
        if self._unpooled is not None:
            return await self._unpooled.post(url, body, sink)
        self._http.check_process()
        try:
            response = await self._execute(self._request("POST", url, self._headers, body))
        except self._failures as error:
            failure = error
        except ValueError as error:  # an address that the Python side took for one
            raise connection_failed(origin_of(url), _reason(error), "host") from error
        else:
            if self._other_scheme is None:
                self._other_scheme = False
            return await self._read_all(response, url, sink)
        return await self._post_otherwise(url, body, sink, failure)

    async def _read_all(self, response: pyqwest.Response, url: str, sink: Sink | None) -> Reply:
        try:
            return await self._read(response, sink)
        except BaseException as error:
            await _release(response)
            if isinstance(error, self._failures):
                raise _translate(error, url, self._timeout, httpx, reading=True) from error
            raise

    async def _post_otherwise(self, url: str, body: bytes, sink: Sink | None, error: Exception) -> Reply:
        """Send by the way that is there for what failed with `error`; keep to it if that does."""
        translated = _translate(error, url, self._timeout, httpx, proxy=self._proxy)
        fault = fault_of(error)
        if fault == "host" and not self._by_system_dns:
            return await self._post_by_system_dns(url, body, sink)
        if fault == "certificate" and _names_certificates():
            try:
                unpooled = self._unpooled_channel()
            except OSError as unreadable:  # OpenSSL's errors too
                translated.message += f"; what that names now cannot be read: {_reason(unreadable)}"
                raise translated from unreadable
            reply = await unpooled.post(url, body, sink)
            self._unpooled = unpooled
            return reply
        if isinstance(translated, MalformedResponseError) and "too large" in str(error):
            self._unpooled = self._unpooled_channel()
            translated.retry_advised = None
        elif fault is None and isinstance(translated, ConnectionFailedError):
            translated = await self._look_for_scheme(url, translated)
        raise translated from error

    async def _look_for_scheme(self, url: str, error: ConnectionFailedError) -> ConnectionFailedError:
        """Return the error for the wrong scheme, if the server speaks the other one, else `error`.

        It closes the connection or says nothing, which may mean anything; so it is asked, once, unless it
        has answered before.
        """
        if self._other_scheme is None and self._proxy is None:
            # All that fail until that is known ask: none of them is to be taken for an outage.
            self._other_scheme = await (speaks_http if self._tls else speaks_tls)(url)
        if not self._other_scheme:
            return error
        reason = "it answers without TLS: try http://" if self._tls else "it speaks TLS: try https://"
        return connection_failed(origin_of(url), reason, "protocol")

    async def _post_by_system_dns(self, url: str, body: bytes, sink: Sink | None) -> Reply:
        if self._system is None:
            self._system = self._native(system_dns=True)
        http = self._system
        try:
            response = await http.native.execute(self._request("POST", url, self._headers, body))
        except self._failures as error:
            raise _translate(error, url, self._timeout, httpx, proxy=self._proxy) from error
        self._http, self._execute, self._by_system_dns = http, http.native.execute, True
        return await self._read_all(response, url, sink)

    def _unpooled_channel(self) -> _UnpooledChannel:
        return _UnpooledChannel(self._plain_headers, self._timeout, self._limit, self._proxy)

    async def _read(self, response: pyqwest.Response, sink: Sink | None) -> Reply:
        headers: HeaderMap = response.headers
        # Every chunk is a round trip through pyqwest's threads, and so is the end of the body:
        # where the length is known there is no need to ask for the end.
        length = headers.get("content-length")
        expected = None if length is None else _length(length)
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
    """Send a request of httpx's, or of httpx2's, and read the raw stream of the answer."""

    def __init__(
        self,
        headers: Mapping[str, str],
        timeout: float | None,
        limit: int,
        library: Any = httpx,
        proxy: Proxy | None = None,
    ) -> None:
        self._headers = headers
        self._timeout = timeout
        self._limit = limit
        self._library = library
        self._proxy = proxy
        self._failures = (library.TransportError, library.DecodingError, OSError)
        self._pool: LoopBound | None = None

    def _use(self, transport: object) -> None:
        """Note that requests go through `transport`; a library's own keeps connections, of one loop each."""
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
            raise _translate(
                error, url, self._timeout, self._library, reading=reading, proxy=self._proxy
            ) from error

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
        transport: HTTPTransport,
        library: Any,
    ) -> None:
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
        await self._transport.aclose()


class _ClientChannel(_HTTPXChannel):
    """Go through a user's httpx client: its proxies, certificates, hooks and pool."""

    def __init__(
        self,
        headers: Mapping[str, str],
        timeout: float | None,
        limit: int,
        client: Any,
        library: Any,
    ) -> None:
        super().__init__(headers, timeout, limit, library)
        self._client = client
        self._use(getattr(client, "_transport", None))

    async def _send(self, url: str, body: bytes) -> Any:
        request = self._client.build_request(
            "POST", url, headers=self._headers, content=body, timeout=self._timeout
        )
        return await self._client.send(request, stream=True, follow_redirects=False)

    async def aclose(self) -> None:
        """Do nothing: the client is the caller's to close."""


class _UnpooledChannel(_HTTPXChannel):
    """Go through httpx's own transport with a connection for each request.

    Its pool belongs to one event loop, and takes time that grows with the square of what is in flight.
    """

    def __init__(
        self, headers: Mapping[str, str], timeout: float | None, limit: int, proxy: Proxy | None
    ) -> None:
        super().__init__(headers, timeout, limit, proxy=proxy)
        self._extensions = {"timeout": httpx.Timeout(timeout, connect=_CONNECT_TIMEOUT).as_dict()}
        self._limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._verify = httpx.create_ssl_context()

    async def _send(self, url: str, body: bytes) -> httpx.Response:
        proxy = None if self._proxy is None else self._proxy.url
        transport = httpx.AsyncHTTPTransport(verify=self._verify, limits=self._limits, proxy=proxy)
        request = httpx.Request("POST", url, headers=self._headers, content=body, extensions=self._extensions)
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Do nothing: connections end with their requests."""


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
        proxy: the URL of the proxy for all requests; `None` for the environment's.
        direct: take none for URLs of the scheme that `tls` says, whatever the environment says.
        system_dns: have the operating system resolve names, in threads, and not pyqwest, which does it with
            less work and knows fewer.
    """

    _home: ClassVar[int | None] = None
    """The process that the first request was sent from."""

    def __init__(
        self,
        *,
        timeout: float | None = None,
        tls: bool = True,
        proxy: str | None = None,
        direct: bool = False,
        system_dns: bool = False,
    ) -> None:
        import pyqwest

        # Where a proxy is given, the environment's are left out, and this one is for the other scheme.
        none = pyqwest.Proxy(_NO_PROXY, scheme="http" if tls else "https") if direct else None
        self.native: pyqwest.HTTPTransport = pyqwest.HTTPTransport(
            tls_include_system_certs=tls,
            tls_ca_cert=Path(certifi.where()).read_bytes() if tls else None,
            http_version=pyqwest.HTTPVersion.HTTP1,
            proxy=none if proxy is None else proxy,
            use_system_dns=system_dns,
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
    error: BaseException,
    url: str,
    timeout: float | None,
    library: Any,
    *,
    reading: bool = False,
    proxy: Proxy | None = None,
) -> ProviderError:
    """Return what `error` means to a caller.

    Args:
        error: one of pyqwest's, of `library` or of the operating system.
        url: where the request went.
        timeout: seconds that it had.
        library: httpx or httpx2.
        reading: the head of the answer had come.
        proxy: what the request went through.
    """
    _hide_url(error)
    origin = origin_of(url)
    unconnected = (ConnectionError, library.ConnectError, library.ConnectTimeout, library.ProxyError)
    if isinstance(error, unconnected):
        return connection_failed(origin, _reason(error), fault_of(error), proxy)
    if isinstance(error, TimeoutError | library.TimeoutException):
        within = "in time" if timeout is None else f"within {timeout:g} s"
        return RequestTimeoutError(f"no whole answer from {origin} {within}")
    kind = type(error).__name__
    if reading and kind in ("RemoteProtocolError", "StreamError", "DecodingError"):
        return MalformedResponseError(f"the answer from {origin} is broken: {_reason(error)}")
    if kind == "RemoteProtocolError":
        if is_unreadable(error):
            unreadable = MalformedResponseError(
                f"the head of the answer from {origin} cannot be read: {_reason(error)}"
            )
            advise(unreadable, retry=False)  # it would come like that again
            return unreadable
        fault = fault_of(error)
        if fault is not None:
            return connection_failed(origin, _reason(error), fault, proxy)
    return ConnectionFailedError(f"the connection to {origin} failed: {_reason(error)}")


def _length(field: str) -> int:
    """Return the number in a `content-length` field, which may stand there several times (RFC 9110, 8.6).

    Raises:
        MalformedResponseError: it is no number, or there are several.
    """
    numbers = {number.strip() for number in field.split(",")}
    number = numbers.pop()
    if numbers or not (number.isascii() and number.isdecimal()):
        unreadable = MalformedResponseError(f"the answer's content-length is no number: {field[:40]!r}")
        advise(unreadable, retry=False)
        raise unreadable
    return int(number)


def _names_certificates() -> bool:
    return any(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))


def _library_of_client(client: object) -> Any:
    """Return the library that `client` is an async client of; httpx for one that looks like its."""
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
    """Return the library that `transport` is an async transport of; httpx for one that looks like its."""
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
    """Return the library whose class called `name` `thing` is an instance of, without importing any."""
    for library in _LIBRARIES:
        module = sys.modules.get(library)
        if module is not None and isinstance(thing, getattr(module, name)):
            return module
    return None


_URL_IN_MESSAGE: Final = re.compile(r" for url \(\S*\)")


def _hide_url(error: BaseException) -> None:
    # pyqwest puts the URL into its messages, and a URL's query may hold a key.
    error.args = tuple(_URL_IN_MESSAGE.sub("", arg) if isinstance(arg, str) else arg for arg in error.args)


_LAYERS: Final = re.compile(
    r"(?:Request failed: )?(?:error sending request(?: for url)?: )?(?:client error \(\w+\): )?"
    r"(?:tunnel error: (?:failed to create underlying connection: )?)?(?:dns error: error resolving DNS: )?"
    r"(?:failed to lookup address information: |tcp connect error: )?"
)
"""What pyqwest, reqwest and hyper say before they come to the point."""


def _reason(error: BaseException) -> str:
    text = str(error)
    return text[_LAYERS.match(text).end() :] or type(error).__name__  # type: ignore[union-attr]


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
