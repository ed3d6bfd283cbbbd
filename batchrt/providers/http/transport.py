"""The transport: send bytes to one provider, get a status, headers and bytes.

There are three ways to send, all bounded alike in time and size:

- by default pyqwest, without httpx's request and response objects, which cost as much again;
- a user's httpx transport (`httpx.MockTransport`, a respx router, `httpx.ASGITransport` …);
- a user's `httpx.AsyncClient`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from batchrt.providers.http.address import check_headers
from batchrt.providers.http.content_encoding import ACCEPT_ENCODING
from batchrt.providers.http.httpx_channels import ClientChannel, HTTPClient, HTTPTransport, TransportChannel
from batchrt.providers.http.pyqwest_transport import PyqwestChannel
from batchrt.providers.http.response import Reply, Sink

__all__ = ["HTTPClient", "HTTPTransport", "Transport"]


class _Channel(Protocol):
    async def post(self, url: str, body: bytes, sink: Sink | None) -> Reply: ...

    async def aclose(self) -> None: ...


class Transport:
    """Post bodies to one provider; may be used from any event loop and from several at once.

    Args:
        headers: sent with every request.
        tls: the URLs are `https`.
        url: the beginning of the URLs, to which the proxy rules of the environment are applied; without it,
            pyqwest applies its own.
        timeout: seconds for a whole exchange, from connecting to the last byte; `None` for no limit.
        max_response_bytes: bounds an answer as it is received and as it unpacks.
        http_client: send through this client of httpx's or httpx2's; its owner closes it.
        transport: send through this transport of httpx's or httpx2's, which is closed with this object.

    Raises:
        ValueError: for a header that HTTP cannot carry.
        TypeError: the client or transport is not one, or is synchronous.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        tls: bool,
        timeout: float | None,
        max_response_bytes: int,
        url: str = "",
        http_client: HTTPClient | None = None,
        transport: HTTPTransport | None = None,
    ) -> None:
        if http_client is not None and transport is not None:
            raise ValueError("give either http_client or transport, not both")
        sent = check_headers({**headers, "accept-encoding": ACCEPT_ENCODING})
        self._channel: _Channel
        if http_client is not None:
            self._channel = ClientChannel(sent, timeout, max_response_bytes, http_client)
        elif transport is not None:
            self._channel = TransportChannel(sent, timeout, max_response_bytes, transport)
        else:
            self._channel = PyqwestChannel(sent, timeout, max_response_bytes, tls=tls, url=url)

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

    async def aclose(self) -> None:
        """Close idle connections without waiting for requests in flight."""
        await self._channel.aclose()
