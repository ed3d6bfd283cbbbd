"""Outcome tables: outcomes, with their inputs, as columns of an Arrow table or a data frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final

from batchrt.messages import Message, text_of_content

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from batchrt.runtime.outcome import Outcome

__all__ = ["OutcomeTable"]

_INTEGER: Final = "integer"
_NUMBER: Final = "number"
_TEXT: Final = "text"
_OWN: Final = {
    "error": _TEXT,
    "attempts": _INTEGER,
    "seconds": _NUMBER,
    "request_seconds": _NUMBER,
    "input_tokens": _INTEGER,
    "output_tokens": _INTEGER,
    "cost": _NUMBER,
    "request_id": _TEXT,
}
"""Columns of every table, after those of inputs and outputs, and their types."""
_INT_BITS: Final = 63


class OutcomeTable:
    """Hold outcomes as columns: the inputs' fields, the outputs', and the facts about each outcome.

    An output that is a mapping, a pydantic model or a data class has a column for each field of its outermost
    level, if all outputs are such; otherwise there is the column `output`. A message is its text. An input
    that is no mapping is the column `input`. A field whose name is taken is called `output_NAME`, or
    `input_NAME` if an outcome's own column has the name.

    Args:
        outcomes: in the order of the rows.
        inputs: those of the outcomes; `None` for a table without them.

    Raises:
        ValueError: there is not one input for each outcome.
    """

    def __init__(self, outcomes: Iterable[Outcome[Any]], inputs: Iterable[Any] | None = None) -> None:
        outcomes = list(outcomes)
        self._rows = len(outcomes)
        self._columns: dict[str, list[Any]] = {}
        if inputs is not None:
            given = list(inputs)
            if len(given) != len(outcomes):
                raise ValueError(f"there are {len(given)} inputs for {len(outcomes)} outcomes")
            self._add_values("input", given)
        self._add_values("output", [each.output for each in outcomes])
        self._add_own(outcomes)

    def _add_values(self, name: str, values: list[Any]) -> None:
        """Add columns for the fields of values, or one column."""
        shown = [_plain(value) for value in values]
        mappings = [value for value in shown if value is not None]
        if not mappings or not all(isinstance(value, Mapping) for value in mappings):
            self._columns[name] = shown
            return
        known = dict.fromkeys(str(key) for value in mappings for key in value)
        taken = {*_OWN, *self._columns}
        for field in known:
            column = f"{name}_{field}" if field in taken else field
            while column in self._columns:
                column += "_"
            self._columns[column] = [None if value is None else value.get(field) for value in shown]

    def _add_own(self, outcomes: list[Outcome[Any]]) -> None:
        self._columns["error"] = [_error_text(each.error) for each in outcomes]
        for name in ("attempts", "seconds", "request_seconds"):
            self._columns[name] = [getattr(each, name) for each in outcomes]
        for name in ("input_tokens", "output_tokens"):
            self._columns[name] = [each.usage and getattr(each.usage, name) for each in outcomes]
        for name in ("cost", "request_id"):
            self._columns[name] = [getattr(each, name) for each in outcomes]

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table.

        A column has one type: values of several types, lists of other things than numbers, and objects are
        JSON text.

        Raises:
            ImportError: pyarrow is not installed.
        """
        try:
            import pyarrow as pa
        except ImportError as error:
            raise ImportError("an Arrow table needs pyarrow: install batchrt[parquet]") from error
        types = {
            _TEXT: pa.string(),
            _INTEGER: pa.int64(),
            _NUMBER: pa.float64(),
            "boolean": pa.bool_(),
            "bytes": pa.binary(),
            "vector": pa.list_(pa.float64()),
        }
        arrays = {}
        for name, values in self._columns.items():
            kind = _OWN.get(name) or _kind_of(values)
            kept = [_text(value) for value in values] if kind == _TEXT else values
            arrays[name] = pa.array(kept, types[kind])
        return pa.table(arrays)

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame; lists and objects stay those of Python, and numbers may be missing.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("a data frame needs pandas: install batchrt[pandas]") from error
        types = {_INTEGER: "Int64", "boolean": "boolean", _NUMBER: "float64"}
        series = {}
        for name, values in self._columns.items():
            kind = _OWN.get(name) or _kind_of(values)
            series[name] = pd.Series(values, dtype=types.get(kind, "object"))
            if kind == _TEXT and all(value is None or isinstance(value, str) for value in values):
                series[name] = pd.Series(list(map(_text, values)), dtype="string")
        return pd.DataFrame(series, index=range(self._rows))


def _plain(value: Any) -> Any:
    """Return a value in the form of a cell: models and data classes as dicts, messages as text."""
    if isinstance(value, Message):
        return text_of_content(value.content)
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value


def _kind_of(values: list[Any]) -> str:
    """Return the type that all values have, and `text` for none."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int} and all(value is None or value.bit_length() <= _INT_BITS for value in values):
        return _INTEGER
    if kinds and kinds <= {int, float} and float in kinds and _are_doubles(values):
        return _NUMBER
    if kinds == {bytes}:
        return "bytes"
    return "vector" if kinds == {list} and all(map(_is_vector, values)) else _TEXT


def _are_doubles(values: list[Any]) -> bool:
    return all(type(value) is not int or value.bit_length() <= _INT_BITS for value in values)


def _is_vector(value: Any) -> bool:
    return value is None or (
        bool(value) and {float, int} >= {type(number) for number in value} and _are_doubles(value)
    )


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else _json(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _json(value: Any) -> str:
    from pydantic_core import PydanticSerializationError, to_json

    try:
        return to_json(value, inf_nan_mode="constants", fallback=str).decode()
    except (PydanticSerializationError, UnicodeError):
        return json.dumps(value, default=str)


def _error_text(error: Exception | None) -> str | None:
    if error is None:
        return None
    name = getattr(error, "kind", None) or type(error).__name__  # a recorded error has the name of its class
    message = str(error)
    return f"{name}: {message}" if message else str(name)
