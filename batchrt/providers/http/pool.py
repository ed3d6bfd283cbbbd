"""Pools of connections: of one client on one event loop, and of one client on all its loops."""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final

import anyio.lowlevel

from batchrt.providers.http.connector import Connection, connector
from batchrt.providers.http.deadlines import Deadlines
from batchrt.providers.http.route import Route
from batchrt.runtime.event_loop import Alarm, LoopHandle, running_loop
from batchrt.runtime.loop_end import close_at_loop_end

__all__ = ["KEEPALIVE_EXPIRY", "Pool", "Pools"]

KEEPALIVE_EXPIRY: Final = 4.0
"""Seconds for which an idle connection is kept: less than the 5 s after which uvicorn and Node close it."""
_NEVER: Final = math.inf
_ROUNDS_TO_CLOSE: Final = 3
"""Rounds of asyncio's loop in which a transport over TLS closes; a loop that ends before would warn."""
_RESTED: Final = 0.01
"""Seconds of idleness from which on a connection is looked at before it is used."""


class _IdleConnections(deque[Connection]):
    """The idle connections of one route, the last used at the end."""

    __slots__ = ("route",)

    def __init__(self, route: Route) -> None:
        super().__init__()
        self.route = route


class Pool:
    """The connections of one client on one event loop; used on the loop's own thread.

    The connection that was used last is used next (LIFO), so that surplus connections expire.

    Args:
        keepalive_expiry: seconds for which an idle connection is kept.
        timeout: seconds for an exchange; `None` for no limit.

    Attributes:
        loop: the event loop.
        time: returns the loop's time.
        deadlines: of the exchanges; `None` without a timeout.
    """

    def __init__(self, *, keepalive_expiry: float, timeout: float | None) -> None:
        self.loop: LoopHandle = LoopHandle.current()
        connect, time = connector()
        self._connect = connect
        self.time: Callable[[], float] = time
        self.deadlines: Deadlines | None = None if timeout is None else Deadlines(timeout, self.time)
        self._expiry = keepalive_expiry
        # By the identity of the route (see `Pools.intern`), as hashing its fields would cost more than the
        # rest. The values keep the routes alive: an identity never passes on to another route.
        self._idle: dict[int, _IdleConnections] = {}
        self._open: set[Connection] = set()
        self._alarm = Alarm(self._expire)
        self._closed = False

    def take(self, route: Route, now: float) -> Connection | None:
        """Return an idle connection; `None` if there is none.

        Args:
            route: to the server; interned.
            now: the loop's time.
        """
        idle = self._idle.get(id(route))
        if not idle:
            return None
        while idle:
            connection = idle.pop()
            rested = now - connection.idle_since
            if rested < self._expiry and connection.is_usable(rested=rested > _RESTED):
                return connection
            connection.cancel()
        return None

    async def connect(self, route: Route) -> Connection:
        """Return a new connection.

        Raises:
            ConnectFailed: it could not be made.
        """
        connection = await self._connect(route, self._open.discard)
        self._open.add(connection)
        return connection

    def give_back(self, route: Route, connection: Connection) -> None:
        """Take a connection whose exchange has ended, and keep it if it can be used again."""
        if self._closed or not connection.release():
            connection.cancel()
            return
        connection.idle_since = self.time()
        idle = self._idle.get(id(route))
        if idle is None:
            idle = self._idle[id(route)] = _IdleConnections(route)
        idle.append(connection)
        if self._alarm.when == _NEVER:
            self._alarm.set(connection.idle_since + self._expiry)

    def close_idle(self) -> None:
        """Close idle connections, and keep none from now on."""
        self._closed = True
        self._alarm.clear()
        if self.deadlines is not None:
            self.deadlines.close()
        for idle in self._idle.values():
            while idle:
                idle.pop().cancel()

    def close(self) -> None:
        """Close all connections."""
        self.close_idle()
        if self.deadlines is not None:
            self.deadlines.clear()
        for connection in list(self._open):
            connection.cancel()

    def forget(self) -> None:
        """Close the sockets alone: the loop has ended without a word, or is that of a process forked from.

        A forked process that kept them would keep the connections open for as long as it runs.
        """
        self._closed = True
        for connection in self._open:
            connection.forget()

    def _expire(self) -> None:
        """Close connections that have been idle for too long: of each route, the first ones."""
        oldest, now = _NEVER, self.time()
        for key, idle in list(self._idle.items()):
            while idle and now - idle[0].idle_since >= self._expiry:
                idle.popleft().cancel()
            if idle:
                oldest = min(oldest, idle[0].idle_since)
            else:
                del self._idle[key]
        if oldest != _NEVER:
            self._alarm.set(oldest + self._expiry)


class Pools:
    """The pools of one client, one for each event loop that it is used on.

    Args:
        keepalive_expiry: seconds for which an idle connection is kept.
        timeout: seconds for an exchange; `None` for no limit.
    """

    def __init__(self, *, timeout: float | None = None, keepalive_expiry: float = KEEPALIVE_EXPIRY) -> None:
        self._timeout = timeout
        self._expiry = keepalive_expiry
        self._pools: dict[object, Pool] = {}
        self._routes: weakref.WeakValueDictionary[Hashable, Route] = weakref.WeakValueDictionary()
        self.closed: bool = False

    def intern(self, route: Route) -> Route:
        """Return the first of all routes that equal `route`; pools take no other."""
        return self._routes.setdefault(route.key, route)

    def here(self) -> Pool | None:
        """Return the pool of the running loop, if it has one."""
        return self._pools.get(running_loop())

    async def make(self) -> Pool:
        """Make the pool of the running loop, which is closed with the loop.

        Raises:
            RuntimeError: the pools are closed.
        """
        if self.closed:
            raise RuntimeError("this client is closed")
        for loop, pool in list(self._pools.items()):
            if not pool.loop.is_open():
                self._pools.pop(loop, None)
                pool.forget()
        pool = Pool(keepalive_expiry=self._expiry, timeout=self._timeout)
        await close_at_loop_end(pool)
        _forked_with.add(pool)
        return self._pools.setdefault(running_loop(), pool)

    async def aclose(self) -> None:
        """Close idle connections on all loops; those in use are closed when their exchange ends."""
        self.closed = True
        pools = self._pools
        self._pools = {}
        for pool in pools.values():
            if not (pool.loop.is_open() and pool.loop.call(pool.close_idle)):
                pool.forget()
        for _ in range(_ROUNDS_TO_CLOSE):
            await anyio.lowlevel.checkpoint()


_forked_with: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()
"""The pools whose connections a forked process inherits. A hook for forks cannot be taken back, so that there
is one for all pools."""


def _forget_connections() -> None:
    for pool in list(_forked_with):
        pool.forget()
    _forked_with.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_connections)
