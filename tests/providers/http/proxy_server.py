"""A proxy of our own: forwards requests, opens tunnels, and keeps the heads that it was sent."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["ProxyServer", "proxy_server"]


@dataclass
class ProxyServer:
    """A running proxy.

    Attributes:
        url: its URL.
        heads: of the requests that it was sent.
        connections: the number of connections that it took.
    """

    url: str
    context: ssl.SSLContext | None
    answer: bytes | None
    heads: list[str] = field(default_factory=list)
    connections: int = 0

    def serve(self, client: socket.socket) -> None:
        """Serve one connection."""
        self.connections += 1
        with ExitStack() as stack, suppress(OSError):
            client = stack.enter_context(client)
            client.settimeout(20)
            if self.context is not None:
                client = stack.enter_context(self.context.wrap_socket(client, server_side=True))
            server: socket.socket | None = None
            while head := _head(client):
                self.heads.append(head.decode("latin-1"))
                method, target, _ = head.split(b" ", 2)
                if self.answer is not None:
                    client.sendall(self.answer)
                    return
                if method == b"CONNECT":
                    host, _, port = target.decode().rpartition(":")
                    tunnel = stack.enter_context(socket.create_connection((host, int(port))))
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    _pipe_both(client, tunnel)
                    return
                server = server or stack.enter_context(_connect(target.decode()))
                _forward(head, client, server)


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=20)


def _head(stream: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = stream.recv(1)
        if not part:
            return b""
        head += part
    return head


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _copy(size: int, source: socket.socket, target: socket.socket) -> None:
    while size:
        part = source.recv(min(size, 65536))
        target.sendall(part)
        size -= len(part)


def _forward(head: bytes, client: socket.socket, server: socket.socket) -> None:
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"proxy-")]
    method, target, version = lines[0].split(b" ")
    lines[0] = b" ".join([method, urlsplit(target).path, version])
    server.sendall(b"\r\n".join(lines))
    _copy(_length(head), client, server)
    answer = _head(server)
    client.sendall(answer)
    _copy(_length(answer), server, client)


def _pipe_both(client: socket.socket, server: socket.socket) -> None:
    # In one thread: OpenSSL allows no second one to write to a connection that the first one reads.
    ways = {client: server, server: client}
    with suppress(OSError):
        while ways:
            ready = [source for source in ways if isinstance(source, ssl.SSLSocket) and source.pending()]
            for source in ready or select.select(list(ways), [], [])[0]:
                part = source.recv(65536)
                if part:
                    ways[source].sendall(part)
                else:
                    ways.pop(source).shutdown(socket.SHUT_WR)


@contextmanager
def proxy_server(cert: Path | None = None, answer: bytes | None = None) -> Iterator[ProxyServer]:
    """Run a proxy, by TLS with `cert`, which answers everything with `answer` if there is one."""
    context = None
    if cert is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, cert.with_name("key.pem"))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=proxy.serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        port = listener.getsockname()[1]
        proxy = ProxyServer(
            f"https://localhost:{port}" if cert else f"http://127.0.0.1:{port}", context, answer
        )
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
