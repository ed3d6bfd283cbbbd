"""An httpx transport over connections of our own, for an `httpx.AsyncClient`."""

# ruff: noqa: TID251  one of the files that know an HTTP library
from __future__ import annotations

import math
import re
import ssl
from collections.abc import AsyncIterator
from typing import Final, Self

import httpx

from batchrt.errors import MalformedResponseError
from batchrt.providers.http.connection_errors import ConnectFailed
from batchrt.providers.http.exchange import Exchange, RequestBytes
from batchrt.providers.http.pool import KEEPALIVE_EXPIRY, Pools
from batchrt.providers.http.response_parser import BrokenResponse, Disconnected
from batchrt.providers.http.route import UNIX_SCHEME, Route, route_of

__all__ = ["BatchrtTransport"]

_OF_THE_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
)
"""Fields that are about a connection, which is the transport's (RFC 9110, 7.6.1)."""
_SCHEMES: Final = frozenset(("http", "https", UNIX_SCHEME))
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A method or the name of a field (RFC 9110, 5.6.2)."""
_TARGET: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_FORBIDDEN: Final = re.compile(rb"[\0\r\n]")
"""Bytes that would end the value of a field, and begin another one or another request."""


class BatchrtTransport(httpx.AsyncBaseTransport):
    """Send httpx requests over connections of our own, on asyncio, uvloop and Trio.

    One object serves all event loops. Proxies and certificates are the environment's, as httpx has them.
    HTTP/1.1 only. The time-outs of the request count: "read" bounds each silence, in sending as well; "pool"
    has no meaning, as no request waits for another's connection.

    Args:
        verify: the context for TLS; by default one for certifi's and the system's certificates, or for those
            that `SSL_CERT_FILE` or `SSL_CERT_DIR` name.
        trust_env: go through the proxies that the environment names.
        keepalive_expiry: seconds for which an idle connection is kept.
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | None = None,
        trust_env: bool = True,
        keepalive_expiry: float = KEEPALIVE_EXPIRY,
    ) -> None:
        self._verify = verify
        self._trust_env = trust_env
        self._pools = Pools(keepalive_expiry=keepalive_expiry)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, and return the response as soon as its head is received."""
        if request.url.scheme not in _SCHEMES:
            said = f"is of {request.url.scheme!r}" if request.url.scheme else "is relative"
            raise httpx.UnsupportedProtocol(f"the URL {said}: http:// or https:// is needed", request=request)
        pool = self._pools.here() or await self._pools.make()
        timeouts = request.extensions.get("timeout", {})
        body = await request.aread()  # outside of `try`: an error is that of the caller's generator
        try:
            route = self._pools.intern(
                route_of(str(request.url), ssl_context=self._verify, trust_env=self._trust_env)
            )
            data = _request_of(request, route, body)
            exchange = Exchange(pool, route, data, math.inf)
            exchange.bodiless = request.method == "HEAD"
            exchange.connect_timeout = timeouts.get("connect")
            exchange.read_timeout = timeouts.get("read")
            await exchange.begin(pool.time())
        except Exception as error:
            raise _to_httpx(error, request) from error
        response = exchange.response
        return httpx.Response(
            response.status,
            headers=response.fields,
            stream=_BodyStream(exchange, request),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._pools.aclose()


class _BodyStream(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """The body of a response, read as it is received."""

    def __init__(self, exchange: Exchange, request: httpx.Request) -> None:
        self._exchange = exchange
        self._request = request

    # Not a generator: each reader would have to close one that it does not read to its end.
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._exchange)
        except StopAsyncIteration:
            raise
        except Exception as error:
            raise _to_httpx(error, self._request) from error

    async def aclose(self) -> None:
        self._exchange.close()


def _request_of(request: httpx.Request, route: Route, body: bytes) -> RequestBytes:
    """Return head and body as they are sent.

    Raises:
        httpx.LocalProtocolError: they would not be one request.
    """
    fields = [(name, value) for name, value in request.headers.raw if name.lower() not in _OF_THE_CONNECTION]
    if request.headers.get("connection", "").lower() == "close":
        fields.append((b"connection", b"close"))  # the server closes it after its response
    names = {name.lower() for name, _ in fields}
    if b"content-length" not in names and (body or request.method in ("POST", "PUT", "PATCH")):
        fields.append((b"content-length", b"%d" % len(body)))
    fields += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in route.headers]
    method, target = request.method.encode("latin-1", "replace"), _target(request, route)
    fault = _fault_of(method, target, fields, len(body))
    if fault is not None:
        raise httpx.LocalProtocolError(fault, request=request)
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    lines += [b"%b: %b" % field for field in fields]
    return RequestBytes(b"\r\n".join([*lines, b"", body]))


def _fault_of(method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], length: int) -> str | None:
    """Return the reason why a server would not read the request as it is meant; no value is quoted."""
    if not _TOKEN.fullmatch(method):
        return f"the method {method[:40]!r} is no token"
    if not _TARGET.fullmatch(target):
        return "the target has a blank or a control character"
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            return f"the name of the header {name[:40]!r} is no token"
        if _FORBIDDEN.search(value):
            return f"the value of the header {name.decode()!r} has a line break or a NUL"
        if name.lower() == b"content-length" and value.strip() != b"%d" % length:
            return f"content-length is {value[:40].decode('latin-1')!r}, and the body has {length} bytes"
    return None


def _target(request: httpx.Request, route: Route) -> bytes:
    target: bytes | None = request.extensions.get("target")
    return route.target(str(request.url)).encode("latin-1") if target is None else target


def _to_httpx(error: Exception, request: httpx.Request) -> Exception:
    """Return httpx's error for one of ours."""
    if isinstance(error, ConnectFailed):
        late = isinstance(error.__cause__, TimeoutError)
        return (httpx.ConnectTimeout if late else httpx.ConnectError)(str(error), request=request)
    if isinstance(error, BrokenResponse | MalformedResponseError):
        return httpx.RemoteProtocolError(str(error), request=request)
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout(str(error) or "timed out", request=request)
    if isinstance(error, Disconnected):
        broke = error.__cause__ is not None
        return (httpx.ReadError if broke else httpx.RemoteProtocolError)(str(error), request=request)
    if isinstance(error, OSError):
        return httpx.ReadError(str(error), request=request)
    return error
