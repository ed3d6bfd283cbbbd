"""Requests to the mock without a transport."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any, NamedTuple

from batchrt.testing import MockProvider

__all__ = ["Answer", "ask", "embed", "floats"]


class Answer(NamedTuple):
    """Status, body and delay of a reply."""

    status: int | None
    document: Any
    delay: float


def ask(provider: MockProvider, path: str, body: Any) -> Answer:
    """Send one body and return its answer; needs a running event loop, for the time."""
    exchange = provider.open("POST", path, json.dumps(body).encode())
    exchange.finish()
    raw = b"".join(exchange.reply.parts())
    return Answer(exchange.reply.status, json.loads(raw), exchange.reply.delay)


def embed(provider: MockProvider, given: Any, **options: Any) -> Answer:
    """Request embeddings of the model `m`."""
    return ask(provider, "/v1/embeddings", {"model": "m", "input": given, **options})


def floats(vector: str | list[float]) -> list[float]:
    """Decode a vector in either form."""
    if isinstance(vector, list):
        return vector
    raw = base64.b64decode(vector, validate=True)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
