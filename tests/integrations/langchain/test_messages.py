"""Messages of LangChain's and ours: converted both ways without loss."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import langchain_core.messages as theirs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages.utils import convert_to_openai_messages
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue

import batchrt
from batchrt import messages as ours
from batchrt.integrations.langchain import (
    message_from_langchain,
    message_to_langchain,
    messages_from_langchain,
    messages_to_langchain,
)
from batchrt.integrations.langchain.messages import langchain_value
from batchrt.providers.chat.messages_json import encode_conversation

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAME = st.text("abcdefgh", min_size=1, max_size=6)
MAYBE = st.none() | NAME
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAME, inner, max_size=2),
    max_leaves=4,
)
FACTS = st.dictionaries(NAME, JSON, max_size=2)
BLOCKS = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": NAME})})
    | st.fixed_dictionaries({"type": st.just("image"), "url": st.just("https://x/y.png")})
    | st.fixed_dictionaries({"type": st.just("reasoning"), "reasoning": TEXT})
    | TEXT,
    max_size=3,
)
CONTENT = TEXT | BLOCKS
COMMON: Any = {
    "content": CONTENT,
    "id": MAYBE,
    "name": MAYBE,
    "additional_kwargs": FACTS,
    "response_metadata": FACTS,
}
CALL = st.fixed_dictionaries({"name": NAME, "args": st.dictionaries(NAME, JSON, max_size=2), "id": NAME})
INVALID = st.fixed_dictionaries({"name": NAME, "args": TEXT, "id": NAME, "error": MAYBE})
COUNT = st.integers(0, 10**6)
USAGE_METADATA = st.fixed_dictionaries(
    {"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT},
    optional={
        "input_token_details": st.fixed_dictionaries({}, optional={"cache_read": COUNT, "audio": COUNT}),
        "output_token_details": st.fixed_dictionaries({}, optional={"reasoning": COUNT}),
    },
)
THEIRS = st.one_of(
    st.builds(theirs.HumanMessage, **COMMON),
    st.builds(theirs.SystemMessage, **COMMON),
    st.builds(
        theirs.AIMessage,
        **COMMON,
        tool_calls=st.lists(CALL, max_size=2),
        invalid_tool_calls=st.lists(INVALID, max_size=1),
        usage_metadata=st.none() | USAGE_METADATA,
    ),
    st.builds(
        theirs.ToolMessage,
        **COMMON,
        tool_call_id=NAME,
        artifact=JSON,
        status=st.sampled_from(["success", "error"]),
    ),
    st.builds(theirs.FunctionMessage, **{**COMMON, "name": NAME}),
    st.builds(theirs.ChatMessage, **COMMON, role=NAME),
    st.tuples(TEXT, MAYBE).map(lambda given: theirs.AIMessageChunk(content=given[0], id=given[1])),
    NAME.map(lambda identifier: theirs.RemoveMessage(id=identifier)),
)

PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2)
OUR_CONTENT = TEXT | st.none() | PARTS | PARTS.map(tuple)
RAW_CALL = st.fixed_dictionaries(
    {
        "id": NAME,
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": NAME, "arguments": st.sampled_from(['{"a": 1}', "{}", "not JSON"])}
        ),
    }
)
USAGES = st.builds(
    ours.Usage,
    COUNT,
    COUNT,
    COUNT,
    cached_input_tokens=COUNT,
    reasoning_tokens=COUNT,
    input_audio_tokens=COUNT,
    service_tier=MAYBE,
)
OURS = st.one_of(
    st.builds(ours.HumanMessage, OUR_CONTENT, name=MAYBE),
    st.builds(ours.SystemMessage, OUR_CONTENT, name=MAYBE),
    st.builds(
        ours.Message, st.sampled_from(["developer", "tool", "user", "critic"]), OUR_CONTENT, name=MAYBE
    ),
    st.builds(
        ours.AIMessage,
        OUR_CONTENT,
        name=MAYBE,
        refusal=st.none() | TEXT,
        finish_reason=MAYBE,
        usage=st.none() | USAGES,
        model=MAYBE,
        request_id=MAYBE,
        tool_calls=st.lists(RAW_CALL, max_size=2),
        reasoning=st.none() | TEXT,
        logprobs=st.none() | FACTS,
    ),
)


@given(THEIRS)
def test_messages_of_langchain_come_back_equal(message: Any) -> None:
    """Every class, with ids, metadata, content blocks, tool calls and artifacts."""
    converted = message_from_langchain(message)
    again = message_to_langchain(converted)
    assert again == message
    assert type(again) is type(message)
    assert isinstance(converted, ours.Message)


@given(OURS)
def test_messages_of_ours_come_back_equal(message: ours.Message) -> None:
    """Every class and field, invalid tool calls and missing contents too."""
    converted = message_to_langchain(message)
    again = message_from_langchain(converted)
    assert again == message
    assert type(again) is type(message)
    # Also after a journey as JSON, as in a checkpoint.
    [loaded] = theirs.messages_from_dict(theirs.messages_to_dict([converted]))
    assert loaded == converted


def test_messages_convert_to_the_plain_classes() -> None:
    """What both sides can say is a plain message on each."""
    pairs: list[tuple[ours.Message, theirs.BaseMessage]] = [
        (ours.HumanMessage("hi", name="ann"), theirs.HumanMessage("hi", name="ann")),
        (ours.SystemMessage("be brief"), theirs.SystemMessage("be brief")),
        (
            ours.Message("developer", "x"),
            theirs.SystemMessage("x", additional_kwargs={"__openai_role__": "developer"}),
        ),
        (ours.Message("critic", "x"), theirs.ChatMessage(content="x", role="critic")),
        (
            ours.AIMessage("hi", usage=ours.Usage(1, 2, 3), finish_reason="stop", model="m"),
            theirs.AIMessage(
                "hi",
                usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
                response_metadata={"finish_reason": "stop", "model_name": "m"},
            ),
        ),
    ]
    assert messages_to_langchain(mine for mine, _ in pairs) == [other for _, other in pairs]
    assert messages_from_langchain(other for _, other in pairs) == [mine for mine, _ in pairs]


def test_messages_take_changes_back() -> None:
    """A carried message whose fields were replaced keeps the rest of LangChain's."""
    original = theirs.AIMessage(
        "hi", id="1", additional_kwargs={"x": 1}, response_metadata={"finish_reason": "stop"}
    )
    carried: Any = message_from_langchain(original)
    changed = message_to_langchain(replace(carried, content="ho", tool_calls=[]))
    assert changed == original.model_copy(update={"content": "ho"})


