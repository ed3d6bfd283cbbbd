"""A provider made of a function, in the place of the network."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from batchrt.cli import run
from batchrt.providers.chat.model import ChatOpenAI

Handler = Callable[[str], Awaitable[httpx.Response]]
"""Takes the text of the user's message."""


def answer(text: str) -> httpx.Response:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return httpx.Response(200, json={"model": "m", "choices": [choice], "usage": usage})


def put_in_place(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> None:
    """Have `batchrt run` ask `handler`."""

    async def handle(request: httpx.Request) -> httpx.Response:
        body: dict[str, Any] = json.loads(request.content)
        return await handler(body["messages"][-1]["content"])

    def model(_settings: object) -> ChatOpenAI:
        transport = httpx.MockTransport(handle)
        return ChatOpenAI("m", base_url="http://mock/v1", transport=transport, max_retries=0)

    monkeypatch.setattr(run, "chat_model", model)
