"""Replies for tests of what reads them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from batchrt.providers.http.response import Reply

NOW = 1_700_000_000.0


def wall() -> float:
    """Stand still."""
    return NOW


def reply(body: Any = b"", status: int = 200, **headers: str) -> Reply:
    """Return a reply; a body that is not bytes is sent as JSON, `_` in names as `-`."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, httpx.Headers(named), data)


def chat_body(content: Any = "hello", **message: Any) -> dict[str, Any]:
    """Return the body of an answer as OpenAI sends it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-x-2025",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }
