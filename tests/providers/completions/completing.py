"""Models, providers and answers for tests of completions, and a clock that jumps."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import trio

from batchrt.providers.completions.model import OpenAI
from batchrt.testing import MockProvider
from tests import virtual

# A busy machine must not break a list up: only the end of arrivals sends one that is not full.
PATIENT = {"linger": 60.0, "max_linger": 60.0}

Answer = Callable[[dict[str, Any]], httpx.Response]


def model_of(provider: MockProvider, **options: Any) -> OpenAI[Any]:
    """Return a model behind `provider`."""
    options = {**PATIENT, **options}
    return OpenAI("m", base_url="http://mock/v1", transport=provider.transport(), **options)


def answered_by(handle: Answer, **options: Any) -> OpenAI[Any]:
    """Return a model whose requests' bodies go to `handle`."""
    transport = httpx.MockTransport(lambda request: handle(json.loads(request.content)))
    options = {**PATIENT, **options}
    return OpenAI("m", base_url="http://mock/v1", api_key="sk-secret-key", transport=transport, **options)


def echo(**options: Any) -> MockProvider:
    """Return a provider whose texts tell the prompt."""
    return MockProvider(answer=lambda body: f"<{body['prompt']}>", **options)


def completion(texts: list[str], usage: Any = None, **more: Any) -> httpx.Response:
    """Return an answer as the API has it."""
    choices = [{"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(texts)]
    return httpx.Response(200, json={"choices": choices, "usage": usage, **more})


def sizes(provider: MockProvider) -> list[int]:
    """Say how many prompts the requests carried that were answered."""
    return [record.items for record in provider.log.records() if record.status == 200]


def on_mock_clock(function: Callable[[], Any]) -> tuple[Any, float]:
    """Run an async function on virtual time; return its result and the seconds it took."""

    async def main() -> tuple[Any, float]:
        start = trio.current_time()
        return await function(), trio.current_time() - start

    return virtual.run(main)
