"""Who asks in the refusals suite, each as its own documentation has it do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

__all__ = ["CONTENDERS", "Ask", "Contender", "Target", "batchrt_at"]

Ask: TypeAlias = Callable[[Sequence[str]], Awaitable[list[Any]]]
"""Takes texts; gives what came of each: an answer, or an exception."""

_ATTEMPTS, _LONGEST_WAIT = 6, 60
"""As OpenAI's cookbook has requests tried with tenacity."""


@dataclass(frozen=True, slots=True)
class Target:
    """Say where to ask for what.

    Attributes:
        embeds: embeddings are asked for, not chats.
        in_flight: requests at once, for those who have no other say in it.
        per_second: requests a second that the server is known to answer, for a limiter that must be told.
    """

    base_url: str
    model: str
    api_key: str
    embeds: bool
    in_flight: int
    per_second: float


@dataclass(frozen=True, slots=True)
class Contender:
    """Say who asks, and which distributions that takes.

    Attributes:
        cap: its requests at once, if these are not the case's: a number, "auto" or "none".
    """

    name: str
    open: Callable[[Target], AbstractAsyncContextManager[Ask]]
    needs: tuple[str, ...] = ()
    cap: str = ""


@asynccontextmanager
async def _batchrt(target: Target, *, cap: str = "") -> AsyncIterator[Ask]:
    from batchrt import ChatOpenAI, OpenAIEmbeddings

    given: Any = {"max_concurrency": target.in_flight}
    if cap == "none":
        given = {}
    elif cap:
        given = {"max_concurrency": cap if cap == "auto" else int(cap)}
    kind: Any = OpenAIEmbeddings if target.embeds else ChatOpenAI
    async with kind(target.model, base_url=target.base_url, api_key=target.api_key) as model:

        async def ask(inputs: Sequence[str]) -> list[Any]:
            return await model.abatch(inputs, given, return_exceptions=True)

        yield ask


def batchrt_at(cap: str) -> Contender:
    """Return batchrt with a cap of its own: a number, "auto" or "none"."""
    return Contender(f"batchrt, cap {cap}", partial(_batchrt, cap=cap), cap=cap)


@asynccontextmanager
async def _openai(target: Target, *, retries: int) -> AsyncIterator[Ask]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(
        base_url=target.base_url, api_key=target.api_key, max_retries=retries, timeout=600
    ) as client:
        semaphore = asyncio.Semaphore(target.in_flight)

        async def one(text: str) -> Any:
            async with semaphore:
                if target.embeds:
                    found = await client.embeddings.create(model=target.model, input=[text])
                    return found.data[0].embedding
                completion = await client.chat.completions.create(
                    model=target.model, messages=[{"role": "user", "content": text}]
                )
            return completion.choices[0].message.content

        async def ask(inputs: Sequence[str]) -> list[Any]:
            return await asyncio.gather(*map(one, inputs), return_exceptions=True)

        yield ask


@asynccontextmanager
async def _langchain(target: Target) -> AsyncIterator[Ask]:
    from langchain_core.rate_limiters import InMemoryRateLimiter
    from langchain_core.runnables import RunnableLambda
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from pydantic import SecretStr

    limiter = InMemoryRateLimiter(
        requests_per_second=target.per_second, check_every_n_seconds=0.01, max_bucket_size=1
    )
    config: Any = {"max_concurrency": target.in_flight}
    key = SecretStr(target.api_key)
    chain: Any
    if target.embeds:
        # Its embeddings take no limiter; else it would download an encoding and send tokens.
        model = OpenAIEmbeddings(
            model=target.model, base_url=target.base_url, api_key=key, check_embedding_ctx_length=False
        )
        chain = RunnableLambda(model.embed_query, afunc=model.aembed_query)
    else:
        chain = ChatOpenAI(
            model=target.model, base_url=target.base_url, api_key=key, rate_limiter=limiter, timeout=600
        )

    async def ask(inputs: Sequence[str]) -> list[Any]:
        return await chain.abatch(list(inputs), config, return_exceptions=True)

    yield ask


@asynccontextmanager
async def _aiohttp(target: Target) -> AsyncIterator[Ask]:
    import aiohttp
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    path = "embeddings" if target.embeds else "chat/completions"
    url = f"{target.base_url}/{path}"
    headers = {"Authorization": f"Bearer {target.api_key}"}
    semaphore = asyncio.Semaphore(target.in_flight)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def once(text: str) -> Any:
            asked = {"input": [text]} if target.embeds else {"messages": [{"role": "user", "content": text}]}
            async with session.post(url, json={"model": target.model, **asked}) as response:
                response.raise_for_status()
                reply = await response.json()
            return (
                reply["data"][0]["embedding"] if target.embeds else reply["choices"][0]["message"]["content"]
            )

        async def one(text: str) -> Any:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(aiohttp.ClientError),
                wait=wait_random_exponential(min=1, max=_LONGEST_WAIT),
                stop=stop_after_attempt(_ATTEMPTS),
                reraise=True,
            )
            async with semaphore:
                return await retrying(once, text)

        async def ask(inputs: Sequence[str]) -> list[Any]:
            return await asyncio.gather(*map(one, inputs), return_exceptions=True)

        yield ask


CONTENDERS = (
    Contender("batchrt", _batchrt),
    batchrt_at("auto"),
    Contender("openai SDK, 2 retries", partial(_openai, retries=2), ("openai",)),
    Contender("openai SDK, 9 retries", partial(_openai, retries=9), ("openai",)),
    Contender("LangChain, its limiter", _langchain, ("langchain-openai",)),
    Contender("aiohttp, tenacity", _aiohttp, ("aiohttp", "tenacity")),
)
