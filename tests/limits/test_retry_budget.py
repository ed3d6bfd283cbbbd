"""A bucket of retries: empty it fails fast, and answers fill it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import RateLimitError, RequestTimeoutError, RetryBudget, ServerError
from batchrt.limits.error_kinds import Failure
from batchrt.limits.events import BudgetEmpty, Events
from batchrt.limits.retry_budget import RetryQueue, RetryTokens
from tests.limits.quotas import BACKENDS, virtually

on_both = pytest.mark.parametrize("backend", BACKENDS)
FAILURE = Failure.of(ServerError("x", status=500))


class Holder:
    """Hold a slot, and count how often it was given back."""

    def __init__(self) -> None:
        self.given = 0

    def give(self) -> None:
        self.given += 1

    def wait_throttled(self) -> None: ...

    def release(self) -> None: ...


def empty_queue(*, idle: bool = False) -> RetryQueue:
    """Return a queue whose budget is spent, of a quota with requests in flight unless it is idle."""
    queue = RetryQueue(RetryBudget(capacity=5), Events(), lambda: idle)
    assert queue.afford(FAILURE)
    assert queue.left == 0
    return queue


def test_retry_budget_allows_a_hundred_retries_and_then_one_for_five_answers() -> None:
    """As AWS's SDKs have it: 500 tokens, five for a retry, one for an answer."""
    tokens = RetryTokens(RetryBudget())
    cost = tokens.cost(timed_out=False)
    assert sum(tokens.spend(cost) for _ in range(1000)) == 100
    for _ in range(4):
        tokens.repay()
    assert not tokens.spend(cost)
    tokens.repay()
    assert tokens.spend(cost)
    assert tokens.left == 0


def test_retry_budget_charges_twice_for_a_timeout() -> None:
    """It has held up the provider for longer."""
    tokens = RetryTokens(RetryBudget())
    assert tokens.cost(timed_out=True) == 2 * tokens.cost(timed_out=False) == 10


def test_retry_budget_is_repaid_up_to_its_capacity() -> None:
    """A good day is no licence for a bad one."""
    tokens = RetryTokens(RetryBudget(capacity=7, cost=5, repayment=4))
    assert tokens.spend(5)
    tokens.repay()
    tokens.repay()
    tokens.repay()
    assert tokens.left == 7


def test_retry_budget_without_capacity_allows_no_retry() -> None:
    """Not even one that costs nothing."""
    tokens = RetryTokens(RetryBudget(capacity=0, cost=0))
    tokens.repay()
    assert not tokens.spend(0)


