"""Rows of an input file, whole or faulty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchrt.errors import InputError
from batchrt.files.cells import shorten

__all__ = ["BadRow", "EmptyFileError", "Row", "bad_row"]


class EmptyFileError(InputError):
    """A file has neither rows nor columns."""


@dataclass(slots=True)
class Row:
    """One row's values by column name.

    Attributes:
        number: counted from 1; the header and blank lines are not counted.
        line: the line of the file on which the row starts, counted from 1; 0 where there are no lines.
        values: strings for CSV and TSV, JSON's own types for JSONL, Python's for Parquet and Arrow.
        faults: for values that cannot be read, such as NaN in JSON: the error of each, by column. The rest of
            the row can be used.
        size: approximate bytes in the file.
    """

    number: int
    line: int
    values: dict[str, Any]
    faults: Mapping[str, InputError] | None = None
    size: int = field(default=0, compare=False)


@dataclass(slots=True)
class BadRow:
    """A row that cannot be used; the rows after it can.

    Attributes:
        number, line: as for `Row`.
        error: the problem, with file, row and column.
        values: the readable part of the row, so that the output still identifies it.
        size: as for `Row`, of the values.
    """

    number: int
    line: int
    error: InputError
    values: dict[str, Any] = field(default_factory=dict)
    size: int = field(default=0, compare=False)


def bad_row(
    path: str,
    number: int,
    line: int,
    problem: str,
    *,
    column: str | None = None,
    values: dict[str, Any] | None = None,
    size: int = 0,
) -> BadRow:
    """Return a `BadRow` whose error gives position and problem in one line."""
    where = f"{path}, row {number} (line {line})" if line else f"{path}, row {number}"
    if column is not None:
        where += f", column {shorten(column)!r}"
    error = InputError(f"{where}: {problem}", path=path, row=number, column=column)
    return BadRow(number, line, error, values or {}, size)
