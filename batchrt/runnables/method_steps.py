"""Steps that call a method of a runnable."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from batchrt.config import complete_config
from batchrt.runnables.awaitables import PLAIN_TYPES, resolve, resolve_without_loop
from batchrt.runnables.generator_steps import (
    async_produce,
    async_transform,
    async_whole,
    sync_produce,
    sync_transform,
    sync_whole,
)
from batchrt.runnables.streams import total_call
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.threads import call_in_thread

if TYPE_CHECKING:
    from batchrt.runnables.base import Runnable
    from batchrt.runnables.entry_points import Method

__all__ = ["STREAM_METHODS", "method_step", "replaced_method", "replaced_stream", "streaming_step"]

STREAM_METHODS: Final[tuple[Method, ...]] = ("atransform", "transform", "astream", "stream")
"""Methods by which a class streams; of several that it overrides the first is used."""


def replaced_method(runnable: Runnable[Any, Any]) -> Method | None:
    """Return the method that a test has replaced, of this object or of its class, by a mock or a spy."""
    own, kind = runnable.__dict__, type(runnable)
    if "ainvoke" in own or kind.ainvoke is not kind._own_ainvoke:
        return "ainvoke"
    if "invoke" in own or kind.invoke is not kind._own_invoke:
        return "invoke"
    return None


def replaced_stream(runnable: Runnable[Any, Any]) -> Method | None:
    """Return `astream` or `stream` if a test has replaced it, as for `replaced_method`."""
    own, kind = runnable.__dict__, type(runnable)
    if "astream" in own or kind.astream is not kind._own_astream:
        return "astream"
    if "stream" in own or kind.stream is not kind._own_stream:
        return "stream"
    return None


def method_step(runnable: Runnable[Any, Any], method: Method | None, kwargs: Mapping[str, Any]) -> Step:
    """Return the step of a class that says by `method` how it runs.

    Raises:
        TypeError: it does not say so.
    """
    if method == "ainvoke":
        return _async_method_step(runnable.ainvoke, kwargs)
    if method == "invoke":
        unawaited = getattr(runnable.invoke, "unawaited", None)
        own = partial(unawaited, runnable) if isinstance(unawaited, FunctionType) else runnable.invoke
        return _sync_method_step(own, kwargs)
    if runnable._stream_method is not None:
        return streaming_step(runnable, runnable._stream_method, kwargs)
    name = type(runnable).__name__
    raise TypeError(f"{name} defines neither ainvoke nor invoke nor abatch_native: it cannot run")


def _async_method_step(method: Callable[..., Coroutine[Any, Any, Any]], kwargs: Mapping[str, Any]) -> Step:
    """Return the step of an async method: a leaf on the event loop."""

    async def call(value: Any, strand: Strand) -> Any:
        await strand.take()
        output = await method(value, complete_config(strand.config), **kwargs)
        if type(output) in PLAIN_TYPES or not hasattr(type(output), "__await__"):
            return output
        return await resolve(output)

    return Step(call)


def _sync_method_step(method: Callable[..., Any], kwargs: Mapping[str, Any]) -> Step:
    """Return the step of a sync method: a leaf in a worker thread."""

    async def call(value: Any, strand: Strand) -> Any:
        config = complete_config(strand.config)
        if strand.run.direct:
            output = copy_context().run(method, value, config, **kwargs)  # as in a thread
        else:
            await strand.take()
            output = await call_in_thread(lambda item: method(item, config, **kwargs), value, strand)
        if hasattr(type(output), "__await__"):
            return resolve_without_loop(output) if strand.run.direct else await resolve(output)
        return output

    return Step(call, direct=True)


def streaming_step(
    runnable: Runnable[Any, Any], name: Method, kwargs: Mapping[str, Any], step: Step | None = None
) -> Step:
    """Return `step` with the streams of the method `name` of `runnable`, one of STREAM_METHODS.

    Without a step, which is for a class that does nothing but stream, its call is the sum of the chunks.
    """
    method = getattr(runnable, name)

    def bound(value: Any, strand: Strand) -> Any:
        return method(value, complete_config(strand.config), **kwargs)

    streams: dict[str, tuple[Any, Any]] = {
        "atransform": (async_whole, async_transform),
        "transform": (sync_whole, sync_transform),
        "astream": (async_produce, None),
        "stream": (sync_produce, None),
    }
    whole, begins_early = streams[name]
    produce = partial(whole, bound)
    transform = None if begins_early is None else partial(begins_early, bound)
    return (step or Step(total_call(produce)))._replace(produce=produce, transform=transform)
