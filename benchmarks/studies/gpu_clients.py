"""Clients of the GPU study, each in a process of its own.

    python -m benchmarks.studies.gpu_clients SETTINGS

Each does the same work at the same number of requests at once, and tells how long each of its requests took.
The process writes its figures as JSON in its last line.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from benchmarks.studies.gpu_model import words

__all__ = ["CLIENTS", "Work", "inputs_for", "main", "measure"]

_PATIENCE = 300
"""Seconds for one request: as many wait behind others in the server as are sent at once."""
_PROMPT_WORDS = (16, 128)
_TEXT_WORDS = (32, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Describe a measurement.

    Attributes:
        kind: `chat` or `embeddings`.
        client: a key of `CLIENTS`.
        cap: requests at once, or "auto".
        items: prompts, or texts.
        max_tokens: of each answer, which has exactly as many.
        per_list: texts in each request for embeddings.
        seed: of the inputs.
    """

    kind: str
    client: str
    cap: int | str
    items: int
    base_url: str
    model: str
    max_tokens: int
    per_list: int
    seed: int


@dataclass(slots=True)
class _Found:
    """Gather what requests took, and what came of them."""

    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def fail(self, error: BaseException, items: int = 1) -> None:
        self.errors[f"{type(error).__name__}: {str(error)[:200]}"] += items


_Client: TypeAlias = Callable[[Work, Sequence[str], _Found], Awaitable[None]]


def inputs_for(work: Work) -> list[str]:
    """Return prompts or texts of different lengths; the same for each client."""
    rng, known = random.Random(work.seed), words(4_000)
    least, most = _TEXT_WORDS if work.kind == "embeddings" else _PROMPT_WORDS
    return [" ".join(rng.choices(known, k=rng.randint(least, most))) for _ in range(work.items)]


def _lists(texts: Sequence[str], size: int) -> list[list[str]]:
    return [list(texts[start : start + size]) for start in range(0, len(texts), size)]


async def _batchrt(work: Work, inputs: Sequence[str], found: _Found) -> None:
    from batchrt import ChatOpenAI, OpenAIEmbeddings

    config: Any = {"max_concurrency": work.cap}
    options: Any = {"base_url": work.base_url, "api_key": "none", "timeout": _PATIENCE}
    model: Any
    if work.kind == "embeddings":
        model = OpenAIEmbeddings(work.model, max_batch_size=work.per_list, **options)
    else:
        model = ChatOpenAI(work.model, max_tokens=work.max_tokens, **options)
    async with model:
        async for outcome in model.arun_iter(inputs, config):
            if outcome.error is not None:
                found.fail(outcome.error)
                continue
            found.seconds.append(outcome.request_seconds)
            found.tokens += outcome.usage.output_tokens if work.kind == "chat" else outcome.usage.input_tokens


async def _openai(work: Work, inputs: Sequence[str], found: _Found) -> None:
    from openai import AsyncOpenAI

    assert isinstance(work.cap, int)
    semaphore = asyncio.Semaphore(work.cap)
    async with AsyncOpenAI(base_url=work.base_url, api_key="none", timeout=_PATIENCE) as client:

        async def chat(text: str) -> None:
            answer = await client.chat.completions.create(
                model=work.model,
                messages=[{"role": "user", "content": text}],
                max_tokens=work.max_tokens,
            )
            found.tokens += answer.usage.completion_tokens if answer.usage else 0

        async def embed(texts: Sequence[str]) -> None:
            answer = await client.embeddings.create(
                model=work.model, input=list(texts), encoding_format="float"
            )
            found.tokens += answer.usage.prompt_tokens

        async def one(send: Callable[[Any], Awaitable[None]], given: Any) -> None:
            async with semaphore:
                began = time.perf_counter()
                try:
                    await send(given)
                except Exception as error:
                    found.fail(error, 1 if isinstance(given, str) else len(given))
                else:
                    found.seconds.append(time.perf_counter() - began)

        if work.kind == "embeddings":
            await asyncio.gather(*(one(embed, texts) for texts in _lists(inputs, work.per_list)))
        else:
            await asyncio.gather(*(one(chat, text) for text in inputs))


async def _langchain(work: Work, inputs: Sequence[str], found: _Found) -> None:
    from langchain_core.runnables import RunnableLambda
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from pydantic import SecretStr

    config: Any = {"max_concurrency": work.cap}
    options: Any = {"model": work.model, "base_url": work.base_url, "api_key": SecretStr("none")}
    step: Any
    given: list[Any]
    if work.kind == "embeddings":
        # With the check it would send token numbers of a tokenizer of OpenAI's.
        model: Any = OpenAIEmbeddings(
            check_embedding_ctx_length=False, chunk_size=work.per_list, timeout=_PATIENCE, **options
        )
        send, given = model.aembed_documents, _lists(inputs, work.per_list)
    else:
        # Its own `max_tokens` goes out as `max_completion_tokens`, which the server ignores.
        model = ChatOpenAI(extra_body={"max_tokens": work.max_tokens}, timeout=_PATIENCE, **options)
        send, given = model.ainvoke, list(inputs)

    async def timed(one: Any) -> Any:
        began = time.perf_counter()
        answer = await send(one)
        found.seconds.append(time.perf_counter() - began)
        return answer

    step = RunnableLambda(lambda _: None, afunc=timed)
    answers = await step.abatch(given, config, return_exceptions=True)
    for one, answer in zip(given, answers, strict=True):
        if isinstance(answer, BaseException):
            found.fail(answer, 1 if isinstance(one, str) else len(one))
        elif work.kind == "chat":
            found.tokens += answer.usage_metadata["output_tokens"]
        else:
            found.tokens += sum(len(text.split()) for text in one)


CLIENTS: Mapping[str, tuple[str, tuple[str, ...], _Client]] = {
    "batchrt": ("batchrt", (), _batchrt),
    "langchain": ("LangChain `abatch`", ("langchain-openai",), _langchain),
    "openai": ("openai SDK, `gather`", ("openai",), _openai),
}
"""By key: the name, the distributions it takes, and what it does."""


def measure(work: Work) -> dict[str, Any]:
    """Do the work, and return what was found."""
    inputs, found = inputs_for(work), _Found()
    began = time.perf_counter()
    asyncio.run(_run(CLIENTS[work.client][2], work, inputs, found))
    wall = time.perf_counter() - began
    return {
        "wall": wall,
        "tokens": found.tokens,
        "failed": found.errors.total(),
        "errors": dict(found.errors.most_common(3)),
        "seconds": sorted(round(second, 4) for second in found.seconds),
    }


async def _run(client: _Client, work: Work, inputs: Sequence[str], found: _Found) -> None:
    await client(work, inputs, found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the figures."""
    (settings,) = sys.argv[1:] if arguments is None else arguments
    print(json.dumps(measure(Work(**json.loads(settings)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
