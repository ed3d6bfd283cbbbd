"""Native steps: runnables that take lists."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import anyio
import anyio.to_thread
import pytest

from batchrt import (
    BatchError,
    ListLengthError,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    StrayCancelledError,
    Usage,
)
from batchrt.runtime.arrivals import Arrivals
from batchrt.runtime.strand import current_strand
from tests.runnables.helpers import everyway, raises_everyway, virtual_time
from tests.runnables.virtual import run_in_virtual_time

pytestmark = pytest.mark.anyio


class Lengths(Runnable[str, int]):
    """Give each text's length, a list at a time."""

    def __init__(self, size: int | None = 10, seconds: float = 0.0, linger: float = 2.0) -> None:
        self.max_batch_size = size
        self.seconds = seconds
        # Far more than a busy machine makes anybody wait, where the test is not about lingering.
        self.linger, self.max_linger = linger, 10 * linger
        self.lists: list[list[str]] = []

    async def abatch_native(self, inputs: list[str]) -> list[int]:
        self.lists.append(inputs)
        await anyio.sleep(self.seconds)
        return [len(text) for text in inputs]

    @property
    def sizes(self) -> list[int]:
        return [len(inputs) for inputs in self.lists]


async def same(value: Any) -> Any:
    return value


async def test_native_step_has_every_entry_point() -> None:
    """Each returns one output for each input."""
    assert await everyway(Lengths(), "abc") == 3
    assert await everyway(RunnableLambda(same) | Lengths() | same, "abc") == 3


async def test_native_lists_are_full() -> None:
    """Complete inputs are sent in as few lists as possible."""
    lengths = Lengths()
    assert await lengths.abatch(["a"] * 35) == [1] * 35
    assert lengths.sizes == [10, 10, 10, 5]


@pytest.mark.parametrize(
    "around",
    [
        lambda step: RunnableLambda(same) | step | same,
        lambda step: RunnableParallel(it=step, other=same) | (lambda out: out["it"]),
        lambda step: RunnableBranch((bool, step), same),
        lambda step: step.with_retry(),
        lambda step: step.with_fallbacks([RunnableLambda(same)]),
        lambda step: (
            RunnableLambda(lambda text: {"text": text}).assign(n=(lambda d: d["text"]) | step)
            | (lambda d: d["n"])
        ),
        lambda step: step.with_config(tags=["x"]),
        lambda step: step.with_config(max_concurrency=2),
        lambda step: RunnableLambda(lambda _: step),
    ],
)
async def test_native_items_meet_wherever_the_step_stands(around: Any) -> None:
    """In a sequence, under a parallel, behind a branch, a retry or a fallback, lists are sent, not items."""
    lengths = Lengths()
    texts = ["a" * (n % 7 + 1) for n in range(40)]
    assert await around(lengths).abatch(texts, {"max_concurrency": 3}) == [len(text) for text in texts]
    assert sum(lengths.sizes) == 40
    assert len(lengths.sizes) <= 6


@pytest.mark.parametrize("sync", [False, True])
async def test_native_calls_inside_functions_meet(sync: bool) -> None:
    """A function's call for one input shares lists with the other items' functions."""
    lengths = Lengths()

    async def function(text: str) -> int:
        return await lengths.ainvoke(text)

    def function_in_thread(text: str) -> int:
        return lengths.invoke(text)

    chain: Runnable[str, int] = RunnableLambda(function_in_thread) if sync else RunnableLambda(function)
    assert await chain.abatch(["abc"] * 20, {"max_concurrency": 10}) == [3] * 20
    assert len(lengths.sizes) < 8


async def test_native_elements_of_a_map_meet() -> None:
    """`map` over a native step sends its elements as lists, even for a single input and at cap 1."""
    lengths = Lengths()
    assert await lengths.map().ainvoke(["a"] * 25, {"max_concurrency": 1}) == [1] * 25
    assert lengths.sizes == [10, 10, 5]