def test_messages_of_the_api_become_langchains() -> None:
    """Dicts of the API and pairs, as our chat model takes them."""
    assert message_to_langchain(("human", "hi")) == theirs.HumanMessage("hi")
    assert message_to_langchain({"role": "tool", "tool_call_id": "c", "content": "42"}) == theirs.ToolMessage(
        "42", tool_call_id="c"
    )
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert message_to_langchain(
        {"role": "assistant", "content": None, "tool_calls": [call]}
    ) == theirs.AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}])


@pytest.mark.parametrize(
    "message",
    [
        theirs.HumanMessage("hi", name="ann"),
        theirs.SystemMessage("be brief"),
        theirs.AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
        theirs.ToolMessage("42", tool_call_id="c"),
        theirs.HumanMessage([{"type": "image", "url": "https://x/y.png"}]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_are_sent_as_langchain_sends_them(message: Any) -> None:
    """Our chat model takes LangChain's messages: alone, in lists, converted before or not."""
    for given_ in ([message], message, [message_from_langchain(message)]):
        sent = json.loads(encode_conversation(given_))
        expected = convert_to_openai_messages([message])
        for each in (*sent, *expected):  # the order and spacing of arguments are no part of them
            for call in each.get("tool_calls", ()):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        assert sent == expected


def test_messages_are_read_by_our_parsers_and_prompts() -> None:
    """A parser takes LangChain's answer, a placeholder its history."""
    assert batchrt.StrOutputParser().invoke(theirs.AIMessage("hi")) == "hi"  # type: ignore[arg-type]
    prompt = batchrt.ChatPromptTemplate.from_messages(
        [batchrt.MessagesPlaceholder("history"), ("human", "{q}")]
    )
    filled = prompt.invoke({"history": [theirs.HumanMessage("a"), theirs.AIMessage("b")], "q": "c"})
    assert filled.to_string() == "Human: a\nAI: b\nHuman: c"


def test_messages_values_for_langchain() -> None:
    """Our prompt values, messages and lists of them are LangChain's; everything else is itself."""
    text = batchrt.PromptTemplate.from_template("say {x}").invoke({"x": 1})
    assert langchain_value(text) == StringPromptValue(text="say 1")
    chat = batchrt.ChatPromptTemplate.from_template("say {x}").invoke({"x": 1})
    assert langchain_value(chat) == ChatPromptValue(messages=[theirs.HumanMessage("say 1")])
    assert langchain_value([ours.HumanMessage("a"), "b"]) == [theirs.HumanMessage("a"), "b"]
    rows = [{"a": 1}]
    assert langchain_value(rows) is rows
