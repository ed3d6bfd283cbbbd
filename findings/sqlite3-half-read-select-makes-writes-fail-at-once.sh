#!/usr/bin/env bash
# sqlite3 of Python 3.11.7 (SQLite 3.40.1), write-ahead log, autocommit (`isolation_level=None`), timeout 5 s.
#
# A good guess: without BEGIN each statement is its own transaction: it sees the newest data, and a write waits up to
# the timeout for another writer.
# What it does: a cursor with a row left to read keeps its snapshot open for the whole connection. As soon as another
# connection has written, each read of this one shows the old state, in other cursors too, and each write fails
# with "database is locked" at once: waiting cannot help, so the timeout is not used. A generator over rows to do,
# with an UPDATE per row, works alone and fails as soon as a second process takes part.
#
# Seen: "count 3 of 4; write: SQLITE_BUSY_SNAPSHOT after 0.0 s; rows read to the end: count 4, write ok".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
cd "$home"
python3 - <<'END'
import sqlite3
import time

def connect():
    return sqlite3.connect("db", isolation_level=None, timeout=5)

one, other = connect(), connect()
one.execute("PRAGMA journal_mode = wal")
one.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT)")
one.executemany("INSERT INTO jobs VALUES (?, 'new')", [(1,), (2,), (3,)])

def count():
    return one.execute("SELECT count(*) FROM jobs").fetchone()[0]

todo = one.execute("SELECT id FROM jobs")
assert todo.fetchone() == (1,) and not one.in_transaction
other.execute("INSERT INTO jobs VALUES (4, 'new')")
print(f"count {count()} of 4", end="; ")
assert count() == 3
began = time.monotonic()
try:
    one.execute("UPDATE jobs SET state = 'done' WHERE id = 1")
except sqlite3.OperationalError as error:
    name = getattr(error, "sqlite_errorname", "SQLITE_BUSY_SNAPSHOT")  # from Python 3.11 on
    waited = time.monotonic() - began
    print(f"write: {name}, {error}, after {waited:.1f} s", end="; ")
    assert name == "SQLITE_BUSY_SNAPSHOT" and waited < 3
else:
    raise SystemExit("the write succeeded")
todo.fetchall()
one.execute("UPDATE jobs SET state = 'done' WHERE id = 1")
print(f"rows read to the end: count {count()}, write ok (SQLite {sqlite3.sqlite_version})")
assert count() == 4
END
