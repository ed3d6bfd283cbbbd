"""Connections between requests: kept, found dead, sent on once more, and closed."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt.errors import ConnectionFailedError
from batchrt.providers.http import pool as pools
from batchrt.providers.http.pool import Pool, Pools
from batchrt.providers.http.route import route_of
from batchrt.providers.http.transport import Transport
from tests.providers.http.raw import ANSWER, Connection, HangUp, RawServer, raw_server, threaded_server

pytestmark = pytest.mark.anyio


def direct(**options: Any) -> Transport:
    """Return the default transport."""
    return Transport({}, tls=False, **{"timeout": 10.0, "max_response_bytes": 10**6, **options})


async def answer(connection: Connection) -> None:
    """Answer every request."""
    await connection.answer()


async def pool_of(transport: Transport) -> Pool:
    """Return the pool of `transport` on the running loop."""
    found: Pools = transport._channel._pools  # type: ignore[attr-defined]
    pool = found.here()
    assert pool is not None
    return pool


async def test_pool_uses_the_connection_that_was_used_last() -> None:
    """So that those that a burst has left over expire."""
    together = anyio.Event()
    ports: list[int] = []

    async def script(connection: Connection) -> None:
        if len(server.requests) == 5:
            together.set()
        await together.wait()
        ports.append(id(connection))
        await connection.answer()

    transport = direct()
    async with raw_server(script) as server:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(transport.post, server.base_url, b"{}")
        for _ in range(10):
            await transport.post(server.base_url, b"{}")
        await transport.aclose()
    assert (server.opened, len(set(ports[5:]))) == (5, 1)


async def test_pool_keeps_connections_of_different_servers_apart() -> None:
    """Each answer is of the server that was asked."""

    def script(name: bytes) -> Any:
        async def say(connection: Connection) -> None:
            await connection.answer(name)

        return say

    transport = direct()
    async with raw_server(script(b"one")) as one, raw_server(script(b"two")) as two:
        for _ in range(3):
            assert (await transport.post(one.base_url, b"{}")).body == b"one"
            assert (await transport.post(two.base_url, b"{}")).body == b"two"
        await transport.aclose()
    assert (one.opened, two.opened) == (1, 1)


async def test_pool_notices_a_connection_that_closed_while_idle() -> None:
    """The server has closed it after its answer, as after a keep-alive of no time."""

    async def once(connection: Connection) -> None:
        await connection.answer()
        raise HangUp

    transport = direct()
    async with raw_server(once) as server:
        for _ in range(3):
            assert (await transport.post(server.base_url, b"{}")).body == ANSWER
            with anyio.fail_after(5):
                await server.closed.wait()
            await anyio.sleep(0.02)
        await transport.aclose()
    assert (len(server.requests), server.opened) == (3, 3)


async def test_pool_notices_a_connection_that_closed_while_the_loop_was_blocked() -> None:
    """The loop has had no time to see it: a function of the user's did not give way."""
    with threaded_server(keep_alive=0.01) as base_url:
        transport = direct()
        await transport.post(base_url, b"{}")
        pool = await pool_of(transport)
        time.sleep(0.02)  # noqa: ASYNC251  the point
        (connection,) = pool._open
        assert select.select([connection._socket], [], [], 10)[0]  # type: ignore[attr-defined]
        (route,) = transport._channel._pools._routes  # type: ignore[attr-defined]
        assert pool.take(route, pool.time()) is None
        assert (await transport.post(base_url, b"{}")).body == ANSWER
        await transport.aclose()


async def test_pool_drops_a_connection_on_which_something_comes_unasked() -> None:
    """It would be taken for the next answer."""

    async def script(connection: Connection) -> None:
        await connection.answer()
        await anyio.sleep(0.01)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nwrong!")

    transport = direct()
    async with raw_server(script) as server:
        for _ in range(3):
            assert (await transport.post(server.base_url, b"{}")).body == ANSWER
            await anyio.sleep(0.05)
        await transport.aclose()
    assert server.opened == 3


async def breaks_when_used_again(connection: Connection) -> None:
    """Answer the first request on a connection and close it at the second."""
    if getattr(connection, "used", False):
        raise HangUp
    connection.used = True  # type: ignore[attr-defined]
    await connection.answer()


