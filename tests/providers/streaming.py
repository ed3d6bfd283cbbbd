"""Streams of a model's step, consumed as a leaf of a run, and bodies of events."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import reduce
from operator import add
from typing import Any

from batchrt.messages import AIMessage, AIMessageChunk
from batchrt.runnables.base import Runnable
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["Streamed", "chunk_of", "event", "message_of", "sse", "streamed"]


class Streamed(Runnable[Any, Any]):
    """Give a list of the chunks that `model` streams.

    Args:
        model: whose step streams.
        each: awaited with the chunks so far, after each.
        most: the number of chunks after which the stream is closed.
    """

    def __init__(
        self,
        model: Runnable[Any, Any],
        each: Callable[[list[Any]], Awaitable[object]] | None = None,
        most: int | None = None,
    ) -> None:
        self._model, self._each, self._most = model, each, most

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        produce = self._model._step().produce
        assert produce is not None

        async def call(value: Any, strand: Strand) -> list[Any]:
            chunks: list[Any] = []
            stream: Any = produce(value, strand)
            try:
                while len(chunks) != self._most:
                    chunks.append(await anext(stream))
                    if self._each is not None:
                        await self._each(chunks)
            except StopAsyncIteration:
                pass
            finally:
                await stream.aclose()
            return chunks

        return Step(call)


async def streamed(model: Runnable[Any, Any], value: Any = "hello") -> list[Any]:
    """Return the chunks of one answer."""
    chunks: list[Any] = await Streamed(model).ainvoke(value)
    return chunks


def message_of(chunks: list[AIMessageChunk]) -> AIMessage:
    """Return the message that the chunks add up to."""
    return reduce(add, chunks).to_message()


def chunk_of(
    delta: Mapping[str, Any] | None = None, finish: str | None = None, **members: Any
) -> dict[str, Any]:
    """Return the object of one event, as OpenAI sends it."""
    choices = (
        [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    )
    return {"id": "c", "object": "chat.completion.chunk", "model": "m-1", "choices": choices, **members}


def event(data: Any) -> bytes:
    """Return an event that holds `data` as JSON; bytes as they are."""
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def sse(*events: Any, done: bool = True) -> bytes:
    """Return the body of a stream."""
    return b"".join(map(event, events)) + (event(b"[DONE]") if done else b"")