async def test_native_branches_meet() -> None:
    """Both branches of one item are sent in one list."""
    lengths = Lengths()
    branches: RunnableParallel[str] = RunnableParallel(a=lengths, b=lengths)
    assert await branches.ainvoke("abc") == {"a": 3, "b": 3}
    assert lengths.sizes == [2]


async def test_native_lists_have_the_same_bound_arguments() -> None:
    """Calls with different arguments do not share a list."""

    class Adds(Runnable[int, int]):
        async def abatch_native(self, inputs: list[int], amount: int = 0) -> list[int]:
            return [value + amount for value in inputs]

    adds = Adds()
    chain: RunnableParallel[int] = RunnableParallel(a=adds.bind(amount=1), b=adds.bind(amount=2), c=adds)
    assert await chain.abatch([10, 20]) == [{"a": 11, "b": 12, "c": 10}, {"a": 21, "b": 22, "c": 20}]


@virtual_time
async def test_native_single_call_does_not_wait() -> None:
    """No other item can arrive, so it is sent at once."""
    started = anyio.current_time()
    assert await (RunnableLambda(same) | Lengths()).ainvoke("abc") == 3
    assert await (RunnableLambda(same) | Lengths()).abatch(["abc"]) == [3]
    assert anyio.current_time() == started


@virtual_time
async def test_native_list_does_not_wait_for_a_slow_item() -> None:
    """It is sent when arrivals pause; later items go in another list."""
    lengths = Lengths(size=100, linger=0.01)
    finished: list[tuple[float, int]] = []

    async def slow_for_long_ones(text: str) -> str:
        await anyio.sleep(60 if len(text) > 1 else 0.001)
        return text

    chain = RunnableLambda(slow_for_long_ones) | lengths
    started = anyio.current_time()
    async for index, _ in chain.abatch_as_completed(["a"] * 9 + ["aa"]):
        finished.append((anyio.current_time() - started, index))
    assert lengths.sizes == [9, 1]
    assert max(at for at, index in finished if index != 9) < 0.2


@virtual_time
async def test_native_last_list_does_not_linger() -> None:
    """Once all items have arrived or passed the step, the list is sent at once."""
    lengths = Lengths(size=4, linger=1000)

    async def store(value: int) -> int:
        await anyio.sleep(5)
        return value

    started = anyio.current_time()
    assert await (RunnableLambda(same) | lengths | store).abatch(["a"] * 10) == [1] * 10
    assert lengths.sizes == [4, 4, 2]
    assert anyio.current_time() - started == pytest.approx(5)


@virtual_time
async def test_native_max_linger_bounds_a_steady_trickle() -> None:
    """Arrivals that never pause do not delay the first item for ever."""
    lengths = Lengths(size=1000, linger=1)
    lengths.max_linger = 3

    async def after(number: int) -> str:
        await anyio.sleep(number * 0.5)
        return "a"

    await (RunnableLambda(after) | lengths).abatch(range(30))
    assert max(lengths.sizes) <= 8


async def test_native_costs_bound_lists() -> None:
    """Lists are packed by cost as well; an item above the bound goes alone."""

    class Costly(Lengths):
        max_batch_cost = 10

        def cost(self, text: str) -> int:
            return len(text)

    costly = Costly()
    texts = ["a" * 6, "a" * 4, "a" * 5, "a" * 20, "a"]
    assert await (RunnableLambda(same) | costly).abatch(texts, {"max_concurrency": 1}) == [6, 4, 5, 20, 1]
    assert costly.sizes == [2, 1, 1, 1]
    costly.lists.clear()
    assert await costly.abatch(texts) == [6, 4, 5, 20, 1]
    assert costly.sizes == [2, 1, 1, 1]


class Picky(Lengths):
    """Fail with every list that has a bad text in it."""

    async def abatch_native(self, inputs: list[str]) -> list[int]:
        outputs = await super().abatch_native(inputs)
        if "bad" in inputs:
            raise ValueError("there is a bad one in it")
        return outputs


