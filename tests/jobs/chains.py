"""Chains for tests of jobs, which count the requests that reach a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import httpx

from batchrt import ChatOpenAI, PromptTemplate, Runnable, StrOutputParser

ADDRESS = "http://mock/v1"


class Answers:
    """Answer chats in process, and keep the requests' bodies.

    Attributes:
        bodies: of the requests, in order.
        seconds: of each answer.
        respond: makes the response to a user's text; the text in capitals by default.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.seconds: float = 0.0
        self.respond: Callable[[str], httpx.Response] = self.answered

    def take(self) -> list[str]:
        """Return the texts of the requests since the last call."""
        texts = [body["messages"][-1]["content"] for body in self.bodies]
        self.bodies.clear()
        return texts

    @staticmethod
    def answered(text: str) -> httpx.Response:
        message = {"role": "assistant", "content": text.upper()}
        usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": "i", "model": "m", "choices": [choice], "usage": usage}
        return httpx.Response(200, json=body, headers={"x-request-id": f"req-{text}"})

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        await anyio.sleep(self.seconds)
        return self.respond(body["messages"][-1]["content"])

    def model(self, name: str = "m", base_url: str = ADDRESS, **options: Any) -> ChatOpenAI:
        transport = httpx.MockTransport(self._handle)
        given: dict[str, Any] = {"max_retries": 0, "api_key": "very-secret", **options}
        return ChatOpenAI(name, base_url=base_url, transport=transport, **given)

    def chain(self, template: str = "say {q}", **options: Any) -> Runnable[Any, str]:
        return PromptTemplate.from_template(template) | self.model(**options) | StrOutputParser()


def questions(count: int) -> list[dict[str, Any]]:
    return [{"q": f"q{number}", "note": number} for number in range(count)]
