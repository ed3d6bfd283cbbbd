"""The transport: send bytes to one provider, get a status, headers and bytes.

There are three ways to send, all bounded alike in time and size:

- by default connections of our own, without httpx's request and response objects, which cost more than the
  rest of an exchange;
- a user's httpx transport (`httpx.MockTransport`, a respx router, `httpx.ASGITransport` …);
- a user's `httpx.AsyncClient`.
"""

from __future__ import annotations

import ssl
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from batchrt.providers.http.address import check_headers
from batchrt.providers.http.content_encoding import ACCEPT_ENCODING
from batchrt.providers.http.native_channel import NativeChannel
from batchrt.providers.http.pool import KEEPALIVE_EXPIRY
from batchrt.providers.http.response import Reply, Sink
from batchrt.providers.http.response_stream import ResponseStream

__all__ = ["HTTPClient", "HTTPTransport", "Transport"]


class HTTPClient(Protocol):
    """An `httpx.AsyncClient`, httpx2's, or a client with the same methods."""

    def build_request(self, method: str, url: str, /) -> Any:
        """Return a request."""

    async def send(self, request: Any, /) -> Any:
        """Send it."""


class HTTPTransport(Protocol):
    """An async transport of httpx's or httpx2's, or one with the same methods."""

    async def handle_async_request(self, request: Any, /) -> Any:
        """Send a request."""

    async def aclose(self) -> None:
        """Close it."""


class _Channel(Protocol):
    async def post(self, url: str, body: bytes, sink: Sink | None) -> Reply: ...

    async def stream(self, url: str, body: bytes) -> ResponseStream: ...

    async def aclose(self) -> None: ...


class Transport:
    """Post bodies to one provider; may be used from any event loop and from several at once.

    Args:
        headers: sent with every request.
        tls: the URLs are `https`.
        timeout: seconds for a whole exchange, from connecting to the last byte, or of a streamed one from
            connecting to the head of the answer and from each piece to the next; `None` for no limit.
        max_response_bytes: bounds an answer as it is received and as it unpacks.
        http_client: send through this client of httpx's or httpx2's; its owner closes it.
        transport: send through this transport of httpx's or httpx2's, which is closed with this object.
        ssl_context: for TLS to the provider, in place of the one for certifi's and the system's certificates.
        keepalive_expiry: seconds for which an idle connection is kept; `None` for `KEEPALIVE_EXPIRY`.

    Attributes:
        max_response_bytes: as given.

    Raises:
        ValueError: for a header that HTTP cannot carry, or options that exclude each other.
        TypeError: the client or transport is not one, or is synchronous.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        tls: bool,
        timeout: float | None,
        max_response_bytes: int,
        http_client: HTTPClient | None = None,
        transport: HTTPTransport | None = None,
        ssl_context: ssl.SSLContext | None = None,
        keepalive_expiry: float | None = None,
    ) -> None:
        if http_client is not None and transport is not None:
            raise ValueError("give either http_client or transport, not both")
        own = http_client is not None or transport is not None
        if ssl_context is not None and own:
            raise ValueError("give ssl_context to your http_client or transport (verify=...) instead")
        if keepalive_expiry is not None and own:
            raise ValueError("give keepalive_expiry to your http_client or transport (limits=...) instead")
        self.max_response_bytes: int = max_response_bytes
        sent = check_headers({**headers, "accept-encoding": ACCEPT_ENCODING})
        self._channel: _Channel
        # httpx takes a while to import, and is not needed for connections of our own.
        if http_client is not None:
            from batchrt.providers.http.httpx_channels import ClientChannel

            self._channel = ClientChannel(sent, timeout, max_response_bytes, http_client)
        elif transport is not None:
            from batchrt.providers.http.httpx_channels import TransportChannel

            self._channel = TransportChannel(sent, timeout, max_response_bytes, transport)
        else:
            self._channel = NativeChannel(
                sent,
                timeout,
                max_response_bytes,
                tls=tls,
                ssl_context=ssl_context,
                keepalive_expiry=KEEPALIVE_EXPIRY if keepalive_expiry is None else keepalive_expiry,
            )

    def post(self, url: str, body: bytes, sink: Sink | None = None) -> Coroutine[Any, Any, Reply]:
        """Send `body` and return the answer, whatever its status; redirects are not followed.

        Cancelling the caller closes the connection at once. With a `sink`, the body of a success is fed to it
        while it arrives, and the `Reply` has the bytes from its `end` in place of the body.

        Raises:
            ConnectionFailedError: there is no connection, or it broke.
            RequestTimeoutError: the exchange took longer than `timeout`.
            MalformedResponseError: the answer is too large, cut short or not decodable.
        """
        return self._channel.post(url, body, sink)

    def stream(self, url: str, body: bytes) -> Coroutine[Any, Any, ResponseStream]:
        """Send `body` and return the answer as soon as its head has come, whatever its status.

        Raises the errors of `post`. The caller closes the answer, which closes its connection at once unless
        the body was received to its end.
        """
        return self._channel.stream(url, body)

    async def aclose(self) -> None:
        """Close idle connections without waiting for requests in flight."""
        await self._channel.aclose()
