"""pyqwest, the default HTTP library: as a channel, and as an httpx transport."""

# ruff: noqa: TID251  one of the files that know an HTTP library
from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn

import anyio
import certifi
import httpx

from batchrt.errors import ConnectionFailedError, MalformedResponseError
from batchrt.providers.http.address import origin_of
from batchrt.providers.http.connection_errors import (
    CONNECT_TIMEOUT,
    connection_failed,
    fault_of,
    hide_url,
    reason_of,
    translate,
)
from batchrt.providers.http.content_encoding import too_large
from batchrt.providers.http.httpx_channels import UnpooledChannel
from batchrt.providers.http.proxies import proxy_for
from batchrt.providers.http.response import HeaderMap, Reply, Sink, content_length, read_body
from batchrt.providers.http.scheme_probe import speaks_http, speaks_tls

if TYPE_CHECKING:
    from typing import Self

    import pyqwest

__all__ = ["PyqwestChannel", "PyqwestTransport"]

_NO_PROXY: Final = "http://no-proxy.invalid"
_IDLE_CONNECTIONS: Final = 2**31
"""Idle connections kept for a host; pyqwest's default of 2 closes all others after each burst."""
_EXIT_PATIENCE: Final = 1.0
"""Seconds for which the end of the process waits for pyqwest's threads."""
_EXIT_NAP: Final = 0.001
"""Seconds between two looks at them."""
_HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
)


class PyqwestChannel:
    """Send through pyqwest directly, without httpx's types in between.

    Falls back where pyqwest fails and another way succeeds, and keeps to that way: the system's resolver for
    a name that only it knows (one with an underscore, for instance); httpx for a certificate that
    `SSL_CERT_FILE` names and that signs itself, and for a response of more than a hundred headers.
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
        self._unpooled: UnpooledChannel | None = None

    def _native(self, *, system_dns: bool = False) -> PyqwestTransport:
        proxy = None if self._proxy is None else self._proxy.url
        return PyqwestTransport(
            timeout=self._timeout, tls=self._tls, proxy=proxy, direct=self._direct, system_dns=system_dns
        )

    async def post(self, url: str, body: bytes, sink: Sink | None) -> Reply:
        """Send `body`; see `Transport.post`."""
        if self._unpooled is not None:
            return await self._unpooled.post(url, body, sink)
        self._http.check_process()
        try:
            response = await self._execute(self._request("POST", url, self._headers, body))
        except self._failures as error:
            failure = error
        except ValueError as error:  # an address that Python's parser accepted
            raise connection_failed(origin_of(url), reason_of(error), "host") from error
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
                raise translate(error, url, self._timeout, reading=True) from error
            raise

    async def _post_otherwise(self, url: str, body: bytes, sink: Sink | None, error: Exception) -> Reply:
        """Send by the fallback for `error`, if there is one, and keep to it if it succeeds."""
        translated = translate(error, url, self._timeout, proxy=self._proxy)
        fault = fault_of(error)
        if fault == "host" and not self._by_system_dns:
            return await self._post_by_system_dns(url, body, sink)
        if fault == "certificate" and _names_certificates():
            try:
                unpooled = self._unpooled_channel()
            except OSError as unreadable:  # OpenSSL's errors too
                translated.message += f"; what that names now cannot be read: {reason_of(unreadable)}"
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
        """Return the error for the wrong scheme if the server speaks the other one, else `error`.

        A server that is sent the wrong scheme closes the connection or stays silent, which may have any
        cause. So the other scheme is probed, once, unless the server has answered before.
        """
        if self._other_scheme is None and self._proxy is None:
            # Every request that fails before the probe's result probes too: none must count as an outage.
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
            raise translate(error, url, self._timeout, proxy=self._proxy) from error
        self._http, self._execute, self._by_system_dns = http, http.native.execute, True
        return await self._read_all(response, url, sink)

    def _unpooled_channel(self) -> UnpooledChannel:
        return UnpooledChannel(self._plain_headers, self._timeout, self._limit, self._proxy)

    async def _read(self, response: pyqwest.Response, sink: Sink | None) -> Reply:
        headers: HeaderMap = response.headers
        # Every chunk is a round trip through pyqwest's threads, and so is the end of the body, which need not
        # be awaited where the length is known.
        length = headers.get("content-length")
        expected = None if length is None else content_length(length)
        if expected == 0:
            return Reply(response.status, headers, b"")
        if expected is not None and expected > self._limit:
            raise too_large(self._limit)
        encoding = headers.get("content-encoding") or ""
        body = await read_body(
            response.content, response.status, encoding, self._limit, sink=sink, expected=expected
        )
        return Reply(response.status, headers, body)

    async def aclose(self) -> None:
        """Close idle connections; requests fail afterwards."""
        self._execute = _refuse
        await self._http.aclose()


def _names_certificates() -> bool:
    return any(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))


def _refuse(_request: object) -> NoReturn:
    raise RuntimeError("this client is closed")


async def _release(response: pyqwest.Response) -> None:
    # The garbage collector would leave the connection open for as long as a traceback refers to it.
    with anyio.CancelScope(shield=True):
        await response.aclose()


class PyqwestTransport(httpx.AsyncBaseTransport):
    """Send httpx requests over pyqwest, on asyncio, uvloop and Trio.

    One object serves all event loops: connections live in pyqwest's own threads. Proxies are taken
    from the environment and certificates from certifi and the system (`SSL_CERT_FILE` counts), as
    httpx users expect. HTTP/1.1 only: over HTTP/2 all requests would share one connection, and
    servers allow some hundred at once on it.

    Args:
        timeout: seconds for a whole exchange. Besides, httpx's own read timeout bounds the wait
            for the head and for each part of the body; httpx's other timeouts are ignored.
        tls: load certificates; without them `https` URLs fail.
        proxy: the URL of the proxy for all requests; `None` for the environment's.
        direct: use no proxy for URLs of the scheme that `tls` selects, whatever the environment says.
        system_dns: let the operating system resolve names, in threads. pyqwest's own resolver is cheaper and
            knows fewer names.
    """

    _home: ClassVar[int | None] = None
    """Identifier of the process that sent the first request."""

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

        # A proxy that is given replaces the environment's; this one is for the other scheme.
        none = pyqwest.Proxy(_NO_PROXY, scheme="http" if tls else "https") if direct else None
        self.native: pyqwest.HTTPTransport = pyqwest.HTTPTransport(
            tls_include_system_certs=tls,
            tls_ca_cert=Path(certifi.where()).read_bytes() if tls else None,
            http_version=pyqwest.HTTPVersion.HTTP1,
            proxy=none if proxy is None else proxy,
            use_system_dns=system_dns,
            timeout=timeout,
            connect_timeout=CONNECT_TIMEOUT,
            pool_max_idle_per_host=_IDLE_CONNECTIONS,
            # A response that pyqwest unpacks could not be bounded.
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
        """Send `request` and return the response as soon as its head has arrived."""
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


class _PyqwestStream(httpx.AsyncByteStream, AsyncIterator[bytes]):
    def __init__(self, response: pyqwest.Response, request: httpx.Request, patience: float | None) -> None:
        self._response = response
        self._parts = aiter(response.content)
        self._request = request
        self._patience = patience

    # Not a generator: each reader would have to close one that it does not read to its end.
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


def _to_httpx(error: Exception, request: httpx.Request) -> Exception:
    """Return the httpx error that means the same as pyqwest's `error`."""
    hide_url(error)
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


