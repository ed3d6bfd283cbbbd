#!/usr/bin/env bash
# sqlite3 of Python 3.11.7 (SQLite 3.40.1), a database that cannot grow any more (here by `max_page_count`).
#
# A good guess: a statement that fails has done nothing, the transaction is still open with what was written before
# it, and `commit` keeps that; this is so for a violated constraint.
# What it does: when the disk (or the quota) is full SQLite rolls back the transaction, not the statement. A program
# that catches the error of one large row, and commits the small ones before it, gets no second error: the commit
# succeeds, and nothing is kept. Only `in_transaction`, looked at before the commit, tells.
#
# Seen: "duplicate key: open, 1 row after commit; full: closed, commit without an error, 0 rows after commit".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
cd "$home"
python3 - <<'END'
import sqlite3

def try_after_a_row(path, statement, error_type):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE answers (key TEXT UNIQUE, text)")
    connection.execute("PRAGMA max_page_count = 20")
    connection.execute("INSERT INTO answers VALUES ('a', 'paid for')")
    try:
        connection.execute(statement)
    except error_type:
        state = "open" if connection.in_transaction else "closed"
    else:
        raise SystemExit(f"{statement} succeeded")
    connection.commit()
    connection.close()
    return state, sqlite3.connect(path).execute("SELECT count(*) FROM answers").fetchone()[0]

duplicate = try_after_a_row("one", "INSERT INTO answers VALUES ('a', 'again')", sqlite3.IntegrityError)
full = try_after_a_row("two", "INSERT INTO answers VALUES ('b', zeroblob(1000000))", sqlite3.OperationalError)
print(f"duplicate key: {duplicate[0]}, {duplicate[1]} row after commit", end="; ")
print(f"full: {full[0]}, commit without an error, {full[1]} rows after commit (SQLite {sqlite3.sqlite_version})")
assert (duplicate, full) == (("open", 1), ("closed", 0))
END
