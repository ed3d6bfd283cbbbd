"""Sinks: output rows as CSV, TSV or JSONL, in a file or on stdout."""

from __future__ import annotations

import csv
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

from batchrt.errors import InputError
from batchrt.files.cells import cell, encodable_text, error_line, json_text
from batchrt.files.encodings import OUTPUT_ENCODINGS
from batchrt.files.formats import DELIMITERS, STANDARD_STREAM, Format, check_delimiter, choose_format
from batchrt.files.new_file import NewFile
from batchrt.files.output_file import Closeable, OutputFile, encode_json, open_output
from batchrt.files.sources import Source

__all__ = ["Sink", "open_sink"]

_MOST_NAMES: Final = 20
_ALWAYS_ADDED: Final = 2


def open_sink(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str],
    output_column: str = "output",
    error_column: str | None = None,
    format: str | None = None,  # noqa: A002
    overwrite: bool = False,
    source: Source | None = None,
    rebuildable: bool = False,
    finish_reasons: bool = False,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Sink:
    """Open `path` for rows of `columns` followed by an output and an error.

    `"-"` is stdout, JSONL unless `format` says otherwise; else the suffix decides, and `.gz` or
    `.zst` after it compresses. `error_column` is by default `error`, and `{output_column}_error` beside an
    output column of another name, so that an output can be the input of a second run. With `source`
    given, its own file is refused even when `overwrite` is allowed.

    Args:
        path: the file to write.
        columns: the input's.
        output_column: the answer's.
        error_column: the error's.
        format: `csv`, `tsv` or `jsonl`, if the suffix does not tell.
        overwrite: replace an existing file once the new one is complete (see `NewFile`).
        rebuildable: the rows can be written again, as from a journal: an earlier partial file is replaced.
        source: the origin of the rows. A CSV is written like a CSV that is read: with its delimiter, and with
            a byte order mark if it has one.
        finish_reasons: add a third column, `finish_reason`, or `{output_column}_finish_reason`.
        delimiter: the character between the fields of a CSV; else `source`'s, else a comma.
        encoding: `utf-8`, or `utf-8-sig` for a byte order mark, by which spreadsheets recognise UTF-8.

    Raises:
        InputError: a name is taken, the format is unknown, or the file exists, is the input, or cannot be
            created. Nothing is written then.
    """
    name = os.fspath(path)
    prefix = "" if output_column == "output" else f"{output_column}_"
    if error_column is None:
        error_column = f"{prefix}error"
    added = (output_column, error_column, *([f"{prefix}finish_reason"] if finish_reasons else []))
    kind = "jsonl" if name == STANDARD_STREAM and format is None else choose_format(name, format)
    check_delimiter(delimiter, kind)
    _check_names(columns, added)
    mark = _is_marked(kind, encoding, source)
    encode = encode_json if kind == "jsonl" else _encode_table
    file = open_output(name, encode, overwrite=overwrite, source=source, rebuildable=rebuildable)
    if mark:
        file.put_header("\ufeff")
    if kind == "jsonl":
        return _JsonSink(file, kind, columns, added)
    return _TableSink(file, kind, columns, added, delimiter or _delimiter_like(kind, source))


def _is_marked(kind: Format, encoding: str | None, source: Source | None) -> bool:
    """Return whether the output begins with a byte order mark, which JSON must not have (RFC 8259, 8.1)."""
    if encoding is not None and encoding not in OUTPUT_ENCODINGS:
        names = " or ".join(OUTPUT_ENCODINGS)
        raise InputError(f"an output is written as {names}, not {encoding[:40]!r}")
    if kind == "jsonl":
        return False
    if encoding is None:
        return source is not None and source.format != "jsonl" and source.is_marked
    return encoding == "utf-8-sig"


def _delimiter_like(kind: Format, source: Source | None) -> str:
    if kind == "csv" and source is not None and source.format == "csv" and source.delimiter is not None:
        return source.delimiter
    return DELIMITERS[kind]


