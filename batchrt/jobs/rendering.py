"""How a value looks in a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

__all__ = ["cell", "error_line", "json_text", "listed", "shorten", "whole_text"]


def json_text(value: object) -> str:
    """Give `value` as JSON on one line, whatever it is.

    pydantic models, dataclasses, dates and the like are written as pydantic would; NaN and the
    infinities, which JSON lacks, as `null`; what has no JSON form at all as `str()` of it. A
    result has been paid for by the time it is written: it is never refused.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError):
        return _ENCODER.encode(_plain(value, depth=0))


def cell(value: object) -> str:
    """Give `value` as the text of a CSV field: strings as they are, `None` empty, else JSON.

    What is a string in JSON, such as a date, is written without JSON's quotes.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if not isinstance(value, (bool, int, float, Mapping, list, tuple)):
        value = _plain(value, depth=0)
        if isinstance(value, str):
            return value
    return json_text(value)


def whole_text(text: str) -> str:
    """Give `text` as UTF-8 can hold it.

    Two surrogates that make one character are joined, and a lone one, as of an emoji that was cut in two or
    a file name that is not UTF-8, becomes U+FFFD.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def error_line(error: BaseException | str) -> str:
    """Give the error's class and message on one line."""
    if isinstance(error, str):
        return " ".join(error.split())
    message = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def shorten(text: str, most: int = 80) -> str:
    """Give `text` if it has at most `most` characters, else its beginning and its end around `…`."""
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail - 1]}…{text[-tail:]}" if tail else f"{text[: most - 1]}…"


def listed(names: Iterable[str], most: int = 400) -> str:
    """Give `names` with commas between them, in about `most` characters; `none` if there are none."""
    parts: list[str] = []
    size = 0
    rest = iter(names)
    for name in rest:
        if size > most:
            parts.append(f"… {1 + sum(1 for _ in rest):,} more")
            break
        parts.append(shorten(name))
        size += len(parts[-1]) + 2
    return ", ".join(parts) or "none"


# Far deeper than any schema, and less than what the interpreter's stack bears.
_DEEPEST: Final = 100
# Bits. The interpreter does not write longer integers in decimal (its limit is 4,300 digits).
_LONGEST: Final = 14_000


def _plain(value: object, *, depth: int) -> Any:
    """Give `value` as str, number, bool, None, list and dict, all of it finite."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (int, float)):
        return _number(value)
    if depth > _DEEPEST:
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, AbstractSet)):
        return [_plain(item, depth=depth + 1) for item in value]
    return _foreign(value, depth=depth)


def _number(value: float) -> float | str | None:
    if isinstance(value, int):
        return value if value.bit_length() < _LONGEST else hex(value)
    return value if math.isfinite(value) else None


def _key(key: object) -> str:
    return key if isinstance(key, str) else cell(key)


def _foreign(value: object, *, depth: int) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "replace")
    # Late: only jobs whose outputs are objects need it.
    from pydantic_core import to_jsonable_python

    try:
        plain = to_jsonable_python(value)
    except ValueError:  # what pydantic does not know (its error is a ValueError), or cannot encode
        return str(value)
    return _plain(plain, depth=depth + 1)


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, default=lambda value: _plain(value, depth=0)
)
