"""CSV and TSV reader that reports each faulty record and reads on."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import Final

from batchrt.errors import InputError
from batchrt.files.cells import shorten
from batchrt.files.lines import MAX_RECORD, skip_line
from batchrt.files.rows import BadRow, EmptyFileError, Row, bad_row

__all__ = ["CsvReader"]

# The csv module has one limit for the whole process, 131,072 by default. This is the most that a C long holds
# on every platform; MAX_RECORD bounds the rows instead.
_FIELD_LIMIT: Final = 2**31 - 1

_LINE_COST: Final = 64
"""Bytes of a buffered line besides its characters while the end of its record is searched: a str object and
its slot in a list (CPython on 64 bits)."""
_LINE_ENDS: Final = ("\n", "\r")

_CUT: Final = "(a line that is too long)"
"""Replaces a line that is too long to be kept; compared by identity."""

_COMMA: Final = ","
_OTHER_DELIMITERS: Final = (";", "\t", "|")
"""Delimiters of CSV files where the comma is a decimal mark, and of database exports."""
_MOST_PEEKED: Final = 100
_SEPARATOR_LINE: Final = re.compile(r"sep=([^\w\s\"]|\t)\s*", re.IGNORECASE)
"""The line that names the separator before the header, as Excel reads and writes it."""

_UNCLOSED: Final = "a quoted field is never closed; close it, or write a quote inside a field as two quotes"
_AFTER_QUOTE: Final = "text follows a closing quote; write a quote inside a quoted field as two quotes"
_TOO_LONG: Final = f"the line has more than {MAX_RECORD:,} characters; is this a file of rows?"


class CsvReader:
    """Read records from `text`; the first record names the columns.

    `text` yields lines with their ends, decoded with `surrogateescape`, as `bounded_lines` does. The dialect
    is RFC 4180's with any of the three line ends. Empty lines are skipped, and so are blank ones where there
    is more than one column. A record that the dialect does not allow becomes a `BadRow`, and reading
    continues with the line after its *first* line, so that a stray quote does not swallow the rest of the
    file.

    No line is parsed more than three times, whatever is wrong. Invariant: if a record was still inside quotes
    at the ends of lines i to j-1 and failed in line j, then a record that starts in one of these lines and is
    inside quotes at its end fails in line j as well, because the parser's state is the same from there on.
    Such a record fails at once, without another search for its end.

    Args:
        text: the lines.
        path: the file's name in errors.
        delimiter: between fields; `None` for a comma, or for a semicolon, tab or bar where the header has no
            comma and the first row agrees.

    Attributes:
        columns: the header's names.
        delimiter: as given, or as detected.

    Raises:
        InputError: the header is missing, cannot be read, or names a column twice.
    """

    def __init__(self, text: Iterator[str], path: str, delimiter: str | None) -> None:
        if csv.field_size_limit() < _FIELD_LIMIT:
            csv.field_size_limit(_FIELD_LIMIT)
        self._text = text
        self._path = path
        self._replayed: deque[str] = deque()
        self._lines_to_fail = 0
        self._failure = csv.Error()
        self._record: list[str] = []
        self._line = 0
        self.delimiter: str = _COMMA if delimiter is None else delimiter
        self._records = self._parse()
        self.columns: tuple[str, ...] = self._header(is_guess=delimiter is None)

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield the rows after the header; may be called once."""
        columns = self.columns
        width = len(columns)
        number = 0
        while True:
            line = self._line + 1
            try:
                fields = self._next()
            except csv.Error as error:
                number += 1
                yield bad_row(self._path, number, line, _explain(error))
                continue
            if fields is None:
                return
            if len(fields) != width and _is_blank(fields):
                continue
            number += 1
            joined = "".join(fields)
            if len(fields) == width and "\0" not in joined and _is_text(joined):
                yield Row(number, line, dict(zip(columns, fields, strict=True)), None, len(joined))
            else:
                yield self._fault(number, line, fields)

    def _header(self, *, is_guess: bool) -> tuple[str, ...]:
        line, names = self._first_record()
        if names is not None and is_guess:
            line, names = self._choose_delimiter(line, names)
        if names is None:
            raise EmptyFileError(f"{self._path}: the file is empty; expected a header", path=self._path)
        if "\0" in "".join(names):
            raise self._header_error(line, "it holds NUL bytes; save the file as UTF-8 text")
        if not _is_text("".join(names)):
            problem = "it is not UTF-8; save the file as UTF-8, or add `encoding`"
            raise self._header_error(line, problem, parameter="encoding")
        # A chain of tools that each add a byte order mark leaves more than the one that the decoder removes.
        names[0] = names[0].lstrip("\ufeff")
        return self._unique(line, names)

    def _first_record(self) -> tuple[int, list[str] | None]:
        """Return the first record that is not blank, and its line."""
        names: list[str] | None = []
        line = 0
        while names is not None and _is_blank(names):
            line = self._line + 1
            try:
                names = self._next()
            except csv.Error as error:
                raise self._header_error(line, _explain(error)) from None
        return line, names

    def _choose_delimiter(self, line: int, names: list[str]) -> tuple[int, list[str] | None]:
        """Return the header, parsed again if its delimiter turns out not to be a comma."""
        told = _SEPARATOR_LINE.fullmatch("".join(self._record).lstrip("\ufeff"))
        if told is not None:
            self.delimiter = told[1]
            self._records = self._parse()
            return self._first_record()
        if len(names) != 1:
            return line, names
        header, row = list(self._record), self._peek()
        best = names
        for delimiter in _OTHER_DELIMITERS:
            found, width = _fields(header, delimiter), len(_fields(row, delimiter))
            if len(found) > len(best) and (not row or width == len(found)):
                self.delimiter, best = delimiter, found
        if best is not names:
            self._records = self._parse()
        return line, best

    def _peek(self) -> list[str]:
        """Return the lines of the next record, at most a hundred, and leave them to be read."""
        lines: list[str] = []
        for line in self._text:
            self._replayed.append(line)
            if line.strip() or lines:
                lines.append(line)
            if lines and (len(lines) == _MOST_PEEKED or "".join(lines).count('"') % 2 == 0):
                break
        return lines

    def _unique(self, line: int, names: list[str]) -> tuple[str, ...]:
        # pandas writes its index under an empty name, and spreadsheets end lines with spare separators: such
        # columns get a name that a prompt can use.
        named = [name or f"column_{place}" for place, name in enumerate(names, 1)]
        seen: dict[str, int] = {}
        for place, name in enumerate(named, 1):
            if name in seen:
                twice = f"columns {seen[name]} and {place} are both called {shorten(name)!r}"
                raise self._header_error(line, f"{twice}; rename one", column=name)
            seen[name] = place
        return tuple(named)

    def _header_error(
        self, line: int, problem: str, *, column: str | None = None, parameter: str | None = None
    ) -> InputError:
        message = f"{self._path}, header (line {line}): {problem}"
        return InputError(message, path=self._path, column=column, parameter=parameter)

    def _next(self) -> list[str] | None:
        """Return the next record's fields; after a fault, put all but its first line back."""
        record = self._record
        record.clear()
        try:
            fields = next(self._records, None)
        except csv.Error as error:
            self._line += 1
            if len(record) > 1:
                self._replayed.extendleft(reversed(record[1:]))
                self._lines_to_fail, self._failure = len(record) - 1, error
                del record[1:]
            self._records = self._parse()
            raise
        self._line += len(record)
        return fields

    def _parse(self) -> Iterator[list[str]]:
        # Not strict, the parser takes the text after a stray quote for one long field.
        return csv.reader(self._feed(), delimiter=self.delimiter, strict=True)

    def _feed(self) -> Iterator[str]:
        record, again = self._record, self._replayed
        size = 0
        while True:
            if again:
                if self._lines_to_fail:
                    if record:
                        raise csv.Error(*self._failure.args)
                    self._lines_to_fail -= 1
                line: str | None = again.popleft()
            else:
                line = next(self._text, None)
            if line is None:
                return
            cost = MAX_RECORD + 1 if line is _CUT else len(line) + _LINE_COST
            size = size + cost if record else cost
            record.append(line)
            if size > MAX_RECORD:
                if len(line) > MAX_RECORD:
                    self._cut(record)
                raise csv.Error(_TOO_LONG if len(record) == 1 else "unexpected end of data")
            yield line

    def _cut(self, record: list[str]) -> None:
        """Drop the last line of `record`, which is too long to be kept, and skip its rest."""
        if not record[-1].endswith(_LINE_ENDS):
            skip_line(self._text, _LINE_ENDS)
        record[-1] = _CUT

    def _fault(self, number: int, line: int, fields: list[str]) -> BadRow:
        columns = self.columns
        clean = [_readable(field) for field in fields]
        values = dict(zip(columns, clean, strict=False))
        problem, column = _field_fault(columns, fields)
        if len(fields) < len(columns):
            lacking = ", ".join(repr(shorten(name)) for name in columns[len(fields) :][:5])
            problem = f"{_count(fields)}, the header has {len(columns)}; {lacking} missing"
        elif len(fields) > len(columns):
            hint = "quote the fields that hold a separator"
            problem = f"{_count(fields)}, the header has {len(columns)}; {hint}"
        size = sum(map(len, clean))
        return bad_row(self._path, number, line, problem, column=column, values=values, size=size)


def _fields(lines: list[str], delimiter: str) -> list[str]:
    """Return the fields of a record under this delimiter; none if it cannot be parsed."""
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _field_fault(columns: tuple[str, ...], fields: list[str]) -> tuple[str, str | None]:
    for column, field in zip(columns, fields, strict=False):
        if "\0" in field:
            return "the field holds a NUL byte; remove it", column
        if not _is_text(field):
            return "the field is not UTF-8; save the file as UTF-8, or name its encoding", column
    return "", None


def _count(fields: list[str]) -> str:
    return "1 field" if len(fields) == 1 else f"{len(fields)} fields"


def _is_blank(fields: list[str]) -> bool:
    return not fields or (len(fields) == 1 and not fields[0].strip())


def _is_text(value: str) -> bool:
    """Return whether `value` decoded without a byte that `surrogateescape` kept."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _readable(field: str) -> str:
    return field.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _explain(error: csv.Error) -> str:
    text = str(error)
    if text == _TOO_LONG:
        return text
    return _UNCLOSED if "unexpected end" in text else _AFTER_QUOTE
