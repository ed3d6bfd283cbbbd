"""What of a row is embedded, and what is kept beside its vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from batchrt.cli.entries import Entry, without_traces
from batchrt.errors import InputError
from batchrt.files import BadRow, Row
from batchrt.files.cells import cell, listed
from batchrt.files.rows import bad_row

__all__ = ["ID", "Text", "text_reader"]

ID: Final = "id"
"""What the ids are called in the output, whatever their column's name."""


class Text(NamedTuple):
    """Hold a row's text.

    Attributes:
        entry: the row; of its values only the id is left.
        text: what to embed; empty if the entry has an error.
    """

    entry: Entry
    text: str


def text_reader(path: str, column: str, id_column: str | None) -> Callable[[Entry], Text]:
    """Return what takes the text out of a row.

    A row that has none gets its error. The rest of the row is let go of: many rows wait for a list to be
    full, and then for its answer.

    Args:
        path: of the input, for the errors.
        column: where the text is.
        id_column: where the id is; the row's number is the id if there is no such column.
    """

    def read(entry: Entry) -> Text:
        row = entry.row
        text = ""
        try:
            text = _text(path, row, column)
        except InputError as error:
            entry.error = without_traces(error)
        kept = row.number if id_column is None else row.values.get(id_column)
        entry.row = Row(row.number, row.line, {ID: kept})
        return Text(entry, text)

    return read


def _text(path: str, row: Row | BadRow, column: str) -> str:
    """Return what is in the row's column; what is no string as it stands in the file.

    Raises:
        InputError: there is nothing.
    """
    if isinstance(row, BadRow):
        raise row.error
    if row.faults is not None and column in row.faults:
        raise row.faults[column]
    value: Any = row.values.get(column)
    if value is not None and value != "":
        return value if isinstance(value, str) else cell(value)
    if column not in row.values:
        problem = f"the row does not have it (it has: {listed(row.values)})"
    else:
        problem = f"there is no text ({'null' if value is None else 'an empty string'}); leave the row out"
    raise bad_row(path, row.number, row.line, problem, column=column).error
