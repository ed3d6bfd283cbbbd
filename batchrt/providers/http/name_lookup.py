"""Name look-up: the addresses of a host, by the operating system's resolver, shared and cached."""

from __future__ import annotations

import os
import socket
import threading
import time
from functools import partial
from typing import Any, Final, TypeAlias

from batchrt.providers.http.connection_errors import ConnectFailed, fault_of
from batchrt.runtime.event_loop import LoopHandle, Signal

__all__ = ["Address", "Addresses", "look_up", "look_up_now"]

_SECONDS_KEPT: Final = 5.0
"""Long enough for a burst of connections, and shorter than the time to live of a name that fails over."""
_MOST_KEPT: Final = 1000

Address: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family, and an address as sockets of it take one."""


class Addresses:
    """The addresses of a host, alternating between families, beginning with the system's first choice.

    RFC 8305, section 4. An address that took a connection when the first one did not is moved to the front,
    so that the other connections of a burst need not find it out again.
    """

    __slots__ = ("_all", "expires")

    def __init__(self, found: list[Address], expires: float) -> None:
        first = [address for address in found if address[0] == found[0][0]]
        second = [address for address in found if address[0] != found[0][0]]
        both = min(len(first), len(second))
        paired = [address for pair in zip(first, second, strict=False) for address in pair]
        self._all = (*paired, *first[both:], *second[both:])
        self.expires: float = expires

    def in_order(self) -> tuple[Address, ...]:
        """Return the addresses in the order in which they are to be tried."""
        return self._all

    def prefer(self, address: Address) -> None:
        """Try `address` first from now on."""
        if address != self._all[0]:
            self._all = (address, *(other for other in self._all if other != address))


class _Lookup:
    """One call of the resolver, in a thread, and the tasks that wait for it, by event loop."""

    __slots__ = ("error", "found", "waiters")

    def __init__(self) -> None:
        self.waiters: list[tuple[LoopHandle, list[Signal]]] = []
        self.found: Addresses | None = None
        self.error: Exception | None = None

    def join(self, signal: Signal) -> None:
        """Set `signal`, which is of the running loop, at the end."""
        handle = LoopHandle.current()
        for other, signals in self.waiters:
            if other.same(handle):
                signals.append(signal)
                return
        self.waiters.append((handle, [signal]))

    def wake(self) -> None:
        """Let the waiters go on; from any thread."""
        for handle, signals in self.waiters:
            handle.soon(partial(_set_all, signals))


_Key: TypeAlias = tuple[str, int]
_kept: Final[dict[_Key, Addresses]] = {}
_running: Final[dict[_Key, _Lookup]] = {}
_locks: Final = [threading.Lock()]
"""One lock for both tables, held for moments; in a list, since a forked process needs another."""


def look_up_now(host: str, port: int) -> Addresses | None:
    """Return the addresses that are known without waiting: cached ones, or the host itself if it is one."""
    addresses = _fresh((host, port))
    if addresses is not None:
        return addresses
    if not (":" in host or host[-1:].isdigit()):  # a name's last label has a letter (RFC 3696, 2)
        return None
    try:
        found = _resolve(host, port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return _keep((host, port), found)


async def look_up(host: str, port: int) -> Addresses:
    """Return the addresses of `host`.

    All tasks that ask for the same host at the same moment, on any event loop, share one call of the
    resolver. It has a thread of its own rather than one of a pool: a resolver that hangs delays no other
    look-up, and as a daemon thread it does not hold up the end of the process.

    Raises:
        ConnectFailed: the host is unknown, or there is no resolver to be reached.
    """
    known = look_up_now(host, port)
    if known is not None:
        return known
    key, signal = (host, port), Signal()
    with _locks[0]:
        lookup = _running.get(key)
        known = _fresh(key)
        if known is not None:  # since a moment ago: the look-up has ended in its thread
            return known
        if lookup is None:
            lookup = _running[key] = _Lookup()
            name = f"batchrt look-up of {host}"
            thread = threading.Thread(target=_run, args=(key, lookup), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the process has as many threads as it may have
                del _running[key]
                raise ConnectFailed(str(error), fault="resources", explained=True) from error
        lookup.join(signal)
    await signal.wait()
    if lookup.found is None:
        raise _failure(host, lookup.error) from lookup.error
    return lookup.found


def _run(key: _Key, lookup: _Lookup) -> None:
    try:
        found: list[Address] | Exception = _resolve(*key)
    except Exception as error:  # noqa: BLE001  it is the waiters'
        found = error
    with _locks[0]:
        if _running.get(key) is lookup:
            del _running[key]
        if isinstance(found, Exception):
            lookup.error = found
        else:
            lookup.found = _keep(key, found)
    lookup.wake()


def _fresh(key: _Key) -> Addresses | None:
    addresses = _kept.get(key)
    return addresses if addresses is not None and time.monotonic() < addresses.expires else None


def _resolve(host: str, port: int, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _keep(key: _Key, found: list[Address]) -> Addresses:
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()
    addresses = _kept[key] = Addresses(found, time.monotonic() + _SECONDS_KEPT)
    return addresses


def _set_all(signals: list[Signal]) -> None:
    for signal in signals:
        signal.set()


def _failure(host: str, error: Exception | None) -> ConnectFailed:
    """Return the error of a waiter; the resolver's own is shared by all, and so it is not raised itself."""
    if isinstance(error, socket.gaierror):
        # The resolver needs file descriptors too, and reports a lack of them as a failure of the network.
        try:
            socket.socket().close()
        except OSError as lack:
            return ConnectFailed(str(lack), fault=fault_of(lack))
    if isinstance(error, UnicodeError):
        return ConnectFailed(f"{host!r} is no name of a host: {error}", fault="host")
    return ConnectFailed(str(error))


def _renew_after_fork() -> None:
    # The threads of look-ups do not survive a fork, and one of them may have held the lock.
    _locks[0] = threading.Lock()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)
