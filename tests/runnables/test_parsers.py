from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from batchrt import (
    AIMessage,
    HumanMessage,
    JsonOutputParser,
    OutputParserError,
    PydanticOutputParser,
    StrOutputParser,
)
from tests.runnables.helpers import everyway, raises_everyway

pytestmark = pytest.mark.anyio


class Answer(BaseModel):
    number: int
    words: list[str] = []


@pytest.mark.parametrize(
    "output",
    [
        "hi",
        AIMessage("hi"),
        HumanMessage("hi"),
        AIMessage([{"type": "text", "text": "h"}, {"type": "image_url"}, {"type": "text", "text": "i"}]),
    ],
)
async def test_str_parser_returns_the_text_of_a_model_output(output: Any) -> None:
    """A string is its own text; the parts of a message are joined."""
    assert await everyway(StrOutputParser(), output) == "hi"


async def test_parser_refuses_other_inputs() -> None:
    """The error names the type that it received."""
    await raises_everyway(StrOutputParser(), 3, TypeError, "not int")


@pytest.mark.parametrize(
    "parser", [StrOutputParser(), JsonOutputParser(), PydanticOutputParser(pydantic_object=Answer)]
)
async def test_parser_raises_for_a_refusal(parser: Any) -> None:
    """The error has the model's words; a refusal beside an answer is no error."""
    with pytest.raises(OutputParserError, match="the model refused: I cannot") as caught:
        await parser.ainvoke(AIMessage("", refusal="I cannot"))
    assert caught.value.text == "I cannot"
    answered = AIMessage('{"number": 1}', refusal="but")
    assert await StrOutputParser().ainvoke(answered) == '{"number": 1}'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("  [1, 2]\n", [1, 2]),
        ('"text"', "text"),
        ("3", 3),
        ("null", None),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('```\n{"a": 1}\n```', {"a": 1}),
        ('```JSON\r\n{"a": 1}\r\n```', {"a": 1}),
        ('```json{"a": 1}```', {"a": 1}),
        ('```json\n{"a": 1}', {"a": 1}),
        ('`{"a": 1}`', {"a": 1}),
        ('Here you are:\n```json\n{"a": 1}\n```\nAnything else?', {"a": 1}),
        ("```python\nx = 1\n```\n```json\n[2]\n```", [2]),
        ('Sure: {"a": {"b": [1]}} as asked.', {"a": {"b": [1]}}),
        ('{"a": "```x```"}', {"a": "```x```"}),
        ('{"a": "two\nlines\tand a tab"}', {"a": "two\nlines\tand a tab"}),
        ('\ufeff{"a": 1}', {"a": 1}),
    ],
)
async def test_json_parser_finds_the_json_in_an_answer(text: str, value: Any) -> None:
    """With or without a fence and words around it, with raw line breaks in strings."""
    assert await everyway(JsonOutputParser(), AIMessage(text)) == value
    assert JsonOutputParser().parse(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "nothing", '{"a": 1', "[1, 2", '{"a": "cut of', "{'a': 1}", '{"a": 1} {"b": 2}', "[" * 100_000],
)
async def test_json_parser_raises_with_the_text_if_there_is_no_json(text: str) -> None:
    """A truncated answer is not repaired, as LCEL does it."""
    with pytest.raises(OutputParserError, match="is not JSON") as caught:
        await JsonOutputParser().ainvoke(text)
    assert caught.value.text == text
    assert len(str(caught.value)) < 400
    assert isinstance(caught.value, ValueError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@given(json_values, st.booleans())
def test_json_parser_returns_any_json_unchanged(value: Any, fenced: bool) -> None:
    """Strings may contain fences and braces; a fence around the JSON has no effect."""
    text = json.dumps(value, ensure_ascii=False)
    assert JsonOutputParser().parse(text) == value
    if fenced and "```" not in text:
        assert JsonOutputParser().parse(f"```json\n{text}\n```") == value


async def test_pydantic_parser_returns_a_checked_instance() -> None:
    """The output is the pydantic object."""
    parser = PydanticOutputParser(pydantic_object=Answer)
    text = '```json\n{"number": "3", "words": ["a"]}\n```'
    assert await everyway(parser, AIMessage(text)) == Answer(number=3, words=["a"])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"number": "x"}', "is no Answer: number: Input should be a valid integer"),
        ("{}", "number: Field required"),
        ("[1]", "the whole: Input should be"),
        ('{"number": 1, "words": [1, 2, 3, 4, 5]}', "words.0: .*; and 2 more"),
    ],
)
async def test_pydantic_parser_raises_with_the_text_if_the_json_does_not_fit(text: str, match: str) -> None:
    """The message names the fields; pydantic's own error is the cause."""
    with pytest.raises(OutputParserError, match=match) as caught:
        await PydanticOutputParser(Answer).ainvoke(text)
    assert caught.value.text == text
    assert isinstance(caught.value.__cause__, ValidationError)


async def test_pydantic_parser_raises_the_json_parsers_error_without_json() -> None:
    """The same error as the JSON parser's."""
    await raises_everyway(PydanticOutputParser(Answer), "nothing", OutputParserError, "is not JSON")


def test_parser_instructions_show_the_schema() -> None:
    """They are for the model; the JSON parser shows the schema and validates nothing."""
    for parser in (PydanticOutputParser(Answer), JsonOutputParser(Answer)):
        assert json.dumps(Answer.model_json_schema()) in parser.get_format_instructions()
    assert "JSON" in JsonOutputParser().get_format_instructions()
    assert JsonOutputParser(pydantic_object=Answer).parse('{"number": "x"}') == {"number": "x"}
