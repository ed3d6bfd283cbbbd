"""Why there is no connection: what is wrong with an address, and what to do about that."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio.streams.tls import TLSStream

from batchrt.errors import ConnectionFailedError, ConnectionFault
from batchrt.providers.http.proxies import Proxy

__all__ = ["connection_failed", "fault_of", "is_unreadable", "speaks_http", "speaks_tls"]

_WORDS: Final[tuple[tuple[ConnectionFault, re.Pattern[str]], ...]] = (
    # As hyper, rustls and hickory have it, through pyqwest 0.12.
    ("host", re.compile(r"dns error")),
    ("certificate", re.compile(r"invalid peer certificate")),
    ("protocol", re.compile(r"received corrupt message|invalid HTTP version|illegal status line")),
    ("refused", re.compile(r"tcp connect error: .*(?:os error (?:61|111|10061)\)|[Rr]efused)")),
)
_NO_TLS: Final = frozenset(
    (
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "UNKNOWN_PROTOCOL",
        "UNSUPPORTED_PROTOCOL",
        "WRONG_VERSION_NUMBER",
    )
)
"""OpenSSL's reasons for what is no TLS, or none that both sides know; others are broken connections."""

_UNREADABLE: Final = re.compile(
    r"invalid (?!HTTP version)[\w -]+ parsed|message head is too large"  # hyper
    r"|illegal header line|[Cc]ontent-[Ll]ength|too long"  # h11
)
_MOST_LINKS: Final = 20
_HANDSHAKE: Final = 2.0
"""Seconds for a server to show whether TLS is spoken."""
_HINTS: Final[dict[ConnectionFault, str]] = {
    "host": "the name of the host is unknown ({reason}); check base_url",
    "certificate": (
        "its certificate is refused ({reason}); if it is to be trusted, let SSL_CERT_FILE name the one that "
        "signed it"
    ),
    "protocol": "it does not speak {protocol} there ({reason}); check the scheme and the port of base_url",
    "refused": "nothing listens there ({reason}); check the host and the port of base_url",
}


def fault_of(error: BaseException) -> ConnectionFault | None:
    """Return what is wrong with the address that `error` was met at, if that is what it says."""
    for link in _links(error):
        if isinstance(link, socket.gaierror):
            return "host"
        if isinstance(link, ssl.SSLCertVerificationError):
            return "certificate"
        if isinstance(link, ssl.SSLError) and link.reason in _NO_TLS:
            return "protocol"
        if isinstance(link, ConnectionRefusedError):
            return "refused"
    text = str(error)
    return next((fault for fault, words in _WORDS if words.search(text)), None)


def _links(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it was raised from, members of groups too."""
    todo: list[BaseException] = [error]
    for _ in range(_MOST_LINKS):
        if not todo:
            return
        link = todo.pop()
        yield link
        todo += [cause for cause in (link.__context__, link.__cause__) if cause is not None]
        if isinstance(link, BaseExceptionGroup):
            todo += link.exceptions


def is_unreadable(error: BaseException) -> bool:
    """Whether an answer came whose head makes no sense: it would come like that again."""
    return _UNREADABLE.search(str(error)) is not None


async def speaks_tls(url: str) -> bool:
    """Whether the server that `url` names answers a handshake by TLS, whatever its certificate."""
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with anyio.fail_after(_HANDSHAKE):
            stream = await anyio.connect_tcp(parts.hostname or "", parts.port or 80)
            async with stream:
                await TLSStream.wrap(
                    stream, hostname=parts.hostname, ssl_context=context, standard_compatible=False
                )
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, ValueError) as error:
        # An alert is an answer too.
        return any(
            isinstance(link, ssl.SSLError) and "ALERT" in (link.reason or "") for link in _links(error)
        )
    return True


async def speaks_http(url: str) -> bool:
    """Whether the server that `url` names answers HTTP without TLS; it is shown no key and no path."""
    parts = urlsplit(url)
    asked = f"HEAD / HTTP/1.1\r\nhost: {parts.netloc.rpartition('@')[2]}\r\nconnection: close\r\n\r\n"
    try:
        with anyio.fail_after(_HANDSHAKE):
            stream = await anyio.connect_tcp(parts.hostname or "", parts.port or 443)
            async with stream:
                await stream.send(asked.encode())
                return (await stream.receive()).startswith(b"HTTP/")
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, ValueError):
        return False


def connection_failed(
    origin: str, reason: str, fault: ConnectionFault | None, proxy: Proxy | None = None
) -> ConnectionFailedError:
    """Return the error for a connection to `origin` that could not be made.

    Args:
        origin: scheme, host and port of who was to be asked.
        reason: what the operating system or the HTTP library says.
        fault: as `fault_of` gives it.
        proxy: what the connection was to go through.
    """
    words, protocol = reason, urlsplit(origin).scheme
    # What is wrong with a certificate behind a proxy is wrong with the server's.
    proxied = proxy is not None and fault != "certificate"
    if fault is not None:
        protocol = "TLS" if protocol == "https" and not proxied else "HTTP"
        words = _HINTS[fault].format(reason=reason, protocol=protocol)
    if proxy is not None and proxied:
        words = words.replace("base_url", proxy.setting)
        where = f"the proxy {proxy.origin} ({proxy.setting}) on the way to {origin}"
    else:
        where = origin
    error = ConnectionFailedError(f"cannot connect to {where}: {words}")
    error.fault = fault
    return error
