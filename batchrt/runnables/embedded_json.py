"""JSON embedded in a model's text: behind its thoughts, in a Markdown fence, between words; or all of it.

The text may be as long as the model's output limit, with any contents, and it is read on the event loop.
So all searches go forward only: no regular expression may take time quadratic in the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

__all__ = ["AnswerStart", "NotJSONError", "candidates", "first_fitting"]

T = TypeVar("T")

_TAGS: Final = "think|thinking|thought|thoughts|reasoning|reason|reflection|analysis|scratchpad|seed:think"
# Alternatives of fixed strings: the work at each position is bounded by the longest of them.
_THOUGHT_ENDS: Final = re.compile(
    rf"</(?:{_TAGS})>"  # DeepSeek R1, Qwen 3, GLM, Seed and many others
    r"|\[/THINK\]"  # Magistral
    r"|◁/think▷"  # Kimi
    r"|<\|channel\|>final<\|message\|>"  # gpt-oss (Harmony)
    r"|<\|END_THINKING\|>"  # Command A Reasoning
    r"|<\|end_of_thought\|>",
    re.IGNORECASE,
)
_THOUGHT_BEGINS: Final = re.compile(
    rf"<(?:{_TAGS})>|\[THINK\]|◁think▷|<\|channel\|>analysis|<\|START_THINKING\|>|<\|begin_of_thought\|>",
    re.IGNORECASE,
)
_FENCES: Final = ("```", "~~~")
_LONGEST_INFO: Final = 64
"""Characters of a fence's info string, up to the end of its line."""
_MOST_FENCES: Final = 32
_MOST_BRACKETS: Final = 64


class NotJSONError(ValueError):
    """Report that a candidate is not JSON at all, as opposed to JSON that does not fit."""


def first_fitting(text: str, read: Callable[[str], T]) -> T:
    """Return `read(candidate)` for the first candidate in `text` that `read` accepts.

    Raises:
        ValueError: `read` rejects all. The error is that of the first candidate that is JSON or, if none
            is, the NotJSONError of the last one.
    """
    reported: ValueError | None = None
    for candidate in candidates(text):
        try:
            return read(candidate)
        except ValueError as error:
            if reported is None or isinstance(reported, NotJSONError):
                reported = error
    assert reported is not None
    raise reported


def candidates(text: str) -> Iterator[str]:
    """Yield substrings that may be the model's JSON answer, likeliest first, beginning with the whole text.

    A truncated answer is not repaired into a different one: neither a draft among the thoughts nor a part
    of an unfinished value is a candidate.
    """
    yield text
    ends = [found.end() for found in _THOUGHT_ENDS.finditer(text)]
    if not ends:
        if _THOUGHT_BEGINS.match(text, _start_of(text)) is None:
            yield from _framed(text)
        return
    # A string in the JSON may contain such a mark; then the first mark ends the thoughts.
    for end in dict.fromkeys((ends[-1], ends[0])):
        answer = text[end:]
        yield answer
        yield from _framed(answer)


_LONGEST_MARK: Final = 64
"""Characters of the longest mark around thoughts, and more."""


class AnswerStart:
    """Find where the JSON object or list begins in an answer that grows; marks are searched for once."""

    __slots__ = ("_begin", "_searched")

    def __init__(self) -> None:
        self._begin = 0
        self._searched = 0

    def find(self, text: str) -> int:
        """Return the index, or -1 as long as there is none; `text` begins with the one of the last call."""
        for end in _THOUGHT_ENDS.finditer(text, max(self._begin, self._searched - _LONGEST_MARK)):
            self._begin = end.end()
        self._searched = len(text)
        if not self._begin and _THOUGHT_BEGINS.match(text, _start_of(text)) is not None:
            return -1
        return _first_value(text, self._begin)


def _start_of(text: str) -> int:
    return len(text) - len(text.lstrip())


def _framed(text: str) -> Iterator[str]:
    """Yield the contents of fences, then the text from the first bracket to its last counterpart."""
    for marks in _FENCES:
        yield from _fenced(text, marks)
    start = _first_value(text)
    if start >= 0:
        end = text.rfind("}" if text[start] == "{" else "]")
        if end > start and (start, end + 1) != (0, len(text)):
            yield text[start : end + 1]


def _fenced(text: str, marks: str) -> Iterator[str]:
    """Yield the contents of closed fences; an open fence means that the answer was cut off."""
    place = 0
    for _ in range(_MOST_FENCES):
        opening = text.find(marks, place)
        if opening < 0:
            return
        line = opening + len(marks)
        info = text[line : line + _LONGEST_INFO]
        end_of_line = info.find("\n")
        if end_of_line < 0 or not _is_info(info[:end_of_line]):
            place = line
            continue
        closing = text.find(marks, line + end_of_line)
        if closing < 0:
            return
        yield text[line + end_of_line : closing].strip()
        place = closing + len(marks)


def _is_info(info: str) -> bool:
    return not info.strip() or info.strip().isalnum()


def _first_value(text: str, place: int = 0) -> int:
    """Return the index where a JSON object or list seems to begin, at `place` or behind it, or -1.

    Brackets in prose, as in "[see below]", are skipped. The first bracket that opens like JSON counts: any
    later one would be inside its value.
    """
    brace, bracket = text.find("{", place), text.find("[", place)
    for _ in range(_MOST_BRACKETS):
        starts = [start for start in (brace, bracket) if start >= 0]
        if not starts:
            return -1
        start = min(starts)
        if _opens_value(text, start):
            return start
        # Only the skipped kind is searched again: each search begins where its last one ended.
        if start == brace:
            brace = text.find("{", start + 1)
        else:
            bracket = text.find("[", start + 1)
    return -1


_NEAR: Final = 256
"""Characters of white space to skip after a bracket: line breaks and an indentation."""


def _opens_value(text: str, start: int) -> bool:
    inside = text[start + 1 : start + 1 + _NEAR].lstrip()
    if not inside:
        return True  # nothing but white space
    if text[start] == "{":
        return inside[0] in "\"}'"
    return inside[0] in "\"{[]-'" or inside[0].isdecimal() or inside.startswith(("true", "false", "null"))