class Sink(Closeable):
    """Write rows to a file, in the order they are given.

    Attributes:
        path: the file's name as it was given, `stdout` for `"-"`.
        format: `csv`, `tsv` or `jsonl`.
        columns: the input's columns, then the output's, the error's and the finish reason's, if there is one.
        left_out: names of values without a column: in CSV and TSV those that are not among `columns`, in
            JSONL those that a row has under the name of an added column. At most twenty names are kept.
        rows_short: the number of rows with such values.
    """

    def __init__(
        self, file: OutputFile, kind: Format, columns: Sequence[str], added: tuple[str, ...]
    ) -> None:
        self.path: str = file.path
        self.format = kind
        self.columns: tuple[str, ...] = (*columns, *added)
        self.left_out: set[str] = set()
        self.rows_short: int = 0
        self._file = file
        self._inputs = tuple(columns)
        self._added = added
        self._has_reasons = len(added) > _ALWAYS_ADDED

    def write(
        self,
        values: Mapping[str, Any],
        output: object = None,
        error: BaseException | str | None = None,
        finish_reason: str | None = None,
    ) -> None:
        """Write one row: the input's `values`, and its output or error.

        Strings are written as they are. Everything else is JSON: nested in JSONL, as the text of a field in
        CSV and TSV, where `None` is an empty field. `finish_reason` is only written if it has a column.

        Raises:
            OutputClosedError: the reader of the output has closed it.
            OutputError: the output cannot be written to.
        """
        line = None if error is None else error_line(error)
        last = (output, line, finish_reason) if self._has_reasons else (output, line)
        self._file.put(self._line(values, last))

    def flush(self) -> None:
        """Hand all rows written so far to the operating system; raises as `write` does."""
        self._file.flush()

    def close(self) -> None:
        """Write the remaining rows and close the file; stdout stays open. Raises as `write` does."""
        if self._is_partial:
            self._file.mark_partial()
        self._file.close()

    @property
    def _new_files(self) -> tuple[NewFile, ...]:
        return self._file._new_files

    @abstractmethod
    def _line(self, values: Mapping[str, Any], last: tuple[Any, ...]) -> str:
        """Return one row's text, its line end included; `last` are the values of the added columns."""

    def _leave_out(self, names: set[str]) -> None:
        self.rows_short += 1
        room = _MOST_NAMES - len(self.left_out)
        self.left_out.update(sorted(names - self.left_out)[: max(0, room)])


class _JsonSink(Sink):
    """Write one JSON object a line."""

    def _line(self, values: Mapping[str, Any], last: tuple[Any, ...]) -> str:
        row = dict(values)
        if not row.keys().isdisjoint(self._added):
            self._leave_out(row.keys() & set(self._added))
            for name in self._added:  # they come last, in every row
                row.pop(name, None)
        row.update(zip(self._added, last, strict=True))
        return json_text(row) + "\n"


class _TableSink(Sink):
    """Write CSV or TSV: a header, then one record a row."""

    def __init__(
        self, file: OutputFile, kind: Format, columns: Sequence[str], added: tuple[str, ...], delimiter: str
    ) -> None:
        super().__init__(file, kind, columns, added)
        self._known = frozenset(columns)
        self._record = _Record()
        # The csv module quotes a lone \r only if it is part of the line end: so that is \r\n for the module,
        # and \n in the file.
        self._writer = csv.writer(self._record, delimiter=delimiter, lineterminator="\r\n")
        self._writer.writerow(self.columns)
        file.put_header(self._record.text[:-2] + "\n")

    def _line(self, values: Mapping[str, Any], last: tuple[Any, ...]) -> str:
        if not values.keys() <= self._known:
            self._leave_out(set(values.keys() - self._known))
        get = values.get
        fields = [cell(get(column)) for column in self._inputs]
        fields += map(cell, last)
        self._writer.writerow(fields)
        return self._record.text[:-2] + "\n"


class _Record:
    """The last record that the csv writer wrote; it writes one at a time."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


def _check_names(columns: Sequence[str], added: tuple[str, ...]) -> None:
    if len(set(added)) < len(added):
        message = f"output and error cannot both be called {added[0]!r}; rename one"
        raise InputError(message, column=added[0])
    for name in added:
        if name in columns:
            message = f"the input has a column {name!r} already; choose another with `output_column`"
            raise InputError(message, column=name, parameter="output_column")


def _encode_table(text: str) -> bytes:
    # Unencodable characters become U+FFFD, and so does NUL: `open_source` would refuse the row.
    return encodable_text(text.replace("\0", "\ufffd")).encode()
