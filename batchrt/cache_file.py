"""The file of a response cache: an SQLite database, its tables, and how connections to it are opened."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

__all__ = ["OVERHEAD", "connect"]

_APPLICATION: Final = 0x62726331
"""The `application_id` in the file's header: "brc1"."""
_FORMAT: Final = 1
OVERHEAD: Final = 100
"""Bytes that an answer takes on the disk beside itself: its key, twice, and its row."""
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_FORMAT};
CREATE TABLE answers (
    key BLOB PRIMARY KEY,           -- digest of the request
    answer BLOB NOT NULL,
    used INTEGER NOT NULL           -- minutes since 1970
);
CREATE INDEX answers_used ON answers (used);
CREATE TABLE size (bytes INTEGER NOT NULL);
INSERT INTO size VALUES (0);
CREATE TRIGGER answers_inserted AFTER INSERT ON answers
    BEGIN UPDATE size SET bytes = bytes + length(NEW.answer) + {OVERHEAD}; END;
CREATE TRIGGER answers_deleted AFTER DELETE ON answers
    BEGIN UPDATE size SET bytes = bytes - length(OLD.answer) - {OVERHEAD}; END;
COMMIT;
"""  # noqa: S608  its own numbers
_BUSY_SECONDS: Final = 10.0
"""Seconds for which a commit waits for other processes."""
_LOOK_SECONDS: Final = 0.02
"""Seconds between attempts to open a file that another process is opening."""


def connect(path: str) -> sqlite3.Connection | None:
    """Open a connection, and wait for processes that open the file for the first time; see `_opened_file`.

    SQLite does not wait where another connection changes the mode of the log or makes the tables.
    """
    import sqlite3

    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return _opened_file(path)
        except sqlite3.OperationalError as error:
            is_busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_SECONDS)


def _opened_file(path: str) -> sqlite3.Connection | None:
    """Open a connection, with the tables made if there are none; `None` for another program's database.

    WAL lets processes read while one writes. `synchronous` is NORMAL: a power cut may lose the latest
    answers, and damages nothing.
    """
    import sqlite3

    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        # The tables first: another process may make them, with these numbers, at any moment.
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if tables and (application, version) != (_APPLICATION, _FORMAT):
            connection.close()
            return None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    import sqlite3

    try:
        connection.executescript(_SCHEMA)
    except sqlite3.OperationalError:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'size'").fetchone():
            raise  # else another process has made them in this moment
