"""Dialing: sockets to servers, Unix sockets and proxies, and no socket left open where there is none."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchrt.limits.error_kinds import FailureKind, kind_of
from batchrt.providers.http import dialer
from batchrt.providers.http.connection_errors import ConnectFailed, fault_of, translate
from batchrt.providers.http.dialer import open_socket
from batchrt.providers.http.proxies import Proxy
from batchrt.providers.http.route import Route
from tests.providers.http.test_happy_eyeballs import is_open, silent, sockets

__all__ = ["sockets"]

pytestmark = pytest.mark.anyio

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def scripted(*replies: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Take one connection and answer each head with the next reply; gives the port and the heads."""
    heads: list[bytes] = []

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                for reply in replies:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += connection.recv(1)
                    heads.append(head)
                    for place in range(len(reply)):  # byte by byte
                        connection.sendall(reply[place : place + 1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heads
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


async def test_dialer_connects_by_name(sockets: list[socket.socket]) -> None:
    """Whichever of the addresses of localhost is the server's."""
    with scripted() as (port, _), await open_socket(Route("localhost", port)) as connected:
        assert connected.getpeername()[1] == port
        assert not connected.getblocking()
        assert [attempt for attempt in sockets if is_open(attempt)] == [connected]


async def test_dialer_does_not_wait_for_a_server_of_this_machine() -> None:
    """A burst of thousands of connections takes one step of the loop each, not three."""
    with scripted() as (port, _):
        coroutine = open_socket(Route("127.0.0.1", port))
        with pytest.raises(StopIteration) as done:
            coroutine.send(None)
        done.value.value.close()


async def test_dialer_gives_up_in_time(sockets: list[socket.socket]) -> None:
    """The time to connect is not the time of the exchange: nothing was sent, and nothing is billed."""
    with silent() as (_, (host, port)):
        with pytest.raises(ConnectFailed, match=r"no connection within 0\.01 s") as caught:
            await open_socket(Route(host, port), 0.01)
    error = translate(caught.value, f"http://{host}:{port}/v1", 600)
    assert kind_of(error) is FailureKind.UNREACHABLE
    assert not any(is_open(attempt) for attempt in sockets)


async def test_dialer_closes_the_socket_of_a_cancelled_call(sockets: list[socket.socket]) -> None:
    """At once."""
    with silent() as (_, (host, port)):
        with anyio.move_on_after(0.01):
            await open_socket(Route(host, port))
    assert len(sockets) == 1
    assert not is_open(sockets[0])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_dialer_reports_a_refusal(host: str, free_tcp_port: int) -> None:
    """Of all addresses."""
    with pytest.raises(ConnectFailed) as caught:
        await open_socket(Route(host, free_tcp_port))
    assert fault_of(caught.value) == "refused"


async def test_dialer_connects_to_a_unix_socket(socket_folder: Path) -> None:
    """By its path."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_folder / "s"))
        listener.listen()
        with await open_socket(Route("localhost", 80, unix_path=str(socket_folder / "s"))) as connected:
            assert connected.getpeername() == str(socket_folder / "s")
            assert not connected.getblocking()


@pytest.mark.parametrize("path", ["missing", "plain", "closed"])
async def test_dialer_reports_a_unix_socket_without_a_listener(socket_folder: Path, path: str) -> None:
    """Which is missing, is no socket, or is left over."""
    (socket_folder / "plain").write_text("")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_folder / "closed"))
    with pytest.raises(ConnectFailed, match=path) as caught:
        await open_socket(Route("localhost", 80, unix_path=str(socket_folder / path)))
    assert fault_of(caught.value) == "refused"


async def test_dialer_reports_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    """Too long, or with a null byte."""
    for path in ("x" * 200, "a\0b"):
        with pytest.raises(ConnectFailed):
            await open_socket(Route("localhost", 80, unix_path=path))


async def test_dialer_waits_for_room_in_the_queue_of_a_unix_socket(
    monkeypatch: pytest.MonkeyPatch, socket_folder: Path
) -> None:
    """A full queue is an error there, where TCP tries again; so the dialer does, ever less often."""
    waits: list[float] = []
    path = str(socket_folder / "s")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        while True:
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            if one.connect_ex(path) == errno.EAGAIN:
                break

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 10:
                listener.accept()[0].close()

        monkeypatch.setattr(dialer, "_sleep", sleep)
        (await open_socket(Route("localhost", 80, unix_path=path))).close()
    assert waits == [0.001 * 2**n for n in range(7)] + [0.1] * 3


async def test_dialer_opens_a_tunnel(sockets: list[socket.socket]) -> None:
    """And leaves the first byte after the proxy's answer to TLS."""
    with scripted(b"HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n") as (port, heads):
        proxy = Proxy(f"http://user:word@127.0.0.1:{port}", "HTTPS_PROXY")
        with await open_socket(Route("api.example", 443, tls=TLS, proxy=proxy)) as connected:
            assert connected.getpeername()[1] == port
    request = b"CONNECT api.example:443 HTTP/1.1\r\nhost: api.example:443\r\n"
    assert heads == [request + b"proxy-authorization: Basic dXNlcjp3b3Jk\r\n\r\n"]


async def test_dialer_opens_no_tunnel_for_plain_http() -> None:
    """The proxy forwards such requests."""
    with scripted() as (port, heads):
        proxy = Proxy(f"http://127.0.0.1:{port}", "HTTP_PROXY")
        (await open_socket(Route("api.example", 80, proxy=proxy))).close()
    assert heads == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 407 Authenticate\r\n\r\n", "407"),
        (b"HTTP/1.1 200 OK\r\n", None),  # and the proxy closes the connection
        (b"x" * 70_000, "not HTTP"),
    ],
)
async def test_dialer_closes_a_connection_that_becomes_no_tunnel(
    sockets: list[socket.socket], answer: bytes, says: str | None
) -> None:
    """The answer's head is bounded."""
    with scripted(answer) as (port, _):
        proxy = Proxy(f"http://127.0.0.1:{port}", "HTTPS_PROXY")
        with pytest.raises(ConnectFailed, match=says):
            await open_socket(Route("api.example", 443, tls=TLS, proxy=proxy))
    assert not any(is_open(attempt) for attempt in sockets)


