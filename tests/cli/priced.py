"""A provider whose prices are published, in the place of OpenAI, and rows to ask it about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchrt import ChatOpenAI, OpenAIEmbeddings
from batchrt.cli import embed, run
from batchrt.testing import MockProvider

ROWS = 20


def new_source(folder: Path) -> Path:
    """Write `ROWS` rows, whose prompts are equally long, to a file."""
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({"n": f"{number:04}"}) + "\n" for number in range(ROWS)))
    return path


def in_the_place_of_openai(monkeypatch: pytest.MonkeyPatch) -> MockProvider:
    """Have `batchrt run` and `batchrt embed` ask a provider in this process, under OpenAI's address."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0")
    provider = MockProvider(dimensions=2, answer=lambda _body: "x" * 40)

    def chat(settings: Any) -> ChatOpenAI:
        return ChatOpenAI(
            settings.model,
            transport=provider.transport(),
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            requests_per_minute=settings.requests_per_minute,
        )

    def embeddings(settings: Any) -> OpenAIEmbeddings:
        return OpenAIEmbeddings(settings.model, transport=provider.transport())

    monkeypatch.setattr(run, "chat_model", chat)
    monkeypatch.setattr(embed, "embedding_model", embeddings)
    return provider
