"""Steps that call a method of a runnable."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from typing import Any

from batchrt.config import complete_config
from batchrt.runnables.awaitables import PLAIN_TYPES, resolve, resolve_without_loop
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.threads import call_in_thread

__all__ = ["async_method_step", "sync_method_step"]


def async_method_step(method: Callable[..., Coroutine[Any, Any, Any]], kwargs: Mapping[str, Any]) -> Step:
    """Return the step of an async method: a leaf on the event loop."""

    async def call(value: Any, strand: Strand) -> Any:
        await strand.take()
        output = await method(value, complete_config(strand.config), **kwargs)
        if type(output) in PLAIN_TYPES or not hasattr(type(output), "__await__"):
            return output
        return await resolve(output)

    return Step(call)


def sync_method_step(method: Callable[..., Any], kwargs: Mapping[str, Any]) -> Step:
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
