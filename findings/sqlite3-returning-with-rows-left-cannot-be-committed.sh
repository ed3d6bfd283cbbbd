#!/usr/bin/env bash
# sqlite3 of Python 3.11.7 (SQLite 3.40.1): UPDATE ... RETURNING, as a queue uses it to claim jobs.
#
# A good guess: the rows are claimed when `execute` has returned, and what is not fetched does not matter.
# What it does: all rows are changed, but as long as the cursor exists and has a row left the statement counts as in
# progress and `commit` fails. If the cursor has no name, Python drops it after `fetchone`, and the same commit
# succeeds with the rows claimed that were not fetched. A queue tested with one job at a time never meets it.
#
# Seen: "cursor kept: cannot commit transaction - SQL statements in progress, 0 claimed; cursor not kept: committed, 3
# claimed, 1 fetched; one row, cursor kept: committed, 1 claimed".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
cd "$home"
python3 - <<'END'
import sqlite3

def claim(path, limit, is_kept):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT)")
    connection.executemany("INSERT INTO jobs VALUES (?, 'new')", [(1,), (2,), (3,)])
    connection.commit()
    cursor = connection.execute(f"UPDATE jobs SET state = 'taken' WHERE id <= {limit} RETURNING id")
    assert cursor.fetchone() == (1,)
    if not is_kept:
        del cursor
    try:
        connection.commit()
    except sqlite3.OperationalError as error:
        result = str(error)
    else:
        result = "committed"
    seen = sqlite3.connect(path).execute("SELECT count(*) FROM jobs WHERE state = 'taken'").fetchone()[0]
    return f"{result}, {seen} claimed"

results = [claim("one", 3, True), claim("two", 3, False), claim("three", 1, True)]
print(f"cursor kept: {results[0]}; cursor not kept: {results[1]}, 1 fetched; one row, cursor kept: {results[2]}")
refused = "cannot commit transaction - SQL statements in progress, 0 claimed"
assert results == [refused, "committed, 3 claimed", "committed, 1 claimed"]
END
