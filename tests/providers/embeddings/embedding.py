"""What tests of embeddings share: models behind a mock provider, and what their vectors must be."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import httpx
import trio

from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.testing import MockProvider
from tests import virtual

T = TypeVar("T")

WIDTH = 12


def mock(**options: Any) -> MockProvider:
    """Return a provider of short vectors."""
    return MockProvider(**{"dimensions": WIDTH, **options})


def model(provider: MockProvider, **options: Any) -> OpenAIEmbeddings:
    """Return a model behind `provider`."""
    return OpenAIEmbeddings(
        "m", base_url="http://mock/v1", api_key="k", transport=provider.transport(), **options
    )


def vectors(provider: MockProvider, texts: Sequence[str], **options: Any) -> list[list[float]]:
    """Return what `texts` must get."""
    return [provider.vector_of(text, model="m", **options) for text in texts]


def words(count: int) -> list[str]:
    """Return texts that differ."""
    return [f"text number {index}" for index in range(count)]


def on_mock_clock(function: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    """Run an async function on virtual time; return its result and the seconds it took."""

    async def main() -> tuple[T, float]:
        began = trio.current_time()
        return await function(), trio.current_time() - began

    return virtual.run(main)


def behind(answers: Callable[[dict[str, Any]], httpx.Response], **options: Any) -> OpenAIEmbeddings:
    """Return a model behind a function from a request's body to its answer."""

    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if not isinstance(body["input"], list):
            body["input"] = [body["input"]]
        return answers(body)

    return OpenAIEmbeddings(
        "m", base_url="http://mock/v1", api_key="sk-hidden", transport=httpx.MockTransport(handle), **options
    )


def answer(texts: list[str], **more: Any) -> httpx.Response:
    """Answer with vectors of two numbers: a text's length, and 1."""
    data = [{"index": index, "embedding": [len(text), 1]} for index, text in enumerate(texts)]
    return httpx.Response(200, json={"data": data, **more})


def refusal(message: str, status: int = 400, **more: Any) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, **more}})
