"""Exchanges: a response as it comes, early, cut off, or in place of another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import sniffio

from batchrt.errors import ConnectionFailedError, MalformedResponseError, ProviderError, RequestTimeoutError
from batchrt.providers.http.exchange import RequestBytes
from batchrt.providers.http.transport import Transport
from tests.providers.http.raw import Connection, HangUp, RawServer, raw_server
from tests.providers.http.tls import certificate

pytestmark = pytest.mark.anyio


def direct(**options: Any) -> Transport:
    """Return the default transport."""
    return Transport({}, **{"tls": False, "timeout": 20.0, "max_response_bytes": 10**6, **options})


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make a certificate that is trusted."""
    cert = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    return cert


@contextmanager
def blocking_server(handle: Callable[[socket.socket], object], cert: Path | None = None) -> Iterator[str]:
    """Call `handle` for each connection in a thread; gives the URL."""
    context = None
    if cert is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, cert.with_name("key.pem"))

    def run(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(10)
            if context is None:
                handle(connection)
            else:
                with context.wrap_socket(connection, server_side=True) as secured:
                    handle(secured)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http{'' if cert is None else 's'}://localhost:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def request_of(connection: socket.socket) -> bytes:
    """Receive a request whose body ends in a brace."""
    received = b""
    while not received.endswith(b"}"):
        part = connection.recv(65536)
        if not part:
            raise ConnectionResetError
        received += part
    return received


def until_closed(connection: socket.socket) -> None:
    """Wait for the client to close the connection, without reading more than is needed for that."""
    connection.settimeout(10)
    while connection.recv(1024):
        pass


HALF = b"HTTP/1.1 200 OK\r\n\r\nthe first half of"


async def test_exchange_takes_a_tls_stream_that_was_cut_off_for_an_error(trusted: Path) -> None:
    """Without a length, the end of the connection is that of the body only if the server says so."""

    def cut_off(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(HALF)
        os.close(connection.detach())  # no `close_notify`

    with blocking_server(cut_off, trusted) as url:
        transport = direct(tls=True)
        with pytest.raises(MalformedResponseError, match="broken"):
            await transport.post(url, b"{}")
        await transport.aclose()


async def test_exchange_reads_a_body_to_the_end_of_a_tls_stream(trusted: Path) -> None:
    """The server has closed it as TLS has it."""

    def close(connection: Any) -> None:
        request_of(connection)
        connection.sendall(HALF)
        connection.unwrap()

    with blocking_server(close, trusted) as url:
        transport = direct(tls=True)
        assert (await transport.post(url, b"{}")).body == b"the first half of"
        await transport.aclose()


BIG = b"x" * 20_000_000 + b"}"
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig"


@pytest.mark.parametrize("tls", [False, True])
async def test_exchange_takes_an_early_answer(tls: bool, trusted: Path) -> None:
    """The server answers at once and reads no more: the request cannot be sent to its end."""
    closed = threading.Event()

    def refuse(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(TOO_LARGE)
        closed.wait(10)

    with blocking_server(refuse, trusted if tls else None) as url:
        transport = direct(tls=tls)
        reply = await transport.post(url, BIG)
        closed.set()
        await transport.aclose()
    assert (reply.status, reply.body) == (413, b"big")


async def test_exchange_takes_an_early_answer_before_a_reset() -> None:
    """The server answers and closes, and so resets the connection under the rest of the request."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(TOO_LARGE)

    with blocking_server(refuse) as url:
        transport = direct()
        for _ in range(5):
            reply = await transport.post(url, BIG)
            assert (reply.status, reply.body) == (413, b"big")
        await transport.aclose()


async def test_exchange_does_not_reuse_a_connection_on_which_a_request_is_unsent() -> None:
    """Its rest would stand before the next request."""
    answered = threading.Event()

    def refuse(connection: socket.socket) -> None:
        start = connection.recv(1024)
        if b"xxx" in start or len(start) == 1024:
            connection.sendall(TOO_LARGE)
            answered.wait(10)
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with blocking_server(refuse) as url:
        transport = direct()
        assert (await transport.post(url, BIG)).status == 413
        assert (await transport.post(url, b"{}")).body == b"ok"
        answered.set()
        await transport.aclose()


async def test_exchange_sends_a_large_request_beside_its_answer() -> None:
    """A server may begin to answer while it still reads: neither waits for the other."""

    def echo(connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        received = received.partition(b"\r\n\r\n")[2]
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n")
        sent, length = 0, len(received)
        while length < len(BIG):
            length += len(connection.recv(65536))
            if sent < 400_000:
                connection.sendall(b"y" * 1000)
                sent += 1000
        connection.sendall(b"y" * (500_000 - sent))
        until_closed(connection)

    with blocking_server(echo) as url:
        transport = direct()
        assert (await transport.post(url, BIG)).body == b"y" * 500_000
        await transport.aclose()


@pytest.mark.parametrize("tls", [False, True])
async def test_exchange_leaves_no_error_to_the_loop_where_bytes_come_unasked(
    tls: bool, trusted: Path
) -> None:
    """The loop is not done with the connection when it hands them over."""

    def say_more(connection: Any) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        time.sleep(0.02)
        connection.sendall(b"more")
        if tls:
            connection.unwrap()

    reported: list[dict[str, Any]] = []
    if sniffio.current_async_library() == "asyncio":
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    with blocking_server(say_more, trusted if tls else None) as url:
        transport = direct(tls=tls)
        for _ in range(5):
            assert (await transport.post(url, b"{}")).body == b"ok"
            time.sleep(0.1)  # noqa: ASYNC251  all of it comes at once
            await anyio.sleep(0.02)
        await transport.aclose()
    assert not reported


@pytest.mark.parametrize("wait", [0.0, 0.05])
async def test_exchange_names_the_protocol_of_a_server_that_speaks_first(wait: float) -> None:
    """Its greeting comes before the request is sent, or after."""

    def greet(connection: socket.socket) -> None:
        time.sleep(wait)
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        until_closed(connection)

    with blocking_server(greet) as url:
        transport = direct()
        for _ in range(5):
            with pytest.raises(ConnectionFailedError, match="does not speak HTTP"):
                await transport.post(url, b"{}")
        await transport.aclose()


@pytest.mark.parametrize("tls", [False, True])
async def test_exchange_deadline_bounds_a_connection_that_is_being_made(tls: bool, trusted: Path) -> None:
    """The server accepts, and says nothing to the handshake."""
    with blocking_server(until_closed) as url:
        transport = direct(tls=tls, timeout=0.1)
        with pytest.raises(RequestTimeoutError, match=r"within 0\.1 s"):
            await transport.post(url.replace("http:", "https:") if tls else url, b"{}")
        await transport.aclose()


async def test_exchange_deadline_bounds_a_head_that_drips() -> None:
    """Each byte is in time, and the whole is not."""

    async def drip(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nx-a: ")
        while True:
            await connection.send(b"y")
            await anyio.sleep(0.01)

    async with raw_server(drip) as server:
        transport = direct(timeout=0.2)
        with pytest.raises(RequestTimeoutError):
            await transport.post(server.base_url, b"{}")
        with anyio.fail_after(5):
            await server.closed.wait()
        await transport.aclose()


async def test_exchange_deadlines_are_each_their_own() -> None:
    """One that began later ends later, and answers in time are not touched."""

    async def script(connection: Connection) -> None:
        if len(server.requests) % 2:
            await connection.answer()
        else:
            await connection.until_closed()
            raise HangUp

    transport = direct(timeout=0.3)
    ends: list[float] = []

    async def ask(server: RawServer) -> None:
        began = anyio.current_time()
        try:
            await transport.post(server.base_url, b"{}")
        except RequestTimeoutError:
            ends.append(anyio.current_time() - began)

    async with raw_server(script) as server:
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(ask, server)
                await anyio.sleep(0.02)
        await transport.aclose()
    assert len(ends) == 5
    assert min(ends) >= 0.3


class Collector:
    """A sink that keeps all pieces."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def feed(self, data: bytes | memoryview | bytearray) -> None:
        self.pieces.append(bytes(data))

    def end(self) -> bytes:
        return b"end"


async def test_exchange_feeds_a_sink_while_the_body_comes() -> None:
    """The second half is sent only after the first has been taken."""
    sink = Collector()

    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        with anyio.fail_after(5):
            while not sink.pieces:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        await connection.send(b"half")

    transport = direct()
    async with raw_server(script) as server:
        for _ in range(2):
            sink.pieces.clear()
            reply = await transport.post(server.base_url, b"{}", sink)
            assert (reply.body, sink.pieces) == (b"end", [b"half", b"half"])
        await transport.aclose()
    assert server.opened == 1


async def test_exchange_passes_the_error_of_a_sink_on() -> None:
    """And closes the connection, whose response is read to no end."""

    class Full(Collector):
        def feed(self, data: bytes | memoryview | bytearray) -> None:
            raise LookupError("full")

    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        await connection.until_closed()
        raise HangUp

    async with raw_server(script) as server:
        transport = direct()
        with pytest.raises(LookupError, match="full"):
            await transport.post(server.base_url, b"{}", Full())
        with anyio.fail_after(5):
            await server.closed.wait()
        await transport.aclose()


async def test_exchange_never_gets_the_answer_to_another_request() -> None:
    """Fifty at a time, with cuts, delays, rubbish and cancellations; an answer echoes its request."""
    chance = random.Random(7)

    async def script(connection: Connection) -> None:
        body = server.requests[-1].body
        fate = chance.random()
        if fate < 0.1:
            raise HangUp
        if fate < 0.2:
            await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body[:3])
            raise HangUp
        if fate < 0.4:
            await anyio.sleep(chance.random() * 0.02)
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
        # In one piece: a server that says it later, unasked, cannot be told from one that answers.
        await connection.send(head % len(body) + body + (head % 6 + b"wrong!" if fate > 0.9 else b""))

    transport = direct()
    right = 0

    async def ask(number: int, server: RawServer) -> None:
        nonlocal right
        body = b"request %d" % number
        with anyio.move_on_after(0.005 if number % 7 == 0 else 10):
            try:
                reply = await transport.post(server.base_url, body)
            except ProviderError:
                return
            assert reply.body == body
            right += 1

    async def worker(numbers: Iterator[int], server: RawServer) -> None:
        for number in numbers:
            await ask(number, server)

    async with raw_server(script) as server:
        numbers = iter(range(2000))
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(worker, numbers, server)
        await transport.aclose()
    assert right > 1000


def test_request_bytes_are_not_shown() -> None:
    """A traceback with variables would show the key in them."""
    request = RequestBytes(b"authorization: secret")
    assert repr(request) == "<request of 21 bytes>"
    assert "secret" not in f"{request!r}{[request]}{request!s}"
