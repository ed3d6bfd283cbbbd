"""Mocks of httpx: patches of test tools, which are to see requests over our own connections too.

respx, pytest-httpx and vcrpy replace methods of httpx or httpcore while a test runs. Requests go through an
httpx client then, and the tool answers them as it answers httpx's.
"""

# ruff: noqa: TID251  one of the files that know an HTTP library
from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import anyio

from batchrt.providers.http.tls import tls_context

if TYPE_CHECKING:
    import ssl

    from batchrt.providers.http.response import Reply, Sink
    from batchrt.providers.http.response_stream import ResponseStream

__all__ = ["is_httpx_mocked", "post_by_httpx", "stream_by_httpx"]

_PATCHED: Final = (
    ("httpcore", "AsyncConnectionPool", "handle_async_request"),  # respx, vcrpy 8
    ("httpx", "AsyncHTTPTransport", "handle_async_request"),  # pytest-httpx
    ("httpx", "AsyncClient", "_transport_for_url"),  # respx with using="httpx"
    ("httpx", "AsyncClient", "_send_single_request"),  # vcrpy 5 to 7
)
"""Methods that test tools replace: library, class, method."""


def is_httpx_mocked() -> bool:
    """Whether a test tool replaces httpx's requests at the moment; cheap where none is imported."""
    modules = sys.modules
    if "respx" not in modules and "pytest_httpx" not in modules and "vcr" not in modules:
        return False
    return any(_is_patched(*names) for names in _PATCHED)


def _is_patched(library: str, kind: str, method: str) -> bool:
    module = sys.modules.get(library)
    function = getattr(getattr(module, kind, None), method, None)
    code = getattr(function, "__code__", None)
    # A wrapper may have the name and the module of the function it wraps, but not its code.
    return function is not None and (
        code is None or f"/{library}/" not in code.co_filename.replace("\\", "/")
    )


async def post_by_httpx(  # noqa: PLR0917  the arguments of a channel
    url: str,
    body: bytes,
    sink: Sink | None,
    headers: Mapping[str, str],
    timeout: float | None,  # noqa: ASYNC109  of the exchange
    limit: int,
    ssl_context: ssl.SSLContext | None,
) -> Reply:
    """Post through an httpx client that is made for this request; see `Transport.post`."""
    import httpx

    from batchrt.providers.http.httpx_channels import ClientChannel

    transport = httpx.AsyncHTTPTransport(verify=ssl_context or tls_context())
    async with httpx.AsyncClient(transport=transport) as client:
        return await ClientChannel(headers, timeout, limit, client).post(url, body, sink)


async def stream_by_httpx(  # noqa: PLR0917  the arguments of a channel
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    timeout: float | None,  # noqa: ASYNC109  of the exchange
    limit: int,
    ssl_context: ssl.SSLContext | None,
) -> ResponseStream:
    """Stream through an httpx client that is made for this request; see `Transport.stream`."""
    import httpx

    from batchrt.providers.http.httpx_channels import ClientChannel

    client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(verify=ssl_context or tls_context()))
    try:
        return await ClientChannel(headers, timeout, limit, client, owned=True).stream(url, body)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await client.aclose()
        raise
