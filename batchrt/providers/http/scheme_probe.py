"""Scheme probes: whether a server speaks HTTP with TLS or without."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio.streams.tls import TLSStream

from batchrt.providers.http.connection_errors import links_of

__all__ = ["speaks_http", "speaks_tls"]

_HANDSHAKE: Final = 2.0
"""Seconds for a probe, with which a server shows whether it speaks TLS."""


async def speaks_tls(url: str) -> bool:
    """Whether the server of `url` answers a TLS handshake, with any certificate."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):  # a Unix socket
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with anyio.fail_after(_HANDSHAKE):
            stream = await anyio.connect_tcp(parts.hostname or "", parts.port or 80)
            async with stream:
                await TLSStream.wrap(
                    stream, hostname=parts.hostname, ssl_context=context, standard_compatible=False
                )
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, ValueError) as error:
        # A TLS alert is an answer too.
        return any(
            isinstance(link, ssl.SSLError) and "ALERT" in (link.reason or "") for link in links_of(error)
        )
    return True


async def speaks_http(url: str) -> bool:
    """Whether the server of `url` answers HTTP without TLS; the probe has no key and no path."""
    parts = urlsplit(url)
    asked = f"HEAD / HTTP/1.1\r\nhost: {parts.netloc.rpartition('@')[2]}\r\nconnection: close\r\n\r\n"
    try:
        with anyio.fail_after(_HANDSHAKE):
            stream = await anyio.connect_tcp(parts.hostname or "", parts.port or 443)
            async with stream:
                await stream.send(asked.encode())
                return (await stream.receive()).startswith(b"HTTP/")
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, ValueError):
        return False