@pytest.mark.parametrize("alone", [False, True])
async def test_native_halving_fails_only_the_bad_items(alone: bool) -> None:
    """A list that fails is halved until the failing items stand alone."""
    picky = Picky(size=64)
    chain: Runnable[str, int] = picky if alone else RunnableLambda(same) | picky
    texts = ["bad" if n in {3, 40} else "good" for n in range(64)]
    outputs: list[Any] = await chain.abatch(texts, return_exceptions=True)
    for text, output in zip(texts, outputs, strict=True):
        assert isinstance(output, ValueError) if text == "bad" else output == 4
    assert len(picky.sizes) <= 2 * 2 * 6 + 1
    with pytest.raises(ValueError, match="a bad one") as caught:
        await chain.abatch(texts)
    assert caught.value.__notes__ == ["batchrt: item 3 failed; the rest was cancelled"]


async def test_native_exception_in_an_outputs_place_is_that_items_error() -> None:
    """A list call can report which of its items failed."""

    class Says(Lengths):
        async def abatch_native(self, inputs: list[str]) -> list[Any]:
            outputs = await super().abatch_native(inputs)
            return [
                ValueError(text) if text == "bad" else out for text, out in zip(inputs, outputs, strict=True)
            ]

    says = Says()
    for chain in (says, RunnableLambda(same) | says):
        says.lists.clear()
        outputs: list[Any] = await chain.abatch(["good", "bad", "fine"], return_exceptions=True)
        assert (outputs[0], outputs[2]) == (4, 4)
        assert isinstance(outputs[1], ValueError)
        assert says.sizes == [3]
    await raises_everyway(says, "bad", ValueError, "bad")


@pytest.mark.parametrize("wrong", [[], [1], {"a": 1}, "ab", None, (1, 2, 3)])
async def test_native_list_of_the_wrong_length_is_an_error(wrong: Any) -> None:
    """Its outputs are delivered to no item, and the error names the step."""

    class Wrong(Runnable[str, int]):
        calls = 0

        async def abatch_native(self, inputs: list[str]) -> Any:
            self.calls += 1
            return wrong

    step = Wrong()
    for chain in (step, RunnableLambda(same) | step):
        outputs: list[Any] = await chain.abatch(["a", "b"], return_exceptions=True)
        assert all(isinstance(output, ListLengthError) for output in outputs)
        assert "Wrong.abatch_native" in str(outputs[0])
        assert outputs[0].expected == 2
    assert step.calls == 2
    assert issubclass(ListLengthError, BatchError)


async def test_native_outputs_may_be_any_sequence() -> None:
    """A tuple, or any object with a length and items."""

    class Tuples(Runnable[int, int]):
        async def abatch_native(self, inputs: list[int]) -> Sequence[int]:
            return range(len(inputs))

    assert await Tuples().abatch([7, 7, 7]) == [0, 1, 2]


async def test_native_list_call_may_be_an_overridden_abatch() -> None:
    """As in LCEL: a subclass's own `abatch` is used in a chain, and not its `ainvoke` in a loop."""

    class Overrides(Runnable[int, int]):
        max_batch_size = 10

        def __init__(self) -> None:
            self.lists: list[list[int]] = []

        async def ainvoke(self, input: int, config: Any = None, **kwargs: Any) -> int:  # noqa: A002
            raise AssertionError("not one by one")

        async def abatch(
            self, inputs: Any, config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
        ) -> list[Any]:
            self.lists.append(inputs)
            assert config["tags"] == ["mine"]
            return [ValueError() if value < 0 and return_exceptions else value + 1 for value in inputs]

    step = Overrides()
    chain = RunnableLambda(same) | step
    outputs: list[Any] = await chain.abatch([1, -2, 3], {"tags": ["mine"]}, return_exceptions=True)
    assert (outputs[0], outputs[2]) == (2, 4)
    assert isinstance(outputs[1], ValueError)
    assert step.lists == [[1, -2, 3]]


