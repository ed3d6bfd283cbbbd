"""The native channel: bodies posted over a pool of connections of our own."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from batchrt.errors import ConnectionFailedError, MalformedResponseError, ProviderError
from batchrt.providers.http.address import origin_of
from batchrt.providers.http.connection_errors import (
    connection_failed,
    fault_of,
    translate,
)
from batchrt.providers.http.content_encoding import decode
from batchrt.providers.http.exchange import Exchange, RequestBytes
from batchrt.providers.http.httpx_mocks import is_httpx_mocked, post_by_httpx, stream_by_httpx
from batchrt.providers.http.pool import Pool, Pools
from batchrt.providers.http.proxies import Proxy
from batchrt.providers.http.response import HeaderMap, Reply, Sink, read_body
from batchrt.providers.http.response_parser import BrokenResponse
from batchrt.providers.http.response_stream import ResponseStream, no_answer, stalled
from batchrt.providers.http.retry_after import advise
from batchrt.providers.http.route import Route, route_of
from batchrt.providers.http.scheme_probe import speaks_http, speaks_tls

__all__ = ["NativeChannel"]

_OWN_FIELDS: Final = frozenset(("content-length", "transfer-encoding"))
"""Fields of a request's head that the channel writes itself."""
_IN_TARGETS: Final = "!#$%&'()*+,/:;=?@[]~"
"""Characters that mean something in a URL; others are percent-encoded (RFC 3986, 2)."""


class _Target:
    """A URL in the form in which it is requested: its route, and the head of each request."""

    __slots__ = ("head", "route")

    def __init__(self, url: str, route: Route, headers: Mapping[str, str]) -> None:
        self.route = route
        fields = {"host": route.authority, **headers, **dict(route.headers)}
        lines = [f"{name}: {value}" for name, value in fields.items() if name not in _OWN_FIELDS]
        path = quote(route.target(url), safe=_IN_TARGETS)
        head = "\r\n".join([f"POST {path} HTTP/1.1", *lines, "content-length: "])
        self.head = head.encode("latin-1")


class NativeChannel:
    """Post over connections of our own; see `Transport`."""

    def __init__(
        self,
        headers: Mapping[str, str],
        timeout: float | None,
        limit: int,
        *,
        tls: bool,
        ssl_context: ssl.SSLContext | None,
        keepalive_expiry: float,
    ) -> None:
        self._headers = headers
        self._timeout = timeout
        self._limit = limit
        self._tls = tls
        self._ssl_context = ssl_context
        self._pools = Pools(timeout=timeout, keepalive_expiry=keepalive_expiry)
        self._targets: dict[str, _Target] = {}
        self._other_scheme: bool | None = None

    async def post(self, url: str, body: bytes, sink: Sink | None) -> Reply:
        """Send `body`; see `Transport.post`."""
        if is_httpx_mocked():
            return await post_by_httpx(
                url, body, sink, self._headers, self._timeout, self._limit, self._ssl_context
            )
        pool = self._pools.here() or await self._pools.make()
        deadlines, now = pool.deadlines, pool.time()
        exchange = None
        try:
            target = self._targets.get(url) or self._target(url)
            request = RequestBytes(b"%b%d\r\n\r\n%b" % (target.head, len(body), body))
            exchange = Exchange(pool, target.route, request, self._limit)
            if deadlines is not None:
                deadlines.begin(exchange, now)
            if sink is not None:
                return await self._fill(exchange, now, sink)
            await exchange.complete(now)
            return self._reply(exchange)
        except (OSError, BrokenResponse) as error:
            failure = error
        finally:
            if deadlines is not None and exchange is not None:
                deadlines.end(exchange)
        raise await self._translated(failure, url) from failure

    async def stream(self, url: str, body: bytes) -> ResponseStream:
        """Send `body`; see `Transport.stream`."""
        if is_httpx_mocked():
            return await stream_by_httpx(
                url, body, self._headers, self._timeout, self._limit, self._ssl_context
            )
        pool = self._pools.here() or await self._pools.make()
        target = self._targets.get(url) or self._target(url)
        request = RequestBytes(b"%b%d\r\n\r\n%b" % (target.head, len(body), body))
        exchange = Exchange(pool, target.route, request, self._limit)
        now = pool.time()
        if pool.deadlines is not None:
            pool.deadlines.begin(exchange, now)
        try:
            await exchange.begin(now)
        except (OSError, BrokenResponse) as error:
            failure = error
        else:
            if self._other_scheme is None:
                self._other_scheme = False
            return self._opened(exchange, pool, url)
        finally:
            if pool.deadlines is not None:
                pool.deadlines.end(exchange)
        if isinstance(failure, TimeoutError):
            raise no_answer(url, self._timeout) from failure
        raise await self._translated(failure, url) from failure

    def _opened(self, exchange: Exchange, pool: Pool, url: str) -> ResponseStream:
        try:
            return _NativeStream(exchange, pool, self._limit, (self, url))
        except BaseException:
            exchange.close()
            raise

    async def aclose(self) -> None:
        """Close idle connections; requests fail afterwards."""
        await self._pools.aclose()

    def _target(self, url: str) -> _Target:
        route = self._pools.intern(route_of(url, ssl_context=self._ssl_context))
        target = self._targets[url] = _Target(url, route, self._headers)
        return target

    def _reply(self, exchange: Exchange) -> Reply:
        """Return the response of an exchange that has just ended."""
        response = exchange.response
        status, headers, chunks = response.status, response.headers, response.take()
        if self._other_scheme is None:
            self._other_scheme = False
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        encoding = _encoding(headers)
        return Reply(status, headers, decode(body, encoding, self._limit) if encoding else body)

    async def _fill(self, exchange: Exchange, now: float, sink: Sink) -> Reply:
        """Feed the body to `sink` while it is received."""
        await exchange.begin(now)
        try:
            status, headers = exchange.response.status, exchange.response.headers
            body = await read_body(exchange, status, _encoding(headers), self._limit, sink=sink)
        finally:
            exchange.close()
        if self._other_scheme is None:
            self._other_scheme = False
        return Reply(status, headers, body)

    async def _translated(self, error: OSError | BrokenResponse, url: str) -> ProviderError:
        target = self._targets.get(url)
        proxy = None if target is None else target.route.proxy
        if isinstance(error, BrokenResponse):
            translated = _of_response(error, url, proxy)
        else:
            translated = translate(error, url, self._timeout, proxy=proxy)
        unclear = isinstance(error, BrokenResponse) or fault_of(error) is None
        if unclear and proxy is None and isinstance(translated, ConnectionFailedError):
            return await self._look_for_scheme(url, translated)
        return translated

    async def _look_for_scheme(self, url: str, error: ConnectionFailedError) -> ConnectionFailedError:
        """Return the error for the wrong scheme if the server speaks the other one, else `error`.

        A server that is sent the wrong scheme closes the connection or stays silent, which may have any
        cause. So the other scheme is probed, once, unless the server has answered before.
        """
        if self._other_scheme is None:
            # Every request that fails before the probe's result probes too: none must count as an outage.
            self._other_scheme = await (speaks_http if self._tls else speaks_tls)(url)
        if not self._other_scheme:
            return error
        reason = "it answers without TLS: try http://" if self._tls else "it speaks TLS: try https://"
        return connection_failed(origin_of(url), reason, "protocol")


