"""Partial JSON: objects and lists while they are streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from batchrt import (
    AIMessage,
    JsonOutputParser,
    OutputParserError,
    PydanticOutputParser,
    RunnableParallel,
    RunnablePassthrough,
)
from batchrt.runnables.partial_json import NOTHING, PartialJSON
from tests.runnables.helpers import total

pytestmark = pytest.mark.anyio

documents = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)
frames = st.sampled_from(
    ["{}", "```json\n{}\n```", "Here it is: {} Done.", '<think>maybe {{"a": 1}}?</think>{}', "\n {} \n"]
)


async def parsed(*chunks: Any) -> list[Any]:
    return [chunk async for chunk in JsonOutputParser().atransform(chunks)]


async def test_partial_json_grows_with_the_answer() -> None:
    """Whole each time; text as it comes, other values when they are complete."""
    assert await parsed('{"a', '": "h', "i", '", "n": 1', "2", ', "b": tr', 'ue, "l": [1, 2', "3]}") == [
        {},
        {"a": "h"},
        {"a": "hi"},
        {"a": "hi", "n": 12},
        {"a": "hi", "n": 12, "b": True, "l": [1]},
        {"a": "hi", "n": 12, "b": True, "l": [1, 23]},
    ]


async def test_partial_json_holds_numbers_back_until_they_are_complete() -> None:
    """Of 1250 it is never 1 or 12: that would be a value, and a wrong one."""
    assert await parsed('{"price": 1', "2", "5", "0", ', "x": -1', ".5", "e3", "}") == [
        {},
        {"price": 1250},
        {"price": 1250, "x": -1500.0},
    ]


async def test_partial_json_is_found_in_its_frame() -> None:
    """In a fence, between words, behind thoughts; drafts among the thoughts are none."""
    assert await parsed("Sure:\n```js", 'on\n{"a": "x', '"}\n``', "` ok?") == [{"a": "x"}]
    assert await parsed('<think>{"draft": 1}', "</think>", '{"a": ', '"x"}') == [{}, {"a": "x"}]
    assert await parsed('The [list] is ["a', '", "b"] and that is it.') == [["a"], ["a", "b"]]


async def test_partial_json_reads_raw_line_breaks_in_text() -> None:
    """As the parser of whole answers does."""
    assert await parsed('{"a": "x\ny', '\tz", "b": "\n"}') == [{"a": "x\ny"}, {"a": "x\ny\tz", "b": "\n"}]


async def test_partial_json_of_messages_and_scalars() -> None:
    """A value that is neither object nor list comes at the end."""
    assert await parsed(AIMessage(content='["a'), AIMessage(content='"]')) == [["a"]]
    assert await parsed("1", "2") == [12]
    assert await parsed('"te', 'xt"') == ["text"]


async def test_partial_json_that_is_cut_off_is_an_error_behind_its_chunks() -> None:
    """As without streaming; what came, came."""
    chunks = JsonOutputParser().atransform(['{"a": "x"', ', "b": '])
    assert await anext(chunks) == {"a": "x"}
    with pytest.raises(OutputParserError, match="not JSON") as caught:
        await anext(chunks)
    assert caught.value.text == '{"a": "x", "b": '
    with pytest.raises(OutputParserError):
        await parsed("no JSON at all")
    with pytest.raises(OutputParserError, match="refused: I cannot"):
        await parsed(AIMessage(content="", refusal="I "), AIMessage(content="", refusal="cannot"))


async def test_partial_json_adds_up_to_the_last_object() -> None:
    """For a step that needs it whole, and beside other chunks, picked and assigned to."""
    text = ['{"a": "x', 'y", "l": ["p', '", "q"]', "}"]
    whole = {"a": "xy", "l": ["p", "q"]}
    parser = JsonOutputParser()
    assert [c async for c in (parser | (lambda value: value)).atransform(text)] == [whole]
    both = RunnableParallel[Any](json=parser, raw=RunnablePassthrough())
    assert total([c async for c in both.atransform(text)]) == {"json": whole, "raw": "".join(text)}
    assert [c async for c in parser.pick("a").atransform(text)][-1] == "xy"
    assert total([c async for c in parser.pick("l").atransform(text)]) == ["p", "q"]
    assert total([c async for c in parser.pick(["a"]).atransform(text)]) == {"a": "xy"}
    assigned = parser.assign(n=lambda row: len(row["a"]))
    assert total([c async for c in assigned.atransform(text)]) == {**whole, "n": 2}


@given(documents, frames, st.data())
def test_partial_json_ends_with_the_value_however_it_is_cut(
    document: Any, frame: str, data: st.DataObject
) -> None:
    """And no value on the way has anything that the whole one lacks."""
    text = frame.format(json.dumps(document, ensure_ascii=data.draw(st.booleans())))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    if isinstance(document, dict | list):
        found = list(JsonOutputParser().transform(iter(pieces)))
        assert total(found) == document
        assert all(_is_part(value, document) for value in found)


def _is_part(value: Any, whole: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(whole, dict) and all(
            key in whole and _is_part(inner, whole[key]) for key, inner in value.items()
        )
    if isinstance(value, list):
        return isinstance(whole, list) and all(map(_is_part, value, whole)) and len(value) <= len(whole)
    if isinstance(value, str):
        return isinstance(whole, str) and whole.startswith(value)
    return type(value) is type(whole) and bool(value == whole)


def test_partial_json_of_a_long_text_is_read_a_bounded_number_of_times() -> None:
    """A long answer is not read at every chunk: the work does not grow with its square."""
    partial = PartialJSON()
    partial.add('["')
    values = sum(partial.add("x" * 8) is not NOTHING for _ in range(100_000))
    assert 2_048 < values < 8_000
    assert partial.whole() == '["' + "x" * 800_000


async def test_partial_pydantic_comes_at_the_end() -> None:
    """A model is validated once, whole."""

    class Row(BaseModel):
        a: str

    parser = PydanticOutputParser(Row)
    assert [c async for c in parser.atransform(['{"a": ', '"x"}'])] == [Row(a="x")]


async def test_partial_json_of_a_subclass_that_parses_differently_comes_at_the_end() -> None:
    """Its `parse` is what counts."""

    class Wrapped(JsonOutputParser):
        def parse(self, text: str) -> Any:
            return {"wrapped": super().parse(text)}

    assert [c async for c in Wrapped().atransform(["[1", ", 2]"])] == [{"wrapped": [1, 2]}]
