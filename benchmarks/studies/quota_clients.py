"""Who asks in the quota suite, each with the means that it has against limits and outages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from batchrt import RetryPolicy
    from batchrt.testing import MockProvider

__all__ = ["API_KEY", "ATTEMPTS", "MODEL", "Ask", "Client", "batchrt", "langchain", "tenacious"]

MODEL, API_KEY, BASE_URL = "mock", "benchmark-key", "http://mock/v1"
ATTEMPTS = 6
"""As often as OpenAI's cookbook has a request tried that is retried with tenacity."""
_LONGEST_WAIT = 60

Ask: TypeAlias = Callable[[Sequence[str]], Awaitable[list[Any]]]
"""Takes prompts; gives what came of each: an answer, or an exception."""
Client: TypeAlias = "Callable[[MockProvider], Awaitable[Ask]]"
"""Gets ready to ask a provider, on the event loop that will ask."""


def batchrt(
    *,
    limits: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    retry_policy: RetryPolicy | None = None,
    runs: int = 1,
    **config: Any,
) -> Client:
    """Return batchrt; several runs are of several models, which share their quota."""

    async def ready(provider: MockProvider) -> Ask:
        from batchrt import ChatOpenAI

        models = [
            ChatOpenAI(
                MODEL,
                base_url=BASE_URL,
                api_key=API_KEY,
                transport=provider.transport(),
                timeout=timeout,
                retry_policy=retry_policy,
                **(limits or {}),
            )
            for _ in range(runs)
        ]
        return partial(_ask_batchrt, models, config)

    return ready


async def _ask_batchrt(models: Sequence[Any], config: Any, inputs: Sequence[str]) -> list[Any]:
    each = -(-len(inputs) // len(models))
    shares = [inputs[start : start + each] for start in range(0, len(inputs), each)]
    runs = (
        model.abatch(share, config, return_exceptions=True)
        for model, share in zip(models, shares, strict=True)
    )
    return [outcome for outcomes in await asyncio.gather(*runs) for outcome in outcomes]


def langchain(in_flight: int, *, requests_per_second: float | None, timeout: float | None = None) -> Client:
    """Return LangChain's ChatOpenAI with its rate limiter, if a limit is known, and its retries."""

    async def ready(provider: MockProvider) -> Ask:
        import httpx
        from langchain_core import rate_limiters
        from langchain_openai import ChatOpenAI
        from pydantic import SecretStr

        # The limiter looks at the system's clock, and not at the loop's.
        loop = asyncio.get_running_loop()
        patched: Any = rate_limiters
        patched.time = SimpleNamespace(monotonic=loop.time, sleep=time.sleep)
        limiter = None
        if requests_per_second is not None:
            limiter = rate_limiters.InMemoryRateLimiter(
                requests_per_second=requests_per_second, max_bucket_size=requests_per_second
            )
        model = ChatOpenAI(
            model=MODEL,
            base_url=BASE_URL,
            api_key=SecretStr(API_KEY),
            http_async_client=httpx.AsyncClient(transport=provider.transport()),
            max_retries=0,
            rate_limiter=limiter,
            timeout=timeout,
        )
        # The SDK's first request asks in a thread what system this is, and a virtual clock waits for none.
        await model.ainvoke("Hello")
        chain = model.with_retry(stop_after_attempt=ATTEMPTS)
        config: Any = {"max_concurrency": in_flight}

        async def ask(inputs: Sequence[str]) -> list[Any]:
            return await chain.abatch(list(inputs), config, return_exceptions=True)

        return ask

    return ready


def tenacious(in_flight: int, *, timeout: float | None = None) -> Client:
    """Return a semaphore, httpx and tenacity, as OpenAI's cookbook has them."""

    async def ready(provider: MockProvider) -> Ask:
        import httpx

        client = httpx.AsyncClient(
            transport=provider.transport(),
            base_url=BASE_URL,
            headers={"Authorization": f"Bearer {API_KEY}"},
            timeout=timeout,
        )
        semaphore = asyncio.Semaphore(in_flight)

        async def ask(inputs: Sequence[str]) -> list[Any]:
            posts = (_post(client, semaphore, text) for text in inputs)
            return await asyncio.gather(*posts, return_exceptions=True)

        return ask

    return ready


async def _post(client: Any, semaphore: asyncio.Semaphore, text: str) -> str:
    import httpx
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}

    async def once() -> str:
        response = await client.post("chat/completions", json=body)
        response.raise_for_status()
        content: str = response.json()["choices"][0]["message"]["content"]
        return content

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(httpx.HTTPError),
        wait=wait_random_exponential(min=1, max=_LONGEST_WAIT),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    async with semaphore:
        return await retrying(once)
