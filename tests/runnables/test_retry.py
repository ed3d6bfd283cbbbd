from __future__ import annotations

from typing import Any

import anyio
import pytest

from batchrt import RunnableLambda, RunnablePassthrough, RunnableRetry
from tests.runnables.helpers import Flaky, add_two, virtual_time

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
async def test_retry_makes_three_attempts_by_default(failures: int) -> None:
    """The third failure is raised as itself."""
    flaky = Flaky(failures)
    runnable = RunnableLambda(flaky).with_retry(wait_exponential_jitter=False)
    if failures < 3:
        assert await runnable.ainvoke("x") == "x"
    else:
        with pytest.raises(ValueError, match="x, call 3"):
            await runnable.ainvoke("x")
    assert flaky.calls == {"x": min(failures, 2) + 1}


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_retry_counts_the_first_attempt(attempts: int) -> None:
    """`stop_after_attempt=1` means no retry."""
    flaky = Flaky(99)
    runnable = RunnableLambda(flaky).with_retry(stop_after_attempt=attempts, wait_exponential_jitter=False)
    with pytest.raises(ValueError, match=f"call {attempts}\\b"):
        await runnable.abatch(["x"])


@pytest.mark.parametrize(
    ("retry_if", "calls"),
    [
        ((ValueError,), 3),
        ((KeyError, ValueError), 3),
        (ValueError, 3),
        ((KeyError,), 1),
        (KeyError, 1),
        (lambda error: "call 1" in str(error), 2),
        (lambda error: False, 1),
    ],
)
async def test_retry_repeats_only_the_given_errors(retry_if: Any, calls: int) -> None:
    """They are types, one type, or a predicate."""
    flaky = Flaky(99)
    runnable = RunnableLambda(flaky).with_retry(
        retry_if_exception_type=retry_if, wait_exponential_jitter=False
    )
    with pytest.raises(ValueError):
        await runnable.ainvoke("x")
    assert flaky.calls == {"x": calls}


async def test_retry_repeats_only_the_failed_item() -> None:
    """The others run once, and each has its own outcome."""
    calls: dict[int, int] = {}

    async def mixed(value: int) -> int:
        calls[value] = calls.get(value, 0) + 1
        if value == 3 or (value == 2 and calls[2] < 3):
            raise ValueError(value)
        return value

    runnable = RunnableLambda(mixed).with_retry(wait_exponential_jitter=False)
    outputs = await runnable.abatch([1, 2, 3, 4], return_exceptions=True)
    assert [outputs[0], outputs[1], outputs[3]] == [1, 2, 4]
    assert repr(outputs[2]) == "ValueError(3)"
    assert calls == {1: 1, 2: 3, 3: 3, 4: 1}


async def test_retry_attempts_are_in_the_outcome() -> None:
    """`arun` returns the number for each item."""
    runnable = RunnableLambda(Flaky(2)).with_retry(wait_exponential_jitter=False) | RunnablePassthrough()
    result = await runnable.arun(["x"])
    assert [outcome.attempts for outcome in result] == [3]


@virtual_time
async def test_retry_wait_grows_exponentially() -> None:
    """Parameters and defaults are tenacity's: 1 s, then 2 s, each plus up to 1 s."""
    start = anyio.current_time()
    assert await RunnableLambda(Flaky(2)).with_retry().ainvoke("x") == "x"
    assert 3 <= anyio.current_time() - start <= 5
    start = anyio.current_time()
    params = {"initial": 10.0, "exp_base": 3.0, "max": 50.0, "jitter": 0.0}
    runnable = RunnableLambda(Flaky(3)).with_retry(exponential_jitter_params=params, stop_after_attempt=4)
    assert await runnable.ainvoke("x") == "x"
    assert anyio.current_time() - start == pytest.approx(10 + 30 + 50)


@virtual_time
async def test_retry_wait_delays_no_other_item() -> None:
    """Even at cap 1 the others finish while it sleeps."""
    done: list[Any] = []

    async def leaf(value: int) -> int:
        if value == 0 and not done:
            raise ValueError
        done.append(value)
        return value

    runnable = RunnableLambda(leaf).with_retry()
    await runnable.abatch([0, 1, 2, 3], {"max_concurrency": 1})
    assert done == [1, 2, 3, 0]


async def test_retry_passes_keyword_arguments_to_every_attempt() -> None:
    """As in the first."""
    seen: list[int] = []

    async def leaf(value: int, extra: int = 0) -> int:
        seen.append(extra)
        if len(seen) < 2:
            raise ValueError
        return value + extra

    assert await RunnableLambda(leaf).with_retry(wait_exponential_jitter=False).ainvoke(1, extra=5) == 6
    assert seen == [5, 5]


@pytest.mark.parametrize("attempts", [0, -1])
def test_retry_names_bad_arguments(attempts: int) -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match="stop_after_attempt must be at least 1"):
        RunnableRetry(RunnableLambda(add_two), stop_after_attempt=attempts)
    with pytest.raises(ValueError, match="has no initialy"):
        RunnableRetry(RunnableLambda(add_two), exponential_jitter_params={"initialy": 1})


async def test_retry_is_exhausted_before_a_fallback_runs() -> None:
    """The fallback runs once."""
    flaky = Flaky(99)
    runnable = RunnableLambda(flaky).with_retry(wait_exponential_jitter=False)
    rescued = runnable.with_fallbacks([RunnableLambda(lambda value: f"{value} rescued")])
    assert await rescued.abatch(["x"]) == ["x rescued"]
    assert flaky.calls == {"x": 3}


async def test_retry_does_not_repeat_an_interrupt() -> None:
    """Nor any other error that is no `Exception`, even if it is among the given types."""
    calls: list[int] = []

    class Interrupt(BaseException):
        pass

    async def interrupted(value: int) -> None:
        calls.append(value)
        raise Interrupt

    runnable = RunnableLambda(interrupted).with_retry(
        retry_if_exception_type=(BaseException,), wait_exponential_jitter=False
    )
    with pytest.raises(Interrupt):
        await runnable.ainvoke(1)
    assert calls == [1]
