"""What is checked before anything runs, and what comes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from batchrt import ItemTimeoutError, RunnableLambda, Usage
from batchrt.runtime.batch import MIN_WINDOW, Job
from batchrt.runtime.lending import lending
from batchrt.runtime.step import Step
from batchrt.runtime.strand import current_strand
from tests.runtime.harness import Boom, config, on_trio, pause

pytestmark = pytest.mark.anyio


async def same(value: Any) -> Any:
    await pause(1)
    return value


chain = RunnableLambda(same)
BAD_CONFIGS: list[Any] = [
    {"max_concurrency": 0},
    {"max_concurrency": -3},
    {"window": 0},
    {"timeout": 0},
    {"deadline": -1.0},
    {"deadline": float("nan")},
    {"recursion_limit": -1},
    {"no_such_key": 1},
]


class Untouchable:
    """Inputs that must not be pulled."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the inputs were touched")


@pytest.mark.parametrize("bad", BAD_CONFIGS)
async def test_batch_config_that_makes_no_sense_is_refused_before_anything_runs(bad: Any) -> None:
    """A config that makes no sense is refused before anything runs."""
    inputs: Any = Untouchable()
    for call in (chain.abatch, chain.arun):
        with pytest.raises(ValueError, match=next(iter(bad))):
            await call(inputs, bad)
    for iterate in (
        chain.abatch_iter,
        chain.abatch_as_completed,
        chain.batch_iter,
        chain.batch_as_completed,
        chain.batch,
        chain.run,
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            iterate(inputs, bad)
    with pytest.raises(ValueError, match=next(iter(bad))):
        await chain.ainvoke(1, bad)
    with pytest.raises(ValueError, match=next(iter(bad))):
        chain.invoke(1, bad)


@pytest.mark.parametrize("bad", ["a string", b"bytes", 7, None])
async def test_batch_what_is_no_list_of_inputs_is_refused(bad: Any) -> None:
    """What is no list of inputs is refused."""
    with pytest.raises(TypeError, match="iterable of inputs"):
        await chain.abatch(bad)
    with pytest.raises(TypeError, match="iterable of inputs"):
        chain.batch(bad)


@pytest.mark.parametrize("inputs", [[1], [1, 2, 3], iter([1, 2])])
async def test_batch_there_must_be_one_config_for_each_input(inputs: Any) -> None:
    """There must be one config for each input."""
    with pytest.raises(ValueError, match="one config for each input"):
        await chain.abatch(inputs, [{}, {}])


async def test_batch_each_input_may_have_its_own_config() -> None:
    """Each input may have its own config."""

    async def tagged(_: object, config: Any) -> list[str]:
        await pause(1)
        return list(config.get("tags", []))

    outputs = await RunnableLambda(tagged).abatch([1, 2, 3], [{"tags": ["a"]}, {}, {"tags": ["c"]}])
    assert outputs == [["a"], [], ["c"]]


def test_batch_window_is_ten_times_the_cap_and_at_least_a_thousand() -> None:
    """The window is ten times the cap and at least a thousand."""

    def window(**keys: Any) -> int:
        return Job.of(Step(lambda value, _: value), [1], config(**keys)).window

    assert window() == MIN_WINDOW
    assert window(max_concurrency=5) == MIN_WINDOW
    assert window(max_concurrency=500) == 5000
    assert window(max_concurrency=500, window=7) == 7


async def test_batch_nested_calls_inherit_what_is_the_users_and_not_the_limits() -> None:
    """Nested calls inherit what is the users and not the limits."""
    seen: list[Any] = []

    async def inner(_: object, config: Any) -> None:
        seen.append({key: value for key, value in config.items() if key != "recursion_limit"})

    async def outer(_: object) -> None:
        await RunnableLambda(inner).ainvoke(1, {"tags": ["inner"], "metadata": {"b": 2}})
        await RunnableLambda(inner).abatch([1])

    keys = config(tags=["outer"], metadata={"a": 1}, configurable={"c": 3}, timeout=60, max_concurrency=2)
    await RunnableLambda(outer).abatch([1], keys)
    assert seen[0] == {
        "tags": ["outer", "inner"],
        "metadata": {"a": 1, "b": 2},
        "configurable": {"c": 3},
    }
    assert seen[1] == {"tags": ["outer"], "metadata": {"a": 1}, "configurable": {"c": 3}}


async def test_batch_lending_outside_of_a_run_does_nothing() -> None:
    """Lending outside of a run does nothing."""
    assert current_strand() is None
    async with lending():
        pass


async def test_batch_arun_keeps_the_books_of_each_item() -> None:
    """Arun keeps the books of each item."""
    failed: set[int] = set()

    async def leaf(value: int) -> int:
        strand = current_strand()
        assert strand is not None
        strand.item.add_usage(Usage(value, 1, value + 1))
        if value == 1 and value not in failed:
            failed.add(value)
            raise Boom
        if value == 2:
            raise KeyError(value)
        return value

    steady = RunnableLambda(leaf).with_retry(retry_if_exception_type=(Boom,), wait_exponential_jitter=False)
    result = await steady.arun(range(3), config(max_concurrency=1))
    assert result.outputs == [0, 1, None]
    assert list(result.errors) == [2]
    assert [outcome.attempts for outcome in result] == [1, 2, 1]
    assert [outcome.usage for outcome in result] == [Usage(0, 1, 1), Usage(2, 2, 4), Usage(2, 1, 3)]
    assert result.usage == Usage(4, 4, 8)


def test_batch_items_seconds_are_from_its_admission_to_its_end() -> None:
    """An items seconds are from its admission to its end."""

    async def main() -> tuple[list[float], float]:
        result = await RunnableLambda(anyio.sleep).arun([3, 1, 2], config(max_concurrency=1))
        return [outcome.seconds for outcome in result], result.seconds

    assert on_trio(main) == ([3, 1, 2], 6)


def test_batch_retried_items_seconds_include_its_waits() -> None:
    """A retried items seconds include its waits."""
    failed: list[int] = []

    async def leaf(_: object) -> None:
        if not failed:
            failed.append(1)
            raise Boom

    steady = RunnableLambda(leaf).with_retry(exponential_jitter_params={"initial": 50, "jitter": 0})

    async def main() -> float:
        return (await steady.arun([1]))[0].seconds

    assert on_trio(main) == 50


def test_batch_timeout_within_a_chain_is_for_that_part() -> None:
    """A timeout within a chain is for that part."""
    slow = RunnableLambda(anyio.sleep).with_config(timeout=10)

    async def main() -> list[Any]:
        part = RunnableLambda(lambda value: value) | slow
        return await part.abatch([5, 100], return_exceptions=True)

    outputs = on_trio(main)
    assert outputs[0] is None
    assert isinstance(outputs[1], ItemTimeoutError)


async def test_batch_long_async_input_runs_in_bounded_memory() -> None:
    """What is delivered is let go of."""
    import weakref

    class Value:
        pass

    alive: weakref.WeakSet[Value] = weakref.WeakSet()
    most = [0]

    async def source() -> AsyncIterator[Value]:
        for _ in range(500):
            value = Value()
            alive.add(value)
            most[0] = max(most[0], len(alive))
            yield value

    async for _ in chain.abatch_iter(source(), config(max_concurrency=3, window=10)):
        pass
    assert most[0] <= 20
