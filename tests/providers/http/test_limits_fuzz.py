"""Providers that say strange things about limits, and items with a timeout: no run hangs."""

from __future__ import annotations

import json
import math
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrt import ItemTimeoutError, ProviderError, Quota, RateLimitError, RunnableLambda
from batchrt.messages import AIMessage
from batchrt.providers.http.retry_after import retry_after
from tests.limits.quotas import BACKENDS, is_idle, virtually
from tests.providers.http.replies import chat_body
from tests.providers.mocked import respond

on_both = pytest.mark.parametrize("backend", BACKENDS)


# Waits in every form

FORMS: list[tuple[dict[str, str], str, float | None]] = [
    ({"retry-after": "1e9"}, "", None),
    ({"retry-after": "1000000000"}, "", 1e9),
    ({"retry-after": "9" * 15}, "", 999_999_999_999_999.0),
    ({"retry-after": "NaN"}, "", None),
    ({"retry-after": "-1"}, "", None),
    ({"retry-after": "inf"}, "", None),
    ({"retry-after": "Infinity"}, "", None),
    ({"retry-after": ""}, "", None),
    ({"retry-after": "soon"}, "", None),
    ({"retry-after-ms": "NaN", "retry-after": "-1"}, "", None),
    ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, "", 0.0),
    ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, "", 253_402_300_799.0 - 1000.0),
    ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "date": "Fri, 31 Dec 1999 23:59:50 GMT"}, "", 9.0),
    ({"retry-after": "3", "retry-after-ms": "250"}, "try again in 9s", 0.25),
    ({"retry-after": "x", "llm_provider-retry-after": "4"}, "retry after 7 seconds", 4.0),
    ({}, "Please try again in 9.816s.", 9.816),
    ({}, "Please try again in 6m0s. Visit", 360.0),
    ({}, "please try again in 12ms", 0.012),
    ({}, "try again in 1h2m3.5s", 3723.5),
    ({}, "try again in 5 minutes", 300.0),
    ({}, "try again in 9.816 s", 9.816),
    ({}, "Please retry after 7 seconds.", 7.0),
    ({}, "Please retry after 7.5 seconds.", 7.5),
    ({}, "Please retry after 1 second.", 1.0),
    ({}, "Please retry after 86400 seconds.", 86_400.0),
    ({}, "Please retry after NaN seconds.", None),
    ({}, "Please retry after -1 seconds.", None),
    ({}, "try again in s", None),
]


@pytest.mark.parametrize(("headers", "message", "seconds"), FORMS)
def test_every_form_of_a_wait_is_read_or_refused(
    headers: dict[str, str], message: str, seconds: float | None
) -> None:
    """Headers before words; what makes no sense is none."""
    found = retry_after(_Plain(headers), message, now=1000.0)
    assert found == (None if seconds is None else pytest.approx(seconds))


class _Plain:
    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def get(self, key: str, default: str | None = None, /) -> str | None:
        return self._headers.get(key, default)


@on_both
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("headers", "message", "seconds"), FORMS)
def test_whatever_is_asked_for_the_call_ends(
    backend: str, status: int, headers: dict[str, str], message: str, seconds: float | None
) -> None:
    """After that wait with an answer, or at once with an error if it is too long."""
    calls: list[float] = []

    def answer(_: httpx.Request) -> httpx.Response:
        calls.append(anyio.current_time())
        if len(calls) == 1:
            return httpx.Response(status, json={"error": {"message": message}}, headers=headers)
        return httpx.Response(200, json=chat_body())

    async def main() -> None:
        model = respond(answer)
        began = anyio.current_time()
        if seconds is not None and seconds > 120:
            with pytest.raises(ProviderError) as caught:
                await model.ainvoke("hi")
            assert caught.value.retry_after == pytest.approx(
                seconds, abs=1e10 if "31 Dec 9999" in str(headers) else 1
            )
            assert "the provider asks to wait" in str(caught.value)
            assert anyio.current_time() == began
            with pytest.raises(RateLimitError, match="nothing was sent"):
                await model.ainvoke("hi")
            assert len(calls) == 1
            # An hour at the most, then somebody looks.
            await anyio.sleep(3600)
        assert isinstance(await model.ainvoke("hi"), AIMessage)
        if seconds is not None and seconds <= 120:
            assert calls[1] - calls[0] >= seconds - 1e-6
        assert calls[-1] - began <= 3601
        assert math.isfinite(model.quota.statistics().quiet_for)
        assert is_idle(model.quota)

    virtually(backend, main)


# Headers about limits

# A limit that is next to nothing makes sense, and is kept to: not among these.
STRANGE = ["0", "-1", "NaN", "inf", "1e9", "30,000", "", "unlimited", "600", "9" * 15]
LIMIT = st.one_of(st.none(), st.sampled_from(STRANGE), st.integers(600, 10**6).map(str))
REMAINING = st.one_of(LIMIT, st.integers(-5, 600).map(str), st.sampled_from(["0.5", "1"]))
RESET = st.one_of(
    st.none(),
    st.sampled_from(
        ["0s", "1s", "6m0s", "12ms", "7", "1735689600", "-1s", "NaN", "", "1ns", "99999h", "soon"]
    ),
)
TOLD = st.fixed_dictionaries(
    {
        f"x-ratelimit-{what}-{unit}": values
        for unit in ("requests", "tokens", "project-tokens")
        for what, values in (("limit", LIMIT), ("remaining", REMAINING), ("reset", RESET))
    }
)


