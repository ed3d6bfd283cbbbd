"""Parsers of lists in a model's text."""

from __future__ import annotations

from typing import Any

import pytest

from batchrt import (
    AIMessage,
    BaseOutputParser,
    CommaSeparatedListOutputParser,
    MarkdownListOutputParser,
    NumberedListOutputParser,
)
from tests.runnables.helpers import everyway, raises_everyway

pytestmark = pytest.mark.anyio

COMMAS, NUMBERS, BULLETS = (
    CommaSeparatedListOutputParser(),
    NumberedListOutputParser(),
    MarkdownListOutputParser(),
)


@pytest.mark.parametrize(
    ("parser", "text", "elements"),
    [
        (COMMAS, "a, b,c", ["a", "b", "c"]),
        (COMMAS, '"a, with b", c', ["a, with b", "c"]),
        (COMMAS, "a,\nb\n\nc,", ["a", "b", "c"]),
        (COMMAS, "", []),
        (COMMAS, 'a, "open', ["a", "open"]),
        (NUMBERS, "Here:\n1. one\n 2) two \n10.\tten\nThat is all. 3. no", ["one", "two", "ten"]),
        (NUMBERS, "1.5 is a number", []),
        (BULLETS, "Here:\n- one\n  * two, three \n+ four\n-five\n---", ["one", "two, three", "four"]),
        (BULLETS, "", []),
    ],
)
async def test_list_parser_returns_the_elements(
    parser: BaseOutputParser[list[str]], text: str, elements: list[str]
) -> None:
    """Of a text or a message; its instructions describe a list that it reads."""
    assert await everyway(parser, text) == elements
    assert await everyway(parser, AIMessage(text)) == elements
    assert len(parser.parse(parser.get_format_instructions().partition(":")[2])) >= 2


class Upper(BaseOutputParser[str]):
    """A parser of a user's own."""

    def __init__(self, end: str) -> None:
        self.end = end

    def parse(self, text: str) -> str:
        if not text:
            raise LookupError("empty")
        return text.upper() + self.end


async def test_base_output_parser_needs_parse_alone() -> None:
    """Its attributes and code are described."""
    assert await everyway(Upper("!"), AIMessage("a")) == "A!"
    await raises_everyway(Upper("!"), "", LookupError, "empty")
    assert Upper("!").describe().parts == Upper("!").describe().parts != Upper("?").describe().parts
    with pytest.raises(NotImplementedError, match="Upper has no format instructions"):
        Upper("!").get_format_instructions()


async def test_base_output_parser_takes_nothing_but_text() -> None:
    """Anything else is the item's error."""
    wrong: Any = 5
    await raises_everyway(Upper("!"), wrong, TypeError, "message or a string")
