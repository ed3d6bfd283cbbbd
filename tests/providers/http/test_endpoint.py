"""The endpoint: when it retries, at which cost and after which wait, and how it behaves in an outage."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import anyio
import httpx
import pytest
from tenacity import (
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_never,
    wait_fixed,
)

from batchrt import (
    BudgetEmpty,
    ChatOpenAI,
    ConnectionFailedError,
    OpenAIEmbeddings,
    OutageError,
    Price,
    ProviderDown,
    ProviderError,
    ProviderUp,
    Quota,
    RateLimitError,
    RequestTimeoutError,
    Retried,
    RetryBudget,
    RetryPolicy,
    RunnableLambda,
    ServerError,
    Usage,
)
from batchrt.limits.events import QuotaEvent
from batchrt.messages import AIMessage
from batchrt.providers.http.response import Reply
from batchrt.runtime.clock import Clock
from batchrt.testing import MockProvider, Outage, RateLimits
from tests.limits.quotas import BACKENDS, is_idle, virtually
from tests.providers.http.replies import chat_body, reply
from tests.providers.mocked import LATENCY, chat, respond, simulate

on_both = pytest.mark.parametrize("backend", BACKENDS)

Answer = Callable[[httpx.Request], httpx.Response]


def good() -> httpx.Response:
    return httpx.Response(200, json=chat_body())


def bad(status: int = 500, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"error": {"message": "no"}}, headers=named)


class Server:
    """Answer in turn, then properly, and note when requests came."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.times: list[float] = []
        self.texts: list[str] = []
        self._left: Iterator[httpx.Response | Exception] = iter(answers)
        self._began: float | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        now = anyio.current_time()
        if self._began is None:
            self._began = now
        self.times.append(now - self._began)
        self.texts.append(json.loads(request.content)["messages"][0]["content"])
        answer = next(self._left, None)
        if isinstance(answer, Exception):
            raise answer
        return answer or good()


async def outcome_of(model: Any, value: str = "hi") -> Any:
    """Return the answer, or the error."""
    try:
        return await model.ainvoke(value)
    except ProviderError as error:
        return error


def error_of(outcome: Any) -> ProviderError:
    assert isinstance(outcome, ProviderError), outcome
    return outcome


# A policy of tenacity's parts


@on_both
def test_endpoint_stops_and_waits_by_tenacitys_parts(backend: str) -> None:
    """The first of two stop conditions counts; the waits are those of the wait part."""
    server = Server(*[bad() for _ in range(20)])

    async def main(policy: RetryPolicy) -> Any:
        server.times.clear()
        server._began = None
        return await outcome_of(respond(server, retry_policy=policy))

    parts = RetryPolicy(stop=stop_after_attempt(4) | stop_after_delay(60), wait=wait_fixed(3))
    assert error_of(virtually(backend, lambda: main(parts))).attempts == 4
    assert server.times == pytest.approx([0, 3, 6, 9])
    parts = RetryPolicy(stop=stop_after_attempt(40) | stop_after_delay(5), wait=wait_fixed(3))
    assert error_of(virtually(backend, lambda: main(parts))).attempts == 3
    assert server.times == pytest.approx([0, 3, 6])


@on_both
def test_endpoint_retries_by_the_policy(backend: str) -> None:
    """And nothing else, though it may pass; a 400 if it says so."""

    async def main() -> None:
        only = retry_if_exception_type(ConnectionFailedError)
        policy = RetryPolicy(retry=only, wait=wait_fixed(1), stop=stop_after_attempt(9))
        server = Server(httpx.ConnectError("refused"), httpx.ConnectError("refused"), bad(500))
        error = error_of(await outcome_of(respond(server, retry_policy=policy)))
        assert (type(error), error.attempts) == (ServerError, 3)
        wide = RetryPolicy(retry=retry_if_exception_type(ProviderError), wait=wait_fixed(1))
        server = Server(bad(400), bad(404))
        assert isinstance(await outcome_of(respond(server, retry_policy=wide)), AIMessage)
        assert len(server.times) == 3

    virtually(backend, main)


