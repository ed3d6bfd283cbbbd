#!/usr/bin/env bash
# aiosqlite 0.22.1: a task that is cancelled while it waits for `execute`, as by a timeout.
#
# A good guess: the statement is interrupted or undone, or at least belongs to the cancelled task.
# What it does: the thread carries the statement out to its end, in the transaction that all tasks of the connection
# share; what comes next on the connection waits for it, and the next `commit`, of any task, commits it. Likewise a
# `commit` of one task commits the half of another's work, whose `rollback` then has nothing to undo.
#
# Seen: "cancelled at once; then committed: 300,000 rows; rolled back after another task's commit: still there".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q aiosqlite==0.22.1
cd "$home"
venv/bin/python - <<'END'
import asyncio
import sqlite3

import aiosqlite

MANY = (
    "INSERT INTO rows WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300000)"
    " SELECT n FROM numbers"
)

async def count(db, condition="true"):
    async with db.execute(f"SELECT count(*) FROM rows WHERE {condition}") as cursor:
        return (await cursor.fetchone())[0]

async def main():
    async with aiosqlite.connect("db") as db:
        await db.execute("CREATE TABLE rows (value)")
        await db.commit()

        async def insert():
            await db.execute(MANY)

        task = asyncio.create_task(insert())
        await asyncio.sleep(0.01)  # the thread has the statement
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled at once", end="; ")
        await db.commit()
        seen = await count(db)
        print(f"then committed: {seen:,} rows", end="; ")
        assert seen == sqlite3.connect("db").execute("SELECT count(*) FROM rows").fetchone()[0] == 300_000

        written, committed = asyncio.Event(), asyncio.Event()

        async def give_up():
            await db.execute("INSERT INTO rows VALUES ('half')")
            written.set()
            await committed.wait()
            await db.rollback()

        async def go_on():
            await written.wait()
            await db.execute("INSERT INTO rows VALUES ('whole')")
            await db.commit()
            committed.set()

        await asyncio.gather(give_up(), go_on())
        half = await count(db, "value = 'half'")
        print(f"rolled back after another task's commit: {'still there' if half else 'gone'}")
        assert half == 1

asyncio.run(main())
END