async def test_native_overridden_abatch_may_call_the_inherited_one() -> None:
    """Neither `super().abatch` nor a loop over `self.ainvoke` comes back to the override."""

    class Logs(Runnable[int, int]):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def invoke(self, input: int, config: Any = None, **kwargs: Any) -> int:  # noqa: A002
            return input + 1

        async def abatch(self, inputs: Any, config: Any = None, **kwargs: Any) -> list[int]:
            self.seen.append(len(inputs))
            return await super().abatch(inputs, config, **kwargs)

    class Loops(Logs):
        async def abatch(self, inputs: Any, config: Any = None, **kwargs: Any) -> list[int]:
            return [await self.ainvoke(value) for value in inputs]

    logs = Logs()
    assert await logs.abatch([1, 2]) == [2, 3]
    assert await (RunnableLambda(same) | logs).abatch([1, 2, 3], {"max_concurrency": 1}) == [2, 3, 4]
    assert logs.seen == [2, 3]
    assert await (RunnableLambda(same) | Loops()).abatch([1, 2, 3]) == [2, 3, 4]


async def test_native_overridden_batch_runs_in_a_thread() -> None:
    """A sync list call does not block the loop."""
    loop_thread = threading.get_ident()

    class Sync(Runnable[int, int]):
        def __init__(self) -> None:
            self.threads: list[int] = []

        def batch(self, inputs: Any, config: Any = None, **kwargs: Any) -> list[int]:
            self.threads.append(threading.get_ident())
            return [value + 1 for value in inputs]

    step = Sync()
    assert await (RunnableLambda(same) | step).abatch([1, 2, 3]) == [2, 3, 4]
    assert len(step.threads) == 1
    assert loop_thread not in step.threads


async def test_native_list_call_receives_a_config_for_each_item() -> None:
    """A list whose items have different configs is passed one for each."""

    class Configured(Runnable[int, str]):
        async def abatch_native(self, inputs: list[int], config: Any = None) -> list[str]:
            each = config if isinstance(config, list) else [config] * len(inputs)
            return [str(value) + one["tags"][0] for value, one in zip(inputs, each, strict=True)]

    step = Configured()
    assert await step.abatch([1, 2], {"tags": ["x"]}) == ["1x", "2x"]
    assert await step.abatch([1, 2], [{"tags": ["x"]}, {"tags": ["y"]}]) == ["1x", "2y"]


@virtual_time
async def test_native_waiting_takes_no_slot() -> None:
    """At cap 1 a list still fills, and the cap still holds."""
    lengths = Lengths(size=10, seconds=1)
    active = peak = 0

    async def prepare(text: str) -> str:
        nonlocal active, peak
        active += 1
        peak = max(peak, active)
        await anyio.sleep(0.001)
        active -= 1
        return text

    assert await (RunnableLambda(prepare) | lengths).abatch(["a"] * 30, {"max_concurrency": 1}) == [1] * 30
    assert lengths.sizes == [10, 10, 10]
    assert peak == 1


@virtual_time
async def test_native_lists_run_concurrently_up_to_the_cap() -> None:
    """A list takes one slot, so that four are in flight at cap 4."""
    lengths = Lengths(size=10, seconds=1)
    started = anyio.current_time()
    await (RunnableLambda(same) | lengths).abatch(["a"] * 80, {"max_concurrency": 4})
    assert anyio.current_time() - started == pytest.approx(2, abs=0.1)


@virtual_time
async def test_native_lists_widen_the_window() -> None:
    """Lists longer than the usual window fill as well; an explicit `window` holds."""
    lengths = Lengths(size=1500, seconds=1)
    chain = RunnableLambda(same) | lengths
    await chain.abatch(["a"] * 3000, {"max_concurrency": 2})
    assert lengths.sizes == [1500, 1500]
    lengths.lists.clear()
    await chain.abatch(["a"] * 300, {"max_concurrency": 2, "window": 100})
    assert max(lengths.sizes) <= 100


@virtual_time
async def test_native_timeout_withdraws_one_item() -> None:
    """The others of its list go on; a list without waiting items is cancelled."""
    lengths = Lengths(seconds=10)
    chain = RunnableLambda(same) | lengths.with_config(timeout=1)
    outputs: list[Any] = await chain.abatch(["a", "b"], return_exceptions=True)
    assert [type(output).__name__ for output in outputs] == ["ItemTimeoutError"] * 2
    assert anyio.current_time() < 9.5


