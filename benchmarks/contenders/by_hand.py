"""Code that is written without a library for batches: aiohttp with workers, and httpx with tenacity."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.contenders.protocol import (
    API_KEY,
    MODEL,
    Ask,
    ChatTarget,
    Contender,
    Embed,
    EmbeddingTarget,
    question,
)

__all__ = ["AIOHTTP", "GATHER", "HTTPX", "POOL", "httpx_client", "post_chat"]

_ATTEMPTS, _LONGEST_WAIT = 6, 60
"""Of a request that is retried with tenacity, as OpenAI's cookbook has it."""


def _chat_body(row: dict[str, str]) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": question(row)}]}


# aiohttp


@asynccontextmanager
async def _session() -> AsyncIterator[Any]:
    import aiohttp

    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield session


@asynccontextmanager
async def _aiohttp_chat(target: ChatTarget) -> AsyncIterator[Ask]:
    url = f"{target.base_url}/chat/completions"
    async with _session() as session:

        async def one(row: dict[str, str]) -> Any:
            body = json.dumps(_chat_body(row)).encode()
            try:
                async with session.post(url, data=body) as response:
                    response.raise_for_status()
                    reply = json.loads(await response.read())
            except Exception as error:
                return error
            return reply["choices"][0]["message"]["content"]

        async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
            outputs: list[Any] = [None] * len(inputs)
            shared = iter(enumerate(inputs))

            async def worker() -> None:
                for index, row in shared:
                    outputs[index] = await one(row)

            await asyncio.gather(*(worker() for _ in range(target.in_flight)))
            return outputs

        yield ask


@asynccontextmanager
async def _aiohttp_embedding(target: EmbeddingTarget) -> AsyncIterator[Embed]:
    import numpy as np

    url = f"{target.base_url}/embeddings"
    async with _session() as session:

        async def embed(texts: Sequence[str]) -> Any:
            parts: list[Any] = [None] * -(-len(texts) // target.per_list)
            shared = iter(range(len(parts)))

            async def worker() -> None:
                for place in shared:
                    start = place * target.per_list
                    part = texts[start : start + target.per_list]
                    body = {"model": MODEL, "input": part, "encoding_format": "base64"}
                    async with session.post(url, data=json.dumps(body).encode()) as response:
                        response.raise_for_status()
                        reply = json.loads(await response.read())
                    data = sorted(reply["data"], key=lambda item: item["index"])
                    parts[place] = [np.frombuffer(b64decode(item["embedding"]), "<f4") for item in data]

            await asyncio.gather(*(worker() for _ in range(target.in_flight)))
            return np.array([row for part in parts for row in part], np.float32)

        yield embed


AIOHTTP = Contender(
    "aiohttp",
    "aiohttp by hand",
    ("aiohttp",),
    "As many workers as requests in flight, which take rows from a shared iterator; `json` of the "
    "standard library; no retries and no limits, so each refused row is lost.",
    chat=_aiohttp_chat,
    embedding=_aiohttp_embedding,
    loops=("asyncio", "uvloop"),
)


# httpx


def httpx_client(target: ChatTarget) -> Any:
    """Return a client whose pool has a connection for each request in flight."""
    import httpx

    limits = httpx.Limits(max_connections=target.in_flight, max_keepalive_connections=target.in_flight)
    headers = {"Authorization": f"Bearer {API_KEY}"}
    return httpx.AsyncClient(base_url=target.base_url, headers=headers, limits=limits, timeout=60)


async def post_chat(client: Any, row: dict[str, str]) -> Any:
    """Send one request and return the answer's text."""
    response = await client.post("chat/completions", json=_chat_body(row))
    response.raise_for_status()
    return response.json()["choices"][0]["message"]["content"]


@asynccontextmanager
async def _httpx_chat(target: ChatTarget) -> AsyncIterator[Ask]:
    import httpx
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    retrying = AsyncRetrying(
        retry=retry_if_exception_type((httpx.HTTPError, ValueError)),
        wait=wait_random_exponential(min=1, max=_LONGEST_WAIT),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    async with httpx_client(target) as client:

        async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
            semaphore = asyncio.Semaphore(target.in_flight)

            async def one(row: dict[str, str]) -> Any:
                async with semaphore:
                    return await retrying.copy()(post_chat, client, row)

            return await asyncio.gather(*map(one, inputs), return_exceptions=True)

        yield ask


HTTPX = Contender(
    "httpx",
    "semaphore, tenacity, httpx",
    ("httpx", "tenacity"),
    "`asyncio.gather` under a semaphore; six attempts with `wait_random_exponential(min=1, max=60)`, as "
    "in OpenAI's cookbook; the pool of httpx has a connection for each request in flight.",
    chat=_httpx_chat,
    divisors={"chat": 10},
)


# No requests: functions alone


def _gather(leaf: Callable[[int], Awaitable[int]], in_flight: int) -> Callable[[Sequence[int]], Any]:
    async def run(inputs: Sequence[int]) -> Any:
        semaphore = asyncio.Semaphore(in_flight)

        async def one(x: int) -> int:
            async with semaphore:
                return await leaf(await leaf(await leaf(x)))

        return await asyncio.gather(*map(one, inputs))

    return run


def _pool(leaf: Callable[[int], Awaitable[int]], in_flight: int) -> Callable[[Sequence[int]], Any]:
    async def run(inputs: Sequence[int]) -> Any:
        outputs = [0] * len(inputs)
        shared = iter(enumerate(inputs))

        async def worker() -> None:
            for index, x in shared:
                outputs[index] = await leaf(await leaf(await leaf(x)))

        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return outputs

    return run


GATHER = Contender(
    "gather",
    "semaphore and gather",
    (),
    "`asyncio.gather` over all items under a semaphore, the three calls written out in one function.",
    steps=_gather,
)
POOL = Contender(
    "pool",
    "worker pool by hand",
    (),
    "As many workers as items in flight, which share an iterator; the three calls in one function.",
    steps=_pool,
)
