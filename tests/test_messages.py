"""Messages to and from a model, with the provider's metadata."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import AIMessage, AIMessageChunk, HumanMessage, Message, SystemMessage, ToolMessage, Usage


def test_usage_adds_up() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20, 30) == Usage(11, 22, 33)
    assert sum([Usage(1, 1, 2)] * 3, Usage()) == Usage(3, 3, 6)


@pytest.mark.parametrize(
    ("message", "role"),
    [(SystemMessage("x"), "system"), (HumanMessage("x"), "user"), (AIMessage("x"), "assistant")],
)
def test_message_classes_have_their_roles(message: Message, role: str) -> None:
    assert (message.role, message.content, message.name) == (role, "x", None)


def test_message_takes_a_role() -> None:
    assert Message("developer", "x").role == "developer"


def test_message_compares_by_value() -> None:
    assert HumanMessage("x") == HumanMessage("x")
    answer: Message = AIMessage("x")
    assert answer != HumanMessage("x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        HumanMessage("x").content = "y"  # type: ignore[misc]


def test_message_text_is_its_text_parts() -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": "b"}]
    assert AIMessage(parts).text == "ab"
    assert AIMessage("ab").text == "ab"
    assert AIMessage(None, refusal="no").text == ""


def test_message_survives_pickling() -> None:
    answer = AIMessage("x", usage=Usage(1, 2, 3), finish_reason="stop", model="m", request_id="r")
    assert pickle.loads(pickle.dumps(answer)) == answer


_texts = st.text(max_size=3)
_calls: Any = st.lists(
    st.fixed_dictionaries(
        {"index": st.integers(0, 2)},
        optional={
            "id": _texts,
            "function": st.fixed_dictionaries({"arguments": _texts}, optional={"name": _texts}),
        },
    ),
    max_size=2,
    unique_by=lambda call: str(call["index"]),
)
_chunks = st.builds(
    AIMessageChunk,
    st.one_of(_texts, st.lists(st.builds(lambda text: {"type": "text", "text": text}, _texts), max_size=2)),
    refusal=st.none() | _texts,
    finish_reason=st.none() | st.sampled_from(["stop", "length"]),
    usage=st.none() | st.builds(Usage, st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    model=st.none() | st.just("m"),
    request_id=st.none() | st.just("r"),
    raw_tool_calls=_calls,
    reasoning=st.none() | _texts,
    logprobs=st.none() | st.builds(lambda text: {"content": [text], "refusal": None}, _texts),
    is_null=st.booleans(),
)


@given(_chunks, _chunks, _chunks)
def test_message_chunks_add_in_any_grouping(one: Any, two: Any, three: Any) -> None:
    """Whether pairs or running totals are added, the message is the same."""
    assert ((one + two) + three).to_message() == (one + (two + three)).to_message()


def test_message_chunks_add_up() -> None:
    """Texts are joined, calls by their index; the last usage and finish reason count, the first model."""
    first = AIMessageChunk(
        "Hel",
        model="m",
        request_id="r",
        usage=Usage(1, 1, 2),
        raw_tool_calls=[
            {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
        ],
        reasoning="I ",
    )
    second = AIMessageChunk(
        "lo",
        model="other",
        finish_reason="stop",
        usage=Usage(1, 2, 3),
        raw_tool_calls=[
            {"index": 0, "id": "2", "function": {"arguments": '":1}'}},
            {"index": 1, "id": "3", "function": {"name": "g", "arguments": ""}},
        ],
        reasoning="think",
        logprobs={"content": [1]},
    )
    assert (first + second).to_message() == AIMessage(
        "Hello",
        model="m",
        request_id="r",
        finish_reason="stop",
        usage=Usage(1, 2, 3),
        raw_tool_calls=[
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"id": "3", "function": {"name": "g", "arguments": ""}},
        ],
        reasoning="I think",
        logprobs={"content": [1]},
    )
    assert isinstance(first + second, AIMessage)
    assert (first + second).text == "Hello"


def test_message_chunks_keep_null_contents_apart_from_empty_ones() -> None:
    """A message of calls alone has no content, as unstreamed; its chunks print as texts all the same."""
    null, empty = AIMessageChunk("", is_null=True), AIMessageChunk("")
    assert (null + null).to_message().content is None
    assert (null + empty).to_message().content == (empty + null).to_message().content == ""
    assert (null + null).content == ""


@pytest.mark.parametrize("content", [None, "", "x", [{"type": "text", "text": "x"}]])
def test_message_chunk_of_a_whole_message_is_that_message(content: Any) -> None:
    """An answer that came whole is a stream of one chunk."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = AIMessage(content, raw_tool_calls=[call], usage=Usage(1, 2, 3), model="m", refusal="no")
    chunk = AIMessageChunk.of(message)
    assert chunk.to_message() == message
    assert pickle.loads(pickle.dumps(chunk)) == chunk
    with pytest.raises(TypeError):
        chunk + message  # type: ignore[operator]


def test_messages_have_langchains_attributes() -> None:
    """Types, identifiers and metadata by LangChain's names."""
    messages: list[Message] = [
        SystemMessage("a"),
        HumanMessage([{"type": "text", "text": "b"}]),
        AIMessage(
            "c", request_id="r", model="m", finish_reason="stop", usage=Usage(1, 2, 3, reasoning_tokens=1)
        ),
        ToolMessage("d", tool_call_id="1"),
        Message("developer", "e"),
    ]
    assert [m.type for m in messages] == ["system", "human", "ai", "tool", "developer"]
    assert [m.text for m in messages] == list("abcde")
    assert [m.id for m in messages] == [None, None, "r", None, None]
    answer = messages[2]
    assert isinstance(answer, AIMessage)
    assert answer.response_metadata == {"model_name": "m", "finish_reason": "stop"}
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 3
    assert answer.usage_metadata["output_token_details"] == {"audio": 0, "reasoning": 1}
    assert AIMessage("").usage_metadata is None
    assert AIMessage("", refusal="no").additional_kwargs == {"refusal": "no"}


def test_messages_print_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    """Below a line of 80 characters."""
    HumanMessage("hello", name="Ann").pretty_print()
    title, name, empty, text = capsys.readouterr().out.splitlines()
    assert (len(title), title.strip("="), name, empty, text) == (
        80,
        " Human Message ",
        "Name: Ann",
        "",
        "hello",
    )


def test_messages_can_be_replaced_and_pickled() -> None:
    """As dataclasses are, though `AIMessage` has a constructor of its own."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = AIMessage("a", raw_tool_calls=[call], logprobs={"content": []}, reasoning="r", name="n")
    for kind in (message, AIMessageChunk.of(message)):
        assert pickle.loads(pickle.dumps(kind)) == kind
        assert dataclasses.replace(dataclasses.replace(kind, content="b"), content="a") == kind
