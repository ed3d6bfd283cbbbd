"""The carrier over a Redis server: a real one, which each test starts."""

from __future__ import annotations

import pickle
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
import redis

from batchrt import Quota
from batchrt.errors import AuthenticationError
from batchrt.limits.shared.carrier import CarrierAwayError, CarrierRefusedError, carrier_of
from batchrt.limits.shared.lease_messages import Demand, LeaseReply, LeaseRequest
from batchrt.limits.shared.redis_carrier import RedisCarrier
from tests.limits.quotas import BACKENDS, Counter

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
pytestmark = pytest.mark.skipif(SERVER is None, reason="there is no redis-server on this machine")

RPM = "requests_per_minute"


class Server:
    """A Redis server on a port of its own.

    Attributes:
        url: its address.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder, self._options = folder, options
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert SERVER is not None
        command = [SERVER, "--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        self._process = subprocess.Popen([*command, *self._options], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("the Redis server does not start")

    def stop(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server without persistence."""
    started = Server(tmp_path, "--save", "", "--appendonly", "no")
    yield started
    started.stop()


def exchange(carrier: RedisCarrier, worker: str, **options: object) -> LeaseReply:
    demands = {"requests": Demand(1_000, 1_000, 1)}
    request = LeaseRequest(worker=worker, demands=demands, given={RPM: 6_000.0}, **options)  # type: ignore[arg-type]
    return anyio.run(carrier.exchange, "k", request)


def learned(carrier: RedisCarrier, worker: str = "a") -> LeaseReply:
    """Wait until a new state grants, as workers do."""
    while (reply := exchange(carrier, worker)).learning:
        time.sleep(0.2)
    return reply


def test_redis_carrier_grants_each_slot_once_to_many_threads(server: Server) -> None:
    """Messages of several workers at once take effect one after the other."""
    carriers = [RedisCarrier(server.url) for _ in range(4)]
    learned(carriers[0])
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda n: exchange(carriers[n % 4], f"worker {n % 4}"), range(40)))
    assert len({reply.epoch for reply in replies}) == 1
    assert max(reply.workers for reply in replies) == 5
    granted = sum(slots.amount for reply in replies for slots in reply.shares[RPM].slots)
    assert 50 <= granted <= 100 * 4.5  # the seconds of the test, and one ahead
    for carrier in carriers:
        carrier.close()


@pytest.mark.parametrize("persistent", [False, True])
def test_redis_carrier_learns_after_a_restart(tmp_path: Path, persistent: bool) -> None:
    """The state of before is not trusted, even if it was saved: newer messages may be missing in it."""
    options = ("--appendonly", "yes") if persistent else ("--save", "", "--appendonly", "no")
    server = Server(tmp_path, *options)
    carrier = RedisCarrier(server.url)
    try:
        before = learned(carrier)
        server.stop()
        with pytest.raises(CarrierAwayError, match=r"127\.0\.0\.1"):
            exchange(carrier, "a", epoch=before.epoch)
        server.start()
        after = exchange(carrier, "a", epoch=before.epoch)
        assert after.epoch != before.epoch
        assert after.learning > 0
        assert not after.shares[RPM].slots
        assert after.workers == 1
    finally:
        carrier.close()
        server.stop()


def test_redis_carrier_forgets_workers_that_are_silent(server: Server) -> None:
    """A lease ends by itself while others renew theirs, and leaves no record."""
    carrier = RedisCarrier(server.url)
    learned(carrier)
    exchange(carrier, "dead")
    until = time.monotonic() + 4.5
    while time.monotonic() < until:
        reply = exchange(carrier, "a")
        time.sleep(0.3)
    assert reply.workers == 1
    carrier.close()