@virtual_time
async def test_native_share_lists_combines_concurrent_requests() -> None:
    """A service's requests are sent together with `share_lists`; without it each goes alone."""
    lengths = Lengths()
    for shared, sizes in ((False, [1] * 8), (True, [8])):
        lengths.share_lists = shared
        lengths.lists.clear()
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(lengths.ainvoke, "abc")
        assert lengths.sizes == sizes


@virtual_time
async def test_native_shared_list_that_fails_fails_only_the_bad_request() -> None:
    """Only the request with the bad text fails."""
    picky = Picky()
    picky.share_lists = True
    outputs: dict[str, Any] = {}

    async def request(text: str) -> None:
        try:
            outputs[text] = await picky.ainvoke(text)
        except ValueError as error:
            outputs[text] = error

    async with anyio.create_task_group() as group:
        for text in ("good", "bad", "fine"):
            group.start_soon(request, text)
    assert (outputs["good"], outputs["fine"]) == (4, 4)
    assert isinstance(outputs["bad"], ValueError)


@pytest.mark.parametrize(
    "bounds", [{"max_batch_size": 0}, {"max_batch_size": True}, {"max_batch_cost": 0}, {"linger": -1}]
)
async def test_native_refuses_invalid_bounds(bounds: dict[str, Any]) -> None:
    """The error is raised before anything runs."""
    lengths = Lengths()
    for name, value in bounds.items():
        setattr(lengths, name, value)
    with pytest.raises(ValueError, match=f"{next(iter(bounds))} of Lengths must be"):
        await lengths.abatch(["a"])
    assert not lengths.lists


async def test_native_outcomes_have_their_share() -> None:
    """`arun` returns each item's outcome, also for items sent as a list."""
    result = await Picky().arun(["good", "bad", "fine"])
    assert [outcome.error is None for outcome in result.outcomes] == [True, False, True]
    assert result.usage in {None, Usage()}


async def test_native_list_call_sees_the_callers_context_and_no_items() -> None:
    """A list belongs to no item."""
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="unset")

    class Sees(Runnable[int, str]):
        async def abatch_native(self, inputs: list[int]) -> list[str]:
            return [variable.get()] * len(inputs)

    async def sets(value: int) -> int:
        variable.set(f"item {value}")
        return value

    variable.set("the caller")
    assert await (RunnableLambda(sets) | Sees()).abatch([1, 2]) == ["the caller"] * 2


@virtual_time
async def test_native_list_that_waits_for_another_does_not_starve_it() -> None:
    """A list call that calls a native step lends its slot, so that the other step's list can be sent."""
    inner = Lengths(linger=0.05)

    class Outer(Runnable[str, int]):
        max_batch_size = 1

        async def abatch_native(self, inputs: list[str]) -> list[int]:
            return [await inner.ainvoke(text) for text in inputs]

    seen = anyio.Event()

    async def source() -> AsyncIterator[str]:
        yield "a"
        await seen.wait()
        yield "bb"

    outputs = []
    with anyio.fail_after(100):
        async for output in Outer().abatch_iter(source(), {"max_concurrency": 1}):
            outputs.append(output)
            seen.set()
    assert outputs == [1, 2]


