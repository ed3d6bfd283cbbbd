"""Routes: the way to a server, from which connections are made and by which they are pooled."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import idna

from batchrt.providers.http.connection_errors import ConnectFailed
from batchrt.providers.http.proxies import Proxy, proxy_for
from batchrt.providers.http.tls import tls_context

__all__ = ["UNIX_SCHEME", "Route", "route_of"]

UNIX_SCHEME: Final = "http+unix"
_PORTS: Final = {"http": 80, "https": 443, UNIX_SCHEME: 80}


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Route:
    """The way to a server: connections with equal routes are interchangeable.

    Attributes:
        host: the server's name or address, as the resolver and TLS take it; "localhost" for a Unix socket.
        port: the server's.
        unix_path: of the socket to connect to in place of host and port.
        tls: the context of TLS to the server; `None` for plain HTTP.
        proxy: forwards the requests, or the bytes where there is TLS to the server.
        proxy_tls: the context of TLS to the proxy; `None` for a proxy that speaks plain HTTP.
    """

    host: str
    port: int
    unix_path: str | None = None
    tls: ssl.SSLContext | None = None
    proxy: Proxy | None = None
    proxy_tls: ssl.SSLContext | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """The values of all fields, equal for equal routes."""
        return (self.host, self.port, self.unix_path, self.tls, self.proxy, self.proxy_tls)

    @property
    def server_hostname(self) -> str:
        """The name that the server's certificate must have, and that is sent as SNI."""
        return self.host.partition("%")[0].removesuffix(".")

    @property
    def authority(self) -> str:
        """The value of the `host` header: host and port, the default port left out."""
        host = _bracketed(self.server_hostname if "%" in self.host else self.host)
        default = _PORTS["http" if self.tls is None else "https"]
        return host if self.port == default else f"{host}:{self.port}"

    @property
    def tunneled(self) -> bool:
        """Whether the proxy is to open a tunnel (`CONNECT`) rather than forward requests."""
        return self.proxy is not None and self.tls is not None

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers that each request needs on this route: the credentials of a forwarding proxy."""
        if self.proxy is None or self.tunneled or self.proxy.authorization is None:
            return ()
        return (("proxy-authorization", self.proxy.authorization),)

    def target(self, url: str) -> str:
        """Return the target of a request for `url`: absolute for a forwarding proxy (RFC 9112, 3.2.2)."""
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return f"http://{self.authority}{target}" if self.proxy is not None and not self.tunneled else target


def route_of(url: str, *, ssl_context: ssl.SSLContext | None = None, trust_env: bool = True) -> Route:
    """Return the route to the server of `url`, which is an http, https or http+unix URL.

    Args:
        url: absolute; of a Unix socket the host is the percent-encoded path.
        ssl_context: for TLS to the server in place of the process's.
        trust_env: go through the proxy that the environment names.

    Raises:
        ConnectFailed: the host is no name, the certificates cannot be read, or the proxy is not of HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme == UNIX_SCHEME:
        return Route("localhost", _PORTS[UNIX_SCHEME], unix_path=_unix_path(parts))
    tls = None
    if parts.scheme == "https":
        tls = tls_context() if ssl_context is None else ssl_context
    proxy = proxy_for(url) if trust_env else None
    if proxy is not None and proxy.fault is not None:
        raise ConnectFailed(proxy.fault, fault="proxy", explained=True, proxy=proxy)
    proxy_tls = tls_context() if proxy is not None and proxy.scheme == "https" else None
    host = _ascii(parts.hostname or "")
    return Route(host, parts.port or _PORTS[parts.scheme], tls=tls, proxy=proxy, proxy_tls=proxy_tls)


def _unix_path(parts: SplitResult) -> str:
    # Not `hostname`, which is in lower case.
    return unquote(parts.netloc.rpartition("@")[2])


def _ascii(host: str) -> str:
    """Return the name for resolver, certificate and headers (IDNA 2008; `_` is fine)."""
    if host.isascii():
        return unquote(host) if ":" in host else host  # the zone of an IPv6 address
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ConnectFailed(f"{host!r} is no name of a host: {error}", fault="host") from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
