"""Dialing: connected sockets, to a server, its Unix socket or its proxy."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

import anyio

from batchrt.providers.http.connection_errors import CONNECT_TIMEOUT, ConnectFailed
from batchrt.providers.http.happy_eyeballs import Race
from batchrt.providers.http.name_lookup import look_up, look_up_now
from batchrt.providers.http.response_head import end_of_head
from batchrt.providers.http.route import Route
from batchrt.providers.http.tunnel import LONGEST_HEAD, check_tunnel, connect_request

__all__ = ["open_socket"]

_FIRST_WAIT: Final = 0.001
_LONGEST_WAIT: Final = 0.1
"""Seconds between two attempts at a Unix socket whose accept queue is full; they double from the first. For
TCP the operating system does this."""


async def open_socket(route: Route, seconds: float = CONNECT_TIMEOUT) -> socket.socket:
    """Return a connected, non-blocking socket, on which HTTP or the handshake of TLS begins.

    It leads to the server, or to the proxy; where a proxy without TLS is to open a tunnel, through that to
    the server. Cancelling the caller closes it. There is a checkpoint only where there is a wait.

    Args:
        route: the way to the server.
        seconds: for all of it.

    Raises:
        ConnectFailed: there is no connection; the causes say why.
    """
    race = None
    if route.unix_path is None:
        known = look_up_now(*_end_of(route))
        if known is not None:
            race = Race(known)
            connected = race.begin()
            if connected is not None and not _tunnels(route):
                return connected
    try:
        with anyio.fail_after(seconds):
            return await _open(route, race)
    except TimeoutError as error:
        raise ConnectFailed(f"no connection within {seconds:g} s", explained=True) from error


def _end_of(route: Route) -> tuple[str, int]:
    """Return the host and port that the socket is connected to."""
    return (route.host, route.port) if route.proxy is None else (route.proxy.host, route.proxy.port)


def _tunnels(route: Route) -> bool:
    """Whether the tunnel begins on the bare socket."""
    return route.tunneled and route.proxy_tls is None


async def _open(route: Route, race: Race | None) -> socket.socket:
    if route.unix_path is not None:
        return await _connect_unix(route.unix_path)
    if race is None:
        race = Race(await look_up(*_end_of(route)))
        race.begin()
    connected = await race.finish()
    if _tunnels(route):
        try:
            await _open_tunnel(connected, route)
        except BaseException:
            connected.close()
            raise
    return connected


async def _connect_unix(path: str) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise ConnectFailed("this operating system has no Unix sockets", fault="protocol", explained=True)
    wait = _FIRST_WAIT
    try:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectFailed(str(error)) from error
    try:
        connected.setblocking(False)
        while (code := connected.connect_ex(path)) == errno.EAGAIN:
            await _sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        if code:
            raise OSError(code, os.strerror(code), path)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        connected.close()
        raise ConnectFailed(str(error)) from error
    except BaseException:
        connected.close()
        raise
    return connected


async def _sleep(seconds: float) -> None:
    await anyio.sleep(seconds)


async def _open_tunnel(connected: socket.socket, route: Route) -> None:
    received = bytearray()
    try:
        await _send(connected, connect_request(route))
        while end_of_head(received) is None and len(received) < LONGEST_HEAD:
            part = await _receive(connected)
            if not part:
                break
            received += part
    except OSError as error:
        raise ConnectFailed(str(error)) from error
    check_tunnel(route, received)


async def _send(connected: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[connected.send(rest) :]
        except BlockingIOError:
            await anyio.wait_writable(connected)


async def _receive(connected: socket.socket) -> bytes:
    while True:
        try:
            return connected.recv(LONGEST_HEAD)
        except BlockingIOError:
            await anyio.wait_readable(connected)
