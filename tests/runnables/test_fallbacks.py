from __future__ import annotations

from types import MappingProxyType
from typing import Any

import anyio
import pytest

from batchrt import RunnableLambda, RunnablePassthrough
from tests.runnables.helpers import add_one, add_two, everyway, fail, raises_everyway

pytestmark = pytest.mark.anyio


def fail_otherwise(value: Any) -> Any:
    raise KeyError(value)


async def echo(value: Any) -> Any:
    return value


async def test_fallbacks_return_the_first_output() -> None:
    """Later fallbacks do not run."""
    calls: list[int] = []
    runnable = RunnableLambda(fail).with_fallbacks(
        [RunnableLambda(fail_otherwise), RunnableLambda(add_two), RunnableLambda(calls.append)]
    )
    assert await everyway(runnable, 1) == 3
    assert calls == []


async def test_fallbacks_raise_the_first_error_if_all_fail() -> None:
    """This holds in every method; LCEL's batch raises the last one."""
    runnable = RunnableLambda(fail).with_fallbacks([RunnableLambda(fail_otherwise)])
    await raises_everyway(runnable, 1, ValueError, r"fail\(1\)")
    await raises_everyway(RunnableLambda(fail).with_fallbacks([]), 1, ValueError)


async def test_fallbacks_handle_only_the_errors_to_handle() -> None:
    """Another error is raised at once, from the first runnable or from a fallback."""
    rescue = RunnableLambda(add_two)
    picky = RunnableLambda(fail).with_fallbacks([rescue], exceptions_to_handle=(KeyError,))
    await raises_everyway(picky, 1, ValueError)
    second = RunnableLambda(fail).with_fallbacks(
        [RunnableLambda(fail_otherwise), rescue], exceptions_to_handle=(ValueError,)
    )
    await raises_everyway(second, 1, KeyError)


async def test_fallbacks_run_item_by_item() -> None:
    """Any mixture of outcomes in one batch is returned, each in its place."""

    def odd(value: int) -> int:
        if value % 2:
            raise ValueError(value)
        return value

    def not_three(value: int) -> int:
        if value == 3:
            raise KeyError(value)
        return -value

    runnable = RunnableLambda(odd).with_fallbacks([RunnableLambda(not_three)])
    outputs = await runnable.abatch([1, 2, 3, 4], return_exceptions=True)
    assert [outputs[0], outputs[1], outputs[3]] == [-1, 2, 4]
    assert repr(outputs[2]) == "ValueError(3)"


async def test_fallbacks_pass_the_error_under_the_exception_key() -> None:
    """It is the last error, in a new dict; the caller's input is unchanged."""
    fallbacks = [RunnableLambda(fail_otherwise), RunnableLambda(echo)]
    runnable = RunnableLambda(fail).with_fallbacks(fallbacks, exception_key="error")
    value = {"a": 1}
    output = await runnable.ainvoke(value)
    assert isinstance(output["error"], KeyError)
    assert value == {"a": 1}
    assert (await runnable.ainvoke(MappingProxyType(value)))["a"] == 1


async def test_fallbacks_require_a_dict_with_an_exception_key() -> None:
    """Another input is an error before anything is tried, and no fallback handles it."""
    calls: list[Any] = []
    runnable = RunnableLambda(calls.append).with_fallbacks([RunnablePassthrough()], exception_key="error")
    await raises_everyway(runnable, 3, TypeError, "must be a dict, not int")
    assert calls == []


async def test_fallbacks_do_not_handle_a_cancellation() -> None:
    """Not even if all exceptions are to be handled."""
    calls: list[Any] = []

    async def waits(_value: int) -> None:
        await anyio.sleep_forever()

    runnable = RunnableLambda(waits).with_fallbacks(
        [RunnableLambda(calls.append)], exceptions_to_handle=(BaseException,)
    )
    with anyio.move_on_after(0) as scope:
        await runnable.abatch([1])
    assert scope.cancelled_caught
    assert calls == []


async def test_fallbacks_do_not_handle_an_interrupt() -> None:
    """The same holds for any other error that is no `Exception`."""

    class Interrupt(BaseException):
        pass

    async def interrupted(_value: int) -> int:
        raise Interrupt

    runnable = RunnableLambda(interrupted).with_fallbacks(
        [RunnablePassthrough()], exceptions_to_handle=(BaseException,)
    )
    with pytest.raises(Interrupt):
        await runnable.ainvoke(1)


async def test_fallbacks_pass_keyword_arguments_to_all() -> None:
    """Both the failed runnable and the fallback receive them."""

    def picky(_value: int, extra: int = 0) -> int:
        raise ValueError(extra)

    runnable = RunnableLambda(picky).with_fallbacks([RunnableLambda(add_one)])
    assert await everyway(runnable, 1, extra=5) == 7
