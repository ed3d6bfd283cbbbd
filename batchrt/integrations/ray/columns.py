"""Columns of a block: inputs for a chain taken from them, outcomes as new ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeAlias

import pyarrow as pa
from pydantic_core import PydanticSerializationError, to_json

from batchrt.errors import InputError, OutputParserError, ProviderError
from batchrt.messages import Message, text_of_content
from batchrt.runtime.outcome import Outcome

__all__ = ["FACTS", "InputColumns", "InputLike", "OutputColumns", "OutputLike"]

InputLike: TypeAlias = "str | Sequence[str] | Callable[[dict[str, Any]], Any] | None"
"""A column, several of them for a dict, a function of the row as a dict, or the row itself."""
OutputLike: TypeAlias = "str | pa.Field | Iterable[str | pa.Field]"
"""A column for the outputs, or one for each of these fields of theirs."""

FACTS: Final = {
    "error": pa.string(),
    "error_type": pa.string(),
    "error_status": pa.int64(),
    "attempts": pa.int64(),
    "input_tokens": pa.int64(),
    "output_tokens": pa.int64(),
    "cost": pa.float64(),
    "request_id": pa.string(),
}
"""The columns of every outcome, beside its output, and their types."""


class InputColumns:
    """Take the chain's inputs from the columns of a block.

    Args:
        given: see `InputLike`.
    """

    def __init__(self, given: InputLike) -> None:
        self._function = given if callable(given) else None
        self._names: tuple[str, ...] | None = None
        self._single = isinstance(given, str)
        if isinstance(given, str):
            self._names = (given,)
        elif given is not None and not callable(given):
            self._names = tuple(given)

    def check(self, columns: Sequence[str]) -> None:
        """Raise an `InputError` if a column is missing among `columns`."""
        for name in self._names or ():
            if name not in columns:
                has = ", ".join(map(repr, columns))
                raise InputError(
                    f"the dataset has no column {name!r}, which `input` names; it has {has}",
                    column=name,
                    parameter="input",
                )

    def values(self, table: pa.Table) -> list[Any]:
        """Return the input of each row; an exception stands for one that cannot be had."""
        try:
            self.check(table.column_names)
        except InputError as error:
            return [error] * table.num_rows
        if self._single and self._names:
            return list(table[self._names[0]].to_pylist())
        rows = (table if self._names is None else table.select(self._names)).to_pylist()
        return rows if self._function is None else [self._apply(self._function, row) for row in rows]

    def _apply(self, function: Callable[[dict[str, Any]], Any], row: dict[str, Any]) -> Any:
        try:
            return function(row)
        except Exception as error:  # noqa: BLE001  the row's own
            return error


class OutputColumns:
    """Turn outcomes into columns, of types that are the same in each block.

    Args:
        given: see `OutputLike`. Of a column that is named alone the type is found in each block: give a field
            with its type where blocks could differ.
        prefix: stands before the names in `FACTS`.

    Attributes:
        names: all columns.

    Raises:
        ValueError: a name is there twice.
    """

    def __init__(self, given: OutputLike, prefix: str = "") -> None:
        self._single = isinstance(given, str | pa.Field)
        listed: Iterable[str | pa.Field] = [given] if isinstance(given, str | pa.Field) else given
        self._types: dict[str, pa.DataType | None] = {}
        names: list[str] = []
        for each in listed:
            name = each if isinstance(each, str) else each.name
            self._types[name] = None if isinstance(each, str) else each.type
            names.append(name)
        self._prefix = prefix
        names += [prefix + name for name in FACTS]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"two columns would be called {twice[0]!r}: choose other output_columns or a prefix"
            )
        self.names: tuple[str, ...] = tuple(names)

    def check(self, columns: Iterable[str]) -> None:
        """Raise a `ValueError` if one of `columns` would be replaced."""
        taken = sorted(set(columns) & set(self.names))
        if taken:
            raise ValueError(
                f"the dataset has a column {taken[0]!r} already: drop it, or choose other output_columns or "
                "a prefix"
            )

    def added(self, table: pa.Table, outcomes: Sequence[Outcome[Any]]) -> pa.Table:
        """Return `table` with the outcomes of its rows as further columns."""
        found = list(outcomes)
        columns = {name: self._column(name, kind, found) for name, kind in self._types.items()}
        for name, array in columns.items():
            table = table.append_column(name, array)
        facts = [_facts(outcome) for outcome in found]
        for name, kind in FACTS.items():
            table = table.append_column(self._prefix + name, pa.array([fact[name] for fact in facts], kind))
        return table

    def _column(self, name: str, kind: pa.DataType | None, outcomes: list[Outcome[Any]]) -> pa.Array:
        """Return a column of outputs; an outcome whose output does not fit becomes one that failed."""
        values: list[Any] = []
        for index, outcome in enumerate(outcomes):
            value = _plain(outcome.output)
            if not self._single and outcome.error is None:
                if isinstance(value, Mapping):
                    value = value.get(name)
                else:
                    outcomes[index] = _unfit(
                        outcome, f"the output is no mapping with {name!r}, but {value!r:.200}"
                    )
                    value = None
            values.append(value)
        if kind is None:
            return _array_of(values)
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError, ValueError):
            pass
        for index, value in enumerate(values):
            try:
                pa.array([value], kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError, ValueError) as error:
                said = f"the output {value!r:.200} does not fit column {name!r} of type {kind}: {error}"
                outcomes[index] = _unfit(outcomes[index], said)
                values[index] = None
        return pa.array(values, kind)


def _unfit(outcome: Outcome[Any], said: str) -> Outcome[Any]:
    return replace(outcome, output=None, error=OutputParserError(said, text=str(outcome.output)))


def _facts(outcome: Outcome[Any]) -> dict[str, Any]:
    error, usage = outcome.error, outcome.usage
    return {
        "error": None if error is None else _well_formed(str(error)),
        "error_type": None if error is None else type(error).__name__,
        "error_status": error.status if isinstance(error, ProviderError) else None,
        "attempts": outcome.attempts,
        "input_tokens": None if usage is None else usage.input_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
        "cost": outcome.cost,
        "request_id": getattr(error, "request_id", None) or outcome.request_id,
    }


def _plain(value: Any) -> Any:
    """Return a value in the form of a cell: models and data classes as dicts, messages as text."""
    if isinstance(value, str):
        return _well_formed(value)
    if isinstance(value, Message):
        return _well_formed(text_of_content(value.content))
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value


def _array_of(values: list[Any]) -> pa.Array:
    """Return values as a column of the type that all of them have, or else as JSON text."""
    kinds = {type(value) for value in values if value is not None}
    if not any(issubclass(kind, Mapping) for kind in kinds):
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            pass
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return to_json(value, inf_nan_mode="constants", fallback=str).decode()
    except (PydanticSerializationError, UnicodeError):
        return json.dumps(value, default=str)


def _well_formed(text: str) -> str:
    """Return `text` without halves of surrogate pairs, which UTF-8 cannot carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
