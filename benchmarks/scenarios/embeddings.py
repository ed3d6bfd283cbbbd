"""Embeddings over loopback HTTP: many texts, sent as lists."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contenders.protocol import MODEL, Contender, EmbeddingTarget
from benchmarks.contenders.registry import find
from benchmarks.harness.measuring import peak_megabytes, settle, stopwatch
from benchmarks.harness.mock_server import SEED, ServerProcess
from benchmarks.scenarios.protocol import Case, Column, Scenario, Tier, Turn
from benchmarks.scenarios.texts import definitions

__all__ = ["EMBEDDINGS", "work"]

_WIDTH, _LATENCY = 1_536, 0.1
_IN_FLIGHT, _PER_LIST = 4, 1_000
_ITEMS, _ROUNDS = {"quick": 10_000, "full": 50_000}, {"quick": 3, "full": 5}
_CHECKED = 10_000
"""Vectors that are compared, at most."""


def _cases(tier: Tier, contenders: Sequence[Contender]) -> Sequence[Case]:
    items = _ITEMS[tier]
    turns = [_turn(tier, contender) for contender in contenders if contender.embedding or contender.chat]
    title = (
        f"{items:,} texts, {_WIDTH:,} numbers each, {_PER_LIST:,} texts a request, {_IN_FLIGHT} in "
        f"flight, {_LATENCY * 1e3:g} ms latency"
    )
    return [Case("embeddings", title, turns, server={"latency": _LATENCY, "dimensions": _WIDTH})]


def _turn(tier: Tier, contender: Contender) -> Turn:
    items = contender.items_of("embeddings", _ITEMS[tier])
    note = "" if items == _ITEMS[tier] else f"{items:,} texts"
    settings = {"contender": contender.key, "items": items}
    reason = contender.missing() if contender.embedding else "no interface for embeddings"
    return Turn(
        contender, contender.name, settings, _ROUNDS[tier], note if contender.embedding else "", reason
    )


EMBEDDINGS = Scenario(
    "embeddings",
    "Embeddings as lists",
    "scenarios.embeddings",
    "Every contender is told to send the same number of texts in a request. A matrix of NumPy's costs "
    "less than lists of Python's floats, so batchrt is measured with both; the other libraries return "
    "lists, and aiohttp by hand fills a matrix. Of the vectors a part of each is compared with the "
    "mock's own.",
    (
        Column("cpu", "CPU µs/text", 0, "least"),
        Column("rate", "texts/s", 0, "most"),
        Column("memory", "peak memory, MB", 0, "least"),
        Column("requests", "requests", 0),
        Column("wrong", "wrong vectors", 0),
    ),
    _cases,
    charts=("embeddings",),
)


def work(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure one contender once; see `isolation.run_worker`."""
    return asyncio.run(_measure(settings))


async def _measure(settings: Mapping[str, Any]) -> dict[str, float]:
    contender = find(settings["contender"])
    assert contender.embedding is not None
    texts = definitions(settings["items"])
    async with contender.embedding(EmbeddingTarget(settings["base_url"], _IN_FLIGHT, _PER_LIST)) as embed:
        await embed(texts[:10])  # loads modules
        ServerProcess(settings["base_url"]).reset()
        settle()
        with stopwatch() as sample:
            vectors = await embed(texts)
        memory = peak_megabytes()
    return {
        "cpu": sample.cpu / len(texts) * 1e6,
        "rate": len(texts) / sample.wall,
        "memory": memory,
        "wrong": _count_wrong(vectors, texts),
    }


def _parts_of(vectors: Any) -> Any:
    """Return every 96th number of each row: one of each of the blocks that the mock puts together."""
    import numpy as np

    return np.array([row[:: _WIDTH // 16] for row in vectors], dtype=np.float32)


def _count_wrong(vectors: Any, texts: Sequence[str]) -> int:
    """Return how many vectors are missing or are not the mock's own; of many texts some are compared."""
    from batchrt.testing import MockProvider

    provider = MockProvider(seed=SEED, dimensions=_WIDTH)
    places = range(0, min(len(texts), len(vectors)), max(1, len(texts) // _CHECKED))
    wanted = _parts_of([provider.vector_of(texts[place], model=MODEL) for place in places])
    found = _parts_of([vectors[place] for place in places])
    return int((found != wanted).any(axis=1).sum()) + abs(len(texts) - len(vectors))
