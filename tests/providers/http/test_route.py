"""Routes: where connections go, and the parts of requests that depend on it."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from batchrt.providers.http.connection_errors import ConnectFailed, translate
from batchrt.providers.http.route import Route, route_of


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "name"),
    [
        ("http://Host/v1", "host", 80, "host", "host"),
        ("http://host:8000/v1", "host", 8000, "host:8000", "host"),
        ("https://host:443/v1", "host", 443, "host", "host"),
        ("https://host:80/v1", "host", 80, "host:80", "host"),
        ("http://my_llm:8000", "my_llm", 8000, "my_llm:8000", "my_llm"),
        ("http://[::1]:8000/v1", "::1", 8000, "[::1]:8000", "::1"),
        ("http://[fe80::1%25eth0]/v1", "fe80::1%eth0", 80, "[fe80::1]", "fe80::1"),
        ("https://host./v1", "host.", 443, "host.", "host"),
        ("https://bücher.example/v1", "xn--bcher-kva.example", 443, "xn--bcher-kva.example",
         "xn--bcher-kva.example"),
        ("https://faß.example/v1", "xn--fa-hia.example", 443, "xn--fa-hia.example", "xn--fa-hia.example"),
    ],
)  # fmt: skip
def test_route_has_the_names_that_resolver_tls_and_headers_need(
    url: str, host: str, port: int, authority: str, name: str
) -> None:
    """In lower case, without brackets, a zone or the dot of the root where they do not belong."""
    route = route_of(url)
    assert (route.host, route.port, route.authority, route.server_hostname) == (host, port, authority, name)
    assert (route.tls is not None) == url.startswith("https")


def test_routes_to_one_server_are_equal() -> None:
    """They are the key of a pool."""
    assert route_of("https://a/v1/x") == route_of("https://A:443/v1/y?z")
    assert hash(route_of("https://a/v1/x")) == hash(route_of("https://a"))
    assert route_of("https://a") != route_of("http://a:443")
    assert route_of("https://a") != route_of("https://a", ssl_context=ssl.create_default_context())


def test_route_takes_an_own_context() -> None:
    """For the server; the process's is not made."""
    own = ssl.create_default_context()
    assert route_of("https://a", ssl_context=own).tls is own
    assert route_of("http://a", ssl_context=own).tls is None


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h", "/"),
        ("http://h/v1/chat?api-version=1", "/v1/chat?api-version=1"),
        ("http://h?k=1", "/?k=1"),
        ("http://h/a%2Fb#c", "/a%2Fb"),
    ],
)
def test_route_target_is_the_path_and_absolute_for_a_forwarding_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, target: str
) -> None:
    """RFC 9112, section 3.2."""
    assert route_of(url).target(url) == target
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    assert route_of(url).target(url) == f"http://h{target}"
    tunneled = url.replace("http:", "https:")
    assert route_of(tunneled).target(tunneled) == target


def test_route_sends_the_proxys_credentials_only_where_the_proxy_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through a tunnel, the server would get them."""
    monkeypatch.setenv("ALL_PROXY", "http://us%40er:p%3Aw@proxy:3128")
    assert route_of("http://h").headers == (("proxy-authorization", "Basic dXNAZXI6cDp3"),)
    assert route_of("https://h").headers == ()
    assert route_of("https://h").tunneled
    assert not route_of("http://h").tunneled
    assert "p:w" not in repr(route_of("https://h"))
    assert "p%3Aw" not in repr(route_of("https://h"))


def test_route_to_a_proxy_with_tls_has_a_context_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not there is TLS to the server."""
    monkeypatch.setenv("ALL_PROXY", "https://proxy")
    for url in ("http://h", "https://h"):
        route = route_of(url)
        assert route.proxy is not None
        assert (route.proxy.host, route.proxy.port) == ("proxy", 443)
        assert route.proxy_tls is not None


def test_route_ignores_proxies_where_the_environment_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `trust_env=False` of httpx does."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    assert route_of("http://h", trust_env=False).proxy is None


def test_route_to_a_unix_socket_has_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the case in which it is written; proxies do not apply."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    route = route_of("http+unix://%2Frun%2FMy.sock/v1/chat?a=b")
    assert route == Route("localhost", 80, unix_path="/run/My.sock")
    assert route.authority == "localhost"
    assert route.target("http+unix://%2Frun%2FMy.sock/v1/chat?a=b") == "/v1/chat?a=b"


@pytest.mark.parametrize(
    ("setting", "url", "says", "fault"),
    [
        ("socks5://u:hunter2@p:1080", "http://h", "http_client=", "proxy"),
        ("socks5h://u:hunter2@p:1080", "https://h", "socks5h proxies need another client", "proxy"),
        ("ftp://u:hunter2@p", "http://h", "no URL of a proxy", "proxy"),
        ("http://u:hunter2@p:99999", "http://h", "no URL of a proxy", "proxy"),
        ("http://", "http://h", "no URL of a proxy", "proxy"),
        ("", "http://a..b.ö", "is no name of a host", "host"),
    ],
)
def test_route_that_cannot_be_is_an_error_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, setting: str, url: str, says: str, fault: Any
) -> None:
    """It names the setting and hides the password."""
    monkeypatch.setenv("ALL_PROXY", setting)
    with pytest.raises(ConnectFailed, match=says) as caught:
        route_of(url)
    assert caught.value.fault == fault
    assert "hunter2" not in str(caught.value)
    error: Any = translate(caught.value, url, 5)
    assert error.fault == fault
    assert says in str(error)
