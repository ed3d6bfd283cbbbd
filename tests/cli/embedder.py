"""An embedding provider in the place of the network, and its vectors for a table of texts."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from batchrt.cli import embed
from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.testing import MockProvider

ROWS = [{"key": f"k{number}", "text": f"text {number}"} for number in range(20)]
VECTORS = np.array([MockProvider().vector_of(row["text"]) for row in ROWS], dtype=np.float32)

Hook = Callable[[list[str]], Awaitable[None]]


def new_table(folder: Path) -> Path:
    """Write `ROWS` to a file."""
    path = folder / "in.csv"
    path.write_text("\n".join(["key,text", *(f"{row['key']},{row['text']}" for row in ROWS)]) + "\n")
    return path


def written(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def single(numbers: list[float]) -> list[float]:
    """Give the numbers as the float32 that they stand for."""
    return [float(number) for number in np.array(numbers, dtype=np.float32)]


def put_in_place(monkeypatch: pytest.MonkeyPatch, provider: MockProvider, **options: Any) -> None:
    """Have `batchrt embed` ask `provider`, in this process."""

    def model(_settings: object) -> OpenAIEmbeddings:
        where = {"base_url": "http://mock/v1", "transport": provider.transport()}
        return OpenAIEmbeddings("mock", **{"max_retries": 0, **where, **options})

    monkeypatch.setattr(embed, "embedding_model", model)


def ask_first(monkeypatch: pytest.MonkeyPatch, provider: MockProvider, hook: Hook, **options: Any) -> None:
    """Have `batchrt embed` ask `provider`, after `hook` has seen each request."""
    transport = provider.transport()

    async def handle(request: httpx.Request) -> httpx.Response:
        given = json.loads(request.content)["input"]
        await hook(given if isinstance(given, list) else [given])
        return await transport.handle_async_request(request)

    put_in_place(monkeypatch, provider, transport=httpx.MockTransport(handle), **options)