def _end_to_end(request: httpx.Request) -> list[tuple[str, str]]:
    # httpx adds the host of the URL, which pyqwest does too; only another one is passed on.
    host = request.url.netloc.decode("ascii").lower()
    return [
        (name, value)
        for name, value in request.headers.multi_items()
        if name not in _HOP_BY_HOP and not (name == "host" and value.lower() == host)
    ]


def _let_threads_out() -> None:
    """Wait, a second at most, until threads that Python did not start have left Python.

    pyqwest's threads wake the event loop that they have an answer for, and release the GIL to do so. By the
    time they want it back, the loop may have ended, and the program with it; a Python older than 3.13.8
    unwinds a thread that wants the GIL of an ending interpreter (CPython's gh-87135), which is an abort or a
    segmentation fault in Rust's frames.
    """
    end = time.monotonic() + _EXIT_PATIENCE
    while _foreign_threads() and time.monotonic() < end:
        time.sleep(_EXIT_NAP)


def _foreign_threads() -> set[int]:
    """Return the threads that are in Python now and that Python did not start."""
    ours = {thread.ident for thread in threading.enumerate()}
    return {thread for thread in sys._current_frames() if thread not in ours}


def _let_threads_out_at_exit() -> None:
    if PyqwestTransport._home == os.getpid():
        _let_threads_out()


# Registered on import: handlers that users register later run before it and may still send requests.
atexit.register(_let_threads_out_at_exit)
