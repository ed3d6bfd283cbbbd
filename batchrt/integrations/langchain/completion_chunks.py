"""Streams of chat completions behind openai's interface: chunks as JSON, read by our client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from batchrt.errors import ProviderError
from batchrt.integrations.langchain.errors import Translate, raise_as
from batchrt.messages import AIMessageChunk, Usage
from batchrt.runtime.chunk_stream import ChunkStream

__all__ = ["AsyncChunks", "SyncChunks"]


class _Documents:
    """Make the API's chunks of ours; each names the model, as OpenAI's do, and usage has one of its own."""

    def __init__(self) -> None:
        self._model: str | None = None

    def of(self, chunk: AIMessageChunk) -> Iterator[dict[str, Any]]:
        """Yield the chunks that say what `chunk` does."""
        self._model = self._model or chunk.model
        common = {"object": "chat.completion.chunk", "model": self._model}
        delta: dict[str, Any] = {"role": "assistant", "content": chunk.content or ""}
        if chunk.raw_tool_calls:
            delta["tool_calls"] = [dict(call) for call in chunk.raw_tool_calls]
        if chunk.refusal is not None:
            delta["refusal"] = chunk.refusal
        choice = {
            "index": 0,
            "delta": delta,
            "finish_reason": chunk.finish_reason,
            "logprobs": chunk.logprobs,
        }
        yield {**common, "choices": [choice], "usage": None}
        if chunk.usage is not None:
            yield {**common, "choices": [], "usage": _usage(chunk.usage)}


def _usage(usage: Usage) -> dict[str, Any]:
    """Return the API's form of a usage; details that are 0 are null, as where a server reports none."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens or None,
            "cache_write_tokens": usage.cache_write_tokens or None,
            "audio_tokens": usage.input_audio_tokens or None,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens or None,
            "audio_tokens": usage.output_audio_tokens or None,
        },
    }


class AsyncChunks:
    """Be openai's `AsyncStream` of chunks, which closes the request when it is left."""

    def __init__(self, chunks: ChunkStream[Any], translate: Translate) -> None:
        self._chunks = chunks
        self._translate = translate
        self._documents = _Documents()
        self._waiting: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the request."""
        await self._chunks.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self._waiting:
            try:
                self._waiting.extend(self._documents.of(await anext(self._chunks)))
            except ProviderError as error:
                raise_as(self._translate(error), error)
        return self._waiting.pop(0)


class SyncChunks:
    """Be openai's `Stream` of chunks, which closes the request when it is left."""

    def __init__(self, chunks: Iterator[Any], translate: Translate) -> None:
        self._chunks = chunks
        self._translate = translate

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        documents = _Documents()
        try:
            for chunk in self._chunks:
                yield from documents.of(chunk)
        except ProviderError as error:
            raise_as(self._translate(error), error)
