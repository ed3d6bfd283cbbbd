"""The journal's file: its lock, its format, and the connections to it."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from batchrt.jobs.errors import journal_error, translated

__all__ = [
    "FileLock",
    "connect_to_read",
    "copy_journal",
    "discard",
    "has_older",
    "open_journal_file",
    "set_aside",
]

APPLICATION: Final = 0x62727431
"""The `application_id` in the file's header: "brt1". Another program's database is not written to."""
FORMAT: Final = 4
"""The version of the tables, in the header's `user_version`. A journal of an older version is read as it is,
and brought up to date by the job that writes it."""

_SCHEMA: Final = """
CREATE TABLE chains (
    id INTEGER PRIMARY KEY,
    parts TEXT NOT NULL UNIQUE      -- JSON: [name, digest] of each part
);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    rows INTEGER,                   -- rows that were read; NULL for a run that was killed
    is_complete INTEGER,            -- 1 if each row had an outcome at its end
    seconds REAL,
    ended TEXT,                     -- why it ended early
    started REAL,                   -- seconds since 1970; NULL in a run of the first format
    source TEXT,                    -- JSON: the paths of the input's files; NULL for rows of another kind
    output TEXT,                    -- partial or complete: the rows that it was about to write to the output
    counts TEXT                     -- JSON: its rows by how they were matched
);
CREATE TABLE rows (
    id INTEGER PRIMARY KEY,         -- in the order of commits
    position INTEGER UNIQUE,        -- the row's place in the input, from 0; NULL for one that has left it
    key BLOB NOT NULL,              -- digest of the request, or of the input where none can be told
    input_key BLOB NOT NULL,        -- digest of the input
    chain INTEGER NOT NULL,         -- the chain that answered
    status TEXT NOT NULL,           -- done or failed
    replaced INTEGER NOT NULL DEFAULT 0,    -- 1 for the outcome of a row that has a newer one
    attempts INTEGER NOT NULL,
    seconds REAL NOT NULL,
    request_seconds REAL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost REAL,
    finished REAL NOT NULL,         -- seconds since 1970
    request_id TEXT,
    usage TEXT,                     -- JSON: tokens by model
    input TEXT NOT NULL,            -- JSON
    output,                         -- of a row that is done: text of JSON, or a blob of bytes
    error TEXT                      -- JSON, of a row that failed
);
CREATE INDEX rows_failed ON rows (position) WHERE status = 'failed';
"""
_EVENTS: Final = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,             -- retry, cool-down or outage
    began REAL NOT NULL,            -- seconds since 1970
    ended REAL NOT NULL,            -- of an outage that outlasted a killed process: its begin
    number INTEGER NOT NULL,        -- events that were put together
    reason TEXT NOT NULL
);
"""
_UPGRADES: Final = (
    f"ALTER TABLE runs ADD COLUMN started REAL; {_EVENTS}",
    "ALTER TABLE runs ADD COLUMN source TEXT; ALTER TABLE runs ADD COLUMN output TEXT;",
    "ALTER TABLE runs ADD COLUMN counts TEXT;",
)
"""The changes of each format to the next one, from the first on."""


class FileLock:
    """Hold the right to write a journal, for as long as the process lives or until it is released.

    The lock is on a separate file: SQLite manages the locks of the database. It is deleted by its holder
    alone, and a lock counts only if the file still has its name: so two processes cannot each hold one on
    a different file of that name.

    Raises:
        JournalError: another process holds it, or the file cannot be created there.
    """

    def __init__(self, path: str) -> None:
        if Path(path).is_dir():
            raise journal_error(path, "path", "it is a folder; name a file in it")
        self._path = f"{path}.lock"
        while True:
            with translated(path):
                self._number = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._lock()
            except OSError:
                holder = self._holder()
                os.close(self._number)
                raise journal_error(path, "locked", holder) from None
            if self._has_its_name():
                break
            os.close(self._number)  # its holder has deleted it in the moment before
        with suppress(OSError):  # only for messages
            os.ftruncate(self._number, 0)
            os.pwrite(self._number, f"{os.getpid()}\n".encode(), 0)

    def _lock(self) -> None:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(self._number, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _holder(self) -> str:
        with suppress(OSError):
            process = Path(self._path).read_text(encoding="ascii", errors="replace").strip()
            if process.isdecimal():
                return f"process {process}"
        return ""

    def _has_its_name(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._number), Path(self._path).stat())
        return False

    def release(self) -> None:
        """Delete the file and release the lock; idempotent."""
        if self._number >= 0:
            with suppress(OSError):  # such as that of a folder that has become read-only
                Path(self._path).unlink()
            os.close(self._number)
            self._number = -1


