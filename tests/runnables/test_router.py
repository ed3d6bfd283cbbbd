"""Routers: the input names the runnable."""

from __future__ import annotations

from typing import Any

import pytest

from batchrt import RouterRunnable, RunnableLambda, RunnablePassthrough
from tests.runnables.helpers import add_one, add_two, everyway, raises_everyway

pytestmark = pytest.mark.anyio

RUNNABLES: dict[str, Any] = {"one": add_one, "two": add_two, "dict": {"a": add_one}}
ROUTER: RouterRunnable[Any] = RouterRunnable(RUNNABLES)


async def test_router_runs_the_runnable_that_the_input_names() -> None:
    """Functions and dicts are runnables here too."""
    assert await everyway(ROUTER, {"key": "one", "input": 1}) == 2
    assert await everyway(ROUTER, {"key": "two", "input": 1}) == 3
    assert await everyway(ROUTER, {"key": "dict", "input": 1}) == {"a": 2}
    inputs = [{"key": key, "input": 0} for key in ("two", "one", "two")]
    assert await ROUTER.abatch(inputs) == [2, 1, 2]


async def test_router_passes_keywords_to_the_runnables_that_take_them() -> None:
    """Others run without."""
    runnables: dict[str, Any] = {"adds": add_one, "passes": RunnablePassthrough()}
    router = RouterRunnable(runnables)
    inputs: list[Any] = [{"key": "adds", "input": 1}, {"key": "passes", "input": 1}]
    assert await router.abatch(inputs, extra=10) == [12, 1]


async def test_router_names_its_keys_in_errors() -> None:
    """An input without a known key fails alone."""
    await raises_everyway(ROUTER, {"key": "three", "input": 1}, LookupError, "'one', 'two', 'dict'")
    await raises_everyway(ROUTER, {"input": 1}, TypeError, "'key' and 'input', not one with 'input'")
    await raises_everyway(ROUTER, 5, TypeError, "'key' and 'input', not int")
    outputs: list[Any] = await ROUTER.abatch(
        [{"key": "x", "input": 1}, {"key": "one", "input": 1}], return_exceptions=True
    )
    assert isinstance(outputs[0], LookupError)
    assert outputs[1] == 2
    with pytest.raises(ValueError, match="at least one"):
        RouterRunnable({})


def test_router_is_described_by_its_runnables() -> None:
    """A changed function is a changed part."""
    other = RouterRunnable({**RUNNABLES, "one": RunnableLambda(add_two)})
    assert ROUTER.describe().parts != other.describe().parts