@pytest.mark.parametrize("name", ["capacity", "cost", "timeout_cost", "repayment"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_retry_budget_refuses_invalid_numbers(name: str, value: float) -> None:
    """That names the option."""
    given_: Any = {name: value}
    with pytest.raises(ValueError, match=f"{name} must be 0 tokens or more"):
        RetryBudget(**given_)


@pytest.mark.parametrize("value", ["5", None, True])
def test_retry_budget_refuses_other_types(value: Any) -> None:
    """And no truth."""
    with pytest.raises(TypeError, match="capacity must be a number of tokens"):
        RetryBudget(capacity=value)


@given(st.lists(st.sampled_from(["retry", "timeout", "answer"]), max_size=300))
def test_retry_budget_never_allows_more_than_capacity_and_answers_pay_for(events: list[str]) -> None:
    """Whatever happens in whatever order."""
    tokens = RetryTokens(RetryBudget(capacity=40, cost=5, timeout_cost=10, repayment=1))
    spent = answers = 0.0
    for event in events:
        if event == "answer":
            tokens.repay()
            answers += 1
        else:
            cost = tokens.cost(timed_out=event == "timeout")
            spent += cost if tokens.spend(cost) else 0
        assert 0 <= tokens.left <= 40
        assert spent <= 40 + answers


@on_both
def test_retry_queue_wait_ends_after_its_patience(backend: str) -> None:
    """Without a slot meanwhile; the queue forgets the retry."""

    async def main() -> None:
        queue, holder = empty_queue(), Holder()
        start = anyio.current_time()
        assert await queue.wait(5, holder) is False
        assert anyio.current_time() - start == pytest.approx(5)
        assert holder.given == 1
        assert not queue.awaited
        queue.repay()
        assert queue.left == 1

    virtually(backend, main)


@on_both
def test_retry_queue_answer_releases_the_longest_waiter(backend: str) -> None:
    """Instead of putting tokens in; a later retry cannot be paid for before those that wait."""

    async def main() -> None:
        queue, order = empty_queue(), []

        async def wait(name: str) -> None:
            assert await queue.wait(100, Holder())
            order.append(name)

        async with anyio.create_task_group() as group:
            for name in ("first", "second"):
                group.start_soon(wait, name)
                await anyio.sleep(1)
            queue.repay()
            await anyio.sleep(1)
            assert (order, queue.left) == (["first"], 0)
            assert queue._tokens is not None
            queue._tokens.left = 5
            assert not queue.afford(FAILURE)
            queue.repay()
        assert order == ["first", "second"]
        assert queue.afford(FAILURE)

    virtually(backend, main)


@on_both
def test_retry_queue_release_of_a_cancelled_retry_goes_to_the_next(backend: str) -> None:
    """An answer is not lost with the retry that it was meant for."""

    async def main() -> None:
        queue, released = empty_queue(), []

        async def wait(scope: anyio.CancelScope) -> None:
            with scope:
                released.append(await queue.wait(100, Holder()))

        async with anyio.create_task_group() as group:
            scopes = [anyio.CancelScope(), anyio.CancelScope()]
            for scope in scopes:
                group.start_soon(wait, scope)
                await anyio.sleep(1)
            scopes[0].cancel()
            queue.repay()
            await anyio.sleep(1)
            assert released == [True]
        assert scopes[0].cancelled_caught

    virtually(backend, main)


@on_both
def test_retry_queue_releases_one_retry_where_no_answer_can_come(backend: str) -> None:
    """The outcome of that one releases the next; nothing is repaid, since there was no answer."""

    async def main() -> None:
        requests_in_flight, released = 1, []
        queue = RetryQueue(RetryBudget(capacity=5), Events(), lambda: not requests_in_flight)
        assert queue.afford(FAILURE)

        async def wait() -> None:
            released.append(await queue.wait(100, Holder()))

        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(wait)
            await anyio.sleep(1)
            queue.relieve()
            await anyio.sleep(1)
            assert released == []
            requests_in_flight = 0
            for count in (1, 2):
                queue.relieve()
                await anyio.sleep(1)
                assert released == [True] * count
            await wait()
            assert released == [True] * 3, "at once"
        assert queue.left == 0

    virtually(backend, main)


@on_both
def test_retry_queue_forgets_retries_of_the_parent_process(backend: str) -> None:
    """And its lock, which another thread may have held."""

    async def main() -> None:
        queue = empty_queue()
        async with anyio.create_task_group() as group:
            group.start_soon(queue.wait, 100, Holder())
            await anyio.sleep(1)
            lock = queue._lock
            queue.reset_after_fork()
            assert not queue.awaited
            assert queue._lock is not lock
            queue.repay()
            assert queue.left == 1
            group.cancel_scope.cancel()

    virtually(backend, main)


def test_retry_queue_without_a_budget_allows_all() -> None:
    """Answers repay nothing, and no retry waits."""
    queue = RetryQueue(None, Events(), lambda: False)
    assert queue.left is None
    assert all(queue.afford(FAILURE) for _ in range(1000))
    queue.repay()
    assert not queue.awaited


def test_retry_queue_retry_whose_time_the_provider_named_is_free() -> None:
    """Also when the budget is empty."""
    queue = empty_queue()
    paced = Failure.of(RateLimitError("slow", status=429, retry_after=3.0))
    assert paced.paced
    assert queue.afford(paced)
    assert not queue.afford(FAILURE)
    assert queue.left == 0


def test_retry_queue_charges_a_timeout_as_one() -> None:
    """Twice as much as another failure."""
    queue = RetryQueue(RetryBudget(capacity=16), Events(), lambda: False)
    assert queue.afford(Failure.of(RequestTimeoutError("late")))
    assert queue.left == 6
    assert queue.afford(FAILURE)
    assert queue.left == 1


def test_retry_queue_announces_that_the_budget_is_empty() -> None:
    """With the tokens that are left, and those that the retry would have cost; and says so in words."""
    events, told = Events(), list[Any]()
    events.listeners = (told.append,)
    queue = RetryQueue(RetryBudget(capacity=6), events, lambda: False)
    assert queue.afford(FAILURE)
    assert told == []
    assert not queue.afford(FAILURE)
    assert told == [BudgetEmpty(1.0, 5.0)]
    assert queue.words() == ("the retry budget is empty (1 of 6 left; a retry costs 5, an answer repays 1)")