async def test_exchange_is_sent_again_if_a_used_connection_breaks_before_the_answer() -> None:
    """Once, on a new connection, and unseen."""
    transport = direct()
    async with raw_server(breaks_when_used_again) as server:
        for _ in range(3):
            assert (await transport.post(server.base_url, b"{}")).body == ANSWER
        await transport.aclose()
    # The second and the third request arrived twice.
    assert (len(server.requests), server.opened) == (5, 3)


async def test_exchange_is_not_sent_again_on_a_new_connection_that_breaks() -> None:
    """That is the server's answer, and for the retry policy to judge."""

    async def never(_: Connection) -> None:
        raise HangUp

    async with raw_server(never) as server:
        transport = direct()
        with pytest.raises(ConnectionFailedError, match="before it answered"):
            await transport.post(server.base_url, b"{}")
        requests = len(server.requests)
        await transport.aclose()
    assert requests == 1


async def test_exchange_is_not_sent_again_after_a_byte_of_the_answer() -> None:
    """The server has seen the request, and may bill it."""

    async def script(connection: Connection) -> None:
        if getattr(connection, "used", False):
            await connection.send(b"H")
            raise HangUp
        connection.used = True  # type: ignore[attr-defined]
        await connection.answer()

    transport = direct()
    async with raw_server(script) as server:
        await transport.post(server.base_url, b"{}")
        with pytest.raises(ConnectionFailedError, match="within the head"):
            await transport.post(server.base_url, b"{}")
        await transport.aclose()
    assert (len(server.requests), server.opened) == (2, 1)


async def test_pool_closes_idle_connections_that_expire() -> None:
    """Before the server does, which closes them at a moment at which a request may be on its way."""
    transport = direct()
    transport._channel._pools._expiry = 0.05  # type: ignore[attr-defined]
    async with raw_server(answer) as server:
        await transport.post(server.base_url, b"{}")
        with anyio.fail_after(5):
            await server.closed.wait()
        await transport.post(server.base_url, b"{}")
        await transport.aclose()
    assert server.opened == 2


def test_pool_expiry_is_below_that_of_common_servers() -> None:
    """Node and uvicorn close idle connections after 5 s."""
    assert 1 < pools.KEEPALIVE_EXPIRY < 5


async def test_pool_of_a_client_that_is_collected_closes_its_connections() -> None:
    """Nothing has to be closed by hand."""
    transport = direct()
    transport._channel._pools._expiry = 0.05  # type: ignore[attr-defined]
    async with raw_server(answer) as server:
        await transport.post(server.base_url, b"{}")
        del transport
        gc.collect()
        with anyio.fail_after(5):
            await server.closed.wait()


async def test_pool_aclose_leaves_requests_in_flight_alone() -> None:
    """Their connections are closed when they end."""
    go_on = anyio.Event()

    async def script(connection: Connection) -> None:
        await go_on.wait()
        await connection.answer()

    transport = direct()
    bodies: list[bytes] = []

    async def ask(server: RawServer) -> None:
        bodies.append((await transport.post(server.base_url, b"{}")).body)

    async with raw_server(script) as server:
        async with anyio.create_task_group() as group:
            group.start_soon(ask, server)
            await server.arrived.wait()
            await transport.aclose()
            go_on.set()
        with anyio.fail_after(5):
            await server.closed.wait()
    assert bodies == [ANSWER]


async def test_pool_leaves_no_connection_open_after_random_endings() -> None:
    """Answered, cancelled, timed out or broken: with the client closed, all connections are."""
    count = 0

    async def script(connection: Connection) -> None:
        nonlocal count
        count += 1
        if count % 4 == 0:
            raise HangUp
        if count % 4 == 1:
            await connection.until_closed()
            raise HangUp
        await connection.answer()

    transport = direct(timeout=0.1)

    async def ask(server: RawServer) -> None:
        with anyio.move_on_after(0.05):
            with contextlib.suppress(ConnectionFailedError, TimeoutError):
                await transport.post(server.base_url, b"{}")

    async with raw_server(script) as server:
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(ask, server)
        pool = await pool_of(transport)
        await transport.aclose()
        await anyio.lowlevel.checkpoint()
        assert not pool._open


def each_loop() -> Iterator[tuple[str, dict[str, Any]]]:
    """The loops that a client may meet in one process."""
    yield "asyncio", {"debug": True}
    yield "trio", {}
    yield "asyncio", {"use_uvloop": True}