async def test_dialer_bounds_the_wait_for_a_tunnel(sockets: list[socket.socket]) -> None:
    """A proxy that takes the connection and says nothing is no connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}", "HTTPS_PROXY")
        with pytest.raises(ConnectFailed, match="no connection within"):
            await open_socket(Route("api.example", 443, tls=TLS, proxy=proxy), 0.01)
    assert not any(is_open(attempt) for attempt in sockets)


LIMITED = """
import socket, sys
from batchrt.providers.http.connection_errors import ConnectFailed, translate
from batchrt.providers.http.dialer import open_socket
from batchrt.providers.http.route import Route
import anyio
from batchrt.limits.error_kinds import kind_of

async def main():
    opened = []
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        port = listener.getsockname()[1]
        try:
            while len(opened) < 100:
                opened.append(await open_socket(Route(sys.argv[1], port)))
        except ConnectFailed as failed:
            error = translate(failed, f"http://{sys.argv[1]}:{port}/v1", 5)
            print(kind_of(error).value, kind_of(error).outage, error)
    for one in opened:
        one.close()

anyio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_dialer_without_descriptors_says_how_many_there_are_and_what_to_do(host: str) -> None:
    """It is no outage of the provider's: others must not wait for it."""
    command = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", sys.executable, "-X", "dev", "-W", "error"]
    command += ["-c", LIMITED, host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("no resources False cannot connect to http://")
    assert "used up its 64 file descriptors" in done.stdout
    assert "ulimit -n" in done.stdout


async def test_dialer_without_ports_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is this machine's lack too."""

    class Portless(socket.socket):
        def connect_ex(self, address: Any) -> int:
            return errno.EADDRNOTAVAIL

    monkeypatch.setattr(socket, "socket", Portless)
    with pytest.raises(ConnectFailed) as caught:
        await open_socket(Route("192.0.2.1", 80))
    error = translate(caught.value, "http://192.0.2.1/v1", 5)
    assert "used up its ports for connections to 192.0.2.1" in str(error)
    assert kind_of(error) is FailureKind.NO_RESOURCES


async def test_dialer_counts_no_thread_for_each_look_up() -> None:
    """A burst has one."""
    before = threading.active_count()
    most: list[int] = []
    name = f"host-{os.getpid()}.invalid"

    async def dial() -> None:
        with pytest.raises(ConnectFailed):
            await open_socket(Route(name, 80))
        most.append(threading.active_count())

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(dial)
    assert max(most) <= before + 1
