"""All contenders, in the order of the tables."""

from __future__ import annotations

from benchmarks.contenders.batch_libraries import ASYNC_BATCH_LLM, FLEXLLM, INFERMESH, LITELLM, RAY
from benchmarks.contenders.by_hand import AIOHTTP, GATHER, HTTPX, POOL
from benchmarks.contenders.libraries import AIOMETER, LANGCHAIN, LANGCHAIN_CORE, OPENAI
from benchmarks.contenders.own import BATCHRT, LISTS
from benchmarks.contenders.protocol import Contender

__all__ = ["CONTENDERS", "find"]

CONTENDERS: tuple[Contender, ...] = (
    BATCHRT,
    LISTS,
    AIOHTTP,
    FLEXLLM,
    OPENAI,
    ASYNC_BATCH_LLM,
    HTTPX,
    AIOMETER,
    LANGCHAIN,
    LANGCHAIN_CORE,
    LITELLM,
    INFERMESH,
    RAY,
    POOL,
    GATHER,
)


def find(key: str) -> Contender:
    """Return the contender of that key; KeyError without one."""
    return {contender.key: contender for contender in CONTENDERS}[key]
