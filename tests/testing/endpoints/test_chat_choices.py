"""Messages as answers of the mock: tool calls and all else of a message, whole and streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import (
    AIMessage,
    AIMessageChunk,
    ChatOpenAI,
    HumanMessage,
    Message,
    OpenAI,
    ToolMessage,
    Usage,
    chain,
)
from batchrt.testing import MockProvider, StreamForm, Streaming
from tests.limits.quotas import virtually
from tests.providers.mocked import chat
from tests.providers.streaming import message_of, streamed
from tests.testing.direct import ask

pytestmark = pytest.mark.anyio

CALLS = [
    {"name": "weather", "args": {"city": "Zürich"}, "id": "call_1", "type": "tool_call"},
    {"name": "now", "args": {}, "id": "call_2", "type": "tool_call"},
]


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


def agent_like(body: Mapping[str, Any]) -> str | AIMessage:
    """Call the tool once, then repeat its result."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return f"It is {last['content']}."
    name = body["tools"][0]["function"]["name"]
    return AIMessage(tool_calls=[{"name": name, "args": {"city": last["content"]}}])


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_choice_with_tool_calls_drives_a_loop_of_tools(stream: bool) -> None:
    """A model with tools bound calls one, gets its result, and answers; whole or streamed."""
    provider = MockProvider(answer=agent_like)
    model = chat(provider).bind_tools([weather])

    async def asked(messages: list[Message]) -> AIMessage:
        if not stream:
            return await model.ainvoke(messages)
        pieces: list[AIMessageChunk] = []
        async for piece in model.astream(messages):
            assert isinstance(piece, AIMessageChunk)
            pieces.append(piece)
        return message_of(pieces)

    @chain
    async def loop(city: str) -> list[Message]:
        messages: list[Message] = [HumanMessage(city)]
        while True:
            message = await asked(messages)
            messages.append(message)
            if not message.tool_calls:
                return messages
            for call in message.tool_calls:
                messages.append(ToolMessage(weather(**call["args"]), tool_call_id=call["id"] or ""))

    cities = ["Rome", "Oslo", "Lima"]
    conversations = await loop.abatch(cities, config={"max_concurrency": 2})
    for city, messages in zip(cities, conversations, strict=True):
        _, called, result, answered = messages
        assert isinstance(called, AIMessage)
        assert called.finish_reason == "tool_calls"
        assert isinstance(result, ToolMessage)
        assert result.tool_call_id == called.tool_calls[0]["id"]
        assert answered.text == f"It is sunny in {city}."
    assert len({called.tool_calls[0]["id"] for _, called, *_ in conversations}) == 3  # type: ignore[attr-defined]


async def test_chat_choice_has_all_of_a_message() -> None:
    """Content, calls, refusal, reasoning, log probabilities, finish reason, and usage with its details."""
    said = AIMessage(
        "hi",
        tool_calls=CALLS,
        refusal="no",
        reasoning="hm",
        finish_reason="stop",
        logprobs={"content": [{"token": "hi", "logprob": -1.0}]},
        usage=Usage(
            100,
            50,
            150,
            cached_input_tokens=80,
            cache_write_tokens=3,
            reasoning_tokens=40,
            input_audio_tokens=2,
            output_audio_tokens=1,
            service_tier="flex",
        ),
    )
    provider = MockProvider(answer=lambda _: said)
    model = chat(provider)
    whole = await model.ainvoke("x")
    assert replace(whole, model=None, request_id=None) == said
    assert whole.tool_calls == CALLS
    message = message_of(await streamed(model, "x"))
    assert replace(message, model=None, request_id=None) == said
    assert provider.answer_to("x") == "hi"


MESSAGES = st.builds(
    AIMessage,
    st.none()
    | st.text(st.characters(codec="utf-8"), max_size=12)
    | st.just([{"type": "text", "text": "hi"}]),
    tool_calls=st.lists(st.sampled_from(CALLS), unique_by=id, max_size=2),
    refusal=st.none() | st.just("I will not."),
    reasoning=st.none() | st.just("Let me think."),
    finish_reason=st.none() | st.sampled_from(["stop", "length", "content_filter"]),
    usage=st.none() | st.just(Usage(7, 5, 12)),
)


@given(MESSAGES, st.sets(st.sampled_from(get_args(StreamForm))), st.integers(1, 9))
def test_chat_choice_streams_as_the_whole_message(said: AIMessage, forms: set[StreamForm], size: int) -> None:
    """The chunks of any message, in any form, add up to what the same request gets unstreamed."""
    provider = MockProvider(streaming=Streaming(chunk_size=size, forms=forms), answer=lambda _: said)

    async def main() -> tuple[AIMessage, AIMessage]:
        model = chat(provider, max_retries=0)
        return message_of(await streamed(model, "hi")), await model.ainvoke("hi")

    message, whole = virtually("asyncio", main)
    assert replace(message, usage=None, request_id=None) == replace(whole, usage=None, request_id=None)
    assert whole.tool_calls == said.tool_calls
    assert whole.usage is not None
    assert said.usage is None or whole.usage == said.usage


async def test_chat_choice_is_cut_by_the_token_limit() -> None:
    """A message without a finish reason of its own ends for `length`, before its calls."""
    provider = MockProvider(answer=lambda _: AIMessage("many words, cut", tool_calls=CALLS))
    cut = await chat(provider, max_tokens=2).ainvoke("x")
    assert (cut.text, cut.finish_reason, cut.tool_calls) == ("many wor", "length", [])
    whole = await chat(provider, max_tokens=50).ainvoke("x")
    assert (whole.text, whole.finish_reason, whole.tool_calls) == ("many words, cut", "tool_calls", CALLS)


async def test_chat_choice_counts_the_tokens_of_calls() -> None:
    """A quarter of the characters of names and arguments, where the message has no usage."""
    calls = [{"name": "f" * 8, "args": {"x": "y" * 32}, "id": "1"}]
    provider = MockProvider(answer=lambda _: AIMessage(tool_calls=calls))
    message = await chat(provider).ainvoke("x")
    assert message.usage is not None
    assert message.usage.output_tokens == 2 + -(-len('{"x": ""}' + "y" * 32) // 4)


async def test_chat_choice_usage_counts_a_prompt_once() -> None:
    """Of several choices the answers add up, and the prompt is that of the first."""
    provider = MockProvider(answer=lambda _: AIMessage("x", usage=Usage(10, 5, 15, reasoning_tokens=2)))
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 3}
    usage = ask(provider, "/v1/chat/completions", body).document["usage"]
    assert usage == {
        "prompt_tokens": 10,
        "completion_tokens": 15,
        "total_tokens": 25,
        "completion_tokens_details": {"reasoning_tokens": 6},
    }


async def test_chat_choice_as_a_completion_is_its_text() -> None:
    """A provider that answers with messages serves completions too."""
    provider = MockProvider(answer=lambda _: AIMessage("hi", tool_calls=CALLS))
    model = OpenAI("m", base_url="http://mock/v1", api_key="k", transport=provider.transport())
    assert await model.ainvoke("x") == "hi"
    assert provider.completion_to("x") == "hi"


async def test_chat_choice_of_another_type_is_refused() -> None:
    """A function that forgets its return is told so, where None would be an empty answer."""
    forgetful: Any = lambda _: None  # noqa: E731
    model = ChatOpenAI("m", base_url="http://mock/v1", transport=MockProvider(answer=forgetful).transport())
    with pytest.raises(TypeError, match="answer must return a str or an AIMessage, and returned NoneType"):
        await model.ainvoke("x")
