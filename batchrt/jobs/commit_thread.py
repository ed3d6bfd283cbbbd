"""The thread that writes a journal: it commits the event loop's changes in groups."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from time import monotonic
from typing import Any, Final, TypeAlias

from batchrt.jobs.errors import translated

__all__ = ["GROUP_ROWS", "GROUP_SECONDS", "Change", "CommitThread"]

Change: TypeAlias = tuple[str, Sequence[Any], object]
"""An SQL statement, its parameters, and a token returned once the change is on the disk, or `None`."""

GROUP_ROWS: Final = 256
"""The most changes in a transaction, and the most that may wait for one or be in it."""
GROUP_SECONDS: Final = 0.02
"""Seconds between commits. A commit of any size costs some 60 µs of CPU and an fsync: at
5,000 rows a second a hundred rows share it. The first after a pause is made at once."""

_STATEMENT: Final = itemgetter(0)


class CommitThread:
    """Apply changes to a database in the order they are put, in groups, each of them a transaction.

    One group of changes may wait. `put` accepts more, but `is_full` is then true and the caller should wait
    before the next. A killed process therefore loses one group at most, besides changes that it had not put.

    Args:
        connection: used by this thread alone from now on.
        path: the database, for errors.
        committed: called in this thread with the tokens of each group that is on the disk, and, with none,
            after a failure.

    Attributes:
        failure: the error after which no more is written, or `None`: a JournalError, or the error of a
            value that SQLite does not take.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: str, committed: Callable[[list[Any]], None]
    ) -> None:
        self.failure: Exception | None = None
        self._connection = connection
        self._path = path
        self._committed = committed
        self._waiting: deque[Change] = deque()
        self._in_commit = 0
        self._work = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._idle = threading.Condition()
        # A daemon's: at an exit that skips `close` it must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="batchrt journal", daemon=True)
        self._thread.start()

    def put(self, change: Change) -> None:
        """Hand over a change; raises the error of an earlier one that could not be written."""
        self.check()
        self._waiting.append(change)
        if not self._work.is_set():
            self._work.set()
        if len(self._waiting) >= GROUP_ROWS and not self._hurry.is_set():
            self._hurry.set()

    def check(self) -> None:
        """Raise the error of a change that could not be written, if there is one."""
        if self.failure is not None:
            raise self.failure

    @property
    def is_full(self) -> bool:
        """Whether a whole group is not on the disk yet."""
        return len(self._waiting) + self._in_commit >= GROUP_ROWS

    def flush(self) -> None:
        """Wait until all changes are on the disk; raises the error of one that cannot be written."""
        with self._idle:
            self._hurry.set()
            self._work.set()
            self._idle.wait_for(lambda: self.failure is not None or not (self._waiting or self._in_commit))
        self.check()

    def close(self) -> None:
        """Write the waiting changes and end the thread; changes that cannot be written are dropped."""
        self._closing = True
        self._hurry.set()
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        last = -GROUP_SECONDS
        while not self._closing or self._waiting:
            self._work.wait()
            self._work.clear()
            pause = last + GROUP_SECONDS - monotonic()
            if pause > 0:
                self._hurry.wait(pause)
            self._hurry.clear()
            last = monotonic()
            self._commit_waiting()
        self._connection.close()

    def _commit_waiting(self) -> None:
        while self._waiting:
            self._in_commit = size = min(len(self._waiting), GROUP_ROWS)
            group = [self._waiting.popleft() for _ in range(size)]
            if self.failure is None:
                tokens = [token for _, _, token in group if token is not None]
                try:
                    with translated(self._path):
                        self._commit(group)
                except Exception as error:  # noqa: BLE001  raised by `put`
                    self.failure = error
                    tokens = []
                self._end_commit()
                self._committed(tokens)
            self._end_commit()

    def _end_commit(self) -> None:
        with self._idle:
            self._in_commit = 0
            self._idle.notify_all()

    def _commit(self, group: list[Change]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, changes in groupby(group, _STATEMENT):
                connection.executemany(statement, [parameters for _, parameters, _ in changes])
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
