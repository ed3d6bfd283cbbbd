"""Partial JSON: the value in a model's answer that is still being streamed.

pydantic's reader (jiter) does the reading. It keeps a number that is cut off as if it were whole (of `1250`
it gives 1, 12 and 125) and fails at raw line breaks in strings; both are put right here.
"""

from __future__ import annotations

import re
from typing import Any, Final

from batchrt.runnables.embedded_json import partial_candidate

__all__ = ["NOTHING", "PartialJSON"]

NOTHING: Final = object()
"""Stands for no value yet; JSON has `null`."""

_CUT_NUMBER: Final = re.compile(r"(?<=[\s:,\[])-?\d[-+.\dEe]*\Z")
_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_FINE: Final = 16_384
"""Characters up to which every chunk is read; of longer texts only each 1/4096 more is, so that the work for
an answer of a megabyte is some seconds and not some minutes."""


class PartialJSON:
    """Read JSON that grows.

    Attributes:
        text: the text so far.
    """

    __slots__ = ("_last", "_parts", "_read", "_size", "text")

    def __init__(self) -> None:
        self.text: str = ""
        self._parts: list[str] = []
        self._size = self._read = 0
        self._last: Any = NOTHING

    def add(self, text: str) -> Any:
        """Return the value so far with more of the text; `NOTHING` if there is none, or nothing new."""
        self._parts.append(text)
        self._size += len(text)
        if self._size > _FINE and self._size - self._read < self._size // 4096:
            return NOTHING
        self._read = self._size
        value = _value(self.whole())
        if value is NOTHING or _same(value, self._last):
            return NOTHING
        self._last = value
        return value

    def whole(self) -> str:
        """Return the text so far."""
        self.text += "".join(self._parts)
        self._parts.clear()
        return self.text

    def differs(self, value: Any) -> bool:
        """Whether `value` is not the one that was returned last."""
        return not _same(value, self._last)


def _same(value: Any, other: Any) -> bool:
    # 1 == True, but they are different values in JSON.
    return type(value) is type(other) and value == other and repr(value) == repr(other)


def _value(text: str) -> Any:
    candidate = partial_candidate(text)
    if candidate is None:
        return NOTHING
    return _read(_CUT_NUMBER.sub("", candidate))


def _read(text: str) -> Any:
    from pydantic_core import from_json

    for attempt in (text, None):
        if attempt is None:
            attempt = _STRINGS.sub(_escaped, text)  # noqa: PLW2901  models leave raw line breaks in strings
        try:
            return from_json(attempt, allow_partial="trailing-strings", cache_strings="keys")
        except ValueError:
            continue
    return NOTHING


def _escaped(string: re.Match[str]) -> str:
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", string.group())
