"""Helpers for the tests of the runnables: small functions, and every entry point for one input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import anyio.to_thread
import pytest
from trio.testing import MockClock

from batchrt import RunConfig, Runnable, add_chunks


def virtual_time(test: Any) -> Any:
    """Run an async test on Trio's mock clock, where sleeping takes no time."""
    backend = ("trio", {"clock": MockClock(autojump_threshold=0)})
    marked = pytest.mark.parametrize("anyio_backend", [pytest.param(backend, id="virtual")])(test)
    return pytest.mark.usefixtures("nothing_real")(marked)


class Flaky:
    """Fail the first `failures` times; count the calls, by input."""

    def __init__(self, failures: int, error: type[Exception] = ValueError) -> None:
        self.failures = failures
        self.error = error
        self.calls: dict[Any, int] = {}

    async def __call__(self, value: Any) -> Any:
        count = self.calls[value] = self.calls.get(value, 0) + 1
        if count <= self.failures:
            raise self.error(f"{value}, call {count}")
        return value


def add_one(value: int, extra: int = 0) -> int:
    return value + 1 + extra


async def add_two(value: int, extra: int = 0) -> int:
    return value + 2 + extra


def fail(value: Any) -> Any:
    raise ValueError(f"fail({value!r})")


async def everyway(
    runnable: Runnable[Any, Any], value: Any, config: RunConfig | None = None, **kwargs: Any
) -> Any:
    """Run `value` through each method and return the output that all of them must agree on."""
    ran = await runnable.arun([value], config, **kwargs)
    ran.raise_for_errors()
    outputs = [
        await runnable.ainvoke(value, config, **kwargs),
        (await runnable.abatch([value], config, **kwargs))[0],
        await anext(runnable.abatch_iter([value], config, **kwargs)),
        (await anext(runnable.abatch_as_completed([value], config, **kwargs)))[1],
        ran.outputs[0],
        *await _streamed_ways(runnable, value, config, kwargs),
        *await anyio.to_thread.run_sync(lambda: _sync_ways(runnable, value, config, kwargs)),
    ]
    assert all(output == outputs[0] for output in outputs), outputs
    return outputs[0]


def _sync_ways(
    runnable: Runnable[Any, Any], value: Any, config: RunConfig | None, kwargs: Mapping[str, Any]
) -> list[Any]:
    return [
        runnable.invoke(value, config, **kwargs),
        *runnable.batch([value], config, **kwargs),
        *runnable.batch_iter([value], config, **kwargs),
        *[output for _, output in runnable.batch_as_completed([value], config, **kwargs)],
        *runnable.run([value], config, **kwargs).outputs,
        total(runnable.stream(value, config, **kwargs)),
        total(runnable.transform(iter([value]), config, **kwargs)),
        total(chunk for _, chunk in runnable.stream_batch([value], config, **kwargs)),
    ]


async def _streamed_ways(
    runnable: Runnable[Any, Any], value: Any, config: RunConfig | None, kwargs: Mapping[str, Any]
) -> list[Any]:
    return [
        total([chunk async for chunk in runnable.astream(value, config, **kwargs)]),
        total([chunk async for chunk in runnable.atransform([value], config, **kwargs)]),
        total([chunk async for _, chunk in runnable.astream_batch([value], config, **kwargs)]),
    ]


def total(chunks: Iterable[Any]) -> Any:
    """Return the sum of `chunks`."""
    return reduce(add_chunks, chunks, None)


async def raises_everyway(
    runnable: Runnable[Any, Any], value: Any, error: type[Exception], match: str | None = None
) -> None:
    """Check that each method raises `error`."""
    with pytest.raises(error, match=match):
        await runnable.ainvoke(value)
    with pytest.raises(error, match=match):
        await runnable.abatch([value])
    with pytest.raises(error, match=match):
        [chunk async for chunk in runnable.astream(value)]
    with pytest.raises(error, match=match):
        [chunk async for chunk in runnable.atransform([value])]
    with pytest.raises(error, match=match):
        [chunk async for chunk in runnable.astream_batch([value])]
    with pytest.raises(error, match=match):
        await anyio.to_thread.run_sync(list, runnable.stream(value))
    with pytest.raises(error, match=match):
        await anyio.to_thread.run_sync(runnable.invoke, value)
    with pytest.raises(error, match=match):
        await anyio.to_thread.run_sync(runnable.batch, [value])