@on_both
@pytest.mark.parametrize(("status", "seconds"), [(429, 7.0), (503, 7.0), (500, 7.0), (429, 0.5), (500, 0.5)])
def test_endpoint_waits_for_a_named_time(backend: str, status: int, seconds: float) -> None:
    """Whatever the policy's part says, the longer wait wins."""
    server = Server(bad(status, retry_after_ms=str(seconds * 1000)))

    async def main() -> None:
        policy = RetryPolicy(wait=wait_fixed(2), stop=stop_after_attempt(3))
        assert isinstance(await outcome_of(respond(server, retry_policy=policy)), AIMessage)

    virtually(backend, main)
    assert server.times == pytest.approx([0, max(2, seconds)], abs=0.01)


@on_both
def test_endpoint_policy_takes_functions(backend: str) -> None:
    """It is called with tenacity's state."""
    seen: list[tuple[int, str]] = []

    def wait(state: Any) -> float:
        seen.append((state.attempt_number, type(state.outcome.exception()).__name__))
        return 10.0 * int(state.attempt_number)

    server = Server(bad(500), bad(503), httpx.ReadError("reset"))

    async def main() -> None:
        policy = RetryPolicy(wait=wait, stop=stop_never)
        await respond(server, retry_policy=policy).ainvoke("hi")

    virtually(backend, main)
    assert seen == [(1, "ServerError"), (2, "ServerError"), (3, "ConnectionFailedError")]
    assert server.times == pytest.approx([0, 10, 30, 60])


@on_both
def test_endpoint_makes_no_retries_without(backend: str) -> None:
    """`max_retries=0` counts for refused requests too."""
    for answer in (bad(500), bad(429, retry_after="1")):
        server = Server(answer)
        error = error_of(virtually(backend, lambda s=server: outcome_of(respond(s, max_retries=0))))  # type: ignore[misc]
        assert error.attempts == 1
        assert len(server.times) == 1


# A wait that is too long