class _NativeStream(ResponseStream):
    """Receive from an exchange; the deadline of each wait is `timeout` from its beginning."""

    __slots__ = ("_channel", "_exchange", "_pool", "_url")

    def __init__(self, exchange: Exchange, pool: Pool, limit: int, asked: tuple[NativeChannel, str]) -> None:
        response = exchange.response
        super().__init__(response.status, response.headers, _encoding(response.headers), limit)
        self._exchange = exchange
        self._pool = pool
        self._channel, self._url = asked

    async def _receive(self) -> bytes:
        exchange, deadlines = self._exchange, self._pool.deadlines
        if deadlines is not None:
            deadlines.begin(exchange, self._pool.time())
        try:
            return await exchange.receive()
        except (OSError, BrokenResponse) as error:
            failure = error
        finally:
            if deadlines is not None:
                deadlines.end(exchange)
        if isinstance(failure, TimeoutError):
            raise stalled(self._url, self._channel._timeout) from failure
        raise await self._channel._translated(failure, self._url) from failure

    async def aclose(self) -> None:
        """Close the connection at once, unless the body was received to its end."""
        self._exchange.close()


def _encoding(headers: HeaderMap) -> str:
    """Return how a body is encoded.

    Raises:
        MalformedResponseError: it is encoded for the transfer in another way than in chunks.
    """
    coding = headers.get("transfer-encoding")
    if coding is not None and coding.strip().lower() != "chunked":
        raise MalformedResponseError(f"the answer has the transfer coding {coding[:40]!r}, not asked for")
    return headers.get("content-encoding") or ""


def _of_response(error: BrokenResponse, url: str, proxy: Proxy | None) -> ProviderError:
    origin = origin_of(url)
    if error.part == "protocol":
        return connection_failed(origin, str(error), "protocol", proxy)
    if error.part == "body":
        return MalformedResponseError(f"the answer from {origin} is broken: {error}")
    unreadable = MalformedResponseError(f"the head of the answer from {origin} cannot be read: {error}")
    advise(unreadable, retry=False)  # another attempt would get the same
    return unreadable