def test_pool_closes_its_connections_with_the_loop() -> None:
    """The client is left open, and no socket is left for the garbage collector to warn of."""
    transport = direct()
    with threaded_server() as base_url:
        for backend, options in each_loop():

            async def main() -> Pool:
                await transport.post(base_url, b"{}")
                pool = await pool_of(transport)
                assert len(pool._open) == 1
                return pool

            assert not anyio.run(main, backend=backend, backend_options=options)._open
            gc.collect()


PRELUDE = """
import os, sys, threading, anyio
from batchrt.providers.http.transport import Transport
transport = Transport({}, tls=False, timeout=20, max_response_bytes=1000)
def ask(loop="asyncio"):
    return anyio.run(transport.post, sys.argv[1], b"{}", backend=loop).status
"""


def run_script(script: str, base_url: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `script` in a Python of its own."""
    command = [sys.executable, *flags, "-c", PRELUDE + script, base_url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_pool_unclosed_neither_warns_nor_hangs_at_exit(loop: str) -> None:
    """A client need not be closed."""
    with threaded_server() as base_url:
        done = run_script(f"print(ask({loop!r}))", base_url, "-X", "dev", "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")


def test_pool_serves_requests_in_handlers_of_the_exit() -> None:
    """Handlers that users register may still send requests."""
    with threaded_server() as base_url:
        done = run_script("ask(); import atexit; atexit.register(lambda: print(ask()))", base_url)
    assert (done.returncode, done.stdout) == (0, "200\n")


FORK = """
async def main():
    if {before}: await transport.post(sys.argv[1], b"{{}}")
    child = os.fork()
    if child == 0:
        worker = threading.Thread(target=lambda: print(ask(), flush=True))
        worker.start(); worker.join()
        os._exit(0)
    os.waitpid(child, 0)
    print((await transport.post(sys.argv[1], b"{{}}")).status)
anyio.run(main)
child = os.fork()
if child == 0:
    print(ask(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("before", [False, True])
def test_pool_works_on_both_sides_of_a_fork(before: bool) -> None:
    """Before the first request and after it, in a loop and between two."""
    with threaded_server() as base_url:
        done = run_script(FORK.format(before=before), base_url)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["200"] * 3)


HELD = """
import socket
async def main():
    await transport.post(sys.argv[1], b"{}")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(0)
    await transport.aclose()
    await anyio.sleep(float(sys.stdin.readline()))
    sys.stdin.readline()
    os.write(write, b"x")
    os.waitpid(child, 0)
anyio.run(main)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_pool_connections_are_not_held_open_by_a_forked_process() -> None:
    """The server sees the end of a connection that its owner closes while the child lives."""
    async with raw_server(answer) as server:
        async with await anyio.open_process(
            [sys.executable, "-c", PRELUDE + HELD, server.base_url]
        ) as process:
            assert process.stdin is not None
            await process.stdin.send(b"0\n")
            with anyio.fail_after(20):
                await server.closed.wait()
            await process.stdin.send(b"\n")
        assert process.returncode == 0


async def test_pool_keeps_idle_connections_as_long_as_it_is_told() -> None:
    """With 0 seconds each request has a connection of its own."""
    async with raw_server(answer) as server:
        for expiry, opened in ((None, 1), (60.0, 1), (0.0, 3)):
            before = server.opened
            transport = direct(keepalive_expiry=expiry)
            for _ in range(3):
                await transport.post(server.base_url, b"{}")
            await transport.aclose()
            assert server.opened - before == opened


async def test_pools_forget_routes_without_connections() -> None:
    """A client of many hosts does not grow: a route lives as long as a connection or an exchange has it."""
    pools_of_client = Pools(keepalive_expiry=0)
    pool = await pools_of_client.make()

    class Idle:
        idle_since = 0.0

        def release(self) -> bool:
            return True

        def cancel(self) -> None:
            pass

    first = pools_of_client.intern(route_of("http://host-0/v1"))
    assert pools_of_client.intern(route_of("http://host-0/v1")) is first
    pool.give_back(first, Idle())  # type: ignore[arg-type]
    kept = id(first)
    del first
    gc.collect()
    assert id(pools_of_client.intern(route_of("http://host-0/v1"))) == kept  # its idle connection has it
    for number in range(1, 1000):
        pool.give_back(pools_of_client.intern(route_of(f"http://host-{number}/v1")), Idle())  # type: ignore[arg-type]
    pool._expire()
    gc.collect()
    assert not pools_of_client._routes
    await pools_of_client.aclose()
