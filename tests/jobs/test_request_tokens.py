"""The tokens of a request, by its JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchrt.jobs.request_tokens import RequestTokens, count_request


def words(text: str) -> int:
    return len(text.split())


def message(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ("a b c", RequestTokens(3, 0, 0)),
        ({"messages": [message("a b c")]}, RequestTokens(3 + 3 + 3, None, 1)),
        ({"messages": [message("a"), message("b c")]}, RequestTokens(3 + 3 + 1 + 3 + 2, None, 1)),
        ({"messages": [message("a", name="x")]}, RequestTokens(3 + 3 + 1 + 2, None, 1)),
        ({"messages": [message(None)]}, RequestTokens(6, None, 1)),
        ({"messages": [message("a")], "max_tokens": 10}, RequestTokens(7, 10, 1)),
        ({"messages": [message("a")], "max_completion_tokens": 10, "n": 3}, RequestTokens(7, 30, 3)),
        ({"prompt": "a b", "max_tokens": 5}, RequestTokens(2, 5, 1)),
        ({"prompt": ["a b", "c"], "max_tokens": 5}, RequestTokens(3, 5, 1)),
        ({"prompt": [[7, 8, 9]]}, RequestTokens(3, None, 1)),
    ],
)
def test_request_tokens_are_those_of_texts_and_their_frames(body: Any, tokens: RequestTokens) -> None:
    """Three for each message and for the answer's beginning, as in OpenAI's cookbook."""
    assert count_request(body, words) == tokens


def test_request_tokens_of_schemas_and_tools_are_those_of_their_json() -> None:
    """They are part of the prompt."""
    body = {"messages": [message("a")], "tools": [{"x": 1}], "response_format": {"y": "a b"}}
    seen: list[str] = []

    def cost(text: str) -> int:
        seen.append(text)
        return 1

    assert count_request(body, cost).input == 3 + 3 + 1 + 2
    assert [json.loads(text) for text in seen[1:]] == [[{"x": 1}], {"y": "a b"}]


def test_request_tokens_of_images_are_not_counted() -> None:
    """The text beside them is."""
    parts = [{"type": "text", "text": "a b"}, {"type": "image_url", "image_url": {"url": "data:x y z"}}]
    assert count_request({"messages": [message(parts)]}, words) == RequestTokens(8, None, 1, is_partial=True)
    assert not count_request({"messages": [message(parts[:1])]}, words).is_partial