def test_redis_carrier_takes_a_partly_evicted_state_for_lost(server: Server) -> None:
    """Without the ends of their leases, workers that died would keep their shares for ever."""
    carrier = RedisCarrier(server.url)
    learned(carrier)
    before = exchange(carrier, "dead", in_flight=5)
    with redis.Redis.from_url(server.url) as client:
        assert client.delete("batchrt:{k}:ends") == 1
    after = exchange(carrier, "a", epoch=before.epoch)
    assert after.epoch != before.epoch
    assert after.learning > 0
    assert after.workers == 1
    assert exchange(carrier, "b", epoch=before.epoch).workers == 2
    carrier.close()


def test_redis_carrier_overrides_options_of_the_address(server: Server) -> None:
    """Replies stay bytes and waits short, and an unknown option is an error at once."""
    carrier = RedisCarrier(f"{server.url}?decode_responses=true&socket_timeout=60&protocol=3")
    assert exchange(carrier, "a").workers == 1
    assert carrier._client.connection_pool.connection_kwargs["socket_timeout"] == 1
    carrier.close()
    with pytest.raises(ValueError, match=r"wrong option: .*'pasword'"):
        RedisCarrier(f"{server.url}?pasword=secret")


@pytest.mark.parametrize(
    ("login", "database", "why"),
    [
        ("", 0, "the password is missing or wrong"),
        (":wrong@", 0, "the password is missing or wrong"),
        (":right@", 99, "DB index is out of range"),
        ("other:right@", 0, "no permissions to run the 'evalsha' command"),
    ],
)
def test_redis_carrier_tells_a_refusal_from_an_outage(
    tmp_path: Path, login: str, database: int, why: str
) -> None:
    """Requests fail with Redis's reason, and do not wait for a server that will never let them in."""
    server = Server(
        tmp_path,
        *(
            "--save",
            "",
            "--requirepass",
            "right",
            "--user",
            "other",
            "on",
            ">right",
            "~*",
            "+@all",
            "-evalsha",
        ),
    )
    url = server.url.replace("//", f"//{login}").removesuffix("/0")
    quota = Quota(shared=f"{url}/{database}")

    async def main() -> None:
        with anyio.fail_after(20):
            await Counter(quota).send()

    try:
        with pytest.raises(AuthenticationError, match=f"(?s)nothing was sent: the Redis server .*{why}"):
            anyio.run(main)
    finally:
        server.stop()


def test_redis_carrier_is_away_where_the_server_does_not_write(server: Server, tmp_path: Path) -> None:
    """A replica before its promotion and a server without memory are waited for."""
    carrier = RedisCarrier(server.url)
    learned(carrier)
    host, port = server.url.removeprefix("redis://").removesuffix("/0").split(":")
    (tmp_path / "replica").mkdir()
    replica = Server(tmp_path / "replica", "--save", "", "--replicaof", host, port)
    try:
        with pytest.raises(CarrierAwayError) as raised:
            exchange(RedisCarrier(replica.url), "a")
        assert not isinstance(raised.value, CarrierRefusedError)
    finally:
        replica.stop()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(CarrierAwayError, match="memory") as raised:
            exchange(carrier, "a")
        assert not isinstance(raised.value, CarrierRefusedError)
        client.config_set("maxmemory", 0)
    assert exchange(carrier, "a").workers == 1
    carrier.close()


def test_redis_carrier_name_has_no_secrets() -> None:
    """The name tells host and port; the password is in neither it nor the carrier's representation."""
    carrier = carrier_of("redis://user:secret@127.0.0.1:1/0")
    assert carrier.name == "the Redis server 127.0.0.1:1"
    assert "secret" not in repr(carrier)
    assert pickle.loads(pickle.dumps(carrier)).name == carrier.name


@pytest.mark.parametrize("backend", BACKENDS)
def test_redis_carrier_serves_a_quota(server: Server, backend: str) -> None:
    """Requests wait until the state is known, and then go; on asyncio and Trio."""
    quota = Quota(shared=server.url, requests_per_minute=60_000)

    async def main() -> int:
        counter = Counter(quota)
        async with anyio.create_task_group() as group:
            for _ in range(20):
                counter.start(group)
        return len(counter.sent)

    assert anyio.run(main, backend=backend) == 20
