"""Who asks in the refusals suite, each as its own documentation has it do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

__all__ = ["CONTENDERS", "Ask", "Contender", "Target", "at_cap", "knowing", "named"]

Ask: TypeAlias = Callable[[Sequence[str]], Awaitable[list[Any]]]
"""Takes texts; gives what came of each: an answer, or an exception."""

_ATTEMPTS, _LONGEST_WAIT = 6, 60
"""As OpenAI's cookbook has requests tried with tenacity."""


@dataclass(frozen=True, slots=True)
class Target:
    """Say where to ask for what.

    Attributes:
        per_list: texts in each request for embeddings; 0 if chats are asked for.
        in_flight: requests at once, for those who have no other say in it.
        per_second: requests a second that the server is known to answer, for a limiter that must be told.
        bucket: requests that such a limiter may let go at once.
    """

    base_url: str
    model: str
    api_key: str
    per_list: int
    in_flight: int
    per_second: float
    bucket: int


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

    @property
    def base(self) -> str:
        """The name without the cap."""
        return self.name.partition(", cap ")[0]


@asynccontextmanager
async def _batchrt(target: Target, *, cap: str = "") -> AsyncIterator[Ask]:
    from batchrt import ChatOpenAI, OpenAIEmbeddings

    given: Any = {"max_concurrency": target.in_flight}
    if cap == "none":
        given = {}
    elif cap:
        given = {"max_concurrency": cap if cap == "auto" else int(cap)}
    kind: Any = ChatOpenAI
    if target.per_list:
        kind = partial(OpenAIEmbeddings, max_batch_size=target.per_list)
    async with kind(target.model, base_url=target.base_url, api_key=target.api_key) as model:

        async def ask(inputs: Sequence[str]) -> list[Any]:
            outputs: list[Any] = await model.abatch(inputs, given, return_exceptions=True)
            return outputs

        yield ask


@asynccontextmanager
async def _openai(target: Target, *, retries: int) -> AsyncIterator[Ask]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(
        base_url=target.base_url, api_key=target.api_key, max_retries=retries, timeout=600
    ) as client:

        async def chat(text: str) -> Any:
            completion = await client.chat.completions.create(
                model=target.model, messages=[{"role": "user", "content": text}]
            )
            return completion.choices[0].message.content

        async def embed(texts: Sequence[str]) -> list[Any]:
            found = await client.embeddings.create(model=target.model, input=list(texts))
            return [one.embedding for one in found.data]

        yield _under_semaphore(target, chat, embed)


def _under_semaphore(
    target: Target,
    chat: Callable[[str], Awaitable[Any]],
    embed: Callable[[Sequence[str]], Awaitable[list[Any]]],
) -> Ask:
    """Return what sends all that is asked for, so many requests at once."""
    semaphore = asyncio.Semaphore(target.in_flight)

    async def one(send: Callable[[Any], Awaitable[Any]], what: Any) -> Any:
        async with semaphore:
            return await send(what)

    async def ask(inputs: Sequence[str]) -> list[Any]:
        if not target.per_list:
            return await asyncio.gather(*(one(chat, text) for text in inputs), return_exceptions=True)
        lists = _lists(inputs, target.per_list)
        found = await asyncio.gather(*(one(embed, texts) for texts in lists), return_exceptions=True)
        return _each(lists, found)

    return ask


def _lists(texts: Sequence[str], size: int) -> list[list[str]]:
    return [list(texts[start : start + size]) for start in range(0, len(texts), size)]


def _each(lists: Sequence[Sequence[str]], found: Sequence[Any]) -> list[Any]:
    """Return what came of each text: its vector, or the error of its list."""
    return [
        one
        for texts, vectors in zip(lists, found, strict=True)
        for one in ([vectors] * len(texts) if isinstance(vectors, BaseException) else vectors)
    ]


@asynccontextmanager
async def _langchain(target: Target) -> AsyncIterator[Ask]:
    from langchain_core.rate_limiters import InMemoryRateLimiter
    from langchain_core.runnables import RunnableLambda
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from pydantic import SecretStr

    limiter = InMemoryRateLimiter(
        requests_per_second=target.per_second, check_every_n_seconds=0.01, max_bucket_size=target.bucket
    )
    config: Any = {"max_concurrency": target.in_flight}
    key = SecretStr(target.api_key)
    # Its embeddings take no limiter, and are no runnable. With the check they would send tokens.
    embeddings = OpenAIEmbeddings(
        model=target.model, base_url=target.base_url, api_key=key, check_embedding_ctx_length=False
    )
    lists = RunnableLambda(embeddings.embed_documents, afunc=embeddings.aembed_documents)
    chat = ChatOpenAI(
        model=target.model, base_url=target.base_url, api_key=key, rate_limiter=limiter, timeout=600
    )

    async def ask(inputs: Sequence[str]) -> list[Any]:
        if not target.per_list:
            chats: list[Any] = await chat.abatch(list(inputs), config, return_exceptions=True)
            return chats
        packed = _lists(inputs, target.per_list)
        found = await lists.abatch(packed, config, return_exceptions=True)
        return _each(packed, found)

    yield ask


@asynccontextmanager
async def _aiohttp(target: Target) -> AsyncIterator[Ask]:
    import aiohttp
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    headers = {"Authorization": f"Bearer {target.api_key}"}
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(aiohttp.ClientError),
        wait=wait_random_exponential(min=1, max=_LONGEST_WAIT),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def post(path: str, body: dict[str, Any]) -> Any:
            body["model"] = target.model
            async with session.post(f"{target.base_url}/{path}", json=body) as response:
                response.raise_for_status()
                return await response.json()

        async def chat(text: str) -> Any:
            body = {"messages": [{"role": "user", "content": text}]}
            reply: Any = await retrying.copy()(post, "chat/completions", body)
            return reply["choices"][0]["message"]["content"]

        async def embed(texts: Sequence[str]) -> list[Any]:
            reply: Any = await retrying.copy()(post, "embeddings", {"input": list(texts)})
            return [one["embedding"] for one in reply["data"]]

        yield _under_semaphore(target, chat, embed)


def knowing(most: int) -> Contender:
    """Return the same by somebody who knows how many requests the server takes at once."""
    return Contender(f"aiohttp, {most} at once", _aiohttp, ("aiohttp", "tenacity"), cap=str(most))


def at_cap(contender: Contender, cap: str) -> Contender:
    """Return the same with a cap of its own: a number; for batchrt "auto" or "none" as well."""
    name = f"{contender.base}, cap {cap}"
    if cap.isdigit():
        return replace(contender, name=name, cap=cap)
    return Contender(name, partial(_batchrt, cap=cap), cap=cap)


_BATCHRT = Contender("batchrt", _batchrt)
CONTENDERS = (
    _BATCHRT,
    at_cap(_BATCHRT, "auto"),
    Contender("openai SDK, 2 retries", partial(_openai, retries=2), ("openai",)),
    Contender("openai SDK, 9 retries", partial(_openai, retries=9), ("openai",)),
    Contender("LangChain, its limiter", _langchain, ("langchain-openai",)),
    Contender("aiohttp, tenacity", _aiohttp, ("aiohttp", "tenacity")),
)


def named(name: str, cap: str) -> Contender:
    """Return a contender by its name without the cap, and its cap."""
    found = next((one for one in CONTENDERS if one.name == name), None)
    if found is None:
        return knowing(int(cap))
    return at_cap(found, cap) if cap else found
