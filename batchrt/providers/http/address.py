"""The address of a provider: its base URL and the headers of requests, checked once."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Address", "address_mistake", "check_headers", "origin_of"]

_OPENAI: Final = "https://api.openai.com/v1"
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_FIELD_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")


class Address:
    """A provider's base URL.

    A user and password in it do not stay in the URL, where messages would show them, but become
    `credentials`, the header that carries them. A query in it is part of every request's URL.

    Args:
        base_url: the URL.
        name: the parameter or environment variable that it comes from, for the error.

    Raises:
        ValueError: for anything but an http or https URL with a host, or an http+unix URL with the
            percent-encoded path of a socket.
    """

    def __init__(self, base_url: str, name: str = "base_url") -> None:
        parts = _split(base_url.strip(), name)
        self.credentials: dict[str, str] = {}
        if parts.username or parts.password:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            self.credentials["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        self.host: str = parts.hostname or ""
        self.tls: bool = parts.scheme == "https"
        self.origin: str = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._path = parts.path.rstrip("/")
        self._query = f"?{parts.query}" if parts.query else ""
        port = parts.port or (443 if self.tls else 80)
        at = self.origin if parts.scheme == "http+unix" else f"{parts.scheme}://{self.host}:{port}"
        self.canonical: str = f"{at}{self._path}{self._query}"

    @classmethod
    def given(cls, base_url: str | None) -> Address:
        """Return the address of `base_url`; by default `OPENAI_BASE_URL`, or OpenAI's."""
        if base_url:
            return cls(base_url)
        return cls(os.environ.get("OPENAI_BASE_URL") or _OPENAI, "OPENAI_BASE_URL")

    def __repr__(self) -> str:
        return f"<Address {self.origin}{self._path}>"

    def url(self, path: str) -> str:
        """Return the URL of `path`, which starts with a slash."""
        return f"{self.origin}{self._path}{path}{self._query}"


def origin_of(url: str) -> str:
    """Return the scheme, host and port of `url`: the parts that messages may show."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _split(url: str, name: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https", "http+unix") and parts.hostname and parts.port != 0
    except ValueError:  # not chained: urllib's message may quote a password
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError(f"{name} must be a URL such as https://host/v1 or http://localhost:8000/v1")
    return parts


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` with lower-case names.

    Raises:
        ValueError: for a name or value that HTTP cannot carry; the message names the header and never
            shows the value, which may be a key.
    """
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no name for an HTTP header")
        if not _FIELD_VALUE.fullmatch(value):
            raise ValueError(f"the value of header {name!r} has a character that HTTP cannot carry")
        checked[name.lower()] = value
    return checked


_ENDPOINT: Final = re.compile(r"/(chat/completions|completions|embeddings|responses|chat)$")
_VERSION: Final = re.compile(r"/(v\d+\w*|openai)(?=/|$)")
"""Where an API of this kind begins: `/v1` mostly, `/openai` with Azure."""


def address_mistake(url: str) -> str:
    """Return the probable mistake in a base URL, without its name; empty if it looks right."""
    try:
        path = urlsplit(url.strip()).path.rstrip("/")
    except ValueError:
        return ""
    endpoint = _ENDPOINT.search(path)
    if endpoint is not None:
        return f"ends with {endpoint[0]}, which is added to it; leave that out"
    versions = _VERSION.findall(path)
    if len(versions) > len(set(versions)):
        return f"has /{versions[-1]} twice; leave one out"
    return "" if versions else "has no /v1; most servers want it at the end"
