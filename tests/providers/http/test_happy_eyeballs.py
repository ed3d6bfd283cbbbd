"""Happy Eyeballs: the first of a host's addresses that takes a connection."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
import pytest

from batchrt.providers.http import happy_eyeballs
from batchrt.providers.http.connection_errors import ConnectFailed, fault_of
from batchrt.providers.http.happy_eyeballs import Race
from batchrt.providers.http.name_lookup import Addresses

pytestmark = pytest.mark.anyio


@contextmanager
def listening() -> Iterator[Any]:
    """Give an address that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield socket.AF_INET, listener.getsockname()


@contextmanager
def silent() -> Iterator[Any]:
    """Give an address that answers nothing: its accept queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        while True:
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            if one.connect_ex(listener.getsockname()) == errno.EALREADY:
                break
        yield socket.AF_INET, listener.getsockname()


@pytest.fixture
def refusing(free_tcp_port_factory: Any) -> Any:
    """Give addresses on which nothing listens."""
    return lambda: (socket.AF_INET, ("127.0.0.1", free_tcp_port_factory()))


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Collect the sockets that a race makes."""
    made: list[socket.socket] = []
    begin = happy_eyeballs._begin

    def recorded(address: Any) -> tuple[socket.socket, bool]:
        attempt, connected = begin(address)
        made.append(attempt)
        return attempt, connected

    monkeypatch.setattr(happy_eyeballs, "_begin", recorded)
    return made


def is_open(attempt: socket.socket) -> bool:
    return attempt.fileno() >= 0


async def connect(*addresses: Any) -> tuple[socket.socket, Addresses]:
    """Return the winner of a race."""
    found = Addresses(list(addresses), 0)
    race = Race(found)
    return race.begin() or await race.finish(), found


async def test_race_for_one_address_waits_for_nothing(sockets: list[socket.socket]) -> None:
    """On loopback; the socket does not block, and sends small writes at once."""
    with listening() as address:
        winner = Race(Addresses([address], 0)).begin()
        assert winner is not None
        with winner:
            assert winner.getpeername() == address[1]
            assert not winner.getblocking()
            assert winner.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert winner.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sockets == [winner]


async def test_race_passes_addresses_that_refuse(refusing: Any, sockets: list[socket.socket]) -> None:
    """Without a wait, and the next race begins with the winner."""
    with listening() as address:
        winner, found = await connect(refusing(), refusing(), address)
        winner.close()
        assert found.in_order()[0] == address
        again = Race(found).begin()
        assert again is not None
        again.close()
        assert len(sockets) == 2


async def test_race_passes_an_address_that_is_silent(
    monkeypatch: pytest.MonkeyPatch, sockets: list[socket.socket]
) -> None:
    """After a quarter of a second; the silent attempt is closed, and other races begin with the winner."""
    monkeypatch.setattr(happy_eyeballs, "_STAGGER", 0.01)
    with silent() as dead, listening() as address:
        winner, found = await connect(dead, address)
        assert winner.getpeername() == address[1]
        assert [is_open(attempt) for attempt in sockets] == [False, True]
        winner.close()
        assert found.in_order() == (address, dead)


async def test_race_among_silent_addresses_goes_on_when_one_fails(
    monkeypatch: pytest.MonkeyPatch, sockets: list[socket.socket]
) -> None:
    """An attempt that fails does not wait for the rest of its quarter of a second."""
    waits: list[float] = []
    move_on_after = anyio.move_on_after

    def recorded(delay: float) -> anyio.CancelScope:
        waits.append(delay)
        return move_on_after(0.01 if len(waits) == 1 else delay)

    monkeypatch.setattr(happy_eyeballs, "_STAGGER", 100)
    with silent() as dead, silent() as failing, listening() as address:
        wait_writable = anyio.wait_writable

        async def fail_at_once(attempt: Any) -> None:
            if attempt is sockets[-1] and len(sockets) == 2:
                attempt.shutdown(socket.SHUT_RDWR)  # as if the server had reset it
            await wait_writable(attempt)

        with monkeypatch.context() as patch:
            patch.setattr(anyio, "move_on_after", recorded)
            patch.setattr(anyio, "wait_writable", fail_at_once)
            with anyio.fail_after(20):
                winner, _ = await connect(dead, failing, address)
        assert winner.getpeername() == address[1]
        assert waits == [100, 100]
        assert [is_open(attempt) for attempt in sockets] == [False, False, True]
        winner.close()


async def test_race_that_is_cancelled_closes_all_sockets(
    monkeypatch: pytest.MonkeyPatch, sockets: list[socket.socket]
) -> None:
    """Those of all addresses."""
    monkeypatch.setattr(happy_eyeballs, "_STAGGER", 0.01)
    with silent() as one, silent() as other:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(connect, one, other)
                while len(sockets) < 2:  # noqa: ASYNC110  there is no event for it
                    await anyio.sleep(0.001)
                scope.cancel()
    assert not any(is_open(attempt) for attempt in sockets)


async def test_race_that_is_lost_has_the_fault_of_all(refusing: Any) -> None:
    """With each message once."""
    with pytest.raises(ConnectFailed) as caught:
        await connect(refusing(), refusing())
    assert fault_of(caught.value) == "refused"
    assert str(caught.value).count("refused") == 1


@pytest.mark.parametrize(
    ("codes", "fault"),
    [
        ([errno.ECONNREFUSED], "refused"),
        ([errno.ENETUNREACH, errno.ECONNREFUSED], "refused"),
        ([errno.ECONNREFUSED, errno.ETIMEDOUT], None),
        ([errno.ENETUNREACH, errno.EHOSTUNREACH], None),
        ([errno.EMFILE, errno.EMFILE], "resources"),
        ([errno.ENFILE], "resources"),
        ([errno.EADDRNOTAVAIL], "resources"),
        ([errno.EADDRNOTAVAIL, errno.ECONNREFUSED], None),
    ],
)
async def test_race_that_is_lost_for_several_reasons(
    monkeypatch: pytest.MonkeyPatch, codes: list[int], fault: Any
) -> None:
    """A family without a network does not count; a mixture says nothing about the address."""
    left = list(codes)

    class Failing(socket.socket):
        def connect_ex(self, address: Any) -> int:
            return left.pop(0)

    monkeypatch.setattr(socket, "socket", Failing)
    addresses: list[Any] = [(socket.AF_INET, (f"192.0.2.{number}", 80)) for number in range(len(codes))]
    found = Addresses(addresses, 1000.0)
    with pytest.raises(ConnectFailed) as caught:
        Race(found).begin()
    assert fault_of(caught.value) == fault
    assert found.expires == (1000.0 if fault == "resources" else 0.0)  # the host may have moved
