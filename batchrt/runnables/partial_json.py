"""Partial JSON: the value in a model's answer that is still being streamed.

pydantic's reader (jiter) does the reading. It keeps a number that is cut off as if it were whole (of `1250`
it gives 1, 12 and 125) and fails at raw line breaks in strings; both are put right here.
"""

from __future__ import annotations

import re
from typing import Any, Final

from batchrt.runnables.embedded_json import AnswerStart

__all__ = ["NOTHING", "PartialJSON"]

NOTHING: Final = object()
"""Stands for no value yet; JSON has `null`."""

_CUT_NUMBER: Final = re.compile(r"(?<=[\s:,\[])-?\d[-+.\dEe]*\Z")
_LONGEST_NUMBER: Final = 400
"""Characters at the end in which a number is looked for; a float has at most 325."""
_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_FINE: Final = 16_384
"""Characters up to which every chunk is read. A longer text is read when it has grown by 1/1024: some
thousand times in all, so that the work for an answer of a megabyte is seconds and not minutes."""


class PartialJSON:
    """Read JSON that grows."""

    __slots__ = ("_answer", "_last", "_parts", "_read", "_size", "_text")

    def __init__(self) -> None:
        self._answer = AnswerStart()
        self._text = ""
        self._parts: list[str] = []
        self._size = self._read = 0
        self._last: Any = NOTHING

    def add(self, text: str) -> Any:
        """Return the value so far with more of the text; `NOTHING` if there is none, or nothing new."""
        self._parts.append(text)
        self._size += len(text)
        if self._size > _FINE and self._size - self._read < self._size // 1024:
            return NOTHING
        self._read = self._size
        whole = self.whole()
        start = self._answer.find(whole)
        value = NOTHING if start < 0 else _value(whole[start:])
        if value is NOTHING or not self.differs(value):
            return NOTHING
        self._last = value
        return value

    def whole(self) -> str:
        """Return the text so far."""
        self._text = "".join((self._text, *self._parts))
        self._parts.clear()
        return self._text

    def differs(self, value: Any) -> bool:
        """Whether `value` is not the one that was returned last."""
        return type(value) is not type(self._last) or bool(value != self._last)


def _value(text: str) -> Any:
    tail = _CUT_NUMBER.sub("", text[-_LONGEST_NUMBER:])
    return _read(text[:-_LONGEST_NUMBER] + tail)


def _read(text: str) -> Any:
    from pydantic_core import from_json

    try:
        return from_json(text, allow_partial="trailing-strings", cache_strings="keys")
    except ValueError:
        pass
    try:  # models leave raw line breaks in strings
        return from_json(_STRINGS.sub(_escaped, text), allow_partial="trailing-strings")
    except ValueError:
        return NOTHING


def _escaped(string: re.Match[str]) -> str:
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", string.group())
