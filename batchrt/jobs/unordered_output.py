"""The output of a job whose rows are written as they end, in that order."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from batchrt.files import Sink, Source, VectorSink
from batchrt.files.new_file import write_error
from batchrt.files.remote import is_remote, local_path
from batchrt.jobs.journal import Journal
from batchrt.jobs.journal_reader import JournalReader
from batchrt.jobs.output import OutputLayout, RowWriting, is_free, is_stream

__all__ = ["UnorderedOutput"]

_PAGE: Final = 500
"""Rows that are read from the journal at a time."""
_PAUSE: Final = 0.05
"""Seconds in which rows are gathered before they are written."""


class UnorderedOutput:
    """Write rows to an output once they are on the disk, while the job goes on.

    A thread reads them from the journal, so that a slow reader of a pipe holds up nothing and rows wait as
    numbers. The output is opened for the first of them. A new one, and one that an earlier run has left
    partial, is written in place, and begins with the rows that are reused; another one is replaced once all
    rows are there.

    Args:
        journal: the journal.
        path: the output's.
        files: all of its files.
        source: where the rows come from, or `None`.
        layout: of the output, or `None`.

    Attributes:
        rows: how many rows were written.
        failure: the error for which no more is written, or `None`.
    """

    def __init__(
        self,
        journal: Journal,
        path: str,
        files: Sequence[str],
        source: Source | None,
        layout: OutputLayout | None,
    ) -> None:
        self.rows: int = 0
        self.failure: Exception | None = None
        self._journal = journal
        self._reader = JournalReader(journal.path)
        self._path = path
        self._files = files
        self._writing = RowWriting(path, source, layout)
        self._sink: Sink | VectorSink | None = None
        self._waiting: list[int] = []
        self._reused = False
        self._is_written = bytearray()
        self._work = threading.Event()
        self._closing = threading.Event()
        # A daemon's: a pipe without a reader must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="batchrt output", daemon=True)
        self._thread.start()

    def add(self, places: Iterable[int]) -> None:
        """Take rows, by their places in the input, whose outcomes are on the disk; from any thread."""
        self._waiting.extend(places)
        self._work.set()

    def reuse(self, place: int) -> None:
        """Take a row whose outcome is of an earlier run; what the journal changes of it may be under way."""
        self._reused = True
        self.add((place,))

    def check(self) -> None:
        """Raise the error for which no more can be written, if there is one."""
        if self.failure is not None:
            raise self.failure

    def close(self, *, is_complete: bool, rows: int = 0) -> None:
        """Write what is left and close the output; to be called in a thread, and idempotent.

        Args:
            is_complete: each of the input's first `rows` rows has an outcome.
            rows: see there.

        Raises:
            OutputError, JournalError, InputError: the output could not be written.
        """
        self._closing.set()
        self._work.set()
        self._thread.join()
        try:
            self.check()
            if is_complete:
                self._write(range(rows))
                self._journal.begin_output(is_complete=True)
        finally:
            sink, self._sink = self._sink, None
            self._reader.close()
            if sink is not None:
                if not is_complete:
                    sink.mark_partial()
                sink.close()

    def _run(self) -> None:
        try:
            while not self._closing.is_set() or self._waiting:
                self._work.wait()
                self._closing.wait(_PAUSE)
                self._work.clear()
                waiting, self._waiting = self._waiting, []
                if self._reused:
                    self._reused = False
                    self._journal.flush()
                self._write(waiting)
        except Exception as error:  # noqa: BLE001  raised by `check`
            self.failure = error

    def _write(self, places: Sequence[int]) -> None:
        """Write the rows at these places that were not written before."""
        rest = (place for place in places if self._mark(place))
        while page := list(islice(rest, _PAGE)):
            found = {record[0]: record for record in self._reader.records_at(page)}
            records = [found[place] for place in page if place in found]
            if not records:
                continue
            if self._sink is None:
                self._sink = self._open([given for _, given, _ in records])
            for place, given, record in records:
                self._writing.write(self._sink, place, given, record)
            self.rows += len(records)
        if self._sink is not None:
            self._sink.flush()

    def _mark(self, place: int) -> bool:
        """Record that the row is written, and return whether it was not before."""
        index, bit = place >> 3, 1 << (place & 7)
        if index >= len(self._is_written):
            self._is_written.extend(bytes(index + 4096 - len(self._is_written)))
        is_new = not self._is_written[index] & bit
        self._is_written[index] |= bit
        return is_new

    def _open(self, inputs: list[str]) -> Sink | VectorSink:
        path = self._path
        is_own = is_free(path) or self._journal.has_partial_output
        if is_own and not (is_stream(path) or is_remote(path) or path.lower().endswith(".parquet")):
            for file in self._files:  # an empty file has nothing to lose: it is written in place
                try:
                    Path(local_path(file)).write_bytes(b"")
                except OSError as error:
                    raise write_error(file, error) from error
        self._journal.begin_output(is_complete=False)
        return self._writing.open(inputs)
