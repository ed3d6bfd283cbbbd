"""Async functions are refused where the runtime would not await them."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import httpx
import pytest
import tenacity
import tenacity.asyncio

from batchrt import ChatOpenAI, PromptTemplate, RetryPolicy, RunnableLambda
from batchrt.runtime.sync_callbacks import check_sync, checked_sync, is_async


async def never(_: Any) -> bool:
    return False


def no(_: Any) -> bool:
    return False


async def seconds(_: Any) -> float:
    return 1.0


class Predicate:
    """An object that is called and awaited."""

    async def __call__(self, _: Any) -> bool:
        return False


class Generous(tenacity.retry_base):
    """A part of one's own."""

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return False


if_exception: Any = tenacity.retry_if_exception
"""Its type says that the predicate is sync."""

ASYNC: list[Any] = [
    never,
    partial(never),
    Predicate(),
    partial(Predicate()),
    tenacity.asyncio.retry_if_exception(never),
    tenacity.asyncio.retry_if_result(never),
    if_exception(never),
    if_exception(Predicate()),
    tenacity.retry_any(tenacity.retry_if_exception_type(OSError), if_exception(never)),
    tenacity.retry_all(if_exception(no), if_exception(partial(never))),
    tenacity.retry_if_exception_type(OSError) | if_exception(never),
    tenacity.asyncio.retry_if_exception(never) | tenacity.retry_if_exception_type(OSError),
]


@pytest.mark.parametrize("part", ASYNC, ids=lambda part: type(part).__name__)
def test_sync_callbacks_retry_that_is_async_is_refused(part: Any) -> None:
    """However deep it is in others."""
    with pytest.raises(TypeError, match=r"retry must be sync, and \w+ is async"):
        RetryPolicy(retry=part)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("stop", never),
        ("stop", tenacity.stop_any(tenacity.stop_after_attempt(3), never)),  # type: ignore[arg-type]
        ("wait", seconds),
        ("wait", tenacity.wait_combine(tenacity.wait_fixed(1), seconds)),  # type: ignore[arg-type]
        ("wait", tenacity.wait_chain(seconds)),  # type: ignore[arg-type]
    ],
)
def test_sync_callbacks_stop_or_a_wait_that_is_async_is_refused(name: str, part: Any) -> None:
    """By its name."""
    with pytest.raises(TypeError, match=f"{name} must be sync"):
        RetryPolicy(**{name: part})


@pytest.mark.parametrize(
    "part",
    [
        no,
        Generous(),
        tenacity.retry_always,
        tenacity.retry_if_exception(no),
        tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_exception(no),
        tenacity.retry_any(no, Generous()),
        partial(no),
    ],
    ids=lambda part: type(part).__name__,
)
def test_sync_callbacks_parts_that_are_sync_are_taken(part: Any) -> None:
    """Tenacity's and one's own."""
    assert RetryPolicy(retry=part).retry is part


def test_sync_callbacks_part_that_holds_itself_is_looked_at_once() -> None:
    """And one that is nested deeper than anybody nests is left alone."""

    class Ring:
        def __init__(self) -> None:
            self.ring = self

        def __call__(self, _: Any) -> bool:
            return False

    check_sync("retry", Ring())
    part: Any = no
    for _ in range(2000):
        part = partial(check_sync, part)
    check_sync("retry", part)


@pytest.mark.parametrize("name", ["retry", "stop"])
def test_sync_callbacks_answer_that_is_to_be_awaited_is_an_error(name: str) -> None:
    """From a lambda around an async function, which does not look it: never a yes."""
    sent: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(500)

    parts: dict[str, Any] = {name: lambda state: never([state])}
    policy = RetryPolicy(**parts)
    model = ChatOpenAI(
        "m", base_url="http://h/v1", api_key="", transport=httpx.MockTransport(handle), retry_policy=policy
    )
    with pytest.raises(TypeError, match=f"{name} must be sync, and gave something to be awaited"):
        model.invoke("x")
    assert len(sent) == 1
    assert checked_sync("retry", True) is True


def test_sync_callbacks_retry_of_a_step_that_is_async_is_refused() -> None:
    """As a predicate; and a lambda around one is an error."""
    with pytest.raises(TypeError, match="retry_if_exception_type must be sync"):
        RunnableLambda(no).with_retry(retry_if_exception_type=never)  # type: ignore[arg-type]

    def fail(_: Any) -> None:
        raise OSError

    step = RunnableLambda(fail).with_retry(
        retry_if_exception_type=lambda error: never([error]),  # type: ignore[arg-type, return-value]
        wait_exponential_jitter=False,
    )
    with pytest.raises(TypeError, match="must be sync"):
        step.invoke(1)


def test_sync_callbacks_partial_variable_that_is_async_is_refused() -> None:
    """Its coroutine's repr is no text for a prompt."""

    async def today() -> str:
        return "today"

    with pytest.raises(TypeError, match="the partial variable 'day' must be sync, and today is async"):
        PromptTemplate.from_template("{day}", partial_variables={"day": today})
    prompt = PromptTemplate.from_template("{day}", partial_variables={"day": lambda: today(*())})
    with pytest.raises(TypeError, match="the partial variable 'day' must be sync, and gave"):
        prompt.invoke({})


def test_sync_callbacks_what_is_async_is_seen() -> None:
    """Functions, methods, objects, partials; classes are not called for what they give."""
    assert all(map(is_async, [never, partial(never), Predicate(), Predicate().__call__]))
    assert not any(map(is_async, [no, Predicate, anyio.Event, 5, None]))
