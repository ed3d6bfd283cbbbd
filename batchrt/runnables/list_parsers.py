"""Parsers of lists: from a model's text to a list of texts."""

from __future__ import annotations

import csv
import re
from typing import Final

from batchrt.runnables.parsers import BaseOutputParser

__all__ = ["CommaSeparatedListOutputParser", "MarkdownListOutputParser", "NumberedListOutputParser"]

_NUMBERED: Final = re.compile(r"^[ \t]*\d+[.)][ \t]+(.+?)[ \t]*$", re.MULTILINE)
_BULLET: Final = re.compile(r"^[ \t]*[-*+][ \t]+(.+?)[ \t]*$", re.MULTILINE)


class _ListParser(BaseOutputParser[list[str]]):
    OutputType = list[str]
    _instructions = ""

    def get_format_instructions(self) -> str:
        """Return instructions for a prompt that make the model answer in this form."""
        return self._instructions


class CommaSeparatedListOutputParser(_ListParser):
    """Return the elements of a list with commas; those in double quotes may hold commas themselves.

    Line breaks separate as commas do; empty elements are left out.
    """

    _instructions = "Answer with a list of values that are separated by commas, such as: one, two, three"

    def parse(self, text: str) -> list[str]:
        """Return the elements of the list in `text`."""
        rows = csv.reader(text.splitlines(), skipinitialspace=True)
        return [element for row in rows for element in map(str.strip, row) if element]


class NumberedListOutputParser(_ListParser):
    """Return the elements of a numbered list, one a line: `1. first`. Other lines are left out."""

    _instructions = "Answer with a numbered list, one element a line, such as:\n1. one\n2. two"

    def parse(self, text: str) -> list[str]:
        """Return the elements of the list in `text`."""
        return _NUMBERED.findall(text)


class MarkdownListOutputParser(_ListParser):
    """Return the elements of a Markdown list, one a line: `- first`, `* first`. Other lines are left out."""

    _instructions = "Answer with a Markdown list, one element a line, such as:\n- one\n- two"

    def parse(self, text: str) -> list[str]:
        """Return the elements of the list in `text`."""
        return _BULLET.findall(text)
