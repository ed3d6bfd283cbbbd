"""The contenders of the embeddings suite: texts in, vectors out, each in its own words."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from batchrt import OpenAIEmbeddings
    from batchrt.testing import ServerFamily

__all__ = ["EMBEDDERS", "MODEL", "WIDTH", "Embed", "Embedder", "Gives", "Target", "fingerprints"]

MODEL = "mock"
API_KEY = "benchmark-key"
WIDTH = 1_536
_MOST_TOKENS = 300_000
_CHUNK = 100
_LANGCHAIN_CHUNK = 1_000  # its default

Embed: TypeAlias = Callable[[Sequence[str]], Awaitable[Any]]
"""Takes texts, gives a row for each: a matrix or a list of lists, or fingerprints of them."""
Gives: TypeAlias = Literal["matrix", "lists", "blocks"]


@dataclass(frozen=True, slots=True)
class Target:
    """Say where to ask, how many requests may be open at once, and how many texts one may have."""

    base_url: str
    in_flight: int
    most: int
    server: ServerFamily


def fingerprints(rows: Any) -> Any:
    """Return what tells vectors apart: of each row every 96th number, as a matrix.

    One number of each of the blocks that the mock puts together.
    """
    import numpy as np

    step = WIDTH // 16
    if isinstance(rows, np.ndarray):
        return rows[:, ::step].copy()
    return np.array([row[::step] for row in rows], dtype=np.float32)


# batchrt


@asynccontextmanager
async def _model(target: Target, server: ServerFamily | None = None) -> AsyncIterator[OpenAIEmbeddings]:
    from batchrt import OpenAIEmbeddings

    async with OpenAIEmbeddings(MODEL, base_url=target.base_url, api_key=API_KEY, server=server) as model:
        yield model


@asynccontextmanager
async def _array(target: Target) -> AsyncIterator[Embed]:
    async with _model(target, target.server) as model:

        async def embed(texts: Sequence[str]) -> Any:
            return await model.aembed_array(texts, {"max_concurrency": target.in_flight})

        yield embed


@asynccontextmanager
async def _array_learning(target: Target) -> AsyncIterator[Embed]:
    # A new one each time: it is not to know from the warming up what the server takes.
    async def embed(texts: Sequence[str]) -> Any:
        async with _model(target) as model:
            return await model.aembed_array(texts, {"max_concurrency": target.in_flight})

    yield embed


@asynccontextmanager
async def _blocks(target: Target) -> AsyncIterator[Embed]:
    import numpy as np

    async with _model(target, target.server) as model:

        async def embed(texts: Sequence[str]) -> Any:
            seen = []
            async with model.aembed_blocks(texts, {"max_concurrency": target.in_flight}) as blocks:
                async for block in blocks:
                    seen.append(fingerprints(block.matrix))
            return np.concatenate(seen)

        yield embed


@asynccontextmanager
async def _documents(target: Target) -> AsyncIterator[Embed]:
    async with _model(target, target.server) as model:

        async def embed(texts: Sequence[str]) -> Any:
            return await model.aembed_documents(texts, {"max_concurrency": target.in_flight})

        yield embed


@asynccontextmanager
async def _abatch(target: Target) -> AsyncIterator[Embed]:
    async with _model(target, target.server) as model:

        async def embed(texts: Sequence[str]) -> Any:
            return await model.abatch(texts, {"max_concurrency": target.in_flight})

        yield embed


# By hand


def _packed(texts: Sequence[str], most: int) -> Iterator[tuple[int, list[str]]]:
    """Yield lists with the place of their first text, within the limits of a request."""
    start, packed, tokens = 0, list[str](), 0.0
    for text in texts:
        cost = 1 + len(text) / 4
        if packed and (len(packed) == most or tokens + cost > _MOST_TOKENS):
            yield start, packed
            start, packed, tokens = start + len(packed), [], 0.0
        packed.append(text)
        tokens += cost
    if packed:
        yield start, packed


def _stdlib() -> Callable[[bytes], Any]:
    return json.loads


def _orjson() -> Callable[[bytes], Any]:
    import orjson

    return orjson.loads


def _aiohttp(
    loads_: Callable[[], Callable[[bytes], Any]],
) -> Callable[[Target], AbstractAsyncContextManager[Embed]]:
    @asynccontextmanager
    async def opened(target: Target) -> AsyncIterator[Embed]:
        import aiohttp

        loads = loads_()
        url = f"{target.base_url}/embeddings"
        headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

            async def ask(texts: list[str]) -> Any:
                body = json.dumps({"model": MODEL, "input": texts, "encoding_format": "base64"}).encode()
                async with session.post(url, data=body) as response:
                    response.raise_for_status()
                    return loads(await response.read())

            async def embed(texts: Sequence[str]) -> Any:
                return await _into_matrix(texts, target, ask)

            yield embed

    return opened


async def _into_matrix(
    texts: Sequence[str], target: Target, ask: Callable[[list[str]], Awaitable[Any]]
) -> Any:
    import numpy as np

    matrix = np.empty((len(texts), WIDTH), dtype=np.float32)
    shared = _packed(texts, target.most)

    async def worker() -> None:
        for start, packed in shared:
            reply = await ask(packed)
            for item in reply["data"]:
                matrix[start + item["index"]] = np.frombuffer(b64decode(item["embedding"]), dtype="<f4")

    await asyncio.gather(*(worker() for _ in range(target.in_flight)))
    return matrix


# Libraries


@asynccontextmanager
async def _openai(target: Target) -> AsyncIterator[Embed]:
    from openai import AsyncOpenAI

    chunk = min(_CHUNK, target.most)
    async with AsyncOpenAI(base_url=target.base_url, api_key=API_KEY) as client:

        async def embed(texts: Sequence[str]) -> Any:
            semaphore = asyncio.Semaphore(target.in_flight)

            async def one(part: Sequence[str]) -> list[list[float]]:
                async with semaphore:
                    reply = await client.embeddings.create(model=MODEL, input=list(part))
                return [item.embedding for item in reply.data]

            parts = [texts[start : start + chunk] for start in range(0, len(texts), chunk)]
            return [row for part in await asyncio.gather(*map(one, parts)) for row in part]

        yield embed


@asynccontextmanager
async def _langchain(target: Target) -> AsyncIterator[Embed]:
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    model = OpenAIEmbeddings(
        model=MODEL,
        base_url=target.base_url,
        api_key=SecretStr(API_KEY),
        chunk_size=min(_LANGCHAIN_CHUNK, target.most),
        # Else it downloads an encoding and sends tokens in place of texts, which costs more.
        check_embedding_ctx_length=False,
    )

    async def embed(texts: Sequence[str]) -> Any:
        return await model.aembed_documents(list(texts))

    yield embed


@dataclass(frozen=True, slots=True)
class Embedder:
    """Say who embeds, on which loop, what comes out, and which distributions that takes.

    Attributes:
        learns: is not told what kind of server it is; measured where that matters.
    """

    name: str
    open: Callable[[Target], AbstractAsyncContextManager[Embed]]
    gives: Gives
    needs: tuple[str, ...] = ()
    loop: str = "asyncio"
    learns: bool = False


EMBEDDERS = (
    Embedder("bare aiohttp", _aiohttp(_stdlib), "matrix", ("aiohttp", "numpy")),
    Embedder("bare aiohttp, orjson", _aiohttp(_orjson), "matrix", ("aiohttp", "numpy", "orjson")),
    Embedder("batchrt aembed_array", _array, "matrix", ("numpy",)),
    Embedder("batchrt aembed_array, limits learned", _array_learning, "matrix", ("numpy",), learns=True),
    Embedder("batchrt aembed_blocks", _blocks, "blocks", ("numpy",)),
    Embedder("batchrt aembed_documents", _documents, "lists", ("numpy",)),
    Embedder("batchrt abatch", _abatch, "lists", ("numpy",)),
    Embedder("openai SDK", _openai, "lists", ("openai", "numpy")),
    Embedder("LangChain", _langchain, "lists", ("langchain-openai", "numpy")),
    Embedder("bare aiohttp", _aiohttp(_stdlib), "matrix", ("aiohttp", "numpy", "uvloop"), "uvloop"),
    Embedder("batchrt aembed_array", _array, "matrix", ("numpy", "uvloop"), "uvloop"),
)