@virtual_time
async def test_native_shared_lists_that_failed_together_do_not_wait_for_one_another() -> None:
    """Each request's part is sent by itself, and ends with it."""
    log: list[tuple[str, float]] = []

    class Slow(Lengths):
        share_lists = True

        async def abatch_native(self, inputs: list[str]) -> list[int]:
            if len(inputs) > 1:
                raise ValueError("not together")
            try:
                await anyio.sleep(1000 if inputs == ["slow"] else 1)
            finally:
                log.append((inputs[0], anyio.current_time()))
            return [len(inputs[0])]

    step = Slow(linger=0.01)
    started = anyio.current_time()

    async def request(text: str) -> None:
        with anyio.move_on_after(10):
            await step.ainvoke(text)

    async with anyio.create_task_group() as group:
        for text in ("slow", "a", "b"):
            group.start_soon(request, text)
    ended = {text: at - started for text, at in log}
    assert ended["a"] < 2
    assert ended["b"] < 2
    assert ended["slow"] == pytest.approx(10)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_native_shared_lists_are_sent_once_when_interrupted(kind: type[BaseException]) -> None:
    """An interrupt ends all requests that wait for the list, and no other attempt follows."""
    calls: list[int] = []
    ended: list[BaseException] = []

    class Interrupted(Lengths):
        share_lists = True

        async def abatch_native(self, inputs: list[str]) -> list[int]:
            calls.append(len(inputs))
            raise kind

    step = Interrupted(linger=0.01)

    async def request() -> None:
        try:
            await step.ainvoke("a")
        except kind as error:
            ended.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(request)
    assert calls == [4]
    assert len(ended) == 4


async def test_native_shared_lists_are_freed_when_unused() -> None:
    """A service binds different arguments with each request."""

    class Echo(Runnable[int, int]):
        share_lists = True
        linger = 0.0

        async def abatch_native(self, inputs: list[int], **_: Any) -> list[int]:
            return list(inputs)

    step = Echo()
    for number in range(20):
        assert await step.ainvoke(number, user=f"user {number}", metadata={"number": number}) == number
    gc.collect()
    assert not step.__dict__["_shared_lists"]


@virtual_time
async def test_native_work_nested_in_a_shared_list_stays_under_the_cap() -> None:
    """The run gave one slot for the list, and nested calls get no more."""
    active = peak = 0

    async def leaf(text: str) -> int:
        nonlocal active, peak
        active += 1
        peak = max(peak, active)
        await anyio.sleep(1)
        active -= 1
        return len(text)

    class Nests(Lengths):
        share_lists = True

        async def abatch_native(self, inputs: list[str]) -> list[int]:
            return await RunnableLambda(leaf).abatch(inputs)

    assert await (RunnableLambda(same) | Nests()).abatch(["a"] * 20, {"max_concurrency": 2}) == [1] * 20
    assert peak <= 2


async def test_native_cost_that_fails_is_that_items_error() -> None:
    """This holds for complete inputs as well."""

    class Costs(Lengths):
        max_batch_cost = 100

        def cost(self, text: str) -> int:
            return len(text)

    chain: Any
    for chain in (Costs(), RunnableLambda(same) | Costs()):
        first, second = await chain.abatch(["a", None], return_exceptions=True)
        assert first == 1
        assert isinstance(second, TypeError)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("cost", ["much", None, -1, float("nan")])
async def test_native_cost_that_is_no_number_is_that_items_error(cost: Any, shared: bool) -> None:
    class Costs(Lengths):
        max_batch_cost = 100
        share_lists = shared

        def cost(self, text: str) -> Any:
            return cost if text == "bad" else 1

    chain: Any
    for chain in (Costs(linger=0.01), RunnableLambda(same) | Costs(linger=0.01)):
        outputs = await chain.abatch(["a", "bad", "ccc"], return_exceptions=True)
        assert outputs[::2] == [1, 3]
        assert isinstance(outputs[1], TypeError | ValueError)
        assert "cost() of Costs" in str(outputs[1])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("what", ["raises", "no number"])
async def test_native_bounds_that_fail_during_a_run_are_the_lists_error(shared: bool, what: str) -> None:
    """They do not fail the whole run, and the run does not hang."""

    class Fails(Runnable[str, int]):
        share_lists = shared
        linger = 0.01
        asked = 0

        @property
        def max_batch_size(self) -> Any:  # type: ignore[override]
            self.asked += 1
            if self.asked == 1:
                return 2
            if what == "raises":
                raise KeyError("size")
            return "ten"

        async def abatch_native(self, inputs: list[str]) -> list[int]:
            return [len(text) for text in inputs]

    chain: Any
    for chain in (Fails(), RunnableLambda(same) | Fails()):
        outputs = await chain.abatch(["a"] * 5, return_exceptions=True)
        assert all(isinstance(output, KeyError | ValueError) for output in outputs)


