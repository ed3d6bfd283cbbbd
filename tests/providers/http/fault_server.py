"""A server whose responses are broken in the way that each request asks for.

A request's body is a plan, as JSON: the framing of its response, and how that ends. The response carries the
plan's `id` in a header and in its body, so that a response which reaches another request is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["FaultServer", "Plan", "fault_server", "response"]

_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_RESET: Final = struct.pack("ii", 1, 0)
_DRIP: Final = 0.002
"""Seconds between the parts of a response that drips."""


@dataclass
class Plan:
    """The plan of one response.

    Attributes:
        id: is echoed.
        framing: how the end of the body is marked; see `response`.
        end: how the response ends: `whole`; `cut`, `reset`, `shut` (half-closed) or `stall` after `at` bytes.
        at: see `end`.
        before: bytes ahead of the response, in Latin-1.
        after: bytes behind it.
        later: seconds after which `after` is sent; 0 for together with the response.
        wait: seconds before the response.
        parts: the number of parts in which the response is sent, some time apart; 0 for at once.
        close: close the connection after a whole response.
        size: of the padding of the body, in bytes.
    """

    id: int = 0
    framing: str = "length"
    end: str = "whole"
    at: int = 0
    before: str = ""
    after: str = ""
    later: float = 0.0
    wait: float = 0.0
    parts: int = 0
    close: bool = False
    size: int = 0

    def body(self) -> bytes:
        """Return the body of a request for the response."""
        return json.dumps({name: value for name, value in vars(self).items() if value}).encode()


def echo(plan: Plan) -> bytes:
    """Return the body of the response to `plan`."""
    return b'{"id": %d, "pad": "%s"}' % (plan.id, b"x" * plan.size)


def response(plan: Plan) -> bytes:
    """Return the whole response to `plan`, in its framing."""
    body = echo(plan)
    head = b"HTTP/1.1 200 OK\r\nx-id: %d\r\ncontent-type: application/json\r\n" % plan.id
    length = b"content-length: %d\r\n" % len(body)
    half = len(body) // 2
    chunked = b"transfer-encoding: chunked\r\n"
    chunks = (
        b""
        if "chunk" not in plan.framing and plan.framing != "trailers"
        else b"%x\r\n%b\r\n%X;name=value\r\n%b\r\n0\r\n" % (half, body[:half], len(body) - half, body[half:])
    )
    zipped = b""
    if "gzip" in plan.framing:
        zipped = gzip.compress(body[:half], mtime=0) + gzip.compress(body[half:], mtime=0)
    made: dict[str, Callable[[], bytes]] = {
        "length": lambda: head + length + b"\r\n" + body,
        "chunked": lambda: head + chunked + b"\r\n" + chunks + b"\r\n",
        "trailers": lambda: head + chunked + b"\r\n" + chunks + b"x-check: 1\r\nx-more: 2\r\n\r\n",
        "gzip": lambda: head + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(zipped) + zipped,
        "close": lambda: head + b"connection: close\r\n\r\n" + body,
        "http10": lambda: head.replace(b"1.1", b"1.0", 1) + b"\r\n" + body,
        "http10-length": lambda: head.replace(b"1.1", b"1.0", 1) + length + b"\r\n" + body,
        "http10-keep": lambda: (
            head.replace(b"1.1", b"1.0", 1) + length + b"connection: keep-alive\r\n\r\n" + body
        ),
        "last": lambda: head + length + b"connection: close\r\n\r\n" + body,
        "204": lambda: b"HTTP/1.1 204 No Content\r\nx-id: %d\r\n\r\n" % plan.id,
        "204-length": lambda: b"HTTP/1.1 204 No Content\r\nx-id: %d\r\ncontent-length: 5\r\n\r\n" % plan.id,
        "304": lambda: (
            b"HTTP/1.1 304 Not Modified\r\nx-id: %d\r\ncontent-length: %d\r\n\r\n" % (plan.id, len(body))
        ),
        "interim": lambda: (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"
            + head
            + length
            + b"\r\n"
            + body
        ),
        "interim-many": lambda: (
            b"HTTP/1.1 102 Processing\r\nx: y\r\n\r\n" * 30 + head + length + b"\r\n" + body
        ),
        "headers-150": lambda: (
            head + length + b"".join(b"x-%d: %d\r\n" % (n, n) for n in range(150)) + b"\r\n" + body
        ),
        "folded": lambda: head + length + b"x-folded: a\r\n b\r\n\r\n" + body,
        "lf": lambda: (head + length + b"\r\n").replace(b"\r\n", b"\n") + body,
        "no-reason": lambda: (head + length + b"\r\n").replace(b" OK", b"", 1) + body,
        "length-twice": lambda: head + length + length + b"\r\n" + body,
        # What follows is not HTTP, or is known as an attack on intermediaries.
        "too-short": lambda: head + b"content-length: %d\r\n\r\n" % (len(body) - 3) + body,
        "too-long": lambda: head + b"content-length: %d\r\n\r\n" % (len(body) + 3) + body,
        "length-negative": lambda: head + b"content-length: -1\r\n\r\n" + body,
        "length-text": lambda: head + b"content-length: ten\r\n\r\n" + body,
        "length-plus": lambda: head + b"content-length: +%d\r\n\r\n" % len(body) + body,
        "length-huge": lambda: head + b"content-length: 99999999999999999999999\r\n\r\n" + body,
        "lengths-differ": lambda: head + length + b"content-length: 5\r\n\r\n" + body,
        "length-and-chunked": lambda: head + b"content-length: 5\r\n" + chunked + b"\r\n" + chunks + b"\r\n",
        "chunk-text": lambda: head + chunked + b"\r\nzz\r\n" + body,
        "chunk-negative": lambda: head + chunked + b"\r\n-5\r\n" + body,
        "chunk-huge": lambda: head + chunked + b"\r\nffffffffffffffffff\r\n" + body,
        "chunk-short": lambda: head + chunked + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body) - 3, body),
        "chunk-long": lambda: head + chunked + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body) + 3, body),
        "encoding-unknown": lambda: head + b"transfer-encoding: rot13\r\n\r\n" + body,
        "gzip-broken": lambda: head + b"content-encoding: gzip\r\n" + length + b"\r\n" + body,
        "gzip-short": lambda: (
            head + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % (len(zipped) - 9) + zipped[:-9]
        ),
        "status-0": lambda: head.replace(b"200", b"000", 1) + length + b"\r\n" + body,
        "status-text": lambda: head.replace(b"200", b"abc", 1) + length + b"\r\n" + body,
        "version-2": lambda: head.replace(b"1.1", b"2.0", 1) + length + b"\r\n" + body,
        "no-colon": lambda: head + length + b"nonsense\r\n\r\n" + body,
        "space-name": lambda: head + length + b"x y : z\r\n\r\n" + body,
        "null": lambda: head + length + b"x: a\0b\r\n\r\n" + body,
        "switching": lambda: (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + body
        ),
        "not-http": lambda: b"SSH-2.0-OpenSSH_9.6\r\n",
        "tls-alert": lambda: b"\x15\x03\x03\x00\x02\x02\x28",
    }
    return made[plan.framing]()


@dataclass(eq=False)
class _Connection(asyncio.Protocol):
    server: FaultServer
    received: bytes = b""
    transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.opened += 1
        self.server.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open.discard(self)

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        self.received += data
        while True:
            head, end, rest = self.received.partition(b"\r\n\r\n")
            if not end:
                return
            if head.startswith(b"GET /stats "):
                self.received = rest
                self.transport.write(self.server.statistics())
                self.transport.close()
                return
            if head.startswith(b"POST /early "):
                self._refuse()
                return
            length = _LENGTH.search(head + b"\r\n")
            assert length is not None, head
            size = int(length[1])
            if len(rest) < size:
                return
            self.received = rest[size:]
            self.server.requests += 1
            self._play(Plan(**json.loads(rest[:size])))

    def _refuse(self) -> None:
        """Answer before the body is there, and discard the rest of it."""
        self.received = b""
        self.data_received = lambda data: None  # type: ignore[method-assign]
        body = b'{"error": {"message": "too large"}}'
        head = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(
            body
        )
        self.transport.write(head + body)
        asyncio.get_running_loop().call_later(0.2, self.transport.close)

    def _play(self, plan: Plan) -> None:
        if plan.framing == "endless-head":
            self.transport.write(b"HTTP/1.1 200 OK\r\n")
            self._flood(b"x-filler: " + b"y" * 1000 + b"\r\n", 50_000)
            return
        if plan.framing == "endless-line":
            self.transport.write(b"HTTP/1.1 200 OK\r\nx-filler: ")
            self._flood(b"y" * 1000, 50_000)
            return
        if plan.framing == "endless-interim":
            self._flood(b"HTTP/1.1 102 Processing\r\n\r\n" * 40, 50_000)
            return
        data = response(plan)
        whole = plan.end == "whole"
        data = plan.before.encode("latin-1") + (data if whole else data[: plan.at])
        if whole and not plan.later:
            data += plan.after.encode("latin-1")
        steps: list[tuple[float, Any]] = []
        if plan.parts:
            size = -(-len(data) // plan.parts) or 1
            for start in range(0, len(data), size):
                part = data[start : start + size]
                steps.append((_DRIP, lambda part=part: self.transport.write(part)))
        else:
            steps.append((0.0, lambda: self.transport.write(data)))
        if plan.later:
            steps.append((plan.later, lambda: self.transport.write(plan.after.encode("latin-1"))))
        closes = plan.close or plan.framing in ("close", "http10", "http10-length", "last")
        end = {"whole": self._close if closes else None, "cut": self._cut, "reset": self._reset,
               "shut": self._shut, "stall": None}[plan.end]  # fmt: skip
        if end is not None:
            steps.append((0.0, end))
        if plan.wait:
            steps.insert(0, (plan.wait, lambda: None))
        self._run(steps)

    def _run(self, steps: list[tuple[float, Any]]) -> None:
        for place, (wait, step) in enumerate(steps):
            if self.transport.is_closing():
                return
            if wait:
                rest = [(0.0, step), *steps[place + 1 :]]
                asyncio.get_running_loop().call_later(wait, self._run, rest)
                return
            step()

    def _flood(self, part: bytes, left: int) -> None:
        while left and not self.transport.is_closing():
            if self.transport.get_write_buffer_size() > 200_000:
                asyncio.get_running_loop().call_later(0.001, self._flood, part, left)
                return
            self.transport.write(part)
            left -= 1

    def _close(self) -> None:
        self.transport.close()

    def _cut(self) -> None:
        # With TLS, the end comes without an alert: the stream is truncated.
        if self.transport.get_extra_info("ssl_object") is None:
            self.transport.close()
        else:
            self.transport.abort()

    def _reset(self) -> None:
        raw = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)


class FaultServer:
    """The server's address and counts.

    Attributes:
        port: on 127.0.0.1.
        opened: connections so far.
        requests: whole requests so far.
    """

    def __init__(self, cert: Path | None = None) -> None:
        self.port: int = 0
        self.opened: int = 0
        self.requests: int = 0
        self.open: set[_Connection] = set()
        self._cert = cert

    async def listen(self) -> asyncio.Server:
        """Begin to listen."""
        context = None
        if self._cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._cert, self._cert.with_name("key.pem"))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", 0, ssl=context, backlog=4096
        )
        self.port = server.sockets[0].getsockname()[1]
        return server

    def statistics(self) -> bytes:
        """Return the response to a request for the counts; its own connection does not count."""
        counts = {"open": len(self.open) - 1, "opened": self.opened, "requests": self.requests}
        body = json.dumps(counts).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


@dataclass(frozen=True)
class Served:
    """A running server, from the outside."""

    url: str
    cert: Path | None

    def counts(self) -> dict[str, int]:
        """Ask the server for its counts."""
        host, _, port = self.url.partition("://")[2].partition("/")[0].partition(":")
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            if self.cert is not None:
                context = ssl.create_default_context(cafile=str(self.cert))
                raw = stack.enter_context(context.wrap_socket(raw, server_hostname=host))
            raw.sendall(b"GET /stats HTTP/1.1\r\n\r\n")
            received = b""
            while part := raw.recv(65536):
                received += part
        counts: dict[str, int] = json.loads(received.partition(b"\r\n\r\n")[2])
        return counts

    def wait_until_closed(self, patience: float = 10.0) -> int:
        """Return the number of connections that are open after all, which should be none."""
        end = time.monotonic() + patience
        while (left := self.counts()["open"]) and time.monotonic() < end:
            time.sleep(0.01)
        return left


def _url(port: int, cert: Path | None) -> str:
    return f"http://127.0.0.1:{port}/v1" if cert is None else f"https://localhost:{port}/v1"


@contextmanager
def fault_server(cert: Path | None = None) -> Iterator[Served]:
    """Serve from a process of its own, as another load on the client's process would be a delay."""
    command = [sys.executable, "-m", __name__, *([] if cert is None else [str(cert)])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Served(_url(int(process.stdout.readline()), cert), cert)
        finally:
            process.terminate()


async def _serve(cert: Path | None) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    server = FaultServer(cert)
    async with await server.listen():
        print(server.port, flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)  # until the client's process ends


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(_serve(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
