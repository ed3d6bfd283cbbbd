"""Libraries for batches of LLM calls: async-batch-llm, flexllm, infermesh, LiteLLM, and Ray's HTTP stage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
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

__all__ = ["ASYNC_BATCH_LLM", "FLEXLLM", "INFERMESH", "LITELLM", "RAY"]


@asynccontextmanager
async def _async_batch_llm(target: ChatTarget) -> AsyncIterator[Ask]:
    from async_batch_llm import ProcessorConfig, llm, process_prompts

    limit = None if target.per_second is None else 60 * target.per_second
    config = ProcessorConfig(concurrency=target.in_flight, max_requests_per_minute=limit)

    async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
        # A strategy closes its client at the end of a batch.
        strategy = llm(f"openai-compatible:{MODEL}", base_url=target.base_url, api_key=API_KEY)
        prompts = [question(row) for row in inputs]
        batch = await process_prompts(strategy, prompts, config=config, preserve_order=True)
        return [result.output if result.success else result.error for result in batch.results]

    yield ask


ASYNC_BATCH_LLM = Contender(
    "async-batch-llm",
    "async-batch-llm",
    ("async-batch-llm", "openai"),
    '`process_prompts(llm("openai-compatible:…"), prompts)` with `preserve_order`, its default retries '
    "and cool-downs; `max_requests_per_minute` where the rate is known. The connections of one batch "
    "are not kept for the next, so it opens them within the measured time.",
    "from async_batch_llm import llm, process_prompts",
    chat=_async_batch_llm,
    divisors={"chat": 10},
)


@asynccontextmanager
async def _flexllm(target: ChatTarget) -> AsyncIterator[Ask]:
    from flexllm import LLMClient

    client = LLMClient(
        base_url=target.base_url,
        api_key=API_KEY,
        model=MODEL,
        concurrency_limit=target.in_flight,
        max_qps=1_000_000 if target.per_second is None else target.per_second,
    )

    async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
        conversations = [[{"role": "user", "content": question(row)}] for row in inputs]
        results = await client.chat_batch(conversations, show_progress=False)
        return [result.content if result is not None else None for result in results]

    yield ask


FLEXLLM = Contender(
    "flexllm",
    "flexllm",
    ("flexllm",),
    "`LLMClient.chat_batch` with its default of three retries. `max_qps`, by default 1,000, is the rate "
    "where that is known, and lifted otherwise.",
    "from flexllm import LLMClient",
    chat=_flexllm,
)


def _mesh(base_url: str, in_flight: int, per_second: float | None = None) -> Any:
    from infermesh import LMClient

    return LMClient(
        model=f"openai/{MODEL}",
        api_base=base_url,
        api_key=API_KEY,
        max_parallel_requests=in_flight,
        rpm=None if per_second is None else round(60 * per_second),
        max_request_burst=None if per_second is None else max(1, round(per_second)),
    )


@asynccontextmanager
async def _infermesh_chat(target: ChatTarget) -> AsyncIterator[Ask]:
    async with _mesh(target.base_url, target.in_flight, target.per_second) as client:

        async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
            batch = await client.agenerate_batch([question(row) for row in inputs])
            return [result.output_text if result is not None else None for result in batch.results]

        yield ask


@asynccontextmanager
async def _infermesh_embedding(target: EmbeddingTarget) -> AsyncIterator[Embed]:
    async with _mesh(target.base_url, target.in_flight) as client:

        async def embed(texts: Sequence[str]) -> Any:
            batch = await client.aembed_batch(list(texts), micro_batch_size=target.per_list)
            return [result.embedding if result is not None else [] for result in batch.results]

        yield embed


INFERMESH = Contender(
    "infermesh",
    "infermesh",
    ("infermesh", "litellm"),
    "`LMClient.agenerate_batch` and `aembed_batch` with its default of three retries; where the rate is "
    "known, `rpm`, and a burst of one second, which is what the server allows. It needs Python 3.12.",
    "from infermesh import LMClient",
    chat=_infermesh_chat,
    embedding=_infermesh_embedding,
    divisors={"chat": 10, "embeddings": 10},
)


@asynccontextmanager
async def _litellm_chat(target: ChatTarget) -> AsyncIterator[Ask]:
    import litellm

    litellm.suppress_debug_info = True

    async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
        found = await asyncio.to_thread(
            litellm.batch_completion,
            model=f"openai/{MODEL}",
            messages=[[{"role": "user", "content": question(row)}] for row in inputs],
            api_base=target.base_url,
            api_key=API_KEY,
            max_workers=target.in_flight,
        )
        return [one if isinstance(one, Exception) else one.choices[0].message.content for one in found]

    yield ask


@asynccontextmanager
async def _litellm_embedding(target: EmbeddingTarget) -> AsyncIterator[Embed]:
    import litellm

    litellm.suppress_debug_info = True

    async def embed(texts: Sequence[str]) -> Any:
        semaphore = asyncio.Semaphore(target.in_flight)

        async def one(part: list[str]) -> list[Any]:
            async with semaphore:
                reply = await litellm.aembedding(
                    model=f"openai/{MODEL}", input=part, api_base=target.base_url, api_key=API_KEY
                )
            return [item["embedding"] for item in reply.data]

        starts = range(0, len(texts), target.per_list)
        parts = [list(texts[start : start + target.per_list]) for start in starts]
        return [row for part in await asyncio.gather(*map(one, parts)) for row in part]

    yield embed


LITELLM = Contender(
    "litellm",
    "LiteLLM batch_completion",
    ("litellm",),
    "`litellm.batch_completion`, which uses threads, with as many of them as requests in flight and its "
    "default retries; `aembedding` under a semaphore. Its list of models is the one in the package, so "
    "that the import downloads nothing.",
    "import litellm",
    chat=_litellm_chat,
    embedding=_litellm_embedding,
    divisors={"chat": 50, "embeddings": 10},
)


@asynccontextmanager
async def _ray_chat(target: ChatTarget) -> AsyncIterator[Ask]:
    import ray
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    config = HttpRequestProcessorConfig(
        url=f"{target.base_url}/chat/completions",
        headers={"Authorization": f"Bearer {API_KEY}"},
        qps=None if target.per_second is None else round(target.per_second),
        max_retries=_RAY_RETRIES,
        batch_size=target.in_flight,
        concurrency=1,
    )
    processor = build_processor(config, preprocess=_payload, postprocess=_content)

    def run(inputs: Sequence[dict[str, str]]) -> list[Any]:
        numbered = [{"number": number, **row} for number, row in enumerate(inputs)]
        found = {row["number"]: row["content"] for row in processor(ray.data.from_items(numbered)).take_all()}
        return [found.get(number) for number in range(len(inputs))]

    async def ask(inputs: Sequence[dict[str, str]]) -> Sequence[Any]:
        return await asyncio.to_thread(run, inputs)

    try:
        yield ask
    finally:
        ray.shutdown()


_RAY_RETRIES = 5


def _payload(row: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "user", "content": question(row)}
    return {"payload": {"model": MODEL, "messages": [message]}, "number": row["number"]}


def _content(row: dict[str, Any]) -> dict[str, Any]:
    return {"number": row["number"], "content": row["http_response"]["choices"][0]["message"]["content"]}


RAY = Contender(
    "ray",
    "Ray, HTTP stage",
    ("ray", "aiohttp"),
    "`ray.data.llm`'s HTTP processor on one machine, blocks as large as the number in flight, one "
    "actor, and five retries, as the default of none would end the job at the first failure; `qps` "
    "where the rate is known. CPU time is that of all its processes; memory that of the driver.",
    "import ray.data.llm",
    chat=_ray_chat,
    full_only=True,
)
