"""What came back over the wire, before anybody has judged it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["HeaderMap", "Reply"]


class HeaderMap(Protocol):
    """Look headers up by name, whatever the case."""

    def get(self, key: str, default: str | None = None, /) -> str | None:
        """Return the value of header `key`, or `default`."""


class Reply:
    """Hold an answer: its status, its headers as the HTTP library keeps them, its whole body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: HeaderMap, body: bytes) -> None:
        self.status: int = status
        self.headers: HeaderMap = headers
        self.body: bytes = body

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.body)} bytes>"

    @property
    def request_id(self) -> str | None:
        """The provider's name for the exchange."""
        get = self.headers.get
        return get("x-request-id") or get("request-id") or get("apim-request-id")
