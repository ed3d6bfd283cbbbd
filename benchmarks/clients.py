"""The contenders of the chat suite: prompt, model, parser, each in its own words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["CLIENTS", "Ask", "Client", "Target", "question", "rows"]

MODEL = "mock"
API_KEY = "benchmark-key"
TEMPLATE = "Name the category of: {lemma}: {gloss}"

RowOfInput: TypeAlias = dict[str, str]
Ask: TypeAlias = Callable[[Sequence[RowOfInput]], Awaitable[list[str]]]
"""Takes rows, gives the answers in their order."""


@dataclass(frozen=True, slots=True)
class Target:
    """Say where to ask, and how many requests may be open at once."""

    base_url: str
    in_flight: int


def rows(count: int) -> list[RowOfInput]:
    """Return inputs about as long as a dictionary's entries."""
    gloss = "a long-legged wading bird of shallow waters, known for its patience"
    return [{"lemma": f"entry {number}", "gloss": gloss} for number in range(count)]


def question(row: RowOfInput) -> str:
    """Return the prompt that every client must make of a row."""
    return TEMPLATE.format_map(row)


@asynccontextmanager
async def _batchrt(target: Target) -> AsyncIterator[Ask]:
    from batchrt import ChatOpenAI, ChatPromptTemplate, StrOutputParser

    async with ChatOpenAI(MODEL, base_url=target.base_url, api_key=API_KEY) as model:
        chain = ChatPromptTemplate.from_template(TEMPLATE) | model | StrOutputParser()

        async def ask(inputs: Sequence[RowOfInput]) -> list[str]:
            return await chain.abatch(inputs, {"max_concurrency": target.in_flight})

        yield ask


@asynccontextmanager
async def _aiohttp(target: Target) -> AsyncIterator[Ask]:
    import aiohttp

    url = f"{target.base_url}/chat/completions"
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def one(row: RowOfInput) -> str:
            message = {"role": "user", "content": TEMPLATE.format(**row)}
            body = json.dumps({"model": MODEL, "messages": [message]}).encode()
            async with session.post(url, data=body) as response:
                response.raise_for_status()
                reply = json.loads(await response.read())
            content: str = reply["choices"][0]["message"]["content"]
            return content

        async def ask(inputs: Sequence[RowOfInput]) -> list[str]:
            outputs = [""] * len(inputs)
            shared = iter(enumerate(inputs))

            async def worker() -> None:
                for index, row in shared:
                    outputs[index] = await one(row)

            await asyncio.gather(*(worker() for _ in range(target.in_flight)))
            return outputs

        yield ask


@asynccontextmanager
async def _openai(target: Target) -> AsyncIterator[Ask]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=target.base_url, api_key=API_KEY) as client:

        async def ask(inputs: Sequence[RowOfInput]) -> list[str]:
            semaphore = asyncio.Semaphore(target.in_flight)

            async def one(row: RowOfInput) -> str:
                async with semaphore:
                    completion = await client.chat.completions.create(
                        model=MODEL,
                        messages=[{"role": "user", "content": TEMPLATE.format(**row)}],
                    )
                return completion.choices[0].message.content or ""

            return await asyncio.gather(*map(one, inputs))

        yield ask


@asynccontextmanager
async def _langchain(target: Target) -> AsyncIterator[Ask]:
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    model = ChatOpenAI(model=MODEL, base_url=target.base_url, api_key=SecretStr(API_KEY))
    chain = ChatPromptTemplate.from_template(TEMPLATE) | model | StrOutputParser()

    async def ask(inputs: Sequence[RowOfInput]) -> list[str]:
        return await chain.abatch(list(inputs), {"max_concurrency": target.in_flight})

    yield ask


@asynccontextmanager
async def _flexllm(target: Target) -> AsyncIterator[Ask]:
    from flexllm import LLMClient

    client = LLMClient(
        base_url=target.base_url,
        api_key=API_KEY,
        model=MODEL,
        concurrency_limit=target.in_flight,
        max_qps=1_000_000,  # it holds to a rate otherwise
    )

    async def ask(inputs: Sequence[RowOfInput]) -> list[str]:
        conversations = [[{"role": "user", "content": question(row)}] for row in inputs]
        results = await client.chat_batch(conversations, show_progress=False)
        return [str(result.content) for result in results]

    yield ask


@dataclass(frozen=True, slots=True)
class Client:
    """Say who asks, on which loop, and which distributions that takes.

    One on Trio, which aiohttp does not know, is compared with aiohttp on asyncio.

    Attributes:
        slow: gets fewer items and rounds, and no case with thousands of connections.
    """

    name: str
    loop: str
    open: Callable[[Target], AbstractAsyncContextManager[Ask]]
    needs: tuple[str, ...] = ()
    slow: bool = False


CLIENTS = (
    Client("bare aiohttp", "asyncio", _aiohttp, ("aiohttp",)),
    Client("batchrt", "asyncio", _batchrt),
    Client("flexllm", "asyncio", _flexllm, ("flexllm",)),
    Client("openai SDK", "asyncio", _openai, ("openai",), slow=True),
    Client("LangChain", "asyncio", _langchain, ("langchain-openai",), slow=True),
    Client("bare aiohttp", "uvloop", _aiohttp, ("aiohttp", "uvloop")),
    Client("batchrt", "uvloop", _batchrt, ("uvloop",)),
    Client("batchrt", "trio", _batchrt, ("trio",)),
)
