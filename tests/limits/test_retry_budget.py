"""A bucket of retries: empty it fails fast, and answers fill it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import RetryBudget
from batchrt.limits.retry_budget import RetryTokens


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
