"""Tool calls: from the API's form to LangChain's, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import AIMessage, AIMessageChunk
from batchrt.tool_calls import parse_tool_calls, raw_tool_calls_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)


def raw(arguments: Any, name: Any = "f", call_id: Any = "1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


@given(st.dictionaries(st.text(), JSON))
def test_tool_calls_round_trip(args: dict[str, Any]) -> None:
    """Through the API's form."""
    call = {"name": "f", "args": args, "id": "1", "type": "tool_call"}
    assert parse_tool_calls(raw_tool_calls_of([call])) == ([call], [])


@pytest.mark.parametrize(
    ("arguments", "args"),
    [('{"a": 1}', {"a": 1}), ('{"a": "x\ny"}', {"a": "x\ny"}), ("", {}), (None, {}), ({"a": 1}, {"a": 1})],
)
def test_tool_calls_are_parsed_as_servers_write_them(arguments: Any, args: dict[str, Any]) -> None:
    """With line breaks in strings, without arguments, as an object."""
    calls, invalid = parse_tool_calls([raw(arguments)])
    assert calls == [{"name": "f", "args": args, "id": "1", "type": "tool_call"}]
    assert not invalid


@pytest.mark.parametrize(
    ("call", "args", "error"),
    [
        (raw('{"a": 1'), '{"a": 1', "not JSON"),
        (raw("[1]"), "[1]", "no JSON object but a list"),
        (raw([1]), "[1]", "no JSON object but a list"),
        (raw("{}", name=None), "{}", "no name"),
    ],
)
def test_tool_calls_that_cannot_be_parsed_are_apart(call: dict[str, Any], args: str, error: str) -> None:
    """With the text and the reason."""
    calls, (invalid,) = parse_tool_calls([call])
    assert not calls
    assert (invalid["args"], invalid["id"]) == (args, "1")
    assert error in invalid["error"]


def test_tool_calls_of_custom_tools_stay_raw() -> None:
    """Their input is no JSON."""
    custom = {"id": "1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    assert parse_tool_calls([custom]) == ([], [])
    assert AIMessage("", raw_tool_calls=[custom]).raw_tool_calls == [custom]


def test_message_takes_tool_calls_in_either_form() -> None:
    """LangChain's, as in a history that is written by hand, or the API's."""
    call = {"name": "f", "args": {"ä": 1}, "id": "1", "type": "tool_call"}
    message = AIMessage("", tool_calls=[call])
    assert message.tool_calls == [call]
    assert message.raw_tool_calls == [raw(json.dumps({"ä": 1}, ensure_ascii=False))]
    assert AIMessage("", tool_calls=message.raw_tool_calls) == message
    assert AIMessage("", tool_calls=[raw("{")]).invalid_tool_calls[0]["args"] == "{"
    assert message.additional_kwargs == {"tool_calls": message.raw_tool_calls}


def test_chunk_has_the_parts_of_tool_calls() -> None:
    """And, as far as it is whole, the calls."""
    first = AIMessageChunk("", raw_tool_calls=[{"index": 0, **raw('{"a":')}])
    second = AIMessageChunk("", raw_tool_calls=[{"index": 0, "function": {"arguments": " 1}"}}])
    assert first.tool_call_chunks == [
        {"name": "f", "args": '{"a":', "id": "1", "index": 0, "type": "tool_call_chunk"}
    ]
    assert second.tool_call_chunks[0]["name"] is None
    assert (first + second).tool_calls == [{"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}]
