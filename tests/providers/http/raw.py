"""A server that says exactly what a test wants, byte by byte."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

import anyio
from anyio.abc import SocketStream

ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hello"}}]}'


@dataclass(frozen=True)
class RawRequest:
    """A request as it was received."""

    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header's value."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return None


class Connection:
    """One client's connection, from the server's side."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._buffer = b""

    async def request(self) -> RawRequest:
        """Receive one request, the body by its content-length."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await self._stream.receive()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        size = int(RawRequest(head, b"").header("content-length") or 0)
        while len(rest) < size:
            rest += await self._stream.receive()
        self._buffer = rest[size:]
        return RawRequest(head, rest[:size])

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._stream.send(data)

    async def answer(self, body: bytes = ANSWER, status: str = "200 OK", *headers: bytes) -> None:
        """Send a well-formed response."""
        lines = [f"HTTP/1.1 {status}".encode(), b"content-length: %d" % len(body), *headers]
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    async def until_closed(self) -> None:
        """Wait until the client closes the connection."""
        try:
            while True:
                await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return


Script: TypeAlias = Callable[[Connection], Awaitable[None]]


class RawServer:
    """Know where the server is, and how many connections it has seen open and close."""

    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.opened = 0
        self.requests: list[RawRequest] = []
        self.arrived = anyio.Event()
        self.closed = anyio.Event()


@asynccontextmanager
async def raw_server(script: Script) -> AsyncIterator[RawServer]:
    """Serve each request with `script` once the request is there; `closed` is set after it."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = RawServer(listener.extra(anyio.abc.SocketAttribute.local_port))

    async def handle(stream: SocketStream) -> None:
        server.opened += 1
        async with stream:
            connection = Connection(stream)
            try:
                while True:
                    server.requests.append(await connection.request())
                    server.arrived.set()
                    await script(connection)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                server.closed.set()

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield server
        group.cancel_scope.cancel()


class HangUp(anyio.EndOfStream):
    """End a script and its connection."""


@contextmanager
def threaded_server(keep_alive: float | None = None) -> Iterator[str]:
    """Answer every POST from threads of its own, whatever loop asks; gives the base URL.

    Idle connections are closed after `keep_alive` seconds.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = keep_alive

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
