"""Rows out: CSV, TSV and JSONL files, or stdout."""

from __future__ import annotations

import csv
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

from batchrt.errors import InputError
from batchrt.jobs.closing import Closing
from batchrt.jobs.formats import DELIMITERS, STANDARD_STREAM, Format, choose_format
from batchrt.jobs.outlets import Outlet, encode_json, open_outlet
from batchrt.jobs.rendering import cell, error_line, json_text
from batchrt.jobs.sources import Source

__all__ = ["Sink", "open_sink"]

_MOST_NAMES: Final = 20


def open_sink(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str],
    output_column: str = "output",
    error_column: str | None = None,
    format: str | None = None,  # noqa: A002
    overwrite: bool = False,
    source: Source | None = None,
) -> Sink:
    """Open `path` for rows of `columns` followed by an output and an error.

    `"-"` is stdout, JSONL unless `format` says otherwise; else the suffix decides, and `.gz` after
    it compresses. `error_column` is by default `error`, and `{output_column}_error` beside an
    output column of another name: so a file that was written once can be read and written again.
    With `source` given, its own file is refused even when `overwrite` is allowed.

    Raises:
        InputError: a name is taken, the format is not known, or the file is there already, is the
            input, or cannot be made. Nothing is written then.
    """
    name = os.fspath(path)
    if error_column is None:
        error_column = "error" if output_column == "output" else f"{output_column}_error"
    kind = "jsonl" if name == STANDARD_STREAM and format is None else choose_format(name, format)
    _check_names(columns, output_column, error_column)
    encode = encode_json if kind == "jsonl" else _encode_table
    outlet = open_outlet(name, encode, overwrite=overwrite, source=source)
    sink = _JsonSink if kind == "jsonl" else _TableSink
    return sink(outlet, kind, columns, output_column, error_column)


class Sink(Closing):
    """Write rows to a file, in the order they are given.

    Attributes:
        path: the file's name as it was given, `stdout` for `"-"`.
        format: `csv`, `tsv` or `jsonl`.
        columns: the input's columns, then the output's and the error's.
        left_out: names of values that found no place: in CSV and TSV those that are not among
            `columns`, in JSONL those that a row has under the output's or the error's name. At
            most twenty names are kept.
    """

    def __init__(
        self,
        outlet: Outlet,
        kind: Format,
        columns: Sequence[str],
        output_column: str,
        error_column: str,
    ) -> None:
        self.path: str = outlet.path
        self.format = kind
        self.columns: tuple[str, ...] = (*columns, output_column, error_column)
        self.left_out: set[str] = set()
        self._outlet = outlet
        self._inputs = tuple(columns)
        self._output = output_column
        self._error = error_column

    def write(
        self,
        values: Mapping[str, Any],
        output: object = None,
        error: BaseException | str | None = None,
    ) -> None:
        """Write one row: the input's `values`, and what became of it.

        Strings are written as they are. Everything else is JSON: nested in JSONL, as the text of a
        field in CSV and TSV, where `None` is an empty field.

        Raises:
            OutputClosedError: the reader of the output has gone.
            OutputError: the output cannot be written to.
        """
        self._outlet.put(self._line(values, output, error))

    def flush(self) -> None:
        """Hand all rows written so far to the operating system; raises as `write` does."""
        self._outlet.flush()

    def close(self) -> None:
        """Write what is left and close the file; stdout stays open. Raises as `write` does."""
        self._outlet.close()

    @abstractmethod
    def _line(self, values: Mapping[str, Any], output: object, error: BaseException | str | None) -> str:
        """Give one row's text, its line end included."""

    def _leave_out(self, names: set[str]) -> None:
        room = _MOST_NAMES - len(self.left_out)
        self.left_out.update(sorted(names - self.left_out)[: max(0, room)])


class _JsonSink(Sink):
    """Write one JSON object a line."""

    def _line(self, values: Mapping[str, Any], output: object, error: BaseException | str | None) -> str:
        row = dict(values)
        if self._output in row or self._error in row:
            self._leave_out(row.keys() & {self._output, self._error})
        row[self._output] = output
        row[self._error] = None if error is None else error_line(error)
        return json_text(row) + "\n"


class _TableSink(Sink):
    """Write CSV or TSV: a header, then one record a row."""

    def __init__(
        self,
        outlet: Outlet,
        kind: Format,
        columns: Sequence[str],
        output_column: str,
        error_column: str,
    ) -> None:
        super().__init__(outlet, kind, columns, output_column, error_column)
        self._known = frozenset(columns)
        self._record = _Record()
        # The module quotes a lone \r only where it is part of the line end: so the end is \r\n
        # for it, and \n for the file.
        self._writer = csv.writer(self._record, delimiter=DELIMITERS[kind], lineterminator="\r\n")
        self._writer.writerow(self.columns)
        outlet.put(self._record.text[:-2] + "\n")

    def _line(self, values: Mapping[str, Any], output: object, error: BaseException | str | None) -> str:
        if not values.keys() <= self._known:
            self._leave_out(set(values.keys() - self._known))
        get = values.get
        fields = [cell(get(column)) for column in self._inputs]
        fields.append(cell(output))
        fields.append("" if error is None else error_line(error))
        self._writer.writerow(fields)
        return self._record.text[:-2] + "\n"


class _Record:
    """Hold the last thing the csv writer wrote; it writes a record at a time."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


def _check_names(columns: Sequence[str], output_column: str, error_column: str) -> None:
    if output_column == error_column:
        message = f"output and error cannot both be called {output_column!r}; rename one"
        raise InputError(message, column=output_column)
    for name in (output_column, error_column):
        if name in columns:
            message = f"the input has a column {name!r} already; choose another with"
            raise InputError(f"{message} --output-column", column=name)


def _encode_table(text: str) -> bytes:
    # What a text file cannot hold becomes U+FFFD, and two surrogates that make one character are
    # joined. `open_source` would refuse a row with a NUL.
    whole = text.replace("\0", "\ufffd")
    try:
        return whole.encode()
    except UnicodeEncodeError:
        return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
