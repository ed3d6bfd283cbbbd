"""A carrier for the processes of one host: the coordinator's state is in an SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread

from batchrt.fork_guard import ForkGuard
from batchrt.limits.shared.carrier import CarrierAwayError
from batchrt.limits.shared.coordinator import handle
from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest
from batchrt.limits.shared.stored_ledger import load_ledger, load_record, text_of

__all__ = ["SQLiteCarrier"]

_LOCKED_SECONDS: Final = 1.0
"""Seconds for which a message waits for other processes' transactions, which take a millisecond each."""
_APPLICATION: Final = 0x62727471  # "brtq"
_FORMAT: Final = 1
_LASTING: Final = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS ledger (key TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS worker (key TEXT, worker TEXT, expires REAL NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (key, worker)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS expiring ON worker (key, expires)",
)


class _ForeignFileError(sqlite3.DatabaseError):
    """The file belongs to another program or version."""


class SQLiteCarrier:
    """Exchange lease messages through a file: each exchange is one short write transaction.

    The file is in WAL mode, which takes shared memory, and its clock is the host's monotonic one: it serves
    the processes of one host, and must not lie on a network file system. It may be removed while no process
    uses it.

    Args:
        path: the file; it is made if it does not exist. A relative one is of the folder in which the process
            is now.

    Raises:
        ValueError: if its folder does not exist, if it cannot be written, or if it belongs to another program
            or version.
    """

    def __init__(self, path: str | Path) -> None:
        self.name: str = f"the file {path}"
        self._path = Path(path).absolute()
        if not self._path.parent.is_dir():
            raise ValueError(f"shared quota: there is no folder {Path(path).parent} for the file {path}")
        if self._path.is_dir():
            raise ValueError(f"shared quota: {path} is a folder; name a file in it")
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._inherited: list[sqlite3.Connection | None] = []
        self._begin_anew()
        self._finalizer: weakref.finalize[..., object] | None = None
        with _guard.lock:  # a fork waits until the file is closed
            self._check()
            _guard.add(self)

    @classmethod
    def of_url(cls, url: str) -> SQLiteCarrier:
        """Return the carrier for `sqlite:///relative.db` or `sqlite:////absolute.db`.

        Raises:
            ValueError: for another address, or if the file cannot be used.
        """
        parts = urlsplit(url)
        path = unquote(parts.path)[1:]
        if parts.netloc or not path or path.startswith(":memory:") or "\0" in path:
            raise ValueError(f"shared must name a file as in 'sqlite:///path.db', not {url!r}")
        if parts.query or parts.fragment or url.endswith(("?", "#")):
            raise ValueError(f"shared: write '?' as %3F and '#' as %23 in the file's name, not {url!r}")
        return cls(path)

    def __reduce__(self) -> tuple[type[SQLiteCarrier], tuple[Path]]:
        return SQLiteCarrier, (self._path,)

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        """Handle `request` in a transaction, in a worker thread; see `Carrier`."""
        # The default limiter's threads may all be taken, by work that waits for this quota.
        limiter = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(
            self._exchange, key, request, abandon_on_cancel=True, limiter=limiter
        )

    def _check(self) -> None:
        """Raise ValueError if the file cannot be used; one that is locked or full may be usable later."""
        try:
            with self._transaction(wait=0.0) as connection:
                # SQLite begins a transaction also in a file that it cannot write.
                connection.execute("DELETE FROM ledger WHERE key IS NULL")
        except sqlite3.Error as error:
            if _is_lasting(error):
                raise ValueError(f"shared quota: {self.name} cannot be used: {error}") from error
        finally:
            self._close()

    def _begin_anew(self) -> None:
        """Leave the lock and the connection to the parent process, which may be using them."""
        self._process = os.getpid()
        self._inherited.append(self._connection)
        self._lock = threading.Lock()
        self._connection = None

    def before_fork(self) -> None:
        """Wait for the end of an exchange, and close the file; see `ForkGuard`.

        Otherwise the child would wait for ever for the end of a transaction that it has no part in.
        """
        self._lock.acquire()
        with contextlib.suppress(sqlite3.Error):
            self._close()

    def after_fork(self) -> None:
        """Let exchanges go on, in the parent and in the child."""
        self._lock.release()

    def close(self) -> None:
        """Close the file; another exchange opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None

    def _exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        if self._process != os.getpid():
            self._begin_anew()
        with self._lock:
            try:
                with self._transaction() as connection:
                    return _handle(connection, key, request)
            except (sqlite3.Error, OSError) as error:
                with contextlib.suppress(sqlite3.Error):
                    self._close()
                raise CarrierAwayError(str(error)) from error

    @contextmanager
    def _transaction(self, wait: float = _LOCKED_SECONDS) -> Iterator[sqlite3.Connection]:
        connection = self._open(wait)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:  # a full disk has ended it
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _open(self, wait: float) -> sqlite3.Connection:
        """Return the connection; a new one if the file was removed or replaced."""
        if self._connection is not None and self._identity() == self._opened:
            return self._connection
        self._close()
        connection = sqlite3.connect(self._path, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._opened = connection, self._identity()
        self._finalizer = weakref.finalize(self, connection.close)
        self._finalizer.atexit = False
        return connection

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


_guard: Final = ForkGuard()


def _is_lasting(error: sqlite3.Error) -> bool:
    """Whether `error` is about the file itself: waiting does not help."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    return isinstance(error, _ForeignFileError) or code in _LASTING


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables, unless those of another program or version are there."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != _FORMAT or not _is_ours(connection):
        connection.execute("BEGIN IMMEDIATE")  # of connections that find no tables, one makes them
        try:
            _make_tables(connection)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _is_ours(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION)


def _make_tables(connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] > 0:
        if not _is_ours(connection):
            raise _ForeignFileError("the file is another program's database; name another one")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _FORMAT:
            raise _ForeignFileError(
                f"the file has format {version} of another version of batchrt, and this one writes format "
                f"{_FORMAT}: run the same version everywhere, or name another file"
            )
        return  # another connection has made them just now
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {_FORMAT}")


def _handle(connection: sqlite3.Connection, key: str, request: LeaseRequest) -> LeaseReply:
    row = connection.execute("SELECT state FROM ledger WHERE key = ?", (key,)).fetchone()
    # All processes read one clock, which a restart of the host sets back.
    ledger, now, is_new = load_ledger(None if row is None else row[0], time.monotonic(), learns=False)
    if is_new:
        connection.execute("DELETE FROM worker WHERE key = ?", (key,))
    own = connection.execute("SELECT state FROM worker WHERE key = ? AND worker = ?", (key, request.worker))
    row = own.fetchone()
    record = None if row is None else load_record(row[0])
    ended = connection.execute(
        "DELETE FROM worker WHERE key = ? AND expires <= ? AND worker <> ? RETURNING state",
        (key, ledger.lease_time, request.worker),
    ).fetchall()
    expired = [found for (state,) in ended if (found := load_record(state)) is not None]
    new, reply = handle(ledger, record, expired, request, now)
    connection.execute("REPLACE INTO ledger VALUES (?, ?)", (key, text_of(ledger)))
    if new is None:
        connection.execute("DELETE FROM worker WHERE key = ? AND worker = ?", (key, request.worker))
    else:
        connection.execute(
            "REPLACE INTO worker VALUES (?, ?, ?, ?)", (key, new.worker, new.expires, text_of(new))
        )
    return reply
