"""Name look-up: shared by those who connect at the same moment, and kept for some seconds."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import pytest

from batchrt.providers.http import name_lookup
from batchrt.providers.http.connection_errors import ConnectFailed, fault_of
from batchrt.providers.http.name_lookup import Addresses, look_up, look_up_now

pytestmark = pytest.mark.anyio


class Resolver:
    """Stand for the system's; answers with one address when it is let to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None

    def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        if options.get("flags"):
            return list(REAL(host, port, **options))
        self.calls.append((host, port))
        self.threads.add(threading.get_ident())
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]


REAL: Any = socket.getaddrinfo


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """Put a resolver of the test's own in place of the system's, with nothing kept."""
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    monkeypatch.setattr(name_lookup, "_kept", {})
    monkeypatch.setattr(name_lookup, "_running", {})
    yield made
    made.go.set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a clock in place of the machine's."""
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(name_lookup, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


async def test_look_up_is_shared_by_all_tasks_of_a_moment(resolver: Resolver) -> None:
    """A burst of connections has one call of the resolver, and one thread."""
    resolver.go.clear()
    found: list[Addresses] = []

    async def ask() -> None:
        found.append(await look_up("host.example", 80))

    async with anyio.create_task_group() as group:
        for _ in range(1000):
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        resolver.go.set()
    assert len(found) == 1000
    assert len(resolver.calls) == 1
    assert resolver.threads.isdisjoint({threading.get_ident()})


async def test_look_up_is_kept_for_some_seconds(resolver: Resolver, clock: Any) -> None:
    """A change of address is seen after that."""
    await look_up("host.example", 80)
    clock.now += 4.9
    assert look_up_now("host.example", 80) is not None
    await look_up("host.example", 80)
    assert len(resolver.calls) == 1
    await look_up("host.example", 81)
    clock.now += 0.2
    assert look_up_now("host.example", 80) is None
    await look_up("host.example", 80)
    assert resolver.calls == [("host.example", 80), ("host.example", 81), ("host.example", 80)]


async def test_look_up_that_fails_is_not_kept(resolver: Resolver) -> None:
    """Each waiter has an error of its own, with the resolver's as its cause."""
    resolver.error = socket.gaierror(-2, "Name or service not known")
    resolver.go.clear()
    errors: list[ConnectFailed] = []

    async def ask() -> None:
        with pytest.raises(ConnectFailed, match="not known") as caught:
            await look_up("host.example", 80)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        resolver.go.set()
    assert errors[0] is not errors[1]
    assert errors[0].__cause__ is errors[1].__cause__ is resolver.error
    assert fault_of(errors[0]) == "host"
    resolver.error = None
    await look_up("host.example", 80)
    assert len(resolver.calls) == 2


async def test_look_up_goes_on_for_the_others_when_a_waiter_is_cancelled(resolver: Resolver) -> None:
    """Also where it was the first of them."""
    resolver.go.clear()
    found: list[Addresses] = []

    async def ask() -> None:
        found.append(await look_up("host.example", 80))

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        resolver.go.set()
    assert len(found) == 1
    assert len(resolver.calls) == 1


def test_look_up_is_shared_across_event_loops(resolver: Resolver, anyio_backend: Any) -> None:
    """Also with a loop that has ended while it waited."""
    name, options = anyio_backend
    resolver.go.clear()
    found: list[Addresses] = []

    async def ask() -> None:
        found.append(await look_up("host.example", 80))

    async def give_up() -> None:
        with anyio.move_on_after(0.01):
            await ask()

    anyio.run(give_up, backend=name, backend_options=options)
    threads = [
        threading.Thread(target=anyio.run, args=(ask,), kwargs={"backend": name, "backend_options": options})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    (lookup,) = name_lookup._running.values()
    while len(lookup.waiters) < 5:
        threading.Event().wait(0.001)
    resolver.go.set()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(resolver.calls) == 1


async def test_look_up_of_an_address_needs_no_thread(resolver: Resolver) -> None:
    """Nor does it wait."""
    for host in ("127.0.0.1", "::1"):
        known = look_up_now(host, 80)
        assert known is not None
        assert [address[:2] for _, address in known.in_order()] == [(host, 80)]
        assert await look_up(host, 80) is known
    assert resolver.calls == []


async def test_look_up_takes_names_with_underscores(resolver: Resolver) -> None:
    """Compose has them."""
    await look_up("my_llm", 80)
    assert resolver.calls == [("my_llm", 80)]


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "x" * 300])
async def test_look_up_of_text_that_is_no_name_is_a_fault_of_the_host(host: str) -> None:
    """Python's encoding of names raises a UnicodeError."""
    with pytest.raises(ConnectFailed) as caught:
        await look_up(host, 80)
    assert fault_of(caught.value) == "host"


async def test_look_up_without_descriptors_is_no_fault_of_the_host(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver reports a lack of them as a failure of the network."""
    resolver.error = socket.gaierror(-3, "Temporary failure in name resolution")

    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(name_lookup, "socket", SimpleNamespace(**vars(socket) | {"socket": refuse}))
        with pytest.raises(ConnectFailed) as caught:
            await look_up("host.example", 80)
    assert fault_of(caught.value) == "resources"


async def test_look_up_without_a_thread_is_no_fault_of_the_host(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one tries again."""

    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Thread", Refused)
        with pytest.raises(ConnectFailed, match="new thread") as caught:
            await look_up("host.example", 80)
    assert fault_of(caught.value) == "resources"
    await look_up("host.example", 80)


def test_addresses_take_turns_by_family() -> None:
    """RFC 8305, section 4: the system's first choice first, and each family's own order."""
    four, six = socket.AF_INET, socket.AF_INET6
    found: list[Any] = [(six, ("a", 1)), (six, ("b", 1)), (six, ("c", 1)), (four, ("d", 1))]
    assert [where[0] for _, where in Addresses(found, 0).in_order()] == ["a", "d", "b", "c"]
    assert [where[0] for _, where in Addresses(found[::-1], 0).in_order()] == ["d", "c", "b", "a"]


def test_addresses_that_took_a_connection_come_first() -> None:
    """The others keep their order."""
    found: list[Any] = [(socket.AF_INET, (name, 1)) for name in "abc"]
    addresses = Addresses(found, 0)
    addresses.prefer(found[1])
    assert [where[0] for _, where in addresses.in_order()] == ["b", "a", "c"]


async def test_look_ups_that_are_kept_are_bounded(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that asks for many hosts does not grow."""
    monkeypatch.setattr(name_lookup, "_MOST_KEPT", 3)
    for number in range(10):
        await look_up(f"host{number}.example", 80)
    assert len(name_lookup._kept) <= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_look_up_of_a_forked_process_begins_anew(resolver: Resolver) -> None:
    """The thread that would have ended it is the parent's."""
    resolver.go.clear()

    async def give_up() -> None:
        with anyio.move_on_after(0.01):
            await look_up("host.example", 80)

    anyio.run(give_up)
    name_lookup._locks[0].acquire()  # as a thread may hold it at the moment of the fork
    name_lookup._renew_after_fork()
    parents, resolver.go = resolver.go, threading.Event()
    resolver.go.set()
    try:
        anyio.run(look_up, "host.example", 80)
        assert len(resolver.calls) == 2
    finally:
        parents.set()
