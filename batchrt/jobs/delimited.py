"""Rows of CSV and TSV text, one fault at a time."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import Final

from batchrt.errors import InputError
from batchrt.jobs.rows import BadRow, Row, bad_row

__all__ = ["MAX_RECORD", "DelimitedReader"]

MAX_RECORD: Final = 64 * 1024 * 1024
"""Characters in one row. More is a quote that was never closed: no model reads that much."""

# The csv module's own limit is one number for the whole process and 131,072 by default. This is
# the most a C long holds on every platform; rows are bounded by MAX_RECORD instead.
_FIELD_LIMIT: Final = 2**31 - 1

_UNCLOSED: Final = "a quoted field is never closed; close it, or write a quote inside a field as two quotes"
_AFTER_QUOTE: Final = "text follows a closing quote; write a quote inside a quoted field as two quotes"


class DelimitedReader:
    """Read records from `text`, the first of which names the columns.

    `text` gives lines with their ends, decoded with `surrogateescape`. The dialect is RFC 4180's
    with any of the three line ends. Lines that hold nothing, or nothing but blanks where there is
    more than one column, are skipped. A record the dialect does not allow becomes a `BadRow`, and
    reading goes on with the line after its *first* line, so that a stray quote does not swallow
    the rest of the file.

    Raises:
        InputError: there is no header, or it cannot be read, or it names a column twice.
    """

    def __init__(self, text: Iterator[str], path: str, delimiter: str) -> None:
        if csv.field_size_limit() < _FIELD_LIMIT:
            csv.field_size_limit(_FIELD_LIMIT)
        self._text = text
        self._path = path
        self._delimiter = delimiter
        self._again: deque[str] = deque()
        self._record: list[str] = []
        self._records = self._parse()
        self._line = 0
        self.columns: tuple[str, ...] = self._header()

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield the rows after the header; to be called once."""
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
                yield Row(number, line, dict(zip(columns, fields, strict=True)))
            else:
                yield self._fault(number, line, fields)

    def _header(self) -> tuple[str, ...]:
        names: list[str] | None = []
        line = 0
        while names is not None and _is_blank(names):
            line = self._line + 1
            try:
                names = self._next()
            except csv.Error as error:
                raise self._header_error(line, _explain(error)) from None
        if names is None:
            raise InputError(f"{self._path}: the file is empty; expected a header", path=self._path)
        if "\0" in "".join(names):
            raise self._header_error(line, "it holds NUL bytes; save the file as UTF-8 text")
        if not _is_text("".join(names)):
            raise self._header_error(line, "it is not UTF-8; save the file as UTF-8")
        # Tools that each add a byte order mark leave more than the one the decoder takes off.
        names[0] = names[0].lstrip("\ufeff")
        return self._unique(line, names)

    def _unique(self, line: int, names: list[str]) -> tuple[str, ...]:
        # pandas writes its index under no name, spreadsheets end lines with spare separators:
        # such columns get a name that a prompt can use.
        named = [name or f"column_{place}" for place, name in enumerate(names, 1)]
        seen: dict[str, int] = {}
        for place, name in enumerate(named, 1):
            if name in seen:
                twice = f"columns {seen[name]} and {place} are both called {name!r}"
                raise self._header_error(line, f"{twice}; rename one", column=name)
            seen[name] = place
        return tuple(named)

    def _header_error(self, line: int, problem: str, *, column: str | None = None) -> InputError:
        message = f"{self._path}, header (line {line}): {problem}"
        return InputError(message, path=self._path, column=column)

    def _next(self) -> list[str] | None:
        """Give the next record's fields; on a fault, put all but its first line back."""
        record = self._record
        record.clear()
        try:
            fields = next(self._records, None)
        except csv.Error:
            self._line += 1
            self._again.extendleft(reversed(record[1:]))
            self._records = self._parse()
            raise
        self._line += len(record)
        return fields

    def _parse(self) -> Iterator[list[str]]:
        # Strict, or the parser would take what follows a stray quote for one long field.
        return csv.reader(self._feed(), delimiter=self._delimiter, strict=True)

    def _feed(self) -> Iterator[str]:
        record, again = self._record, self._again
        size = 0
        while True:
            line = again.popleft() if again else next(self._text, None)
            if line is None:
                return
            size = size + len(line) if record else len(line)
            record.append(line)
            if size > MAX_RECORD:
                raise csv.Error("unexpected end of data")
            yield line

    def _fault(self, number: int, line: int, fields: list[str]) -> BadRow:
        columns = self.columns
        clean = [_readable(field) for field in fields]
        values = dict(zip(columns, clean, strict=False))
        problem, column = _field_fault(columns, fields)
        if len(fields) < len(columns):
            lacking = ", ".join(map(repr, columns[len(fields) :][:5]))
            problem = f"{_count(fields)}, the header has {len(columns)}; {lacking} missing"
        elif len(fields) > len(columns):
            hint = "quote the fields that hold a separator"
            problem = f"{_count(fields)}, the header has {len(columns)}; {hint}"
        return bad_row(self._path, number, line, problem, column=column, values=values)


def _field_fault(columns: tuple[str, ...], fields: list[str]) -> tuple[str, str | None]:
    for column, field in zip(columns, fields, strict=False):
        if "\0" in field:
            return "the field holds a NUL byte; remove it", column
        if not _is_text(field):
            return "the field is not UTF-8; save the file as UTF-8", column
    return "", None


def _count(fields: list[str]) -> str:
    return "1 field" if len(fields) == 1 else f"{len(fields)} fields"


def _is_blank(fields: list[str]) -> bool:
    return not fields or (len(fields) == 1 and not fields[0].strip())


def _is_text(value: str) -> bool:
    """Say whether decoding met no byte that `surrogateescape` had to smuggle through."""
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
    return _UNCLOSED if "unexpected end" in str(error) else _AFTER_QUOTE
