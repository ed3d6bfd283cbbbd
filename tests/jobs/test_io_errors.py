"""Failing disks: every system and database call of a journal fails in turn."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchrt import Job, JobReport, JournalError, Outcome

ROWS = 12


class Disk:
    """Count the calls of a journal, and fail one of them and all that come after it.

    Attributes:
        calls: so far.
        failing: the number of the first call that fails; `None` for none.
        code: SQLite's result code, or an errno for system calls.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.failing: int | None = None
        self.code = 0
        self.number = 0

    def call(self, *, system: bool = False) -> None:
        self.calls += 1
        if self.failing is None or self.calls <= self.failing:
            return
        if system:
            raise OSError(self.number, os.strerror(self.number))
        error = sqlite3.OperationalError("injected")
        error.sqlite_errorcode = self.code
        raise error


DISK = Disk()


class FailingConnection(sqlite3.Connection):
    def execute(self, *args: Any) -> sqlite3.Cursor:
        DISK.call()
        return super().execute(*args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        DISK.call()
        return super().executemany(*args)

    def executescript(self, *args: Any) -> sqlite3.Cursor:
        DISK.call()
        return super().executescript(*args)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    connect, opened = sqlite3.connect, os.open

    def failing_connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        DISK.call()
        connection: sqlite3.Connection = connect(*args, **kwargs, factory=FailingConnection)
        return connection

    def failing_open(*args: Any, **kwargs: Any) -> int:
        if str(args[0]).endswith(".lock"):
            DISK.call(system=True)
        return opened(*args, **kwargs)

    monkeypatch.setattr(sqlite3, "connect", failing_connect)
    monkeypatch.setattr(os, "open", failing_open)
    yield DISK
    DISK.failing = None


FAULTS = [
    ("full", sqlite3.SQLITE_FULL, errno.ENOSPC),
    ("io", sqlite3.SQLITE_IOERR_WRITE, errno.EIO),
    ("permission", sqlite3.SQLITE_CANTOPEN, errno.EACCES),
    ("permission", sqlite3.SQLITE_READONLY, errno.EROFS),
    ("locked", sqlite3.SQLITE_BUSY, errno.EACCES),
]


@pytest.mark.parametrize(
    ("fault", "code", "number"), FAULTS, ids=[f"{name}-{code}" for name, code, _ in FAULTS]
)
def test_journal_survives_each_call_that_fails(
    tmp_path: Path, disk: Disk, fault: str, code: int, number: int
) -> None:
    """The error names the path, what was shown is still there, and the job goes on."""
    journal = tmp_path / "job.journal"
    disk.code, disk.number = code, number
    executed: list[int] = []

    async def work(value: int) -> int:
        executed.append(value)
        return value * 10

    def job() -> Job:
        config: Any = {"max_concurrency": 1}
        return Job(work, list(range(ROWS)), journal=journal, config=config, version="1")

    failures = 0
    for failing in range(200):
        for path in tmp_path.iterdir():
            path.unlink()
        shown: list[int] = []

        def show(outcome: Outcome[Any], shown: list[int] = shown) -> None:
            shown.append(outcome.index)

        disk.calls, disk.failing = 0, failing
        try:
            job().run(show)
        except JournalError as error:
            failures += 1
            assert str(journal) in str(error)
            assert error.fault in (fault, "permission")  # the lock file's errno
        else:
            if disk.calls <= failing:
                break
        disk.failing = None
        executed.clear()
        report = job().run()
        assert report.is_complete
        assert report.done == ROWS
        assert not set(executed) & set(shown), failing
        assert [outcome.output for outcome in job().outcomes()] == [value * 10 for value in range(ROWS)]
    else:
        pytest.fail("the job never ended without a failure")
    assert failures > 20


def run_in_child(journal: Path, most_bytes: int) -> subprocess.CompletedProcess[str]:
    """Run a job of many rows in a process whose files may have so many bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    return subprocess.run(
        [sys.executable, "-m", "tests.jobs.test_io_errors", str(journal)],
        cwd=Path(__file__).parents[2],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def many_rows(journal: str) -> JobReport:
    async def long_answer(value: int) -> str:
        return f"{value} " + "x" * 1000

    return Job(long_answer, list(range(2000)), journal=journal, version="1").run()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of file sizes")
def test_journal_on_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    """A real limit of the system: the error says what to do, and with more room the job goes on."""
    journal = tmp_path / "job.journal"
    ended = run_in_child(journal, 1_000_000)
    assert ended.returncode == 3, ended.stderr
    assert str(journal) in ended.stdout
    kept = len(list(Job(str, [], journal=journal).outcomes()))
    assert 0 < kept < 2000
    report = many_rows(str(journal))
    assert (report.is_complete, report.done, report.reused) == (True, 2000, kept)


if __name__ == "__main__":
    try:
        many_rows(sys.argv[1])
    except JournalError as error:
        sys.stdout.write(str(error))
        sys.exit(3)