def copy_journal(path: str, to: str) -> None:
    """Copy a journal, also while another process writes it; raises as `open_journal_file` does."""
    with closing(connect_to_read(path)) as source, translated(to), closing(sqlite3.connect(to)) as copy:
        source.backup(copy)


def _connect(path: str, mode: str) -> sqlite3.Connection:
    """Open a connection; transactions are begun and ended by statements."""
    url = f"{Path(path).absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(url, timeout=1.0, isolation_level=None, check_same_thread=False, uri=True)
    try:
        connection.execute("PRAGMA cache_size = -8000")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: str) -> sqlite3.Connection:
    """Return a connection that reads the journal at `path`; raises as `open_journal_file` does."""
    if not Path(path).exists():
        raise journal_error(path, "path", "no such file")
    with translated(path):
        connection = _connect(path, "rw")  # SQLite may have to recover the log of a killed process
        try:
            connection.execute("PRAGMA query_only = 1")
            if not _check_format(connection, path):
                raise journal_error(path, "path", "it is empty: no job has begun to write it")
        except BaseException:
            connection.close()
            raise
    return connection


def open_journal_file(path: str) -> sqlite3.Connection:
    """Return the connection that writes the journal at `path`, which is created if there is none.

    `synchronous` is FULL: a commit is on the disk before it is reported, so that paid answers survive a
    power cut, too. NORMAL does not guarantee this for the latest commits in WAL mode
    (https://www.sqlite.org/pragma.html#pragma_synchronous). With a commit for each group it costs one fsync
    for all of its rows.

    Raises:
        JournalError: it cannot be opened, is no journal, or has another format.
    """
    with translated(path):
        connection = _connect(path, "rwc")
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _check_format(connection: sqlite3.Connection, path: str) -> int:
    """Return the format, 0 without tables; raises JournalError if they are not those of a journal."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION:
        raise journal_error(path, "corrupt", "a database of another program")
    if tables and not 1 <= version <= FORMAT:
        raise journal_error(path, "version", f"format {version}, and this one writes {FORMAT}")
    return int(version) if tables else 0


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    version = _check_format(connection, path)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise journal_error(path, "io", "its file system does not support SQLite's WAL mode")
    connection.execute("PRAGMA synchronous = FULL")
    if version < FORMAT:
        new = f"PRAGMA application_id = {APPLICATION}; {_SCHEMA} {_EVENTS}"
        changes = " ".join(_UPGRADES[version - 1 :]) if version else new
        connection.executescript(f"BEGIN IMMEDIATE; PRAGMA user_version = {FORMAT}; {changes} COMMIT;")


def discard(path: str, aside: str | None) -> None:
    """Delete a closed journal without rows, and give the one that was set aside for it its name back."""
    with suppress(OSError):
        for suffix in ("-wal", "-shm", ""):
            Path(path + suffix).unlink(missing_ok=True)
        if aside is not None:
            Path(aside).rename(path)


def has_older(path: str) -> bool:
    """Whether a journal at `path` was set aside, also by a process that was killed right after that."""
    return Path(f"{path}.old1").exists()


def set_aside(path: str) -> str | None:
    """Rename the journal at `path` and return its new name; `None` if there is none."""
    if not Path(path).exists():
        return None
    with suppress(sqlite3.Error), closing(_connect(path, "rw")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that a single file is renamed
    with translated(path):
        number = 1
        while Path(aside := f"{path}.old{number}").exists():
            number += 1
        # The log first: a database without its log is an older state, a log without its database is nothing.
        for suffix in ("-wal", ""):
            if Path(path + suffix).exists():
                Path(path + suffix).rename(aside + suffix)
        Path(f"{path}-shm").unlink(missing_ok=True)
    return aside
