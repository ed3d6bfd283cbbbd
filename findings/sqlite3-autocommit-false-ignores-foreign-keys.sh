#!/usr/bin/env bash
# sqlite3 of Python 3.12.1 with `autocommit=False`, which its documentation announces as the default to come.
#
# A good guess: `PRAGMA foreign_keys = ON` right after connecting works as it does with the older way, or raises; and
# a connection that only reads sees what others have committed.
# What it does: such a connection is in a transaction from its first moment, and inside one SQLite ignores this pragma
# without an error: references are not checked, and orphans are committed. `synchronous` and `journal_mode` raise. And
# a loop that polls a table with SELECT keeps the snapshot of its first read: it never sees a change until it commits
# or rolls back itself, and a checkpoint cannot shorten the write-ahead log meanwhile.
#
# Seen: "foreign_keys after ON: 0, orphan committed (older way: 1, refused); polls: 0, 0; after a rollback: 1".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
cd "$home"
for each in python3 python3.14 python3.13 python3.12 "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python3; do
    if "$each" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2> /dev/null; then python=$each; break; fi
done
"${python:?no Python 3.12 or newer found}" - <<'END'
import sqlite3
import sys

def add_orphan(path, **options):
    connection = sqlite3.connect(path, **options)
    connection.execute("PRAGMA foreign_keys = ON")
    setting = connection.execute("PRAGMA foreign_keys").fetchone()[0]
    connection.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE children (parent REFERENCES parents (id))")
    try:
        connection.execute("INSERT INTO children VALUES (99)")
    except sqlite3.IntegrityError:
        return setting, "refused"
    connection.commit()
    return setting, "committed"

new, old = add_orphan("new", autocommit=False), add_orphan("old")
writer = sqlite3.connect("polled", autocommit=True)
writer.execute("PRAGMA journal_mode = wal")
writer.execute("CREATE TABLE results (id INTEGER PRIMARY KEY)")
reader = sqlite3.connect("polled", autocommit=False)

def poll():
    return reader.execute("SELECT count(*) FROM results").fetchone()[0]

polls = [poll()]
writer.execute("INSERT INTO results VALUES (1)")
polls.append(poll())
reader.rollback()
polls.append(poll())
print(f"foreign_keys after ON: {new[0]}, orphan {new[1]} (older way: {old[0]}, {old[1]})", end="; ")
print(f"polls: {polls[0]}, {polls[1]}; after a rollback: {polls[2]} (Python {sys.version.split()[0]})")
assert (new, old, polls) == ((0, "committed"), (1, "refused"), [0, 0, 1])
END
