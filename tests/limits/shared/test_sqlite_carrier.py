"""The carrier over an SQLite file."""

from __future__ import annotations

import os
import pickle
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from batchrt import Quota
from batchrt.limits.shared import sqlite_carrier
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


def exchange_at_last(carrier: SQLiteCarrier, worker: str, most: int = 100) -> LeaseReply:
    """Exchange a message, again while other connections have the file: a worker does so too."""
    for _ in range(most):
        try:
            return exchange(carrier, worker)
        except CarrierAwayError as error:
            assert "locked" in str(error)
    raise AssertionError("the file stays locked")


def test_sqlite_carrier_grants_each_slot_once_to_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages of several connections at once take effect one after the other."""
    clock = SimpleNamespace(monotonic=lambda: 1_000.0)
    monkeypatch.setattr("batchrt.limits.shared.sqlite_carrier.time", clock)
    carriers = [SQLiteCarrier(tmp_path / "quota.db") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        replies = list(
            pool.map(lambda n: exchange_at_last(carriers[n % 4], f"worker {n % 4}"), range(40)),
        )
    assert len({reply.epoch for reply in replies}) == 1
    assert max(reply.workers for reply in replies) == 4
    ends = sum(slots.amount for reply in replies for slots in reply.shares[RPM].slots)
    assert 100 <= ends <= 100 * 2  # a second ahead, and a bucket of one second


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
    """Another program's file is named as such, at once or when it takes the file's place, and not changed."""
    path = tmp_path / "other.db"
    carrier = SQLiteCarrier(path)
    exchange(carrier, "a")
    carrier.close()
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE rows (value)")
    connection.close()
    with pytest.raises(CarrierAwayError, match="another program's database"):
        exchange(carrier, "a")
    with pytest.raises(ValueError, match="another program's database"):
        Quota(shared=f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")]
    connection.close()
    assert names == ["rows"]


def test_sqlite_carrier_leaves_another_version_alone(tmp_path: Path) -> None:
    """A file of another format is an error that names both, and stays as it is."""
    path = tmp_path / "quota.db"
    exchange(SQLiteCarrier(path), "a")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(ValueError, match=r"format 2 .* format 1"):
        SQLiteCarrier(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_sqlite_carrier_refuses_a_file_that_it_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, a text and a file that cannot be written are errors before anything waits for them."""
    with pytest.raises(ValueError, match="is a folder"):
        SQLiteCarrier(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("no database " * 100, encoding="utf-8")
    with pytest.raises(ValueError, match=r"notes\.txt cannot be used: file is not a database"):
        SQLiteCarrier(text)
    SQLiteCarrier(tmp_path / "quota.db").close()
    connect = sqlite3.connect

    def read_only(path: Path, timeout: float, isolation_level: None, check_same_thread: bool) -> Any:
        assert (timeout, check_same_thread) == (0, False)
        return connect(f"{path.as_uri()}?mode=ro", timeout=timeout, isolation_level=isolation_level, uri=True)

    monkeypatch.setattr("batchrt.limits.shared.sqlite_carrier.sqlite3.connect", read_only)
    for name, why in (("quota.db", "readonly database"), ("new.db", "unable to open")):
        with pytest.raises(ValueError, match=f"{name} cannot be used: .*{why}"):
            SQLiteCarrier(tmp_path / name)


def test_sqlite_carrier_waits_for_a_file_that_is_locked(tmp_path: Path) -> None:
    """A file in whose transaction another process is when the quota is made is used later."""
    path = tmp_path / "quota.db"
    exchange(SQLiteCarrier(path), "a")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    carrier = SQLiteCarrier(path)
    other.execute("ROLLBACK")
    other.close()
    assert exchange(carrier, "b").workers == 2


def test_sqlite_carrier_names_a_full_disk(tmp_path: Path) -> None:
    """SQLite has ended the transaction by then; the next message finds a state that is whole."""
    carrier = SQLiteCarrier(tmp_path / "quota.db")
    before = exchange(carrier, "a")
    assert carrier._connection is not None
    carrier._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(CarrierAwayError, match="full"):
        exchange(carrier, "b" * 10_000)
    after = exchange(carrier, "a")
    assert (after.epoch, after.workers) == (before.epoch, 1)


def test_sqlite_carrier_stays_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is of the folder in which the quota was made, also after the process changes it."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    carrier = carrier_of("sqlite:///quota%20%3F%23%25.db")
    before = anyio.run(carrier.exchange, "k", request("a"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert anyio.run(carrier.exchange, "k", request("b")).epoch == before.epoch
    assert (tmp_path / "quota ?#%.db").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_sqlite_carrier_address_names_a_file(tmp_path: Path) -> None:
    """Three slashes before a relative path, four before an absolute one; the folder must exist."""
    carrier = carrier_of(f"sqlite:///{tmp_path}/quota.db")
    assert carrier.name == f"the file {tmp_path}/quota.db"
    assert pickle.loads(pickle.dumps(carrier)).name == carrier.name
    for wrong in ("sqlite://quota.db", "sqlite:///", "file:///quota.db", f"sqlite:///{tmp_path}/none/q.db"):
        with pytest.raises(ValueError, match="shared"):
            Quota(shared=wrong)
    for wrong in ("quota.db?mode=ro", "quota.db#1", "quota.db?", ":memory:", "quota%00.db"):
        with pytest.raises(ValueError, match="shared"):
            Quota(shared=f"sqlite:///{wrong}")


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


def test_sqlite_carrier_serves_a_child_that_was_forked_in_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite keeps a process's locks in memory: with the parent's, the child would wait for ever."""
    carrier = SQLiteCarrier(tmp_path / "quota.db")
    exchange(carrier, "a")
    inside, handle = Event(), sqlite_carrier._handle

    def handle_slowly(*arguments: Any) -> LeaseReply:
        reply = handle(*arguments)
        inside.set()
        time.sleep(0.3)
        return reply

    monkeypatch.setattr(sqlite_carrier, "_handle", handle_slowly)
    thread = Thread(target=exchange, args=(carrier, "a"))
    thread.start()
    assert inside.wait(20)
    child = os.fork()
    if not child:
        status = 1
        try:
            sqlite_carrier._handle = handle
            status = 0 if exchange_at_last(carrier, "b", most=5).workers == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()
    assert exchange(carrier, "a").workers == 2


def test_sqlite_carrier_is_forked_after_its_file_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork while a thread makes a carrier waits until the file is closed: the child sees no open one."""
    check, entered, checked = SQLiteCarrier._check, Event(), Event()

    def slow_check(self: SQLiteCarrier) -> None:
        entered.set()
        time.sleep(0.2)
        check(self)
        checked.set()

    monkeypatch.setattr(SQLiteCarrier, "_check", slow_check)
    thread = Thread(target=SQLiteCarrier, args=(tmp_path / "q.db",))
    thread.start()
    assert entered.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if checked.is_set() else 1)
    _, status = os.waitpid(child, 0)
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
