"""The report of a job: counts of rows by outcome, tokens and cost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self

from batchrt.files.cells import error_line, shorten
from batchrt.files.output_file import open_output
from batchrt.jobs.journal_reader import JournalReader
from batchrt.jobs.output import check_output, check_unused, write_output
from batchrt.jobs.records import Codec, decode_json, error_text
from batchrt.runtime.outcome import Outcome
from batchrt.runtime.outcome_table import OutcomeTable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["JobReport"]

_COUNTS: Final = (
    *("reused", "failed_before", "changed", "changed_parts", "new", "gone", "kept", "interrupted"),
    "not_started",
)
_SHOWN: Final = 20
_LONGEST_REASON: Final = 200


@dataclass(frozen=True, slots=True)
class JobReport:
    """Report a job: its last run, and all that its journal holds.

    Attributes:
        journal: the journal's path.
        is_complete: whether each row of the input has a final outcome.
        rows: rows of the input that the last run read; `None` if it was killed or is still running.
        reused: of these, rows whose output was already in the journal.
        failed_before: rows whose error was already in the journal.
        changed: rows that were run again, or will be, because the chain has changed.
        changed_parts: the number of them for each part of the chain that changed.
        new: rows that were not in the journal.
        gone: rows in the journal that left the input; `None` if the input was not read to its end.
        kept: of the reused rows, those with an answer of another chain (`reuse="any"`).
        interrupted: rows without a final outcome: the provider refused their requests because of the key,
            the credit or an outage, or the end of the run cancelled them. The next run sends them.
        not_started: rows that were read and not sent.
        done, failed: rows in the journal with an output; with an error.
        retries: attempts beyond the first, of all of these rows.
        input_tokens, output_tokens, cost: of all of these rows; the cost is `None` without prices.
        errors: failed rows by the kind of error.
        seconds: of the last run.
        ended: why it ended early, in a sentence, or `None`.
        aside: where an older journal was moved (`fresh`), or `None`.
        is_written: whether the last run has written the output.
        has_partial: whether it has written an output of the rows so far.
    """

    journal: str
    is_complete: bool = False
    rows: int | None = 0
    reused: int = 0
    failed_before: int = 0
    changed: int = 0
    changed_parts: Mapping[str, int] = field(default_factory=dict)
    new: int = 0
    gone: int | None = None
    kept: int = 0
    interrupted: int = 0
    not_started: int = 0
    done: int = 0
    failed: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    ended: str | None = None
    aside: str | None = None
    is_written: bool = False
    has_partial: bool = False

    @classmethod
    def of(cls, journal: str | os.PathLike[str]) -> Self:
        """Return the report of the journal at this path: its rows, and how the last run ended.

        Raises:
            JournalError: there is no journal, or it cannot be read.
        """
        path = os.fspath(journal)
        with JournalReader(path) as reader:
            run, totals = reader.last_run()._asdict(), reader.totals()._asdict()
            return cls(path, **reader.last_counts(), **run, **totals)

    def counts(self) -> dict[str, Any]:
        """Return the counts that belong to the last run, and that the rows of the journal do not tell."""
        return {name: getattr(self, name) for name in _COUNTS}

    def failed_rows(self, most: int = _SHOWN) -> list[str]:
        """Return a line for each of the first `most` rows that failed: its number, from 1, and the reason.

        Raises:
            JournalError: the journal cannot be read.
        """
        with JournalReader(self.journal) as reader:
            found = islice(reader.records(failed=True), min(most, sys.maxsize))
            return [
                f"row {position + 1}: "
                f"{shorten(error_line(error_text(record.error or '{}')), _LONGEST_REASON)}"
                for position, _, record in found
            ]

    def write_failed(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> int:
        """Write the rows that failed, with their errors, to a file, and return their number.

        Args:
            path: a CSV, TSV, JSONL or Parquet file.
            overwrite: replace one that exists.

        Raises:
            InputError: the file exists, or cannot be created.
            OutputError: it cannot be written.
            JournalError: the journal cannot be read.
        """
        name = os.fspath(path)
        files = check_output(name, None)
        if not overwrite:
            check_unused(files)
        return write_output(self.journal, name, None, failed=True)

    def write_html(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a page with pictures and tables of the job: one HTML file that needs no network.

        It shows rates, requests in flight, refusals, cool-downs and outages over time, percentiles of times,
        tokens and cost, errors with examples, and the slowest rows, with parts of their inputs and outputs.

        Args:
            path: the file.
            overwrite: replace one that exists.

        Raises:
            ImportError: matplotlib or Jinja is not installed; the message names the extra to install.
            InputError: the file exists, or cannot be created.
            OutputError: it cannot be written.
            JournalError: the journal cannot be read.
        """
        try:
            from batchrt.jobs.page.page import page_of

            page = page_of(self)
        except ImportError as error:
            raise ImportError(
                f"the page of a job needs matplotlib and jinja2: install batchrt[report] ({error})"
            ) from error
        with open_output(os.fspath(path), str.encode, overwrite=overwrite, source=None) as file:
            file.put(page)

    def to_arrow(self) -> pa.Table:
        """Return the rows of the journal as an Arrow table; needs `batchrt[parquet]`.

        The columns are those of `BatchResult.to_arrow`, with the fields of the inputs.

        Raises:
            ImportError: pyarrow is not installed.
            JournalError: the journal cannot be read.
        """
        return self._table().to_arrow()

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows of the journal as a data frame; needs `batchrt[pandas]`. Otherwise as `to_arrow`.

        Raises:
            ImportError: pandas is not installed.
            JournalError: the journal cannot be read.
        """
        return self._table().to_pandas()

    def _table(self) -> OutcomeTable:
        inputs: list[Any] = []
        outcomes: list[Outcome[Any]] = []
        codec = Codec(None)
        with JournalReader(self.journal) as reader:
            for position, given, record in reader.records():
                inputs.append(decode_json(given))
                outcomes.append(codec.outcome(position, record))
        return OutcomeTable(outcomes, inputs)

    def resumed(self) -> str:
        """Return one line on how the rows were matched with the journal; empty for a first run."""
        counts = {
            "reused": self.reused,
            "failed before": self.failed_before,
            "changed": self.changed,
            "new": self.new,
        }
        if not any(count for name, count in (counts | {"gone": self.gone}).items() if name != "new"):
            return ""
        line = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        if self.gone is not None:
            return f"{line}, {self.gone:,} gone"
        return line if self.rows is None else f"{line}, of the first {_rows(self.rows)}"

    def lines(self) -> Iterator[str]:
        """Yield the lines of a summary."""
        if self.aside is not None:
            yield f"the old journal is kept as {self.aside}"
        if resumed := self.resumed():
            yield f"rows by the journal {self.journal}: {resumed}"
        for name, count in sorted(self.changed_parts.items(), key=lambda pair: -pair[1]):
            yield f"{name} changed: {_rows(count)} run again"
        if self.kept:
            yield f"{self.kept:,} answers are of another chain (`reuse` any)"
        seconds = f"; the last run took {self.seconds:.2f} s" if round(self.seconds, 2) else ""
        yield f"{self.done:,} done, {self.failed:,} failed{seconds}"
        for kind, count in self.errors.items():
            yield f"{count:,} {kind}"
        if self.input_tokens or self.output_tokens:
            cost = "" if self.cost is None else f", cost {self.cost:.4g}"
            yield f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out{cost}"
        if not self.is_complete:
            counts = ((self.interrupted, "interrupted"), (self.not_started, "not started"))
            left = "".join(f", {count:,} {word}" for count, word in counts if count)
            reason = self.ended or "the job is still running, or its process was killed"
            yield f"not complete: {reason}{left}; run the job again to continue"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
