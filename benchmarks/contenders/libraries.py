"""LangChain, the openai SDK, and aiometer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from benchmarks.contenders.by_hand import httpx_client, post_chat
from benchmarks.contenders.protocol import (
    API_KEY,
    MODEL,
    TEMPLATE,
    Ask,
    ChatTarget,
    Contender,
    Embed,
    EmbeddingTarget,
    question,
)

__all__ = ["AIOMETER", "LANGCHAIN", "LANGCHAIN_CORE", "OPENAI"]


def _parts(texts: Sequence[str], size: int) -> list[list[str]]:
    return [list(texts[start : start + size]) for start in range(0, len(texts), size)]


# LangChain


@asynccontextmanager
async def _langchain_chat(target: ChatTarget) -> AsyncIterator[Ask]:
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.rate_limiters import InMemoryRateLimiter
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    limiter = None
    if target.per_second is not None:
        limiter = InMemoryRateLimiter(
            requests_per_second=target.per_second, check_every_n_seconds=0.01, max_bucket_size=1
        )
    key = SecretStr(API_KEY)
    model = ChatOpenAI(model=MODEL, base_url=target.base_url, api_key=key, rate_limiter=limiter)
    chain = ChatPromptTemplate.from_template(TEMPLATE) | model | StrOutputParser()

    async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
        config: Any = {"max_concurrency": target.in_flight}
        return await chain.abatch(list(inputs), config, return_exceptions=True)

    yield ask


@asynccontextmanager
async def _langchain_embedding(target: EmbeddingTarget) -> AsyncIterator[Embed]:
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    model = OpenAIEmbeddings(
        model=MODEL,
        base_url=target.base_url,
        api_key=SecretStr(API_KEY),
        chunk_size=target.per_list,
        check_embedding_ctx_length=False,
    )

    async def embed(texts: Sequence[str]) -> Any:
        return await model.aembed_documents(list(texts))

    yield embed


def _langchain_steps(leaf: Callable[[int], Awaitable[int]], in_flight: int) -> Callable[[Sequence[int]], Any]:
    from langchain_core.runnables import RunnableLambda

    chain = RunnableLambda(leaf) | RunnableLambda(leaf) | RunnableLambda(leaf)

    async def run(inputs: Sequence[int]) -> Any:
        return await chain.abatch(list(inputs), {"max_concurrency": in_flight})

    return run


LANGCHAIN = Contender(
    "langchain",
    "LangChain",
    ("langchain-openai", "langchain-core"),
    "`(prompt | ChatOpenAI(…) | StrOutputParser()).abatch(rows)` with its default of two retries; where "
    "the rate is known, `InMemoryRateLimiter` with a bucket of one. `OpenAIEmbeddings` has "
    "`check_embedding_ctx_length=False`: otherwise it downloads an encoding and sends tokens. It sends "
    "one list after the other.",
    "from langchain_openai import ChatOpenAI",
    chat=_langchain_chat,
    embedding=_langchain_embedding,
    divisors={"chat": 10},
)
LANGCHAIN_CORE = Contender(
    "langchain-core",
    "LangChain core",
    ("langchain-core",),
    "A sequence of three `RunnableLambda`s and its `abatch`.",
    "from langchain_core.runnables import RunnableLambda",
    steps=_langchain_steps,
    divisors={"steps": 10},
)


# The openai SDK


@asynccontextmanager
async def _openai_chat(target: ChatTarget) -> AsyncIterator[Ask]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=target.base_url, api_key=API_KEY) as client:

        async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
            semaphore = asyncio.Semaphore(target.in_flight)

            async def one(row: dict[str, str]) -> Any:
                message: Any = {"role": "user", "content": question(row)}
                async with semaphore:
                    completion = await client.chat.completions.create(model=MODEL, messages=[message])
                return completion.choices[0].message.content

            return await asyncio.gather(*map(one, inputs), return_exceptions=True)

        yield ask


@asynccontextmanager
async def _openai_embedding(target: EmbeddingTarget) -> AsyncIterator[Embed]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=target.base_url, api_key=API_KEY) as client:

        async def embed(texts: Sequence[str]) -> Any:
            semaphore = asyncio.Semaphore(target.in_flight)

            async def one(part: list[str]) -> list[list[float]]:
                async with semaphore:
                    reply = await client.embeddings.create(model=MODEL, input=part)
                return [item.embedding for item in reply.data]

            found = await asyncio.gather(*map(one, _parts(texts, target.per_list)))
            return [row for part in found for row in part]

        yield embed


OPENAI = Contender(
    "openai",
    "openai SDK, gather",
    ("openai",),
    "`asyncio.gather` under a semaphore, over one `AsyncOpenAI` with its default of two retries; it has "
    "no option for a rate.",
    "from openai import AsyncOpenAI",
    chat=_openai_chat,
    embedding=_openai_embedding,
    divisors={"chat": 10},
)


# aiometer


@asynccontextmanager
async def _aiometer_chat(target: ChatTarget) -> AsyncIterator[Ask]:
    import aiometer

    async with httpx_client(target) as client:

        async def one(row: dict[str, str]) -> Any:
            try:
                return await post_chat(client, row)
            except Exception as error:
                return error

        async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
            calls = [partial(one, row) for row in inputs]
            answers: Sequence[Any] = await aiometer.run_all(
                calls, max_at_once=target.in_flight, max_per_second=target.per_second
            )
            return answers

        yield ask


def _aiometer_steps(leaf: Callable[[int], Awaitable[int]], in_flight: int) -> Callable[[Sequence[int]], Any]:
    import aiometer

    async def one(x: int) -> int:
        return await leaf(await leaf(await leaf(x)))

    async def run(inputs: Sequence[int]) -> Any:
        return await aiometer.run_all([partial(one, x) for x in inputs], max_at_once=in_flight)

    return run


AIOMETER = Contender(
    "aiometer",
    "aiometer, httpx",
    ("aiometer", "httpx"),
    "`aiometer.run_all` over httpx; `max_per_second` where the rate is known. It has no retries.",
    "import aiometer",
    chat=_aiometer_chat,
    steps=_aiometer_steps,
    divisors={"chat": 10},
)
