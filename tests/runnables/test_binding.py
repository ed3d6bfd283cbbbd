from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from batchrt import ItemTimeoutError, RunConfig, RunnableBinding, RunnableLambda, RunnablePassthrough
from tests.runnables.helpers import add_one, add_two, everyway, virtual_time

pytestmark = pytest.mark.anyio


def read(_value: int, config: RunConfig) -> RunConfig:
    return config


async def test_binding_passes_bound_arguments_to_the_call() -> None:
    """The call's own arguments win; inside a chain, bound ones reach the step that they are bound to."""
    bound = RunnableLambda(add_one).bind(extra=5)
    assert await everyway(bound, 1) == 7
    assert await everyway(bound, 1, extra=9) == 11
    assert await everyway(RunnableLambda(add_two) | bound, 1) == 9


async def test_binding_of_a_binding_lets_the_last_value_win() -> None:
    """Binding a binding makes one binding of both, as in LCEL."""
    bound = RunnableLambda(add_one).bind(extra=1).bind(extra=2)
    assert (bound.kwargs, type(bound.bound)) == ({"extra": 2}, RunnableLambda)
    assert await everyway(bound, 1) == 4
    assert bound.bind(other=3).kwargs == {"extra": 2, "other": 3}
    config = RunnableLambda(read).with_config(tags=["a"], metadata={"m": 1}).bind().with_config(tags=["b"])
    seen = await everyway(config, 1)
    assert (seen["tags"], seen["metadata"]) == (["b"], {"m": 1})


@pytest.mark.parametrize("inside", [False, True])
async def test_binding_config_is_the_default_of_the_call(inside: bool) -> None:
    """Alone and inside a chain, tags add up, and the call's value of a key wins."""
    bound = RunnableLambda(read).with_config(
        {"tags": ["in", "both"]},
        metadata={"m": "bound", "n": 1},
        configurable={"c": "bound"},
        run_name="inner",
    )
    runnable = RunnablePassthrough() | bound if inside else bound
    config = RunConfig(tags=["both", "out"], metadata={"m": "call"}, configurable={"d": 1})
    seen = await everyway(runnable, 1, config)
    assert seen["tags"] == ["in", "both", "out"]
    assert seen["metadata"] == {"m": "call", "n": 1}
    assert seen["configurable"] == {"c": "bound", "d": 1}


async def test_binding_config_ends_with_its_part() -> None:
    """Later steps have the call's config, also after the part failed."""

    def broken(_value: int) -> int:
        raise ValueError

    inner = RunnableLambda(add_one).with_config(tags=["in"])
    failing = RunnableLambda(broken).with_config(tags=["in"])
    assert (await everyway(inner | read, 1))["tags"] == []
    assert (await everyway(failing.with_fallbacks([RunnableLambda(read)]), 1))["tags"] == []


async def test_binding_refuses_an_invalid_config_at_once() -> None:
    """The error is raised when the binding is made, not when it runs."""
    with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
        RunnableLambda(add_one).with_config({"max_concurrency": 0})
    with pytest.raises(ValueError, match="window must be at least 1"):
        RunnableLambda(add_one).bind(extra=1).with_config(window=0)
    with pytest.raises(ValueError, match="no key 'max_concurency'"):
        RunnableLambda(add_one).with_config(max_concurency=3)


@pytest.mark.parametrize("cap", [1, 3])
async def test_binding_cap_holds_for_all_items_together(cap: int) -> None:
    """The cap of a part holds however many items are in the rest of the chain."""
    active = peak = 0

    async def leaf(value: int) -> int:
        nonlocal active, peak
        active += 1
        peak = max(peak, active)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        active -= 1
        return value

    part = RunnableLambda(leaf).with_config(max_concurrency=cap)
    await (RunnableLambda(add_two) | part).abatch(range(20), {"max_concurrency": 10})
    assert peak == cap
    peak = 0
    await part.abatch(range(20))
    assert peak == cap


@virtual_time
async def test_binding_timeout_bounds_each_item_in_the_part() -> None:
    """It is that item's error, names the part, and can be handled by a fallback."""

    async def slow(value: int) -> int:
        await anyio.sleep(value)
        return value

    part = RunnableLambda(slow).with_config(timeout=5)
    outputs: list[Any] = await (part | add_two).abatch([1, 10], return_exceptions=True)
    assert outputs[0] == 3
    assert isinstance(outputs[1], ItemTimeoutError)
    assert outputs[1].seconds == 5
    rescued = part.with_fallbacks([RunnableLambda(add_two)])
    assert await (rescued | add_two).abatch([1, 10]) == [3, 14]


@virtual_time
async def test_binding_uses_the_later_of_two_timeouts() -> None:
    """This holds alone and inside a chain."""

    async def slow(value: int) -> int:
        await anyio.sleep(3)
        return value

    part = RunnableLambda(slow).with_config(timeout=1).with_config(timeout=5)
    assert await part.abatch([1]) == [1]
    assert await (RunnablePassthrough[int]() | part).abatch([1]) == [1]


async def test_binding_class_can_be_used_directly() -> None:
    """The constructor has LCEL's keywords."""
    binding = RunnableBinding(bound=RunnableLambda(add_one), kwargs={"extra": 1}, config={"tags": ["a"]})
    assert await everyway(binding, 1) == 3
    assert binding.get_name() == "add_one"
    assert binding.with_config(run_name="mine").get_name() == "mine"


async def test_binding_types_have_no_effect_at_run_time() -> None:
    """`with_types` is for the type checker alone."""
    typed = RunnableLambda(add_one).bind(extra=1).with_types(input_type=int, output_type=str)
    assert await everyway(typed, 1) == 3


@pytest.mark.parametrize("where", ["the call", "each item", "inside", "with_config"])
async def test_binding_cap_is_not_lifted_by_none(where: str) -> None:
    """Only an outer `with_config` lifts a bound cap, not a `None` from the call."""
    now = peak = 0

    async def leaf(value: int) -> int:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        now -= 1
        return value

    capped = RunnableLambda(leaf).with_config(max_concurrency=3)
    inputs = list(range(30))
    if where == "the call":
        await capped.abatch(inputs, {"max_concurrency": None})
    elif where == "each item":
        await capped.abatch(inputs, [{"max_concurrency": None}] * 30)
    elif where == "inside":
        await (capped | RunnablePassthrough()).abatch(inputs, {"max_concurrency": None})
    else:
        await capped.with_config(max_concurrency=None).abatch(inputs)
    assert (peak > 3) is (where == "with_config")
