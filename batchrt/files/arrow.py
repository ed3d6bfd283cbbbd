"""Arrow: the library, imported when it is needed, and its values as Python's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

__all__ = ["pyarrow", "python_values", "restored", "storable"]


def pyarrow(use: str = "a .parquet file", instead: str = "") -> Any:
    """Return pyarrow, with its `parquet`.

    Args:
        use: for what it is needed, for the error.
        instead: what else could be done.

    Raises:
        ImportError: it is not installed; the message names the extra to install.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{use} needs pyarrow: install batchrt[parquet]{instead}") from error
    return pa


def python_values(array: Any) -> tuple[list[Any], dict[int, str]]:
    """Return an Arrow array's values as Python objects, and the faults of inconvertible ones by position.

    Dates and times are Python's, which have microseconds: a column with nanoseconds that are not zero is text
    (ISO 8601), and inside of lists and structs they are cut. The entries of a map are pairs.
    """
    pa = pyarrow()
    target = _in_microseconds(pa, array.type)
    try:
        if target != array.type:
            array = _cast(pa, array, target)
        return array.to_pylist(), {}
    except (ValueError, TypeError, OverflowError, ArithmeticError, LookupError, pa.ArrowException):
        return _one_by_one(pa, array)


def _one_by_one(pa: Any, array: Any) -> tuple[list[Any], dict[int, str]]:
    """Return the values of an array of which some have no form in Python."""
    values: list[Any] = []
    faults: dict[int, str] = {}
    for position, scalar in enumerate(array):
        try:
            values.append(scalar.as_py())
        except UnicodeDecodeError:
            values.append(None)
            faults[position] = "the text is not UTF-8; correct it where the file is made"
        except (
            ValueError,
            TypeError,
            OverflowError,
            ArithmeticError,
            LookupError,
            pa.ArrowException,
        ) as error:
            values.append(None)
            faults[position] = f"the value cannot be read: {' '.join(str(error).split())}"
    return values, faults


def _cast(pa: Any, array: Any, target: Any) -> Any:
    try:
        return array.cast(target)
    except pa.ArrowInvalid:
        if not pa.types.is_timestamp(array.type):
            return array.cast(target, safe=False)
        texts = array.cast(pa.string()).to_pylist()
        return pa.array([None if text is None else text.replace(" ", "T", 1) for text in texts], pa.string())


def _in_microseconds(pa: Any, kind: Any) -> Any:
    """Return a type with microseconds in place of nanoseconds, which Python's times do not have."""
    types = pa.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    return _with_inner(pa, kind, lambda inner: _in_microseconds(pa, inner))


def _with_inner(pa: Any, kind: Any, change: Callable[[Any], Any]) -> Any:
    """Return a nested type with each inner type changed."""
    types = pa.types
    if types.is_struct(kind):
        return pa.struct([field.with_type(change(field.type)) for field in kind])
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)), kind.list_size)
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(change(kind.value_type)))
    return kind


def storable(kind: Any) -> Any:
    """Return a type that Parquet can store for values of `kind`: views are texts and bytes as others are."""
    pa = pyarrow()
    types = pa.types
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_run_end_encoded(kind):
        return storable(kind.value_type)
    if types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, storable(kind.value_type), ordered=kind.ordered)
    return _with_inner(pa, kind, storable)


def restored(value: Any, kind: Any) -> Any:
    """Return a value of which the times and decimals are text, as JSON has them, in its type."""
    pa = pyarrow()
    types = pa.types
    if isinstance(value, str):
        return _restored_text(pa, value, kind)
    if isinstance(value, dict) and types.is_struct(kind):
        return {field.name: restored(value.get(field.name), field.type) for field in kind}
    if isinstance(value, list | tuple) and (
        types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    ):
        return [restored(each, kind.value_type) for each in value]
    if isinstance(value, list | tuple) and types.is_map(kind):
        return [(restored(key, kind.key_type), restored(item, kind.item_type)) for key, item in value]
    return value


def _restored_text(pa: Any, text: str, kind: Any) -> Any:
    types = pa.types
    if types.is_string(kind):
        return text
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return text.encode("utf-8", "surrogateescape")
    if types.is_time(kind):
        return dt.time.fromisoformat(text)
    if types.is_duration(kind):
        from pydantic import TypeAdapter

        return TypeAdapter(dt.timedelta).validate_python(text)
    return pa.scalar(text).cast(kind)
