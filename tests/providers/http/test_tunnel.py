"""Tunnels: the request to a proxy, and its answer."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from batchrt.limits.error_kinds import FailureKind, kind_of
from batchrt.providers.http.connection_errors import ConnectFailed, translate
from batchrt.providers.http.proxies import Proxy
from batchrt.providers.http.response_head import end_of_head
from batchrt.providers.http.route import Route
from batchrt.providers.http.tunnel import check_tunnel, connect_request

AUTHORIZATION = b"proxy-authorization: Basic dXNAZXI6cDp3\r\n\r\n"
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def route(proxy: str = "http://proxy:3128", host: str = "api.example", port: int = 443) -> Route:
    return Route(host, port, tls=TLS, proxy=Proxy(proxy, "HTTPS_PROXY"))


@pytest.mark.parametrize(
    ("to", "request_"),
    [
        (route(), b"CONNECT api.example:443 HTTP/1.1\r\nhost: api.example:443\r\n\r\n"),
        (route(host="::1", port=8443), b"CONNECT [::1]:8443 HTTP/1.1\r\nhost: [::1]:8443\r\n\r\n"),
        (
            route("http://us%40er:p%3Aw@proxy"),
            b"CONNECT api.example:443 HTTP/1.1\r\nhost: api.example:443\r\n" + AUTHORIZATION,
        ),
    ],
)
def test_connect_request_names_host_and_port(to: Route, request_: bytes) -> None:
    """With the credentials of the proxy's URL."""
    assert connect_request(to) == request_


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nvia: x\r\n\r\n",
        b"HTTP/1.1 204\r\n\r\n",
        b"HTTP/1.1 200 \n\n",
    ],
)
def test_tunnel_is_open_after_any_success(answer: bytes) -> None:
    """Whatever the proxy's words."""
    assert end_of_head(answer) == len(answer)
    assert all(end_of_head(answer[:end]) is None for end in range(len(answer)))
    check_tunnel(route(), answer)


@pytest.mark.parametrize(
    ("answer", "says", "kind"),
    [
        (
            b"HTTP/1.1 407 Nope\r\n\r\n",
            "407 Nope: it wants a user and a password",
            FailureKind.WRONG_PROTOCOL,
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden", FailureKind.WRONG_PROTOCOL),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\nx", "502 Bad Gateway", FailureKind.UNREACHABLE),
        (b"HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n", "302 Found", FailureKind.WRONG_PROTOCOL),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP there", FailureKind.WRONG_PROTOCOL),
        (b"", "closed the connection before", FailureKind.UNREACHABLE),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection before", FailureKind.UNREACHABLE),
        (b"HTTP/1.1 403 Forbidden\r\n", "closed the connection before", FailureKind.UNREACHABLE),
        (b"HTTP/1.1 403 Forbidden\r\nx: " + b"y" * 70_000, "403 Forbidden", FailureKind.WRONG_PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, "sent bytes into", FailureKind.UNREACHABLE),
        (b"HTTP/1.1 200 OK\r\n\r\nx", "sent bytes into the tunnel", FailureKind.UNREACHABLE),
        (b"HTTP/1.1 500 " + b"x" * 5000 + b"\r\n\r\n", "500 xxx", FailureKind.UNREACHABLE),
    ],
)
def test_tunnel_that_is_refused_is_an_error_of_the_proxy(answer: bytes, says: str, kind: FailureKind) -> None:
    """It names the proxy and its setting; a refusal lasts, and a 5xx may be an outage of the server."""
    to = route("http://user:hunter2@proxy:3128") if b"403" in answer else route()
    with pytest.raises(ConnectFailed) as caught:
        check_tunnel(to, answer)
    error: Any = translate(caught.value, "https://api.example/v1", 5, proxy=to.proxy)
    assert "cannot connect to the proxy http://proxy:3128 (HTTPS_PROXY) on the way to https://api.exa" in str(
        error
    )
    assert says in str(error)
    assert "hunter2" not in str(error)
    assert len(str(error)) < 400
    assert kind_of(error) is kind


def test_tunnel_that_is_refused_in_spite_of_credentials_says_so() -> None:
    """It is the password that is wrong, rather than missing."""
    with pytest.raises(ConnectFailed, match="does not accept the user and password in HTTPS_PROXY"):
        check_tunnel(route("http://user:hunter2@proxy"), b"HTTP/1.1 407 No\r\n\r\n")
