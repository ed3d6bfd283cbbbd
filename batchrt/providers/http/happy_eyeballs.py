"""Happy Eyeballs: one TCP connection to a host of several addresses (RFC 8305)."""

from __future__ import annotations

import errno
import math
import os
import socket
from typing import Final

import anyio

from batchrt.providers.http.connection_errors import ConnectFailed, fault_of
from batchrt.providers.http.name_lookup import Address, Addresses

__all__ = ["Race"]

_STAGGER: Final = 0.25
"""Seconds after which the next address is tried too (RFC 8305, section 5)."""
_WAITING: Final = frozenset((errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, errno.EAGAIN))
_CONNECTED: Final = (0, errno.EISCONN)
_ASKS_AGAIN: Final = os.name == "posix"
"""Elsewhere, a second `connect` of the same socket is an error."""
_NO_ROUTE: Final = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))
"""A machine without a network of an address's family."""
_KEEPALIVE: Final = tuple(
    (getattr(socket, option), value)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 4))
    if hasattr(socket, option)
)
"""Probes of a silent connection. A model may think for minutes, which routers take for the end of a
connection; and a server that is gone without a word is noticed after three minutes. Seconds, and a number."""


class Race:
    """Connect to one of a host's addresses: to each in turn, and to several at once where that takes long.

    Used once: `begin`, and `finish` if that returned nothing. No task is started before an address has
    stayed silent for a quarter of a second, as a burst makes ten thousand connections.

    Args:
        addresses: of the host; they learn which of them took the connection.
    """

    __slots__ = ("_addresses", "_attempts", "_errors", "_failed", "_untried", "_winner")

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._untried = list(addresses.in_order())
        self._attempts: dict[socket.socket, Address] = {}
        self._errors: list[OSError] = []
        self._winner: socket.socket | None = None
        self._failed: anyio.Event | None = None

    def begin(self) -> socket.socket | None:
        """Return a socket if an address accepts the connection at once, as loopback addresses do.

        Raises:
            ConnectFailed: all addresses refuse it.
        """
        self._begin_next()
        if self._winner is None and not self._attempts:
            raise self._lost()
        return self._winner

    async def finish(self) -> socket.socket:
        """Return a socket when an address has taken the connection; a cancelled call closes all of them.

        Raises:
            ConnectFailed: no address has.
        """
        try:
            while self._winner is None and self._attempts:
                (attempt,) = self._attempts
                with anyio.move_on_after(_STAGGER if self._untried else math.inf) as patience:
                    await self._end(attempt)
                    self._begin_next()
                if patience.cancelled_caught:
                    await self._race(attempt)
        except BaseException:
            self._close_attempts()
            raise
        self._close_attempts(but=self._winner)
        if self._winner is None:
            raise self._lost()
        return self._winner

    async def _race(self, first: socket.socket) -> None:
        """Wait for `first` and for the untried addresses, which begin a quarter of a second apart."""
        async with anyio.create_task_group() as group:

            async def run(attempt: socket.socket) -> None:
                await self._end(attempt)
                if self._winner is not None:
                    group.cancel_scope.cancel()
                elif self._failed is not None:
                    self._failed.set()

            group.start_soon(run, first)
            while self._winner is None and self._untried:
                self._failed = anyio.Event()
                attempt = self._begin_next()
                if attempt is not None:
                    group.start_soon(run, attempt)
                    with anyio.move_on_after(_STAGGER):
                        await self._failed.wait()
            if self._winner is not None:
                group.cancel_scope.cancel()

    def _begin_next(self) -> socket.socket | None:
        """Connect to untried addresses until one takes the connection or keeps silent; return the latter."""
        while self._winner is None and self._untried:
            address = self._untried.pop(0)
            try:
                attempt, connected = _begin(address)
            except OSError as error:
                self._errors.append(error)
                continue
            self._attempts[attempt] = address
            if not connected:
                return attempt
            self._win(attempt)
        return None

    async def _end(self, attempt: socket.socket) -> None:
        """Wait until `attempt` has succeeded or failed."""
        await anyio.wait_writable(attempt)
        code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            del self._attempts[attempt]
            attempt.close()
            self._errors.append(OSError(code, os.strerror(code)))
        else:
            self._win(attempt)

    def _win(self, attempt: socket.socket) -> None:
        if self._winner is None:
            self._winner = attempt
            self._addresses.prefer(self._attempts[attempt])

    def _lost(self) -> ConnectFailed:
        failure = _failure(self._errors)
        if failure.fault != "resources":
            self._addresses.expires = 0.0  # the host may have moved
        return failure

    def _close_attempts(self, but: socket.socket | None = None) -> None:
        for attempt in self._attempts:
            if attempt is not but:
                attempt.close()


def _begin(address: Address) -> tuple[socket.socket, bool]:
    """Return a socket that is being connected, and whether it is connected already."""
    family, where = address
    attempt = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        attempt.setblocking(False)
        attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            attempt.setsockopt(socket.IPPROTO_TCP, option, value)
        code = attempt.connect_ex(where)
        if code in _WAITING and _ASKS_AGAIN:
            # Linux reports a connection on loopback as being made although it has been; to be told by the
            # event loop takes as long as all the rest.
            code = attempt.connect_ex(where)
        if code not in _CONNECTED and code not in _WAITING:
            raise _refusal(code, address)
    except BaseException:
        attempt.close()
        raise
    return attempt, code in _CONNECTED


def _refusal(code: int, address: Address) -> OSError:
    family, where = address
    if code == errno.EADDRNOTAVAIL and family == socket.AF_INET:
        return ConnectFailed(
            f"this machine has used up its ports for connections to {where[0]} ({os.strerror(code)}): lower "
            "max_concurrency, or widen the range of local ports",
            fault="resources",
            explained=True,
        )
    return OSError(code, os.strerror(code))


def _failure(errors: list[OSError]) -> ConnectFailed:
    """Combine the errors of all addresses in one."""
    # An address of a family that the machine has no network for says nothing about the others.
    telling = [error for error in errors if error.errno not in _NO_ROUTE] or errors
    faults = {fault_of(error) for error in telling}
    failure = ConnectFailed(
        "; ".join(dict.fromkeys(str(error) for error in telling)),
        fault=faults.pop() if len(faults) == 1 else None,
        explained=all(isinstance(error, ConnectFailed) for error in telling),
    )
    failure.is_judged = True
    one = len(errors) == 1
    failure.__cause__ = errors[0] if one else ExceptionGroup("no address took the connection", errors)
    return failure
