"""The JSON in what a model says: behind its thoughts, in a Markdown fence, between words; or all of it.

A model's text may be as long as its limit allows and say anything, and it is read on the event loop. So
it is scanned with searches that go forward only: no regular expression whose work could grow with the
square of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

__all__ = ["NotJSONError", "candidates", "first_fitting"]

T = TypeVar("T")

_TAGS: Final = "think|thinking|thought|thoughts|reasoning|reason|reflection|analysis|scratchpad|seed:think"
# Alternatives of fixed texts: each place of a text is looked at for as long as the longest of them.
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
"""Characters after a fence's marks up to the end of its line."""
_MOST_FENCES: Final = 32
_MOST_BRACKETS: Final = 64


class NotJSONError(ValueError):
    """Say that a candidate is no JSON at all, as against JSON that does not fit."""


def first_fitting(text: str, read: Callable[[str], T]) -> T:
    """Return what `read` makes of the first candidate in `text` that it takes.

    Raises:
        ValueError: `read` takes none. It is the error about the first one that is JSON; where none is, a
            NotJSONError about the last one.
    """
    telling: ValueError | None = None
    for candidate in candidates(text):
        try:
            return read(candidate)
        except ValueError as error:
            if telling is None or isinstance(telling, NotJSONError):
                telling = error
    assert telling is not None
    raise telling


def candidates(text: str) -> Iterator[str]:
    """Yield what may be the JSON that a model answered with, likeliest first; the whole text to begin with.

    An answer that was cut off is not mended into another one: a draft among the thoughts, or a part of
    what was begun, is no candidate.
    """
    yield text
    ends = [found.end() for found in _THOUGHT_ENDS.finditer(text)]
    if not ends:
        if _THOUGHT_BEGINS.match(text, _start_of(text)) is None:
            yield from _framed(text)
        return
    # A string in the JSON may have such a mark in it: then it is the first one that ends the thoughts.
    for end in dict.fromkeys((ends[-1], ends[0])):
        answer = text[end:]
        yield answer
        yield from _framed(answer)


def _start_of(text: str) -> int:
    return len(text) - len(text.lstrip())


def _framed(text: str) -> Iterator[str]:
    """Yield what stands in fences, and what stands between the first bracket and its last counterpart."""
    for marks in _FENCES:
        yield from _fenced(text, marks)
    start = _first_value(text)
    if start >= 0:
        end = text.rfind("}" if text[start] == "{" else "]")
        if end > start and (start, end + 1) != (0, len(text)):
            yield text[start : end + 1]


def _fenced(text: str, marks: str) -> Iterator[str]:
    """Yield the contents of closed fences; one that is left open says that the answer was cut off."""
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


def _first_value(text: str) -> int:
    """Return where a JSON object or list seems to begin; -1 for nowhere.

    Brackets of prose are passed over, as those of "[see below]". The first one that opens as JSON does is
    it: what stands behind would be a part of it.
    """
    brace, bracket = text.find("{"), text.find("[")
    for _ in range(_MOST_BRACKETS):
        starts = [start for start in (brace, bracket) if start >= 0]
        if not starts:
            return -1
        start = min(starts)
        if _opens_value(text, start):
            return start
        # Only the one that is passed over is searched for again: each search begins where the last ended.
        if start == brace:
            brace = text.find("{", start + 1)
        else:
            bracket = text.find("[", start + 1)
    return -1


_NEAR: Final = 256
"""Blanks after a bracket that are looked over: line breaks and an indentation."""


def _opens_value(text: str, start: int) -> bool:
    inside = text[start + 1 : start + 1 + _NEAR].lstrip()
    if not inside:
        return True  # nothing but blanks
    if text[start] == "{":
        return inside[0] in "\"}'"
    return inside[0] in "\"{[]-'" or inside[0].isdecimal() or inside.startswith(("true", "false", "null"))
