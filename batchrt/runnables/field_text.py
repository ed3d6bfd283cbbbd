"""How a value looks in a prompt, and in the field of a file."""

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
"""Levels of lists and dicts in one another: far more than data has, and less than the stack bears."""
_LONGEST: Final = 14_000
"""Bits. The interpreter does not write longer integers in decimal (its limit is 4,300 digits)."""


def field_text(value: object) -> str:
    """Return `value` as words, for a prompt or a file: strings as they are, what is missing empty, else JSON.

    Missing are `None`, NaN and pandas' `NaT` and `NA`; of a message it is the text; what is a string in
    JSON, such as a date, is written without JSON's quotes; what has no JSON form is `str()` of it.
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
    """Return `value` as JSON on one line, whatever it is.

    pydantic models, dataclasses, dates and the like are written as pydantic would; NaN and the
    infinities, which JSON lacks, as `null`; what has no JSON form at all as `str()` of it. A
    result has been paid for by the time it is written: it is never refused.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError):
        return _ENCODER.encode(_plain(value, 0))


def is_missing(value: object) -> bool:
    """Whether `value` stands for nothing: `None`, NaN of any kind of number, pandas' `NaT` and `NA`."""
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
"""numpy's, which may be `NaT`."""


def _plain(value: object, depth: int) -> Any:
    """Return `value` as str, number, bool, None, list and dict, all of it finite."""
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
    # Late: only rows that hold objects need it.
    from pydantic_core import to_jsonable_python

    try:
        plain = to_jsonable_python(value)
    except ValueError:  # what pydantic does not know (its error is a ValueError), or cannot encode
        return str(value)
    return _plain(plain, depth + 1)


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, default=lambda value: _plain(value, 0)
)
