from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import pytest

from batchrt import RunConfig, RunnableLambda
from tests.runnables.helpers import add_one, fail

pytestmark = pytest.mark.anyio


async def test_entry_points_return_no_outputs_for_no_inputs() -> None:
    """`[]` gives `[]`, as does any other empty iterable."""

    async def nothing() -> AsyncIterator[int]:
        return
        yield

    runnable = RunnableLambda(add_one)
    assert await runnable.abatch([]) == []
    assert await runnable.abatch(iter(())) == []
    assert await runnable.abatch(nothing()) == []
    assert [item async for item in runnable.abatch_as_completed([])] == []
    assert await anyio.to_thread.run_sync(runnable.batch, []) == []
    assert list((await runnable.arun([])).outputs) == []


async def test_entry_points_take_a_config_for_each_input() -> None:
    """A list or tuple of configs applies item by item, over the bound config."""

    def read(value: int, config: RunConfig) -> Any:
        return value, config["tags"]

    runnable = RunnableLambda(read)
    configs: list[RunConfig] = [{"tags": ["a"]}, {"tags": ["b"]}]
    assert await runnable.abatch([1, 2], configs) == [(1, ["a"]), (2, ["b"])]
    assert await runnable.abatch([1, 2], tuple(configs)) == [(1, ["a"]), (2, ["b"])]
    bound = runnable.with_config(tags=["z"])
    assert await bound.abatch([1, 2], configs) == [(1, ["z", "a"]), (2, ["z", "b"])]


async def test_entry_points_require_as_many_configs_as_inputs() -> None:
    """One config too few is an error before anything runs."""
    calls: list[int] = []
    with pytest.raises(ValueError, match="one config for each input: 1 for 2 inputs"):
        await RunnableLambda(calls.append).abatch([1, 2], [{}])
    with pytest.raises(ValueError, match="an unknown number"):
        await RunnableLambda(calls.append).abatch(iter([1]), [{}])
    assert calls == []


@pytest.mark.parametrize("cap", [0, -1])
async def test_entry_points_refuse_a_cap_below_one_before_anything_runs(cap: int) -> None:
    """This holds in every method, and when a part of a chain is made."""
    calls: list[int] = []
    runnable, config = RunnableLambda(calls.append), RunConfig(max_concurrency=cap)
    with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
        await runnable.abatch([1], config)
    with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
        await runnable.ainvoke(1, config)
    with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
        runnable.abatch_as_completed([1], config)
    with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
        runnable.with_config(config)
    assert calls == []


async def test_entry_points_return_exceptions_puts_an_error_in_its_place() -> None:
    """Only the failed item has an exception as its output."""
    branch = RunnableLambda(lambda value: fail(value) if value == 2 else value)
    outputs = await branch.abatch([1, 2, 3], return_exceptions=True)
    assert outputs[0::2] == [1, 3]
    assert isinstance(outputs[1], ValueError)


async def test_entry_points_refuse_a_string_as_a_list_of_inputs() -> None:
    """`abatch("abc")` is an error, not three inputs."""
    with pytest.raises(TypeError, match="put it in a list"):
        await RunnableLambda(str.upper).abatch("abc")
