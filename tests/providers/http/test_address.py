"""A base URL is checked once, and its password does not stay in it."""

from __future__ import annotations

from base64 import b64encode

import pytest

from batchrt.providers.http.address import Address, check_headers, origin_of


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat"),
        (" http://localhost:8000 \n", "http://localhost:8000/chat"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/chat"),
        (
            "https://x.azure.com/d/a%2Fb?api-version=1",
            "https://x.azure.com/d/a%2Fb/chat?api-version=1",
        ),
        ("https://host/v1#part", "https://host/v1/chat"),
        ("HTTPS://Host/v1", "https://Host/v1/chat"),
        ("http+unix://%2Frun%2FMy.sock/v1", "http+unix://%2Frun%2FMy.sock/v1/chat"),
    ],
)
def test_address_puts_the_path_before_the_query(base_url: str, url: str) -> None:
    """For any end of the base URL."""
    assert Address(base_url).url("/chat") == url


def test_address_moves_user_and_password_to_a_header() -> None:
    """They are in no URL that is shown or sent."""
    address = Address("http://us%40er:p%3Aw@host:8000/v1")
    assert address.credentials == {"authorization": f"Basic {b64encode(b'us@er:p:w').decode()}"}
    assert (address.origin, address.host, address.tls) == ("http://host:8000", "host", False)
    assert "p" not in repr(address).replace("http", "")
    assert address.url("/chat") == "http://host:8000/v1/chat"


def test_address_of_another_unix_socket_is_another_address() -> None:
    """Paths differ in case, and have no port."""
    canonical = {Address(f"http+unix://%2Frun%2F{name}/v1").canonical for name in ("a", "A", "b")}
    assert len(canonical) == 3
    assert not Address("http+unix://%2Frun%2Fa").tls


@pytest.mark.parametrize(
    "base_url",
    ["", "http+unix:///run/my.sock/v1", "api.openai.com/v1", "ftp://host/v1", "http://", "http://host:99999", "http://host:0",
     "http://ho st/", "http://user:pass:word@[bad/v1", "https:///v1"],
)  # fmt: skip
def test_address_refuses_other_text_without_showing_it(base_url: str) -> None:
    """The text may hold a password."""
    with pytest.raises(ValueError, match="base_url must be a URL") as caught:
        Address(base_url)
    assert "pass" not in str(caught.value)


def test_origin_has_no_user_path_or_query() -> None:
    """Scheme, host and port only."""
    assert origin_of("https://u:p@host:1/v1?key=1") == "https://host:1"


def test_check_headers_lowers_and_checks_names() -> None:
    """A name that is not a token is refused."""
    assert check_headers({"X-Team": "a b"}) == {"x-team": "a b"}
    with pytest.raises(ValueError, match="no name for an HTTP header"):
        check_headers({"x team": "a"})
