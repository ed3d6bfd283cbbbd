"""A reader of a journal, for the job that writes it and for other processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from batchrt.jobs.errors import translated
from batchrt.jobs.journal_file import connect_to_read, has_older
from batchrt.jobs.records import Record

__all__ = ["COLUMNS", "ENTRY", "Entry", "JournalReader", "RecordedEvent", "RunRecord", "Totals"]

COLUMNS: Final = ", ".join(Record._fields)
_PAGE: Final = 5000
"""Rows that are measured at a time."""
ENTRY: Final = "id, position, key, chain, status, replaced, input"
_WITH_SOURCES: Final = 3
"""The first format that has the paths of a run's files."""
_WITH_COUNTS: Final = 4
"""The first format that has the counts of runs."""


class Entry(NamedTuple):
    """The fields of a recorded row that match it with a row of the input.

    Attributes:
        id: the row's id in the journal.
        position: its place in the input, or `None` if it is no longer there.
        key: the digest of its request.
        chain: the number of the chain that answered.
        status: `done` or `failed`.
        replaced: whether there is a newer outcome for the same input.
        input: JSON.
    """

    id: int
    position: int | None
    key: bytes
    chain: int
    status: str
    replaced: int
    input: str


class Totals(NamedTuple):
    """Sums over the rows of a journal that are in the input.

    Attributes:
        done, failed: rows.
        retries: attempts beyond the first.
        input_tokens, output_tokens: of all models.
        cost: in the prices' currency; `None` if no row has one.
        errors: rows that failed by the kind of error.
    """

    done: int
    failed: int
    retries: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    errors: Mapping[str, int]


class RunRecord(NamedTuple):
    """The end of a run.

    Attributes:
        rows: rows that were read; `None` for a run that was killed or is still running.
        is_complete: whether each row had an outcome at its end.
        seconds: its duration.
        ended: the reason of an early end, or `None`.
    """

    rows: int | None = None
    is_complete: bool = False
    seconds: float = 0.0
    ended: str | None = None


class RecordedEvent(NamedTuple):
    """An event of a quota, or several that were put together.

    Attributes:
        kind: `retry`, `cool-down` or `outage`.
        began, ended: seconds since 1970.
        number: of the events.
        reason: the class and status of the error that led to it.
    """

    kind: str
    began: float
    ended: float
    number: int
    reason: str


