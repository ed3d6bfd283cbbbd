"""batchrt itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.contenders.protocol import (
    API_KEY,
    MODEL,
    TEMPLATE,
    Ask,
    ChatTarget,
    Contender,
    Embed,
    EmbeddingTarget,
)

__all__ = ["BATCHRT", "LISTS"]


@asynccontextmanager
async def _chat(target: ChatTarget) -> AsyncIterator[Ask]:
    from batchrt import ChatOpenAI, ChatPromptTemplate, StrOutputParser

    limits: dict[str, Any] = {}
    if target.per_second is not None:
        limits["requests_per_minute"] = 60 * target.per_second
    async with ChatOpenAI(MODEL, base_url=target.base_url, api_key=API_KEY, **limits) as model:
        chain = ChatPromptTemplate.from_template(TEMPLATE) | model | StrOutputParser()

        async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
            config: Any = {"max_concurrency": target.in_flight}
            return await chain.abatch(inputs, config, return_exceptions=True)

        yield ask


def _embedding(method: str) -> Any:
    @asynccontextmanager
    async def opened(target: EmbeddingTarget) -> AsyncIterator[Embed]:
        from batchrt import OpenAIEmbeddings

        async with OpenAIEmbeddings(
            MODEL, base_url=target.base_url, api_key=API_KEY, max_batch_size=target.per_list
        ) as model:

            async def embed(texts: Sequence[str]) -> Any:
                return await getattr(model, method)(texts, {"max_concurrency": target.in_flight})

            yield embed

    return opened


def _steps(leaf: Callable[[int], Awaitable[int]], in_flight: int) -> Callable[[Sequence[int]], Any]:
    from batchrt import RunnableLambda

    chain = RunnableLambda(leaf) | RunnableLambda(leaf) | RunnableLambda(leaf)

    async def run(inputs: Sequence[int]) -> Any:
        return await chain.abatch(inputs, {"max_concurrency": in_flight})

    return run


BATCHRT = Contender(
    "batchrt",
    "batchrt",
    ("batchrt",),
    "`(prompt | ChatOpenAI(…) | StrOutputParser()).abatch(rows)` with default retries; "
    "`OpenAIEmbeddings.aembed_array`, which returns a NumPy matrix.",
    "from batchrt import ChatOpenAI",
    chat=_chat,
    embedding=_embedding("aembed_array"),
    steps=_steps,
    loops=("asyncio", "uvloop"),
)

LISTS = Contender(
    "batchrt-lists",
    "batchrt, lists of floats",
    ("batchrt",),
    "`OpenAIEmbeddings.aembed_documents`, whose vectors are lists of floats as those of the other libraries.",
    embedding=_embedding("aembed_documents"),
)