@given(st.lists(TOLD, min_size=1, max_size=12), st.sampled_from(BACKENDS), st.floats(0.01, 3))
@example([{"x-ratelimit-limit-tokens": "600", "x-ratelimit-remaining-tokens": "0"}], "asyncio", 1.0)
def test_strange_headers_never_stall_a_run(
    told: list[dict[str, str | None]], backend: str, latency: float
) -> None:
    """Fifty items end in bounded time whatever the answers say, if they only say something else at times."""
    count = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        if count % 5 == 0:
            # As it is: there is room.
            headers = {
                f"x-ratelimit-{what}-{unit}": "100000"
                for unit in ("requests", "tokens")
                for what in ("limit", "remaining")
            }
        else:
            headers = {name: value for name, value in told[count % len(told)].items() if value is not None}
        return httpx.Response(200, json=chat_body(), headers=headers)

    async def main() -> float:
        model = respond(answer, latency)
        before = anyio.current_time()
        result = await model.arun([f"{number}" for number in range(50)], {"max_concurrency": 10})
        assert not result.errors
        assert is_idle(model.quota)
        assert all(math.isfinite(used) for used in model.quota.statistics().used.values())
        return anyio.current_time() - before

    assert virtually(backend, main) < 9000


@on_both
def test_one_strange_answer_does_not_stall_a_run(backend: str) -> None:
    """It looks like a day's limit; what all later ones say counts."""
    count = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        told = ("100", "100", "6m0s") if count == 1 else ("6000", "5990", "100ms")
        names = (f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset"))
        headers = dict(zip(names, told, strict=True))
        return httpx.Response(200, json=chat_body(), headers=headers)

    async def main() -> float:
        model = respond(answer, 0.5)
        before = anyio.current_time()
        result = await model.arun([f"{number}" for number in range(110)], {"max_concurrency": 10})
        assert not result.errors
        return anyio.current_time() - before

    assert virtually(backend, main) < 600


# Items with a timeout


@on_both
def test_no_more_items_are_begun_than_can_be_held(backend: str) -> None:
    """Else they would wait all of their `timeout` for the quota, and none would be done."""
    began: list[float] = []

    async def main() -> None:
        def begin(value: str) -> str:
            began.append(anyio.current_time())
            return value

        async def start(value: str) -> str:
            return begin(value)

        model = respond(lambda _: httpx.Response(200, json=chat_body()), 0.5, requests_per_minute=60)
        chain = RunnableLambda(start) | model
        before = anyio.current_time()
        seen: list[int] = []

        async def look() -> None:
            for second in (1, 10, 50, 100):
                await anyio.sleep_until(before + second + 0.25)
                seen.append(len(began) - second)

        async with anyio.create_task_group() as group:
            group.start_soon(look)
            texts = [f"{number}" for number in range(300)]
            config: Any = {"max_concurrency": 5, "timeout": 15}
            result = await chain.arun(texts, config)
        assert not result.errors, next(iter(result.errors.values()))
        assert all(0 <= ahead <= 2 * 5 + 1 + 60 for ahead in seen)

    virtually(backend, main)


@on_both
def test_an_items_time_in_the_run_stays_short(backend: str) -> None:
    """With a cap of 5 and a request a second: two caps' worth of the rate, of a thousand items."""
    entered: dict[str, float] = {}
    times: list[float] = []

    async def main() -> None:
        async def enter(value: str) -> str:
            entered[value] = anyio.current_time()
            return value

        def answer(request: httpx.Request) -> httpx.Response:
            text = json.loads(request.content)["messages"][0]["content"]
            times.append(anyio.current_time() - entered[text])
            return httpx.Response(200, json=chat_body())

        quota = Quota(requests_per_minute=60, burst_seconds=1)
        chain = RunnableLambda(enter) | respond(answer, 0.2, quota=quota)
        config: Any = {"max_concurrency": 5, "timeout": 30}
        result = await chain.arun([f"{number}" for number in range(1000)], config)
        assert not result.errors
        assert is_idle(quota)

    virtually(backend, main)
    assert len(times) == 1000
    assert max(times) <= 11


@on_both
def test_a_timeout_in_the_queue_is_one(backend: str) -> None:
    """It covers the wait for the quota, and gives the place back."""

    async def main() -> None:
        quota = Quota(requests_per_minute=1, burst_seconds=1)
        model = respond(lambda _: httpx.Response(200, json=chat_body()), quota=quota)
        result = await model.arun(["a", "b", "c"], {"max_concurrency": 2, "timeout": 30})
        assert len(result.errors) == 2
        assert all(isinstance(error, ItemTimeoutError) for error in result.errors.values())
        assert is_idle(quota)
        before = anyio.current_time()
        await model.ainvoke("d")
        assert anyio.current_time() - before <= 31

    virtually(backend, main)
