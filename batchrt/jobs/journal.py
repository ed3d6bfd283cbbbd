"""The journal of a job: each row's outcome, on the disk before it is reported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from batchrt.jobs.commit_thread import CommitThread
from batchrt.jobs.journal_file import FileLock, discard, open_journal_file, set_aside
from batchrt.jobs.journal_reader import COLUMNS, ENTRY, Entry, JournalReader, RecordedEvent, RunRecord
from batchrt.jobs.records import Record

__all__ = ["Journal", "RowSource"]

_MARKS: Final = ", ".join("?" * len(Record._fields))
_ASSIGNED: Final = ", ".join(f"{name} = ?" for name in Record._fields)
_INSERT: Final = (
    f"INSERT INTO rows (position, key, input_key, chain, input, {COLUMNS}) "  # noqa: S608
    f"VALUES (?, ?, ?, ?, ?, {_MARKS})"
)
_UPDATE: Final = f"UPDATE rows SET key = ?, input_key = ?, chain = ?, input = ?, {_ASSIGNED} WHERE id = ?"  # noqa: S608
_MOVE: Final = "UPDATE rows SET position = ?, replaced = 0 WHERE id = ?"
_LEAVE: Final = "UPDATE rows SET position = NULL WHERE id = ? AND position = ?"
_REPLACE: Final = "UPDATE rows SET replaced = 1 WHERE id = ?"
_END_RUN: Final = (
    "UPDATE runs SET rows = ?, is_complete = ?, seconds = ?, ended = ? WHERE id = (SELECT max(id) FROM runs)"
)
_REFRESH: Final = "UPDATE rows SET key = ?, input_key = ?, chain = ?, input = ? WHERE id = ?"


class RowSource(NamedTuple):
    """The origin of an outcome.

    Attributes:
        key: the digest of the row's request.
        input_key: the digest of its input.
        chain: the number of the chain that ran the row.
        input: JSON.
    """

    key: bytes
    input_key: bytes
    chain: int
    input: str


class Journal(JournalReader):
    """Keep the outcomes of a job's rows, in an SQLite database in WAL mode.

    A row is found by its place in the input, so that a resumed job reads the journal from front to back and
    keeps no keys in memory; indexes by content are created at the first search by content. One process
    writes at a time; others may read.

    Args:
        path: the file, which is created.
        fresh: begin anew; the old file is kept aside, as `aside` says.
        committed: called in the writing thread, as by `CommitThread`.

    Attributes:
        path: as given.
        aside: the new name of the old file, or `None`.

    Raises:
        JournalError: it cannot be opened, or another process has it open.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fresh: bool = False,
        committed: Callable[[list[Any]], None] = lambda _: None,
    ) -> None:
        name = os.fspath(path)
        self._lock = FileLock(name)
        self._is_unused = fresh or not Path(name).exists()
        try:
            self.aside: str | None = set_aside(name) if fresh else None
            writing = open_journal_file(name)
            try:
                super().__init__(name)
            except BaseException:
                writing.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._indexed: set[str] = set()
        self._thread = CommitThread(writing, self.path, committed)

    def close(self) -> None:
        """Commit the waiting changes, close the file and release its lock; idempotent, and raises nothing.

        A file made here in which no run has begun is deleted, and the old one gets its name back.
        """
        super().close()
        self._thread.close()
        if self._is_unused:
            self._is_unused = False
            discard(self.path, self.aside)
        self._lock.release()

    # Writing. The changes of a row are applied in the order of the calls.

    def insert(self, position: int, source: RowSource, record: Record, token: object = None) -> None:
        """Record the outcome of a new row."""
        self._is_unused = False
        self._thread.put((_INSERT, (position, *source, *record), token))

    def update(self, entry: int, source: RowSource, record: Record, token: object = None) -> None:
        """Record another outcome of a row that failed before."""
        self._thread.put((_UPDATE, (*source, *record, entry), token))

    def move(self, entry: int, position: int) -> None:
        """Record that a row is now at `position` of the input, which no other row has."""
        self._thread.put((_MOVE, (position, entry), None))

    def leave(self, entry: int, position: int) -> None:
        """Record that a row is not at `position` of the input any more."""
        self._thread.put((_LEAVE, (entry, position), None))

    def replace(self, entry: int) -> None:
        """Record that a row of the input has changed, and that this was its outcome before."""
        self._thread.put((_REPLACE, (entry,), None))

    def trim(self, rows: int) -> None:
        """Record that the input has this many rows, and that all others have left it."""
        self._thread.put(("UPDATE rows SET position = NULL WHERE position >= ?", (rows,), None))

    def refresh(self, entry: int, source: RowSource) -> None:
        """Record the present input and chain of a row whose outcome is used again."""
        self._thread.put((_REFRESH, (*source, entry), None))

    @property
    def is_full(self) -> bool:
        """Whether a whole group waits for the disk, so that the next outcome should wait too."""
        return self._thread.is_full

    def check(self) -> None:
        """Raise the error of a change that could not be written, if there is one."""
        self._thread.check()

    def flush(self) -> None:
        """Wait until all is on the disk; raises JournalError."""
        self._thread.flush()

    # Chains

    def chain(self, parts: Sequence[tuple[str, str]]) -> int:
        """Return the number of the chain with these parts, which is recorded if it is new."""
        text = json.dumps(parts)
        self._thread.put(("INSERT OR IGNORE INTO chains (parts) VALUES (?)", (text,), None))
        self.flush()
        ((number,),) = self._read("SELECT id FROM chains WHERE parts = ?", text)
        return int(number)

    # Runs

    def begin_run(self, started: float, source: Sequence[str] = ()) -> None:
        """Record that a run over these files began, in seconds since 1970.

        It counts as killed until it is ended.
        """
        self._is_unused = False
        text = json.dumps(source) if source else None
        self._thread.put(("INSERT INTO runs (started, source) VALUES (?, ?)", (started, text), None))

    def end_run(self, run: RunRecord) -> None:
        """Record how the run ended."""
        self._thread.put((_END_RUN, run, None))

    def put_counts(self, counts: Mapping[str, Any]) -> None:
        """Record the counts of the last run's rows by how they were matched."""
        change = "UPDATE runs SET counts = ? WHERE id = (SELECT max(id) FROM runs)"
        self._thread.put((change, (json.dumps(counts),), None))

    def begin_output(self, *, is_complete: bool) -> None:
        """Record that the output is about to be written, with all rows or with those so far."""
        state = "complete" if is_complete else "partial"
        query = "UPDATE runs SET output = ? WHERE id = (SELECT max(id) FROM runs)"
        self._thread.put((query, (state,), None))
        self.flush()

    def last_event(self) -> int:
        """Return the number of the last event; 0 without any."""
        ((last,),) = self._read("SELECT coalesce(max(id), 0) FROM events")
        return int(last)

    def put_event(self, number: int, event: RecordedEvent) -> None:
        """Record an event, or a later state of it."""
        self._is_unused = False
        self._thread.put(("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?, ?)", (number, *event), None))

    # Searching by content

    def with_key(self, key: bytes) -> list[Entry]:
        """Return the rows with this request."""
        self._index("key")
        return list(map(Entry._make, self._read(f"SELECT {ENTRY} FROM rows WHERE key = ?", key)))  # noqa: S608

    def with_input(self, input_key: bytes) -> list[Entry]:
        """Return the rows with this input, the newest first."""
        self._index("input_key")
        query = f"SELECT {ENTRY} FROM rows WHERE input_key = ? ORDER BY id DESC"  # noqa: S608
        return list(map(Entry._make, self._read(query, input_key)))

    def _index(self, column: str) -> None:
        if column not in self._indexed:
            self._indexed.add(column)
            # Ten million rows take up to a minute, once; kept up from the start, an index would cost every
            # insert a page at a random place.
            self._thread.put((f"CREATE INDEX IF NOT EXISTS rows_{column} ON rows ({column})", (), None))
            self.flush()
