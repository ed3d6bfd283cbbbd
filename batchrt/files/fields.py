"""Fields of rows: the values of a row as a prompt takes them, and the text of one column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from batchrt.files.cells import cell, listed
from batchrt.files.rows import BadRow, Row
from batchrt.files.source import Source

__all__ = ["column_text", "field_reader", "prompt_values", "text_reader"]

Fields: TypeAlias = "Mapping[str, Any]"


def field_reader(source: Source, names: tuple[str, ...]) -> Callable[[Row | BadRow], Fields]:
    """Return a function from a row of `source` to its values, in which `names` are as the file has them.

    In JSONL `null`, booleans, lists and objects among them become text as it stands in the file. The function
    raises the InputError of a bad row, and one for a row without a column of `names`.
    """
    if source.is_table:
        return _values_of

    def fields(row: Row | BadRow) -> Fields:
        values = _values_of(row)
        for name in names:
            _value_of(source, row, name)
        return prompt_values(values, names)

    return fields


def prompt_values(values: Fields, names: tuple[str, ...]) -> Fields:
    """Return the values of a row; `null`, booleans, lists and objects among `names` are text."""
    changed: dict[str, Any] = {}
    for name in names:
        value = values[name]
        if value is None or isinstance(value, bool | list | dict):
            changed[name] = cell(value)
    return {**values, **changed} if changed else values


def text_reader(source: Source, column: str) -> Callable[[Row | BadRow], str]:
    """Return a function from a row of `source` to the text in `column`; other values are written as text.

    The function raises InputError for a bad row, and for one that has no text there.
    """

    def text(row: Row | BadRow) -> str:
        value = _value_of(source, row, column)
        if value is not None and value != "":
            return value if isinstance(value, str) else cell(value)
        kind = "null" if value is None else "an empty string"
        problem = f"there is no text ({kind}); leave the row out"
        raise source.row_error(row, problem, column=column)

    return text


def column_text(values: Fields, column: str) -> str:
    """Return the value of a column as text."""
    value = values[column]
    return value if isinstance(value, str) else cell(value)


def _values_of(row: Row | BadRow) -> Fields:
    if isinstance(row, BadRow):
        raise row.error
    return row.values


def _value_of(source: Source, row: Row | BadRow, column: str) -> Any:
    values = _values_of(row)
    if isinstance(row, Row) and row.faults is not None and column in row.faults:
        raise row.faults[column]
    if column not in values:
        problem = f"the row does not have it (it has: {listed(values)})"
        raise source.row_error(row, problem, column=column)
    return values[column]