@on_both
def test_endpoint_fails_at_a_wait_that_is_too_long_and_says_until_when(backend: str) -> None:
    """Others fail at once without sending anything, and say so, too; then it goes on."""
    server = Server(good(), bad(429, retry_after="500"))

    async def main() -> None:
        model, other = respond(server), None
        await model.ainvoke("hi")
        other = respond(server, quota=model.quota)
        now = datetime.fromtimestamp(Clock().wall(), UTC)
        first = error_of(await outcome_of(model))
        assert isinstance(first, RateLimitError)
        assert (first.attempts, first.retry_after) == (1, 500)
        for message in (str(first), str(second := error_of(await outcome_of(other)))):
            moment = re.search(r"until (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", message)
            assert moment is not None, message
            until = datetime.strptime(moment[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            assert 490 < (until - now).total_seconds() < 510
        assert isinstance(second, RateLimitError)
        assert second.attempts == 0
        assert second.retry_after == pytest.approx(500)
        assert "nothing was sent" in str(second)
        await anyio.sleep(300)
        assert error_of(await outcome_of(model)).retry_after == pytest.approx(200)
        assert len(server.times) == 2
        await anyio.sleep(190)
        assert isinstance(await outcome_of(model), AIMessage), "10 s are waited for"
        assert server.times[-1] == pytest.approx(500)
        assert is_idle(model.quota)

    virtually(backend, main)


@on_both
def test_endpoint_fails_waiting_requests_too_at_a_wait_that_is_too_long(backend: str) -> None:
    """They waited for something else when it came, and do not wait for that."""
    server = Server(good(), bad(429, retry_after="500"))

    async def main() -> None:
        model = respond(server, max_in_flight=1)
        await model.ainvoke("hi")
        result = await model.arun(["a"] * 50, {"max_concurrency": 20})
        assert len(result.errors) == 50
        assert all(isinstance(error, RateLimitError) for error in result.errors.values())
        assert len(server.times) == 2
        assert is_idle(model.quota)

    virtually(backend, main)


@on_both
def test_endpoint_policy_sets_the_longest_wait(backend: str) -> None:
    """Each waits for as long as its own says."""
    server = Server(good(), bad(429, retry_after="500"))

    async def main() -> None:
        quota = Quota()
        patient = respond(server, quota=quota, retry_policy=RetryPolicy(max_retry_after=600))
        hasty = respond(server, quota=quota, retry_policy=RetryPolicy(max_retry_after=5))
        await patient.ainvoke("hi")
        async with anyio.create_task_group() as group:
            group.start_soon(outcome_of, patient, "patient")
            await anyio.sleep(1)
            assert isinstance(await outcome_of(hasty), RateLimitError)
        assert server.texts[-1] == "patient"
        assert server.times[-1] == pytest.approx(500)

    virtually(backend, main)


@pytest.mark.parametrize("longest", [5, 30, 600])
@pytest.mark.parametrize("status", [429, 503, 200])
@on_both
def test_endpoint_says_until_when_if_the_policy_does_not_wait(
    backend: str, status: int, longest: float
) -> None:
    """Whatever the usual bound is, and also where a success has an error in it."""
    server = Server(good(), bad(status, retry_after="60"), bad(status, retry_after="60"))

    async def main() -> None:
        policy = RetryPolicy(max_retry_after=longest, stop=stop_after_attempt(2))
        model = respond(server, retry_policy=policy)
        await model.ainvoke("hi")
        error = error_of(await outcome_of(model))
        assert error.retry_after == 60
        assert error.attempts == (1 if longest < 60 else 2)
        assert str(error).count("the provider asks to wait 60 s: until ") == (longest < 60)
        assert error.args[0] == error.message

    virtually(backend, main)


# Whom a wait holds


@on_both
def test_endpoint_named_wait_holds_all_that_share_the_quota_and_no_other(backend: str) -> None:
    """Another client with the same address, key and model, another run; not another key or model."""
    provider = MockProvider(
        rate_limits=RateLimits(requests_per_minute=60, burst_seconds=1, headers="none", waits=["retry-after"])
    )

    async def main() -> None:
        model = chat(provider, requests_per_minute=6000)
        await model.ainvoke("first")
        began = anyio.current_time()

        times: dict[str, float] = {}

        async def note(text: str, other: Any) -> None:
            await other.ainvoke(text)
            times[text] = anyio.current_time() - began

        async with anyio.create_task_group() as group:
            group.start_soon(note, "met", model)
            await anyio.sleep(0.1)
            assert model.quota.statistics().quiet_for > 0
            group.start_soon(note, "another client", chat(provider))
            group.start_soon(note, "another key", chat(provider, api_key="k2"))
            group.start_soon(note, "another model", model.bind(model="n"))
        assert times["another key"] == pytest.approx(0.1)
        assert times["another model"] == pytest.approx(0.1)
        assert times["met"] >= 1
        assert times["another client"] >= 1

    virtually(backend, main)
    assert provider.verdict().sent_in_waits == 0


@on_both
def test_endpoint_named_wait_outlasts_the_call_that_met_it(backend: str) -> None:
    """The provider asked, and still does."""
    server = Server(good(), bad(429, retry_after="30"))

    async def main() -> None:
        model = respond(server)
        await model.ainvoke("hi")
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(5):
                group.start_soon(_later, 1, model)
                await model.ainvoke("met")
        assert server.texts == ["hi", "met", "later"]
        assert server.times[-1] == pytest.approx(30, abs=0.01)
        assert is_idle(model.quota)

    virtually(backend, main)


async def _later(seconds: float, model: Any) -> None:
    await anyio.sleep(seconds)
    await model.ainvoke("later")


@on_both
def test_endpoint_finishes_requests_in_flight_during_a_named_wait(backend: str) -> None:
    """A wait holds requests that were not sent yet."""
    times: dict[str, float] = {}

    async def answer(request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["messages"][0]["content"]
        if text == "slow":
            await anyio.sleep(3)
        return bad(429, retry_after="60") if text == "refused" else good()

    async def main() -> None:
        transport = httpx.MockTransport(answer)
        model = ChatOpenAI("m", base_url="http://mock/v1", api_key="k", transport=transport, max_retries=0)

        async def ask(text: str) -> None:
            began = anyio.current_time()
            await outcome_of(model, text)
            times[text] = anyio.current_time() - began

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "slow")
            await anyio.sleep(1)
            group.start_soon(ask, "refused")

    virtually(backend, main)
    assert times == pytest.approx({"slow": 3, "refused": 0})


# The retry budget


def test_endpoint_retries_are_paid_for_and_answers_repay() -> None:
    """Of a hundred items that fail three times each, as many are tried again as can be paid."""
    server = Server(*[bad(500) for _ in range(1000)])

    async def main() -> None:
        model = respond(server, quota=Quota(retry_budget=RetryBudget(capacity=50)))
        result = await model.arun(["a"] * 100, {"max_concurrency": 10})
        assert len(server.times) == 100 + 10
        errors = [str(error) for error in result.errors.values()]
        assert len(errors) == 100
        empty = [text for text in errors if "the retry budget is empty (0 of 50 left" in text]
        assert len(empty) >= 90
        assert all("not tried again" in text for text in empty)

    virtually("trio", main)


@pytest.mark.parametrize(("failure", "cost"), [(bad(500), 5), (httpx.ReadTimeout("slow"), 10)])
def test_endpoint_timeout_costs_twice(failure: Any, cost: float) -> None:
    """Its cost stays paid, and the answer repays one token."""

    async def main() -> None:
        model = respond(Server(failure))
        await model.ainvoke("hi")
        assert model.quota.statistics().retry_tokens == 500 - cost + 1

    virtually("trio", main)


def test_endpoint_retry_budget_of_zero_allows_no_retry_and_none_is_no_bound() -> None:
    """At once, and with a word about it; an event says so."""

    async def main() -> None:
        events: list[QuotaEvent] = []
        model = respond(Server(bad(500)), quota=Quota(retry_budget=RetryBudget(capacity=0)))
        with model.quota.listening(events.append):
            error = error_of(await outcome_of(model))
        assert error.attempts == 1
        assert "the retry budget is empty (0 of 0 left; a retry costs 5, an answer repays 1)" in str(error)
        assert [event for event in events if isinstance(event, BudgetEmpty)] == [BudgetEmpty(0, 5)]
        server = Server(*[bad(500) for _ in range(300)])
        boundless = respond(server, quota=Quota(retry_budget=None), max_retries=2)
        result = await boundless.arun(["a"] * 100)
        assert len(result.errors) == 100
        assert len(server.times) == 300
        assert boundless.quota.statistics().retry_tokens is None

    virtually("trio", main)


def test_endpoint_rate_limit_with_a_named_wait_costs_nothing() -> None:
    """It comes one after the other then; without a time it is like any other failure."""

    async def main() -> None:
        told = respond(Server(*[bad(429, retry_after="1")] * 5))
        await told.ainvoke("hi")
        assert told.quota.statistics().retry_tokens == 500
        untold = respond(Server(bad(429)))
        await untold.ainvoke("hi")
        assert untold.quota.statistics().retry_tokens == 500 - 5 + 1

    virtually("trio", main)


def test_endpoint_announces_each_retry() -> None:
    """Why, when at the least, and which attempt failed."""

    async def main() -> None:
        events: list[QuotaEvent] = []
        model = respond(
            Server(bad(500), bad(429, retry_after="7")), retry_policy=RetryPolicy(wait=wait_fixed(2))
        )
        with model.quota.listening(events.append):
            await model.ainvoke("hi")
        retried = [event for event in events if isinstance(event, Retried)]
        assert [(event.reason, event.attempt) for event in retried] == [
            ("ServerError (status 500)", 1),
            ("RateLimitError (status 429)", 2),
        ]
        assert [event.wait for event in retried] == pytest.approx([2, 7])

    virtually("trio", main)


# Outages


def down(end: float = 70.0, kind: Any = 503, **options: Any) -> MockProvider:
    return MockProvider(seed=3, latency=LATENCY, outages=[Outage(10, end, kind)], **options)


@pytest.mark.parametrize("kind", [503, 500, "refused"])
def test_endpoint_fails_fast_in_an_outage(kind: Any) -> None:
    """Ten thousand items make a thousand requests more, and as many as the budget allows."""
    count = 2500
    simulated = simulate(down(kind=kind), count, cap=50)
    verdict = simulated.verdict
    assert verdict.sent <= 1.1 * count + 100
    assert simulated.errors
    empty = [error for error in simulated.errors if "the retry budget is empty" in str(error)]
    assert len(empty) >= 0.9 * len(simulated.errors) - 50
    assert simulated.statistics.down_for is None or simulated.seconds < 70


@pytest.mark.parametrize("kind", [503, 500, "refused", 429])
def test_endpoint_with_patience_has_every_item_done(kind: Any) -> None:
    """And the provider is not bothered meanwhile: one looks, at most once in a second."""
    provider = down(kind=kind)
    simulated = simulate(provider, 1500, cap=50, retry_policy=RetryPolicy(patience=300))
    assert not simulated.errors
    assert simulated.statistics.down_for is None
    looks = [record.time for record in provider.log.records() if 20 <= record.time < 70]
    assert len(looks) <= 25
    assert all(after - before > 0.99 for before, after in pairwise(looks))
    assert simulated.verdict.sent <= 1.1 * 1500 + 100
    assert simulated.seconds < 70 + 10 + 1500 / 50 * 1.6


def test_endpoint_with_short_patience_fails_and_says_for_how_long() -> None:
    """With an error that names the remedy."""
    simulated = simulate(down(end=10_000), 600, cap=50, retry_policy=RetryPolicy(patience=30))
    assert simulated.errors
    for error in simulated.errors:
        assert isinstance(error, OutageError), error
        assert 30 <= error.seconds <= 45
        assert "the provider has been down for" in str(error)
        assert error.__cause__ is None or isinstance(error.__cause__, ProviderError)
    assert simulated.seconds < 60


def test_endpoint_without_patience_fails_fast_beside_patient_ones() -> None:
    """Though they share the quota with waiting requests."""
    provider = down(end=100)

    async def main() -> None:
        patient = chat(provider, retry_policy=RetryPolicy(patience=300))
        hasty = chat(provider)
        events: list[QuotaEvent] = []
        await patient.ainvoke("hi")
        await anyio.sleep(20)
        with patient.quota.listening(events.append):
            async with anyio.create_task_group() as group:
                results: list[Any] = []

                async def wait() -> None:
                    results.append(await patient.arun([f"p{number}" for number in range(50)]))

                group.start_soon(wait)
                await anyio.sleep(10)
                assert patient.quota.statistics().down_for is not None
                before = anyio.current_time()
                error = error_of(await outcome_of(hasty))
                assert not isinstance(error, OutageError)
                assert anyio.current_time() - before < 10
        assert not results[0].errors
        assert [type(event) for event in events if isinstance(event, ProviderDown | ProviderUp)] == [
            ProviderDown,
            ProviderUp,
        ]
        assert is_idle(patient.quota)

    virtually("trio", main)


def test_endpoint_with_patience_waits_with_one_request_alone() -> None:
    """When all its attempts failed and no other request was answered, it waits until the provider is back."""
    server = Server(*[httpx.ConnectError("refused") for _ in range(8)])

    async def main() -> None:
        model = respond(server, retry_policy=RetryPolicy(patience=300))
        assert isinstance(await outcome_of(model), AIMessage)
        assert is_idle(model.quota)

    virtually("trio", main)
    assert len(server.times) == 9
    gaps = [after - before for before, after in pairwise(server.times[3:])]
    assert gaps == pytest.approx([2, 4, 5, 5, 5], abs=0.1)


def test_endpoint_probe_that_is_cancelled_is_left_to_another_item() -> None:
    """Else everybody would wait for ever."""
    answers = [httpx.ConnectError("refused") for _ in range(12)]

    async def main() -> None:
        server = Server(*answers)
        model = respond(server, 1.5, retry_policy=RetryPolicy(patience=300))
        result = await model.arun(["a"] * 20, {"max_concurrency": 5, "timeout": 9})
        assert is_idle(model.quota)
        assert len(result) == 20
        fine = await model.arun(["b"] * 20, {"max_concurrency": 5})
        assert not fine.errors
        assert is_idle(model.quota)

    virtually("trio", main)


@on_both
def test_endpoint_released_retry_that_was_cancelled_holds_no_other_up(backend: str) -> None:
    """Other waiting retries are not left until their patience ends."""
    server = Server(*[bad(500) for _ in range(3)])

    async def main() -> None:
        quota = Quota(retry_budget=RetryBudget(capacity=5))
        model = respond(server, quota=quota, retry_policy=RetryPolicy(patience=1000, wait=wait_fixed(10)))
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(5):
                async with anyio.create_task_group() as inner:
                    inner.start_soon(model.ainvoke, "paid")
                    await anyio.sleep(0.1)
                    inner.start_soon(model.ainvoke, "let go")
                    await anyio.sleep(0.1)
                    group.start_soon(model.ainvoke, "patient")
                    await anyio.sleep(60)
        assert server.texts == ["paid", "let go", "patient", "patient"]
        assert anyio.current_time() - began < 60
        assert is_idle(quota)

    virtually(backend, main)


# Options


@pytest.mark.parametrize("name", ["max_retry_after", "patience"])
def test_endpoint_policy_refuses_invalid_seconds(name: str) -> None:
    """An error names the option."""
    for value in (-1, float("nan"), float("inf")):
        given: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"{name} must be 0 seconds or more"):
            RetryPolicy(**given)
    for strange in ("1", None, True):
        given = {name: strange}
        with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
            RetryPolicy(**given)


@pytest.mark.parametrize("name", ["retry", "stop", "wait"])
def test_endpoint_policy_refuses_parts_that_cannot_be_called(name: str) -> None:
    """A number of attempts is no part."""
    given: dict[str, Any] = {name: 5}
    with pytest.raises(TypeError, match=f"{name} must be one of tenacity's parts"):
        RetryPolicy(**given)


def test_endpoint_retries_embeddings_too() -> None:
    """Lists wait, retry and pay like other requests."""
    provider = MockProvider(
        rate_limits=RateLimits(requests_per_minute=60, burst_seconds=1),
        outages=[Outage(5, 8, 500)],
        dimensions=4,
        max_inputs=32,
    )

    async def main() -> None:
        model = OpenAIEmbeddings(
            "m",
            base_url="http://mock/v1",
            api_key="k",
            transport=provider.transport(),
            max_batch_size=32,
            requests_per_minute=60,
            retry_policy=RetryPolicy(patience=60),
        )
        vectors = await model.abatch([f"text {number}" for number in range(32 * 12)])
        assert len(vectors) == 32 * 12
        assert is_idle(model.quota)

    virtually("trio", main)
    verdict = provider.verdict()
    assert verdict.rejected <= 1


def test_endpoint_request_timeout_is_an_error_of_its_own() -> None:
    """It is tried again, at twice the price, and says how often it was."""

    async def main() -> RequestTimeoutError:
        model = respond(Server(*[httpx.ReadTimeout("slow")] * 9))
        error = error_of(await outcome_of(model))
        assert isinstance(error, RequestTimeoutError)
        assert model.quota.statistics().retry_tokens == 480
        return error

    assert virtually("trio", main).attempts == 3


# What the books tell of requests


async def text_of(value: Any) -> str:
    """Give a text; a function that is not async would run in a thread, which virtual time does not see."""
    return str(getattr(value, "text", value))


@on_both
def test_endpoint_outcome_tells_the_seconds_of_answered_requests(backend: str) -> None:
    """Without the wait for a slot and for the limit, and without the attempt that failed."""

    async def main() -> Any:
        attempts = iter((500, 200, 200))

        async def handle(_: httpx.Request) -> httpx.Response:
            await anyio.sleep(2)
            return good() if next(attempts) == 200 else bad()

        model = ChatOpenAI("m", base_url="http://h/v1", transport=httpx.MockTransport(handle))
        return await model.arun(["a", "b"], {"max_concurrency": 1})

    result = virtually(backend, main)
    assert [outcome.request_seconds for outcome in result] == pytest.approx([2, 2])
    assert result[0].seconds > 4
    assert sorted(outcome.attempts for outcome in result) == [1, 2]


@on_both
def test_endpoint_outcome_adds_up_the_requests_of_its_calls(backend: str) -> None:
    """As it does their tokens, by the model that was asked."""

    def asking(name: str, seconds: float) -> ChatOpenAI:
        async def handle(_: httpx.Request) -> httpx.Response:
            await anyio.sleep(seconds)
            usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
            return httpx.Response(200, json=chat_body() | {"usage": usage})

        return ChatOpenAI(name, base_url="http://h/v1", transport=httpx.MockTransport(handle))

    async def main() -> Any:
        first, second = asking("small", 1), asking("large", 3)
        chain = first | RunnableLambda(text_of) | {"a": second, "b": second}
        return await chain.arun(["x"], {"prices": {"small": Price(1.0, 1.0), "large": Price(2.0)}})

    result = virtually(backend, main)
    assert result[0].request_seconds == pytest.approx(1 + 3 + 3)
    assert result.usage_by_model == {"small": Usage(10, 2, 12), "large": Usage(20, 4, 24)}
    assert result.usage == Usage(30, 6, 36)
    assert result.cost == pytest.approx((12 + 2 * 20) / 1e6)


@on_both
def test_endpoint_outcome_of_a_list_has_the_seconds_of_the_list(backend: str) -> None:
    """And its share of the tokens; an item that asked nothing has neither."""

    async def main() -> list[Any]:
        provider = MockProvider(latency=2.0)
        embeddings = OpenAIEmbeddings("e", base_url="http://mock/v1", transport=provider.transport())
        plain = await RunnableLambda(text_of).arun(["a"])
        return [
            plain,
            await embeddings.arun(["a", "b"]),
            await (RunnableLambda(text_of) | embeddings).arun(["c", "d"]),
            await embeddings.with_config(tags=["x"]).arun(["a"]),
        ]

    plain, *results = virtually(backend, main)
    assert (plain[0].request_seconds, plain[0].usage_by_model, plain.usage_by_model) == (None, None, {})
    for result in results:
        assert all(outcome.request_seconds == pytest.approx(2) for outcome in result)
        assert [*result.usage_by_model] == ["e"]
        assert result.usage_by_model["e"] == result.usage


# A wrong address


def unreachable(fault: Any) -> ConnectionFailedError:
    error = ConnectionFailedError("cannot connect")
    error.fault = fault
    return error


class Wire:
    """Fail with the next of some errors, else answer; in place of a transport."""

    def __init__(self, *errors: ProviderError | None, last: ProviderError | None = None) -> None:
        self.asked = 0
        self._errors = iter(errors)
        self._last = last

    async def post(self, _url: str, _body: bytes, _sink: object) -> Reply:
        self.asked += 1
        await anyio.sleep(0.1)
        error = next(self._errors, self._last)
        if error is None:
            return reply(chat_body())
        raise copy.copy(error)

    def model(self, **options: Any) -> ChatOpenAI:
        """Return a model that asks through this."""
        model = ChatOpenAI("m", base_url="http://h/v1", quota=Quota(), **options)
        model._client._transport = self  # type: ignore[assignment]
        model._endpoint._transport = self  # type: ignore[assignment]
        return model


FAULTS = ["host", "refused", "certificate", "protocol"]
PATIENT = RetryPolicy(patience=300.0)


@on_both
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("items", [1, 30, 400])
def test_endpoint_does_not_wait_for_a_wrong_address(backend: str, fault: str, items: int) -> None:
    """However patient the policy: each error names the fault, and the provider does not count as down."""
    told: list[QuotaEvent] = []

    async def main() -> tuple[Any, float, Wire]:
        wire = Wire(last=unreachable(fault))
        model, began = wire.model(retry_policy=PATIENT), anyio.current_time()
        with model.quota.listening(told.append):
            outcomes = await model.abatch(["x"] * items, return_exceptions=True)
        assert is_idle(model.quota)
        return outcomes, anyio.current_time() - began, wire

    outcomes, seconds, wire = virtually(backend, main)
    assert {type(outcome) for outcome in outcomes} == {ConnectionFailedError}
    assert {outcome.fault for outcome in outcomes} == {fault}
    assert seconds < 15
    assert not [event for event in told if isinstance(event, ProviderDown)]
    if fault in {"certificate", "protocol"}:
        assert wire.asked == items  # another attempt cannot mend it


@on_both
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("first", ["answer", "status 500", "status 429"])
def test_endpoint_waits_for_an_address_that_was_right_before(backend: str, fault: str, first: str) -> None:
    """Then it is the network that is down, or the server that is started anew."""

    async def main() -> tuple[Any, float]:
        status = int(first.removeprefix("status ")) if first.startswith("status") else None
        begin: ProviderError | None = None if status is None else ServerError("no", status=status)
        if status == 429:
            begin = RateLimitError("slow", status=429, retry_after=1.0)
        wire = Wire(begin, *[unreachable(fault)] * 25)
        model = wire.model(retry_policy=PATIENT)
        await outcome_of(model)
        began = anyio.current_time()
        return await model.abatch(["x"] * 3, return_exceptions=True), anyio.current_time() - began

    outcomes, seconds = virtually(backend, main)
    assert all(isinstance(outcome, AIMessage) for outcome in outcomes)
    assert first != "answer" or seconds > 15


@on_both
def test_endpoint_address_faults_among_others_are_an_outage(backend: str) -> None:
    """A connection that breaks shows that the address exists: it is waited for."""

    async def main() -> Any:
        wire = Wire(*[ConnectionFailedError("it broke")] * 12)
        return await wire.model(retry_policy=PATIENT).abatch(["x"] * 3, return_exceptions=True)

    assert all(isinstance(outcome, AIMessage) for outcome in virtually(backend, main))


# What is logged, and what is counted


@on_both
def test_endpoint_logs_nothing_for_each_item(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """A limit, its cool-downs and an outage are told once each, however many requests meet them."""
    provider = MockProvider(
        latency=LATENCY,
        rate_limits=RateLimits(requests_per_minute=60, burst_seconds=20),
        outages=[Outage(40, 70)],
    )

    async def main() -> Any:
        model = chat(provider, retry_policy=PATIENT, quota=Quota())
        return await model.abatch([str(number) for number in range(100)]), model.quota.statistics()

    outcomes, statistics = virtually(backend, main)
    assert len(outcomes) == 100
    lines = [record.getMessage() for record in caplog.records if record.name == "batchrt"]
    assert 1 <= len(lines) <= 12
    assert sum("the provider is down" in line for line in lines) == 1
    assert statistics.answers == 100


@on_both
def test_endpoint_statistics_count_requests_and_outcomes(backend: str) -> None:
    """Since the quota was made: requests, answers, tokens, refusals and retries."""

    async def main() -> Any:
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}

        def full() -> httpx.Response:
            return httpx.Response(200, json=chat_body() | {"usage": usage})

        server = Server(full(), bad(429, retry_after="1"), full(), bad(500), full(), bad(400), full())
        model = respond(server, quota=Quota())
        before = model.quota.statistics()
        for number in range(5):
            await outcome_of(model, str(number))
        return before, model.quota.statistics()

    before, after = virtually(backend, main)
    counts = ("requests", "answers", "tokens", "refusals", "retries")
    assert [getattr(before, name) for name in counts] == [0, 0, 0, 0, 0]
    assert [getattr(after, name) for name in counts] == [7, 4, 48, 1, 2]


@on_both
def test_endpoint_statistics_leave_out_requests_that_were_not_sent(backend: str) -> None:
    """Requests that wait and are given up."""

    async def main() -> Any:
        quota = Quota(max_in_flight=1)
        model = chat(MockProvider(latency=1.0), quota=quota)
        with anyio.move_on_after(2.5):
            await model.abatch(["x"] * 50)
        return quota.statistics()

    statistics = virtually(backend, main)
    assert statistics.requests <= 3
    assert statistics.answers <= 2
    assert statistics.in_flight == statistics.waiting == 0
