"""Field text: a value as text, for prompts and for the fields of files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from numbers import Number
from typing import Any, Final

from batchrt.messages import Message, text_of_content

__all__ = ["field_text", "is_missing", "json_text"]

_DEEPEST: Final = 100
"""Levels of nested lists and dicts: far more than data has, and safe for the interpreter's stack."""
_LONGEST: Final = 14_000
"""Bits. The interpreter refuses to write longer integers in decimal (its limit is 4,300 digits)."""


def field_text(value: object) -> str:
    """Return `value` as text for a prompt or a file: strings unchanged, missing values empty, else JSON.

    Missing values are `None`, NaN and pandas' `NaT` and `NA`. A message is its text. A value that is a string
    in JSON, such as a date, has no quotes. A value without a JSON form is its `str()`.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if type(value) is int and value.bit_length() < _LONGEST:
        return str(value)
    if is_missing(value) or (isinstance(value, float) and math.isinf(value)):
        return ""
    if isinstance(value, Message):
        return text_of_content(value.content)
    if not isinstance(value, bool | int | float | Mapping | list | tuple):
        value = _plain(value, 0)
        if isinstance(value, str):
            return value
    return json_text(value)


def json_text(value: object) -> str:
    """Return any `value` as JSON on one line.

    pydantic models, dataclasses, dates and the like are written as pydantic writes them; NaN and the
    infinities, which JSON lacks, as `null`; a value without a JSON form as its `str()`. No value is refused:
    a result has been paid for by the time it is written.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError):
        return _ENCODER.encode(_plain(value, 0))


def is_missing(value: object) -> bool:
    """Return whether `value` is missing: `None`, NaN of any kind of number, pandas' `NaT` and `NA`."""
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    name = type(value).__name__
    if name in _MISSING:
        return True
    try:
        return (isinstance(value, Number) or name in _TIMES) and bool(value != value)  # noqa: PLR0124  only NaN is
    except (ArithmeticError, TypeError, ValueError):  # a signalling NaN
        return True


_MISSING: Final = frozenset(("NAType", "NaTType"))
_TIMES: Final = frozenset(("datetime64", "timedelta64"))
"""numpy's types with a `NaT`."""


def _plain(value: object, depth: int) -> Any:
    """Return `value` built of str, bool, None, list, dict and finite numbers."""
    if isinstance(value, bool | str):
        return value if isinstance(value, bool) else str.__str__(value)
    if is_missing(value):
        return None
    if isinstance(value, int | float):
        return _number(value)
    return str(value) if depth > _DEEPEST else _inner(value, depth)


def _number(value: float) -> float | str | None:
    if isinstance(value, int):
        return int(value) if value.bit_length() < _LONGEST else hex(value)
    return float(value) if math.isfinite(value) else None


def _inner(value: object, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {field_text(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | AbstractSet):
        return [_plain(item, depth + 1) for item in value]
    return _foreign(value, depth)


def _foreign(value: object, depth: int) -> Any:
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    # Imported late: only rows that hold objects need it.
    from pydantic_core import to_jsonable_python

    try:
        plain = to_jsonable_python(value)
    except ValueError:  # a type unknown to pydantic (its error is a ValueError), or not encodable
        return str(value)
    return _plain(plain, depth + 1)


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, default=lambda value: _plain(value, 0)
)
