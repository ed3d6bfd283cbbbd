"""Proxies of the environment: the same as httpx takes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from batchrt.providers.http.connection_errors import ConnectFailed
from batchrt.providers.http.proxies import Proxy, proxy_for
from batchrt.providers.http.route import route_of


def httpx_goes_direct(url: str) -> bool:
    """Whether httpx asks `url` without a proxy."""
    client: Any = httpx.Client(verify=False)  # for the rules alone: it asks nobody
    with client:
        return client._transport_for_url(httpx.URL(url)) is client._transport


NO_PROXY = [
    "*",
    "other,*",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.0.0.1:9999",
    "127.0.0.2",
    "localhost",
    " localhost , 127.0.0.1",
    "localhost:8000",
    "example.com",
    "EXAMPLE.com",
    ".example.com",
    "api.example.com",
    "api.example.com:8000",
    "ample.com",
    "com",
    "http://example.com",
    "https://example.com",
    "all://example.com",
    "::1",
    "",
    ",",
]
URLS = [
    "http://127.0.0.1:8000/v1",
    "http://localhost:8000/v1",
    "http://[::1]:8000/v1",
    "http://example.com:8000/v1",
    "https://api.example.com:8000/v1",
    "https://notexample.com/v1",
]


@pytest.mark.parametrize("exceptions", NO_PROXY)
def test_proxies_exceptions_are_those_of_httpx(monkeypatch: pytest.MonkeyPatch, exceptions: str) -> None:
    """For any `NO_PROXY`, a key goes to a proxy if and only if httpx would send it there."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", exceptions)
    for url in URLS:
        assert (proxy_for(url) is None) == httpx_goes_direct(url), url


@pytest.mark.parametrize(
    ("exceptions", "url", "direct"),
    [
        ("[::1]", "http://[::1]:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("[::1]:9999", "http://[::1]:8000", False),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("10.0.0.0/8", "http://ten.example", False),
        ("fd00::/8", "http://[fd12::1]", True),
        ("*.example.com", "http://api.example.com", True),
        ("*.example.com", "http://example.com", False),
        ("example.com:443", "https://example.com", True),
        ("example.com:80", "https://example.com", False),
        ("http://my_llm:8000", "http://my_llm:8000/v1", True),
        ("my_llm", "http://my_llm:8000/v1", True),
    ],
)
def test_proxies_exceptions_beyond_those_of_httpx(
    monkeypatch: pytest.MonkeyPatch, exceptions: str, url: str, direct: bool
) -> None:
    """Networks, brackets, patterns of subdomains and default ports, as in curl and Go."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", exceptions)
    assert (proxy_for(url) is None) is direct


@pytest.mark.parametrize(
    ("settings", "url", "proxy"),
    [
        ({}, "http://a", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://a", Proxy("http://p:1", "HTTP_PROXY")),
        ({"HTTP_PROXY": "http://p:1"}, "https://a", None),
        ({"https_proxy": "p:1"}, "https://a", Proxy("http://p:1", "HTTPS_PROXY")),
        ({"ALL_PROXY": "socks5://p:1"}, "https://a", Proxy("socks5://p:1", "ALL_PROXY")),
        ({"ALL_PROXY": "http://q", "HTTP_PROXY": "http://p"}, "http://a", Proxy("http://p", "HTTP_PROXY")),
        ({"HTTP_PROXY": "http://p", "http_proxy": ""}, "http://a", None),
        ({"HTTP_PROXY": "http://p", "REQUEST_METHOD": "GET"}, "http://a", None),
    ],
)
def test_proxies_are_chosen_by_scheme_or_for_all(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], url: str, proxy: Proxy | None
) -> None:
    """Lower case wins, a scheme may be missing, and in a CGI script `HTTP_PROXY` may be an attacker's."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "authorization"),
    [
        ("http://proxy", "http", "proxy", 80, None),
        ("https://Proxy:8443/", "https", "proxy", 8443, None),
        ("https://[::1]", "https", "::1", 443, None),
        ("http://user@proxy", "http", "proxy", 80, "Basic dXNlcjo="),
        ("http://us%40er:p%3Aw@proxy:3128", "http", "proxy", 3128, "Basic dXNAZXI6cDp3"),
        ("http://us%C3%A9r:@proxy", "http", "proxy", 80, "Basic dXPDqXI6"),
    ],
)
def test_proxies_have_an_address_and_credentials(
    url: str, scheme: str, host: str, port: int, authorization: str | None
) -> None:
    """The credentials are percent-encoded in the URL, and UTF-8 in the header (RFC 7617)."""
    proxy = Proxy(url, "ALL_PROXY")
    assert (proxy.scheme, proxy.host, proxy.port, proxy.authorization) == (scheme, host, port, authorization)
    assert proxy.fault is None


def test_proxies_hide_the_password() -> None:
    """In the repr and in the origin."""
    proxy = Proxy("http://user:hunter2@proxy:3128", "HTTP_PROXY")
    assert "hunter2" not in repr(proxy)
    assert proxy.origin == "http://proxy:3128"


@pytest.mark.parametrize("end", ["#x", "/x", "?x", "#"])
@pytest.mark.parametrize("scheme", ["http://", "HTTP://", ""])
def test_proxy_origin_never_shows_a_password(monkeypatch: pytest.MonkeyPatch, scheme: str, end: str) -> None:
    """A password with `#`, `/` or `?` ends the host of a URL, so that the URL is refused, with a hint."""
    monkeypatch.setenv("HTTP_PROXY", f"{scheme}user:secret{end}@127.0.0.1:3128")
    proxy = proxy_for("http://example.com/v1")
    assert proxy is not None
    assert proxy.origin == "http://127.0.0.1:3128"
    assert proxy.fault is not None
    assert "%23" in proxy.fault
    assert "secret" not in f"{proxy!r}{proxy.fault}"


@pytest.mark.parametrize("url", ["http://[::1", "http://user:secret@[127.0.0.1", "http://[x]:1"])
def test_proxy_fault_of_a_broken_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """It is told as that of the setting, and not raised as an error of `urllib`."""
    monkeypatch.setenv("HTTP_PROXY", url)
    with pytest.raises(ConnectFailed, match="no URL of a proxy") as caught:
        route_of("http://example.com/v1")
    assert caught.value.fault == "proxy"


def test_proxy_for_leaves_blanks_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of an environment file may end in one; blanks alone are no proxy."""
    monkeypatch.setenv("HTTP_PROXY", " http://127.0.0.1:3128 ")
    proxy = proxy_for("http://example.com/v1")
    assert proxy is not None
    assert (proxy.url, proxy.fault) == ("http://127.0.0.1:3128", None)
    monkeypatch.setenv("HTTP_PROXY", " ")
    assert proxy_for("http://example.com/v1") is None