class JournalReader:
    """Read a journal, also while a job writes it.

    Read transactions are short: an open one would keep the write-ahead log growing.

    Args:
        path: the file.

    Attributes:
        path: as given.

    Raises:
        JournalError: there is no journal, or it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: str = os.fspath(path)
        self._reading = connect_to_read(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; idempotent."""
        self._reading.close()

    def _read(self, query: str, *parameters: Any) -> list[Any]:
        with translated(self.path):
            return self._reading.execute(query, parameters).fetchall()

    @property
    def is_empty(self) -> bool:
        """Whether no row was ever recorded."""
        return not self._read("SELECT 1 FROM rows LIMIT 1")

    @property
    def is_new(self) -> bool:
        """Whether no job has had outcomes or an output: no row, no complete run, and no older journal."""
        is_unused = self.is_empty and not self._read("SELECT 1 FROM runs WHERE is_complete LIMIT 1")
        return is_unused and not has_older(self.path)

    def at(self, position: int, count: int) -> list[Entry]:
        """Return the rows at `count` places of the input from `position` on, in order."""
        rows = self._read(
            f"SELECT {ENTRY} FROM rows WHERE position >= ? AND position < ? ORDER BY position",  # noqa: S608
            position,
            position + count,
        )
        return list(map(Entry._make, rows))

    def last_position(self) -> int:
        """Return the last place of the input that a row has; -1 without any."""
        ((last,),) = self._read("SELECT max(position) FROM rows")
        return -1 if last is None else int(last)

    def has_left_rows(self) -> bool:
        """Whether there are rows that are at no place of the input."""
        return bool(self._read("SELECT 1 FROM rows WHERE position IS NULL LIMIT 1"))

    def gone(self) -> int:
        """Return how many rows have left the input and have no newer outcome."""
        ((count,),) = self._read("SELECT count(*) FROM rows WHERE position IS NULL AND NOT replaced")
        return int(count)

    def records(self, rows: int | None = None, *, failed: bool = False) -> Iterator[tuple[int, str, Record]]:
        """Yield place, input (JSON) and record of the rows in the input, in order.

        Args:
            rows: the number of rows of the input to read; all by default.
            failed: yield failed rows only.
        """
        position, page = -1, 1000
        among = " AND status = 'failed'" if failed else ""
        query = (
            f"SELECT position, input, {COLUMNS} FROM rows "  # noqa: S608
            f"WHERE position > ? AND position < ?{among} ORDER BY position LIMIT ?"
        )
        end = 2**62 if rows is None else rows
        while found := self._read(query, position, end, page):
            for position, given, *columns in found:
                yield position, given, Record._make(columns)

    def records_at(self, places: Sequence[int]) -> Iterator[tuple[int, str, Record]]:
        """Yield place, input (JSON) and record of the rows at some places of the input, in any order."""
        marks = ", ".join("?" * len(places))
        query = f"SELECT position, input, {COLUMNS} FROM rows WHERE position IN ({marks})"  # noqa: S608
        for position, given, *columns in self._read(query, *places):
            yield position, given, Record._make(columns)

    def last_run(self) -> RunRecord:
        """Return how the last run ended."""
        found = self._read("SELECT rows, is_complete, seconds, ended FROM runs ORDER BY id DESC LIMIT 1")
        if not found or found[0][0] is None:
            return RunRecord()
        rows, is_complete, seconds, ended = found[0]
        return RunRecord(rows, bool(is_complete), seconds, ended)

    @property
    def source(self) -> tuple[str, ...]:
        """The paths of the files that the last run read; empty for rows of another kind, or if not known."""
        ((version,),) = self._read("PRAGMA user_version")
        if version < _WITH_SOURCES:
            return ()
        found = self._read("SELECT source FROM runs ORDER BY id DESC LIMIT 1")
        return tuple(json.loads(found[0][0])) if found and found[0][0] else ()

    @property
    def has_partial_output(self) -> bool:
        """Whether the output was last written with rows missing."""
        query = "SELECT output FROM runs WHERE output IS NOT NULL ORDER BY id DESC LIMIT 1"
        return self._read(query) == [("partial",)]

    @property
    def holds_bytes(self) -> bool | None:
        """Whether the outputs are bytes, such as vectors, and not JSON; `None` without any."""
        found = self._read("SELECT typeof(output) FROM rows WHERE status = 'done' LIMIT 1")
        return found[0][0] == "blob" if found else None

    def activity(self) -> Iterator[tuple[float, float]]:
        """Yield when rows of the input were run: the span, in seconds since 1970, of those of each minute."""
        yield from self._read(
            "SELECT min(finished - seconds), max(finished) FROM rows NOT INDEXED "
            "WHERE position IS NOT NULL GROUP BY CAST(finished / 60 AS INTEGER)"
        )

    def measures(self) -> Iterator[list[tuple[Any, ...]]]:
        """Yield pages of the rows of the input, in no order, without what they say.

        The columns: place, 1 if it failed, finished, seconds, request seconds, tokens in, tokens out, cost,
        and the usage as JSON.
        """
        last = 0
        query = (
            "SELECT id, position, status = 'failed', finished, seconds, request_seconds, input_tokens, "
            "output_tokens, cost, usage FROM rows WHERE id > ? AND position IS NOT NULL ORDER BY id LIMIT ?"
        )
        while found := self._read(query, last, _PAGE):
            yield [columns for _, *columns in found]
            last = found[-1][0]

    def failures(self, kinds: int, examples: int) -> list[tuple[str, str, int, int]]:
        """Return kind, error (JSON), number of rows and place of the first row, for the commonest errors.

        Args:
            kinds: of errors, the commonest first.
            examples: different messages of each.
        """
        # With min() SQLite takes the other columns from the row that has the least value.
        return self._read(
            "WITH messages AS (SELECT error ->> 'kind' AS kind, error, count(*) AS number, "
            "min(position) AS first FROM rows INDEXED BY rows_failed "
            "WHERE status = 'failed' AND position IS NOT NULL GROUP BY 1, error ->> 'message'), "
            "ranked AS (SELECT *, sum(number) OVER (PARTITION BY kind) AS of_kind, "
            "row_number() OVER (PARTITION BY kind ORDER BY number DESC, first) AS rank FROM messages), "
            "placed AS (SELECT *, dense_rank() OVER (ORDER BY of_kind DESC, kind) AS place FROM ranked) "
            "SELECT kind, error, number, first FROM placed WHERE place <= ? AND rank <= ? "
            "ORDER BY place, rank",
            kinds,
            examples,
        )

    def record_at(self, position: int) -> tuple[str, Record]:
        """Return the input (JSON) and the record of the row at this place."""
        ((given, *columns),) = self._read(f"SELECT input, {COLUMNS} FROM rows WHERE position = ?", position)  # noqa: S608
        return given, Record._make(columns)

    def run_starts(self) -> list[float]:
        """Return when the runs began, in seconds since 1970; those of the first format are left out."""
        if not self._has_events():
            return []
        found = self._read("SELECT started FROM runs WHERE started IS NOT NULL ORDER BY id")
        return [started for (started,) in found]

    def events(self) -> Iterator[RecordedEvent]:
        """Yield the events of all runs in the order of their beginnings."""
        if self._has_events():
            query = "SELECT kind, began, ended, number, reason FROM events ORDER BY began, id"
            yield from map(RecordedEvent._make, self._read(query))

    def _has_events(self) -> bool:
        """Whether there are events and times of runs, which the first format does not have."""
        return bool(self._read("SELECT 1 FROM sqlite_schema WHERE name = 'events'"))

    def last_counts(self) -> dict[str, Any]:
        """Return the last run's rows by how they were matched; empty for a run that was killed."""
        ((version,),) = self._read("PRAGMA user_version")
        if version < _WITH_COUNTS:
            return {}
        found = self._read("SELECT counts FROM runs ORDER BY id DESC LIMIT 1")
        return json.loads(found[0][0]) if found and found[0][0] is not None else {}

    def totals(self) -> Totals:
        """Return the sums over all rows that are in the input."""
        ((done, failed, retries, tokens_in, tokens_out, cost),) = self._read(
            "SELECT count(*) FILTER (WHERE status = 'done'), count(*) FILTER (WHERE status = 'failed'), "
            "coalesce(sum(attempts - 1), 0), coalesce(sum(input_tokens), 0), "
            "coalesce(sum(output_tokens), 0), sum(cost) FROM rows NOT INDEXED WHERE position IS NOT NULL"
        )
        errors = self._read(
            "SELECT error ->> 'kind', count(*) FROM rows INDEXED BY rows_failed "
            "WHERE status = 'failed' AND position IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        return Totals(done, failed, retries, tokens_in, tokens_out, cost, dict(errors))

    def parts_of(self, chain: int) -> dict[str, str]:
        """Return the digests of a chain's parts by their names."""
        ((text,),) = self._read("SELECT parts FROM chains WHERE id = ?", chain)
        return dict(json.loads(text))

    def has_chain_after(self, chain: int) -> bool:
        """Whether a chain was recorded after this one."""
        return bool(self._read("SELECT 1 FROM chains WHERE id > ? LIMIT 1", chain))
