"""Bodies as attributes: parameters, messages in the conventions' form, bodies of any other form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchrt.integrations.opentelemetry.content import (
    input_messages,
    json_of,
    output_messages,
    parameters,
    response_attributes,
)


def test_content_has_the_parameters_of_a_request() -> None:
    """Under the conventions' names; one choice is the default and no parameter."""
    body = {
        "n": 2,
        "top_p": 1,
        "max_tokens": 5,
        "reasoning_effort": "low",
        "stop": ["a", "b"],
        "encoding_format": "float",
        "response_format": {"type": "json_schema", "json_schema": {}},
        "user": "canary",
    }
    assert parameters(body) == {
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.reasoning.level": "low",
        "gen_ai.request.stop_sequences": ["a", "b"],
        "gen_ai.request.encoding_formats": ["float"],
        "gen_ai.output.type": "json",
    }
    assert parameters({"n": 1}) == {}


def test_content_has_all_kinds_of_messages() -> None:
    """Text, images, calls of tools and their results."""
    messages: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "u"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "3"},
    ]
    assert json.loads(input_messages({"messages": messages}) or "") == [
        {
            "role": "user",
            "parts": [{"type": "text", "content": "see"}, {"type": "uri", "modality": "image", "uri": "u"}],
        },
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "1", "name": "add", "arguments": "{}"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "3"}]},
    ]
    conversations = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    both = json.loads(input_messages({"messages": conversations}) or "")
    assert [message["parts"][0]["content"] for message in both] == ["a", "b"]
    prompts = json.loads(input_messages({"prompt": ["a", "b"]}) or "")
    assert [message["parts"][0]["content"] for message in prompts] == ["a", "b"]
    assert input_messages({"input": ["a"]}) is None


def test_content_has_the_choices_of_a_response() -> None:
    """Of chats and of completions."""
    message = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    choices = [{"message": message, "finish_reason": "stop"}, {"text": "no", "finish_reason": "length"}]
    body = {"id": "x", "model": "m", "choices": choices}
    assert response_attributes(body) == {
        "gen_ai.response.id": "x",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ["stop", "length"],
    }
    first, second = json.loads(output_messages(body) or "")
    assert first["parts"] == [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": "yes"}]
    assert second == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "no"}],
        "finish_reason": "length",
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"choices": 3, "messages": [3, null], "id": 5, "stop": 0, "n": "x", "response_format": 1}',
        b'{"choices": [3, {"message": 4}, {"message": {"tool_calls": 5, "content": {"a": [1]}}}]}',
        b'{"prompt": [1, 2]}',
        b'{"messages": [{"role": null, "content": [1, {"x": 1}], "tool_calls": [{}]}], "stop": [1]}',
    ],
)
def test_content_takes_bodies_of_any_form(body: bytes) -> None:
    """A request must not fail for its telemetry."""
    data = json_of(body, whole=True)
    for read in (parameters, response_attributes, input_messages, output_messages):
        found: Any = read(data)
        assert found is None or isinstance(found, dict | str)


def test_content_leaves_long_bodies_unread() -> None:
    """They are lists of inputs, and to parse them would take longer than to send them."""
    body = json.dumps({"input": ["x" * 300_000], "dimensions": 5}).encode()
    assert json_of(body, whole=False) == {}
    assert json_of(body, whole=True)["dimensions"] == 5
