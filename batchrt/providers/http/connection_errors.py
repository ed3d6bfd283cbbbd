"""Errors of a connection: translated from the HTTP library's, with the cause and a remedy."""

from __future__ import annotations

import errno
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from batchrt.errors import (
    ConnectionFailedError,
    ConnectionFault,
    MalformedResponseError,
    ProviderError,
    RequestTimeoutError,
)
from batchrt.providers.http.address import origin_of
from batchrt.providers.http.proxies import Proxy
from batchrt.providers.http.retry_after import advise

if sys.platform != "win32":
    import resource  # now: to import it takes a file descriptor

__all__ = [
    "CONNECT_TIMEOUT",
    "ConnectFailed",
    "connection_failed",
    "fault_of",
    "hide_url",
    "links_of",
    "reason_of",
    "translate",
]

CONNECT_TIMEOUT: Final = 30.0
"""Seconds for a connection to be made: name look-up, connect, tunnel and TLS handshake."""

_WORDS: Final[tuple[tuple[ConnectionFault, re.Pattern[str]], ...]] = (
    ("protocol", re.compile(r"illegal status line")),  # h11
    ("refused", re.compile(r"\(os error (?:61|111|10061)\)")),  # Rust's libraries, behind a user's transport
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
"""OpenSSL's reasons for a server without TLS, or without a common version; others are broken connections."""

_UNREADABLE: Final = re.compile(r"illegal header line|[Cc]ontent-[Ll]ength|too long")
"""h11's messages about a head that cannot be parsed."""
_UNCONNECTED: Final = ("ConnectError", "ConnectTimeout", "ProxyError")
"""httpx's errors of a failed connection attempt."""
_URL_IN_MESSAGE: Final = re.compile(r" for url \(\S*\)")
_MOST_LINKS: Final = 20
_KINDS: Final[tuple[tuple[type[OSError], ConnectionFault], ...]] = (
    (socket.gaierror, "host"),
    (ssl.SSLCertVerificationError, "certificate"),
    (ConnectionRefusedError, "refused"),
    (FileNotFoundError, "refused"),  # of a Unix socket
)
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
_HINTS: Final[dict[ConnectionFault, str]] = {
    "host": "the name of the host is unknown ({reason}); check base_url",
    "certificate": (
        "its certificate is refused ({reason}); if it is to be trusted, let SSL_CERT_FILE name the one that "
        "signed it"
    ),
    "protocol": "it does not speak {protocol} there ({reason}); check the scheme and the port of base_url",
    "refused": "nothing listens there ({reason}); check the host and the port of base_url",
    "proxy": "it does not connect ({reason}); check base_url",
    "resources": (
        "this process has used up {limit} ({reason}): raise the limit, with `ulimit -n 65536` for instance, "
        "or lower max_concurrency"
    ),
}
_NO_UNIX_SOCKET: Final = "nothing listens there ({reason}); check the path of the socket in base_url"
_NOT_OF_PROXIES: Final = ("certificate", "resources")


class ConnectFailed(OSError):  # noqa: N818  the error that users see is made of it by `translate`
    """A failed connection attempt; its cause has the reason.

    Args:
        reason: the message.
        fault: of the address or the proxy; by default the one that the causes report.
        explained: the reason says everything, and no hint is added to it.
        past_proxy: the error is the server's, behind a proxy that let the connection through.
        proxy: whose error it is, where there is no route through it.

    Attributes:
        is_judged: `fault` holds whatever the causes say.
    """

    def __init__(
        self,
        reason: str,
        *,
        fault: ConnectionFault | None = None,
        explained: bool = False,
        past_proxy: bool = False,
        proxy: Proxy | None = None,
    ) -> None:
        super().__init__(reason)
        self.fault: ConnectionFault | None = fault
        self.explained: bool = explained
        self.past_proxy: bool = past_proxy
        self.proxy: Proxy | None = proxy
        self.is_judged: bool = explained or fault is not None


def fault_of(error: BaseException) -> ConnectionFault | None:
    """Return the fault of an address that `error` reports; `None` if it reports no such fault."""
    for link in links_of(error):
        if isinstance(link, ConnectFailed) and link.is_judged:
            return link.fault
        for kind, fault in _KINDS:
            if isinstance(link, kind):
                return fault
        if isinstance(link, OSError) and link.errno in _NO_DESCRIPTORS:
            return "resources"
        if isinstance(link, ssl.SSLError) and link.reason in _NO_TLS:
            return "protocol"
    text = str(error)
    return next((fault for fault, words in _WORDS if words.search(text)), None)


def links_of(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, its causes and contexts, and the members of groups among them."""
    todo: list[BaseException] = [error]
    for _ in range(_MOST_LINKS):
        if not todo:
            return
        link = todo.pop()
        yield link
        todo += [cause for cause in (link.__context__, link.__cause__) if cause is not None]
        if isinstance(link, BaseExceptionGroup):
            todo += link.exceptions


def _is_unreadable(error: BaseException) -> bool:
    """Whether `error` is about a response whose head cannot be parsed; another attempt would get the same."""
    return _UNREADABLE.search(str(error)) is not None


def connection_failed(
    origin: str,
    reason: str,
    fault: ConnectionFault | None,
    proxy: Proxy | None = None,
    *,
    explained: bool = False,
    certain: bool = False,
) -> ConnectionFailedError:
    """Return the error for a connection to `origin` that could not be made.

    Args:
        origin: scheme, host and port of the server.
        reason: the message of the operating system or the HTTP library.
        fault: from `fault_of`.
        proxy: the proxy of the connection, if the error may be the proxy's.
        explained: the reason needs no hint.
        certain: with a `proxy`, the error is the proxy's whatever the fault.
    """
    words, protocol = reason, urlsplit(origin).scheme
    # Through a proxy, a certificate that fails is mostly the server's.
    proxied = proxy is not None and (certain or fault not in _NOT_OF_PROXIES)
    if fault is not None and not explained:
        hint = _NO_UNIX_SOCKET if protocol == "http+unix" and fault == "refused" else _HINTS[fault]
        protocol = "TLS" if protocol == "https" and not proxied else "HTTP"
        words = hint.format(reason=reason, protocol=protocol, limit=_descriptor_limit())
    if proxy is not None and proxied:
        words = words.replace("base_url", proxy.setting)
        where = f"the proxy {proxy.origin} ({proxy.setting}) on the way to {origin}"
    else:
        where = origin
    error = ConnectionFailedError(f"cannot connect to {where}: {words}")
    error.fault = fault
    return error


def _descriptor_limit() -> str:
    """Return the number of file descriptors that the process may have, with its noun."""
    if sys.platform == "win32":
        return "the files that it may have open"
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"its {limit} file descriptors"


def translate(
    error: BaseException,
    url: str,
    timeout: float | None,
    *,
    library: Any = None,
    reading: bool = False,
    proxy: Proxy | None = None,
) -> ProviderError:
    """Return `error` as one of batchrt's.

    Args:
        error: a `ConnectFailed`, or an error of `library` or of the operating system.
        url: of the request.
        timeout: seconds that the request had; `None` for no limit.
        library: httpx or httpx2; `None` if the request did not go through one of them.
        reading: the head of the answer had come.
        proxy: the proxy that the request went through.
    """
    hide_url(error)
    origin = origin_of(url)
    if isinstance(error, ConnectFailed):
        fault = fault_of(error)
        proxy = None if error.past_proxy or fault == "resources" else error.proxy or proxy
        return connection_failed(
            origin, reason_of(error), fault, proxy, explained=error.explained, certain=True
        )
    if _is_unconnected(error) or _is_of(library, error, _UNCONNECTED):
        return connection_failed(origin, reason_of(error), fault_of(error), proxy)
    if isinstance(error, TimeoutError) or _is_of(library, error, ("TimeoutException",)):
        within = "in time" if timeout is None else f"within {timeout:g} s"
        return RequestTimeoutError(f"no whole answer from {origin} {within}")
    kind = type(error).__name__
    if reading and kind in ("RemoteProtocolError", "StreamError", "DecodingError"):
        return MalformedResponseError(f"the answer from {origin} is broken: {reason_of(error)}")
    if kind == "RemoteProtocolError":
        return _translate_protocol_error(error, origin, proxy)
    return ConnectionFailedError(f"the connection to {origin} failed: {reason_of(error)}")


def _translate_protocol_error(error: BaseException, origin: str, proxy: Proxy | None) -> ProviderError:
    if _is_unreadable(error):
        unreadable = MalformedResponseError(
            f"the head of the answer from {origin} cannot be read: {reason_of(error)}"
        )
        advise(unreadable, retry=False)  # another attempt would get the same
        return unreadable
    fault = fault_of(error)
    if fault is not None:
        return connection_failed(origin, reason_of(error), fault, proxy)
    return ConnectionFailedError(f"the connection to {origin} failed: {reason_of(error)}")


def _is_unconnected(error: BaseException) -> bool:
    # Those of an established connection, such as a reset, have classes of their own.
    return type(error) is ConnectionError or isinstance(error, ConnectionRefusedError)


def _is_of(library: Any, error: BaseException, kinds: tuple[str, ...]) -> bool:
    return library is not None and isinstance(error, tuple(getattr(library, kind) for kind in kinds))


def hide_url(error: BaseException) -> None:
    """Take the URL out of the messages of `error`, where reqwest puts it: its query may hold a key."""
    error.args = tuple(_URL_IN_MESSAGE.sub("", arg) if isinstance(arg, str) else arg for arg in error.args)


def reason_of(error: BaseException) -> str:
    """Return the message of `error`, or its class if it has none."""
    return str(error) or type(error).__name__
