"""Chat completions as a server sends them, for both LangChain's client and ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

__all__ = ["Script", "answer", "calls", "pair"]


def answer(content: str | None = "hi", **message: Any) -> dict[str, Any]:
    """Return the body of a completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-5-mini-2026",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }


def calls(*named: tuple[str, str]) -> list[dict[str, Any]]:
    """Return tool calls with these names and arguments."""
    return [
        {"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (name, arguments) in enumerate(named)
    ]


class Script:
    """Answer requests by a function of the body, and keep the bodies and headers."""

    def __init__(self, reply: Callable[[dict[str, Any]], Any]) -> None:
        self._reply = reply
        self.bodies: list[dict[str, Any]] = []
        self.urls: list[str] = []
        self.headers: list[Any] = []

    def _respond(self, http: Any, request: Any) -> Any:
        body = json.loads(request.content)
        self.bodies.append(body)
        self.urls.append(str(request.url))
        self.headers.append(request.headers)
        reply = self._reply(body)
        status, reply = reply if isinstance(reply, tuple) else (200, reply)
        return http.Response(status, json=reply, headers={"x-request-id": "req_1"})

    def ours(self) -> httpx.MockTransport:
        """Return a transport for our client."""
        return httpx.MockTransport(lambda request: self._respond(httpx, request))

    def theirs(self, *, sync: bool = False) -> Any:
        """Return a client for openai's library."""
        from batchrt.integrations.langchain.errors import http_library

        http = http_library()
        transport = http.MockTransport(lambda request: self._respond(http, request))
        return http.Client(transport=transport) if sync else http.AsyncClient(transport=transport)


def pair(reply: Callable[[dict[str, Any]], Any], **options: Any) -> tuple[Any, Script, Any, Script]:
    """Return LangChain's `ChatOpenAI` and ours before the same server, each with its script."""
    from langchain_openai import ChatOpenAI

    from batchrt.integrations.langchain import BatchChatOpenAI

    theirs, ours = Script(reply), Script(reply)
    common: dict[str, Any] = {
        "model": "gpt-5-mini",
        "api_key": "k",
        "base_url": "http://server/v1",
        "max_retries": 0,
    }
    model = ChatOpenAI(
        **common, http_async_client=theirs.theirs(), http_client=theirs.theirs(sync=True), **options
    )
    return model, theirs, BatchChatOpenAI(**common, transport=ours.ours(), **options), ours
