"""Streams over sockets: what TLS has received and not handed out yet."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from batchrt.providers.http.socket_streams import TLSStream
from tests.providers.http.tls import certificate

pytestmark = pytest.mark.anyio


class Server:
    """The other side of a stream, in memory: a server's TLS, of which each `receive` gives all records."""

    def __init__(self, cert: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, cert.with_name("key.pem"))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def write(self, data: bytes) -> None:
        self._incoming.write(data)

    def has_unsent(self) -> bool:
        return False

    async def flush(self) -> None:
        """Have nothing to send."""

    async def receive(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def has_unread(self) -> bool:
        return False


async def connected(tmp_path: Path) -> tuple[Server, TLSStream]:
    """Return a server and a client's stream after their handshake."""
    cert = certificate(tmp_path)
    server = Server(cert)
    stream = TLSStream(server, ssl.create_default_context(cafile=str(cert)), "localhost")
    await stream.handshake()
    return server, stream


async def test_tls_stream_knows_records_that_came_with_the_last_one(tmp_path: Path) -> None:
    """The socket no longer has them, and a connection that has them must carry no other request."""
    server, stream = await connected(tmp_path)
    server.tls.write(b"first")
    server.tls.write(b"second")
    assert await stream.receive() == b"first"
    assert stream.has_unread()


async def test_tls_stream_knows_an_end_that_came_with_the_last_record(tmp_path: Path) -> None:
    """The server closes the connection."""
    server, stream = await connected(tmp_path)
    server.tls.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()
    assert await stream.receive() == b"last"
    assert stream.has_unread()


async def test_tls_stream_has_nothing_unread_after_all_records(tmp_path: Path) -> None:
    """Session tickets, which TLS 1.3 sends of its own accord, do not count."""
    server, stream = await connected(tmp_path)
    assert not stream.has_unread()
    server.tls.write(b"only")
    assert await stream.receive() == b"only"
    assert not stream.has_unread()
    server.tls.write(b"next")
    assert await stream.receive() == b"next"