async def test_native_nested_runs_leave_no_queues_behind() -> None:
    """Runs with their own cap have their own queues, which end with them."""
    lengths = Lengths()
    traffics: list[Arrivals] = []

    async def nested(_: int) -> int:
        strand = current_strand()
        assert strand is not None
        traffics.append(strand.run.arrivals)
        return len(await lengths.abatch(["a"] * 3, {"max_concurrency": 2}))

    assert await RunnableLambda(nested).abatch(range(50), {"max_concurrency": 2}) == [3] * 50
    assert not any(traffic.places for traffic in traffics)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_native_loop_that_ends_while_a_list_is_shared_does_not_hang(rounds: int) -> None:
    """All tasks are cancelled at any step of the list."""

    async def main() -> None:
        step = Lengths(seconds=5)
        step.share_lists, step.linger = True, 0.0
        task = asyncio.create_task(step.ainvoke("a"))
        for _ in range(rounds):
            await asyncio.sleep(0)
        del task

    asyncio.run(main())


async def test_native_bound_arguments_need_not_be_hashable() -> None:
    """A list among the arguments does not separate every item from every other."""
    sizes: list[int] = []

    class Labels(Runnable[str, int]):
        async def abatch_native(self, inputs: list[str], labels: list[str]) -> list[int]:
            sizes.append(len(inputs))
            return [len(labels)] * len(inputs)

    bound = Labels().bind(labels=["a", "b"])

    async def function(text: str) -> int:
        return await bound.ainvoke(text)

    assert await RunnableLambda(function).abatch(["x"] * 30) == [2] * 30
    assert len(sizes) < 10


async def test_native_runnables_made_for_each_item_leave_few_queues() -> None:
    """Idle queues are freed if there are very many."""
    traffics: list[Arrivals] = []

    async def function(text: str) -> int:
        strand = current_strand()
        assert strand is not None
        traffics.append(strand.run.arrivals)
        return await Lengths(linger=0).ainvoke(text)

    assert (
        await RunnableLambda(function).abatch(["x"] * 600, {"max_concurrency": 2, "window": 4}) == [1] * 600
    )
    assert len(traffics[0].places) < 200


async def test_native_error_that_takes_no_note_is_raised_as_itself() -> None:
    """A user may raise a frozen exception."""

    @dataclass(frozen=True)
    class Frozen(Exception):
        text: str

    class Fails(Lengths):
        async def abatch_native(self, inputs: list[str]) -> list[int]:
            raise Frozen("mine")

    for chain in (Fails(), RunnableLambda(same) | Fails()):
        with pytest.raises(Frozen, match="mine"):
            await chain.abatch(["a", "b"])


async def test_native_async_list_call_behind_a_plain_wrapper_is_awaited() -> None:
    """A decorator need not be async itself."""

    class Wrapped(Runnable[str, int]):
        def abatch_native(self, inputs: list[str]) -> Any:
            async def inner() -> list[int]:
                return [len(text) for text in inputs]

            return inner()

    assert await Wrapped().abatch(["a", "bb"]) == [1, 2]


def test_native_lists_are_not_broken_up_by_a_later_step_that_needs_the_slots() -> None:
    """Items that have left a list go before new ones, and such a pause is no pause in arrivals."""
    lengths = Lengths(size=256, seconds=0.1, linger=0.05)
    lengths.max_linger = 1

    async def sleep(value: Any) -> Any:
        await anyio.sleep(0.02)
        return value

    async def main() -> None:
        await (RunnableLambda(sleep) | lengths | sleep).abatch(["a"] * 5120, {"max_concurrency": 50})

    run_in_virtual_time("asyncio", main)
    assert lengths.sizes == [256] * 20


@dataclass(frozen=True)
class Tenant:
    name: str
    token: str = field(compare=False)


