"""The carrier over an SQLite file."""

from __future__ import annotations

import os
import pickle
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from batchrt import Quota
from batchrt.limits.shared.carrier import CarrierAwayError, carrier_of
from batchrt.limits.shared.lease_messages import Demand, LeaseReply, LeaseRequest
from batchrt.limits.shared.sqlite_carrier import SQLiteCarrier
from tests.limits.quotas import BACKENDS, Counter

RPM = "requests_per_minute"


def request(worker: str, need: float = 1_000, **options: object) -> LeaseRequest:
    demands = {"requests": Demand(need, need, min(need, 1.0))}
    return LeaseRequest(worker=worker, demands=demands, given={RPM: 6_000.0}, **options)  # type: ignore[arg-type]


def exchange(carrier: SQLiteCarrier, worker: str, need: float = 1_000) -> LeaseReply:
    return anyio.run(carrier.exchange, "k", request(worker, need))


def test_sqlite_carrier_grants_each_slot_once_to_many_threads(tmp_path: Path) -> None:
    """Messages of several connections at once take effect one after the other."""
    carriers = [SQLiteCarrier(tmp_path / "quota.db") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        replies = list(
            pool.map(lambda n: exchange(carriers[n % 4], f"worker {n % 4}"), range(40)),
        )
    assert len({reply.epoch for reply in replies}) == 1
    assert max(reply.workers for reply in replies) == 4
    ends = sum(slots.amount for reply in replies for slots in reply.shares[RPM].slots)
    assert 100 <= ends <= 100 * 2.5  # a second ahead, and the lag of a bucket of one second


@pytest.mark.parametrize("backend", BACKENDS)
def test_sqlite_carrier_does_not_block_the_loop_while_the_file_is_locked(
    tmp_path: Path, backend: str
) -> None:
    """A message that waits for another process's lock gives up after a second, and other tasks run."""
    path = tmp_path / "quota.db"
    carrier = SQLiteCarrier(path)
    exchange(carrier, "a")
    ticks: list[float] = []

    async def main() -> str:
        async def tick() -> None:
            while True:
                ticks.append(anyio.current_time())
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            try:
                await carrier.exchange("k", request("a"))
            except CarrierAwayError as error:
                group.cancel_scope.cancel()
                return str(error)
        raise AssertionError

    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert "locked" in anyio.run(main, backend=backend)
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert len(ticks) > 10
    assert exchange(carrier, "a").seconds > 0


def test_sqlite_carrier_learns_again_after_the_clock_went_back(tmp_path: Path) -> None:
    """A state of before a restart of the host, whose clock begins anew, is taken for lost."""
    path = tmp_path / "quota.db"
    carrier = SQLiteCarrier(path)
    before = exchange(carrier, "a")
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE ledger SET state = json_set(state, '$.at', json_extract(state, '$.at') + 1000)"
        )
    connection.close()
    after = exchange(carrier, "a")
    assert after.epoch != before.epoch
    assert after.learning > 0
    assert after.workers == 1


def test_sqlite_carrier_opens_a_file_that_was_removed_anew(tmp_path: Path) -> None:
    """All processes use the file that has the name, and not one that has none any more."""
    path = tmp_path / "quota.db"
    carrier = SQLiteCarrier(path)
    before = exchange(carrier, "a")
    for file in tmp_path.iterdir():
        file.unlink()
    assert exchange(carrier, "a").epoch == exchange(SQLiteCarrier(path), "b").epoch != before.epoch


def test_sqlite_carrier_leaves_other_databases_alone(tmp_path: Path) -> None:
    """Another program's file is named as such, and not changed."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE rows (value)")
    connection.close()
    with pytest.raises(CarrierAwayError, match="another program's database"):
        exchange(SQLiteCarrier(path), "a")
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")]
    connection.close()
    assert names == ["rows"]


def test_sqlite_carrier_address_names_a_file(tmp_path: Path) -> None:
    """Three slashes before a relative path, four before an absolute one; the folder must exist."""
    carrier = carrier_of(f"sqlite:///{tmp_path}/quota.db")
    assert carrier.name == f"the file {tmp_path}/quota.db"
    assert pickle.loads(pickle.dumps(carrier)).name == carrier.name
    for wrong in ("sqlite://quota.db", "sqlite:///", "file:///quota.db", f"sqlite:///{tmp_path}/none/q.db"):
        with pytest.raises(ValueError, match="shared"):
            Quota(shared=wrong)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sqlite_carrier_serves_a_quota_on_every_loop(tmp_path: Path, backend: str) -> None:
    """One quota is used on one event loop after the other, and leaves nothing on the first."""
    quota = Quota(shared=f"sqlite:///{tmp_path}/quota.db", requests_per_minute=60_000)

    async def main() -> int:
        counter = Counter(quota)
        async with anyio.create_task_group() as group:
            for _ in range(20):
                counter.start(group)
        return len(counter.sent)

    assert [anyio.run(main, backend=backend) for _ in range(2)] == [20, 20]


def test_sqlite_carrier_serves_a_quota_after_a_fork(tmp_path: Path) -> None:
    """The child of a fork has a lease of its own, and neither the parent's lock nor its connection."""
    quota = Quota(shared=f"sqlite:///{tmp_path}/quota.db", requests_per_minute=60_000)

    async def main() -> int:
        counter = Counter(quota)
        with anyio.fail_after(20):
            await counter.send()
        shared = quota.statistics().shared
        assert shared is not None
        return shared.workers

    assert anyio.run(main) == 1
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if anyio.run(main) == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert anyio.run(main) == 2
