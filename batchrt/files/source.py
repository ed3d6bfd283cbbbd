"""The base class of sources, from which input rows are read one at a time."""

from __future__ import annotations

import difflib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from types import TracebackType
from typing import Any, Final, Self

from batchrt.errors import InputError
from batchrt.files.cells import listed, shorten
from batchrt.files.formats import TEXT_TABLES, SourceFormat
from batchrt.files.rows import BadRow, Row, bad_row

__all__ = ["Source", "required_columns"]

_ROWS_AHEAD: Final = 1000
_SIZE_AHEAD: Final = 16 << 20
"""Rows, and bytes of them, that may be read in search of a key before it counts as missing."""
_UNEVEN: Final = ("jsonl", "table")
"""Formats whose rows may have keys that the first one lacks."""
_LONGEST_NAME: Final = 60
_MOST_NAMES: Final = 1000


class Source(Iterator[Row | BadRow]):
    """Iterate over rows: a `Row` for each good one, a `BadRow` for each faulty one.

    Attributes:
        path: the file's name as it was given, `stdin` for `"-"`.
        paths: the names of its files.
        format: `csv`, `tsv`, `jsonl` or `parquet`; `table` for an object of Python.
        columns: the header's names; for JSONL the keys of the first good row, and other rows may have others.
            A column without a name is called after its position, as `column_3`.
        is_text: whether all values are text.
        is_table: whether each row has a text for each column, as in a CSV.
        delimiter: between the fields of a CSV or TSV; `None` for other formats.
        arrow_types: Arrow's types of columns, in Parquet and Arrow tables; empty for other formats.
        is_marked: whether the file begins with a byte order mark.
        is_broken: whether reading failed half way.
    """

    def __init__(
        self, path: str, kind: SourceFormat, columns: tuple[str, ...], rows: Iterator[Row | BadRow]
    ) -> None:
        self.path: str = path
        self.paths: tuple[str, ...] = (path,)
        self.format: SourceFormat = kind
        self.columns: tuple[str, ...] = columns
        self.is_text: bool = kind in TEXT_TABLES
        self.is_table: bool = kind in TEXT_TABLES
        self.delimiter: str | None = None
        self.arrow_types: Mapping[str, Any] = {}
        self.is_marked: bool = False
        self.is_broken: bool = False
        self._rows = rows

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row | BadRow:
        return next(self._rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the source. Iteration ends."""
        self._rows = iter(())

    @property
    @abstractmethod
    def fraction_read(self) -> float | None:
        """The share read so far, 0 to 1; `None` for a pipe, a terminal or another source without an end."""

    @abstractmethod
    def is_same_file(self, other: os.stat_result) -> bool:
        """Return whether `other` is a file that is read, by any name or link."""

    @abstractmethod
    def survey(self, limit: int | None = None) -> tuple[str, ...]:
        """Return the columns of all rows, as far as they can be known beforehand.

        Args:
            limit: the most rows to read for it.
        """

    @abstractmethod
    def count(self, most: int) -> int | None:
        """Return the number of rows if that is quickly known, else `None`.

        Args:
            most: stop counting after this many; the result may be one more if there are more.
        """

    def row_error(self, row: Row | BadRow, problem: str, *, column: str | None = None) -> InputError:
        """Return an error about a row, with the row's place."""
        return bad_row(self.path, row.number, row.line, problem, column=column).error

    def check(self, read: Callable[[Row | BadRow], object]) -> None:
        """Have rows for which `read` raises an InputError come as bad rows with this error."""

        def checked(row: Row | BadRow) -> Row | BadRow:
            try:
                read(row)
            except InputError as error:
                if isinstance(row, BadRow):
                    return row
                return BadRow(row.number, row.line, error, row.values, row.size)
            return row

        self._rows = map(checked, self._rows)

    def look_ahead(self, names: Iterable[str]) -> set[str]:
        """Return the `names` that are columns, in JSONL and of mappings also of later rows.

        Reads ahead while one is missing, a thousand rows at most; these rows are still yielded later.
        """
        sought = set(names)
        found = sought & set(self.columns)
        if self.format not in _UNEVEN:
            return found
        ahead: list[Row | BadRow] = []
        size = 0
        while found != sought and len(ahead) < _ROWS_AHEAD and size < _SIZE_AHEAD:
            row = next(self, None)
            if row is None:
                break
            ahead.append(row)
            found |= sought & row.values.keys()
            size += row.size
        self._rows = chain(ahead, self._rows)
        return found


def required_columns(source: Source, fields: Iterable[str]) -> None:
    """Check that `source` has a column for each of `fields`.

    A key that only some rows of a JSONL file have is a column, if one of the first thousand has it.

    Raises:
        InputError: at least one is missing; the message names it, the file, and the existing columns.
    """
    wanted = tuple(dict.fromkeys(fields))
    there = source.look_ahead(wanted)
    missing = [name for name in wanted if name not in there]
    if not missing:
        return
    column = missing[0]
    noun = "column" if len(missing) == 1 else "columns"
    message = f"{source.path}: no {noun} {listed(map(repr, map(shorten, missing)))}"
    close = _close_match(column, source.columns)
    if close is not None:
        message += f", did you mean {close!r}?"
    message += f" (it has: {listed(source.columns)})"
    raise InputError(message, path=source.path, column=column)


def _close_match(name: str, columns: Iterable[str]) -> str | None:
    # The search takes quadratic time in a name's length, and long names are rarely mistyped.
    if len(name) > _LONGEST_NAME:
        return None
    short = [column for column in islice(columns, _MOST_NAMES) if len(column) <= _LONGEST_NAME]
    return next(iter(difflib.get_close_matches(name, short, n=1)), None)