@pytest.mark.parametrize(
    "pair",
    [
        (Tenant("x", "a"), Tenant("x", "b")),
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ((1,), (True,)),
        ((1, (0.0,)), (1, (-0.0,))),
        (Decimal("1.0"), Decimal("1.00")),
        (datetime(2024, 1, 1, 12, tzinfo=UTC), datetime(2024, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))),
    ],
    ids=repr,
)
@pytest.mark.parametrize("shared", [False, True])
async def test_native_equal_but_not_identical_arguments_separate_lists(
    shared: bool, pair: tuple[Any, Any]
) -> None:
    """Equality is user-defined: one tenant's argument must not serve another's item."""

    class Tells(Runnable[int, Any]):
        share_lists = shared

        async def abatch_native(self, inputs: list[int], argument: Any = None) -> list[Any]:
            return [repr(argument)] * len(inputs)

    tells = Tells()
    bound = [tells.bind(argument=argument) for argument in pair]
    chain: RunnableParallel[Any] = RunnableParallel(a=bound[0], b=bound[1])
    assert await chain.ainvoke(1) == {"a": repr(pair[0]), "b": repr(pair[1])}


async def test_native_identical_arguments_share_lists() -> None:
    """Plain values, tuples of them, and one and the same object."""
    sizes: list[int] = []

    class Counts(Runnable[int, int]):
        async def abatch_native(self, inputs: list[int], **_: Any) -> list[int]:
            sizes.append(len(inputs))
            return inputs

    counts, thing = Counts(), object()
    bound = [counts.bind(a=f"x{len('y')}", b=(1, None, 2.5), c=thing) for _ in range(3)]
    chain: RunnableParallel[Any] = RunnableParallel(a=bound[0], b=bound[1], c=bound[2])
    await chain.ainvoke(1)
    assert sizes == [3]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("way", ["parallel", "bulk", "alone"])
def test_native_list_call_that_cancels_its_task_fails_only_its_items(way: str, shared: bool) -> None:
    """The run, which has other lists, goes on, and the failing item is found."""

    class Disturbs(Runnable[int, int]):
        share_lists = shared

        async def abatch_native(self, inputs: list[int]) -> list[int]:
            task = asyncio.current_task()
            assert task is not None
            if 3 in inputs:
                task.cancel()
            await asyncio.sleep(0)
            return inputs

    async def main() -> None:
        step = Disturbs()
        chains: dict[str, Any] = {
            "parallel": RunnableLambda(same) | step,
            "bulk": step,
            "alone": RunnableLambda(step.ainvoke),
        }
        outcomes = await chains[way].abatch(range(6), {"max_concurrency": 2}, return_exceptions=True)
        assert [value for value in outcomes if isinstance(value, int)] == [0, 1, 2, 4, 5]
        assert isinstance(outcomes[3], StrayCancelledError)

    asyncio.run(main())


class Lying(list[int]):
    """A list of outputs that says it is another length."""

    def __init__(self, values: list[int], length: Any) -> None:
        super().__init__(values)
        self.length = length

    def __len__(self) -> int:
        if self.length is None:
            raise ZeroDivisionError
        return int(self.length)


@pytest.mark.parametrize("length", [0, 1, 5, None])
@pytest.mark.parametrize("surplus", [-1, 0, 1])
async def test_native_outputs_are_counted_without_len(length: int | None, surplus: int) -> None:
    class Lies(Runnable[int, int]):
        async def abatch_native(self, inputs: list[int]) -> list[int]:
            return Lying([*inputs, 7][: len(inputs) + surplus], length)

    outcomes: list[Any] = await Lies().abatch([1, 2, 3], return_exceptions=True)
    if surplus:
        assert all(isinstance(outcome, ListLengthError) for outcome in outcomes)
    else:
        assert outcomes == [1, 2, 3]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_native_shared_lists_work_with_eager_tasks() -> None:
    async def main() -> None:
        factory: Any = getattr(asyncio, "eager_task_factory", None)
        asyncio.get_running_loop().set_task_factory(factory)
        lengths = Lengths(linger=0.001)
        lengths.share_lists = True
        async with asyncio.timeout(10):
            assert await asyncio.gather(*(lengths.ainvoke(text) for text in ("a", "bc"))) == [1, 2]

    asyncio.run(main())
