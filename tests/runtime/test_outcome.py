"""The books of a run."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from batchrt import BatchResult, DeadlineExceededError, Outcome, Price, SpendingLimitError, Usage
from tests.runtime.harness import Boom


def outcome(index: int, output: Any = None, error: Exception | None = None, **books: Any) -> Outcome[Any]:
    return Outcome(index, output, error, books.get("attempts", 1), 0.5, books.get("usage"))


def result(*outcomes: Outcome[Any], seconds: float = 2.0) -> BatchResult[Any]:
    return BatchResult(outcomes, seconds)


BOOM = Boom("no")


def test_outcome_outputs_and_errors_stand_where_their_inputs_stood() -> None:
    """Outputs and errors stand where their inputs stood."""
    books = result(outcome(0, "a"), outcome(1, error=BOOM), outcome(2, "c"))
    assert books.outputs == ["a", None, "c"]
    assert books.errors == {1: BOOM}
    assert [each.ok for each in books] == [True, False, True]


def test_outcome_result_is_a_sequence_of_outcomes() -> None:
    """A result is a sequence of outcomes."""
    outcomes = (outcome(0, "a"), outcome(1, "b"))
    books = result(*outcomes)
    assert len(books) == 2
    assert books[1] is outcomes[1]
    assert books[:1] == outcomes[:1]
    assert list(books) == list(outcomes)


def test_outcome_usage_adds_up_and_what_no_server_said_counts_nothing() -> None:
    """Usage adds up and what no server said counts nothing."""
    books = result(outcome(0, usage=Usage(1, 2, 3)), outcome(1), outcome(2, usage=Usage(10, 20, 30)))
    assert books.usage == Usage(11, 22, 33)
    assert result().usage == Usage()


def test_outcome_exception_as_output_is_no_error() -> None:
    """An exception as output is no error."""
    books = result(outcome(0, BOOM))
    assert books.errors == {}
    books.raise_for_errors()


def test_outcome_errors_are_raised_together() -> None:
    """Errors are raised together."""
    books = result(outcome(0, "a"), outcome(1, error=BOOM), outcome(2, error=KeyError("x")))
    with pytest.raises(ExceptionGroup, match="2 of 3 items failed") as caught:
        books.raise_for_errors()
    assert caught.value.exceptions == (BOOM, books.errors[2])


def test_outcome_summary_says_how_many_how_fast_and_what_went_wrong() -> None:
    """The summary says how many how fast and what went wrong."""
    books = result(
        outcome(0, "a", attempts=3, usage=Usage(5, 6, 11)),
        outcome(1, error=KeyError("x")),
        outcome(2, error=BOOM),
        outcome(3, error=BOOM),
    )
    summary = books.summary()
    assert "1 of 4 items done in 2.00 s (2.0/s)" in summary
    assert "2 retries" in summary
    assert "5 tokens in, 6 out" in summary
    assert summary.endswith("3 failed: 2 Boom, 1 KeyError")


def test_outcome_summary_leaves_out_what_there_is_none_of() -> None:
    """The summary leaves out what there is none of."""
    assert result(outcome(0, "a"), seconds=0).summary() == "1 of 1 items done in 0.00 s (at once)"


ENDED = SpendingLimitError("the limit is reached", limit="max_tokens_total", tokens=7, cost=0.5)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "done"),
        (BOOM, "failed"),
        (DeadlineExceededError("late", seconds=1), "cancelled"),
        (ENDED, "not started"),
        (ENDED.again(started=False), "not started"),
        (ENDED.again(), "cancelled"),
    ],
)
def test_outcome_status_says_what_became_of_an_item(error: Exception | None, status: str) -> None:
    """By its error alone."""
    assert outcome(0, error=error).status == status


def test_outcome_summary_of_a_run_that_ended_early_counts_every_status() -> None:
    """Those that there are none of are left out, and what ended it is told once."""
    outcomes = (
        outcome(0, "a", usage=Usage(5, 2, 7)),
        outcome(1, error=BOOM),
        outcome(2, error=ENDED.again()),
        outcome(3, error=ENDED),
        outcome(4, error=ENDED),
    )
    end = "ended early (the limit is reached): 1 done, 1 failed, 1 cancelled, 2 not started"
    assert BatchResult(outcomes, 2.0, ENDED).summary().endswith(f"5 tokens in, 2 out; {end}")
    some = BatchResult((outcomes[0], outcomes[3]), 2.0, ENDED).summary()
    assert some.endswith("ended early (the limit is reached): 1 done, 1 not started")


def test_outcome_result_is_shown_on_one_line() -> None:
    """However many items there are: how many, and what became of them."""
    limit = SpendingLimitError("enough", limit="max_cost", tokens=1, cost=1.0)
    late = DeadlineExceededError("late", seconds=1)
    books = result(
        outcome(0, "a\nb"), outcome(1, error=BOOM), outcome(2, error=late), outcome(3, error=limit)
    )
    shown = repr(books)
    assert shown == "<BatchResult of 4 items in 2.00 s: 1 done, 1 failed, 1 cancelled, 1 not started>"
    assert repr(result(*(outcome(i, i) for i in range(10_000)))).count("\n") == 0
    assert repr(result(outcome(0, 1))) == "<BatchResult of 1 item in 2.00 s: 1 done>"
    assert repr(result()) == "<BatchResult of 0 items in 2.00 s: nothing to do>"


MINI, LARGE = Price(input=1.0, output=2.0), Price(input=10.0, output=20.0)
BILLS = (
    {"mini": Usage(1_000_000, 0, 1_000_000)},
    {"mini": Usage(0, 500_000, 500_000), "large": Usage(100_000, 100_000, 200_000)},
    None,
)


def priced(prices: Price | dict[str, Price] | None) -> BatchResult[Any]:
    """Return a result of three items that were billed `BILLS`."""
    items = (Outcome(i, i, None, 1, 0.5, None, None, bills) for i, bills in enumerate(BILLS))
    return BatchResult(tuple(items), 2.0, None, prices)


def test_outcome_result_tells_usage_by_model() -> None:
    """Of all items together."""
    assert priced(None).usage_by_model == {
        "mini": Usage(1_000_000, 500_000, 1_500_000),
        "large": Usage(100_000, 100_000, 200_000),
    }
    assert result().usage_by_model == {}


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        (None, None),
        ({"mini": MINI, "large": LARGE}, 1.0 + 1.0 + 1.0 + 2.0),
        ({"mini": MINI, "large": LARGE, "other": LARGE}, 5.0),
        ({"mini": MINI}, None),
        ({}, None),
        (MINI, 1.1 + 2 * 0.6),
        (Price(input=0.0), 0.0),
    ],
)
def test_outcome_result_tells_the_cost_if_all_prices_are_known(prices: Any, cost: float | None) -> None:
    """A part of it would be taken for the whole."""
    assert priced(prices).cost == (None if cost is None else pytest.approx(cost))
    assert ("cost" in priced(prices).summary()) is bool(cost)


def test_outcome_result_costs_what_a_spending_limit_counts() -> None:
    """Each item by what the cache held of it, and by its tier."""
    bills = [
        {"m": Usage(1_000_000, 0, 1_000_000, cached_input_tokens=1_000_000)},
        {"m": Usage(1_000_000, 0, 1_000_000, service_tier="flex")},
        {"m": Usage(1_000_000, 0, 1_000_000, service_tier="default")},
    ]
    items = tuple(Outcome(i, i, None, 1, 0.5, None, None, each) for i, each in enumerate(bills))
    assert BatchResult(items, 1.0, None, MINI).cost == pytest.approx(0.1 + 0.5 + 1.0)


def test_outcome_result_without_any_usage_costs_nothing() -> None:
    """If there are prices."""
    assert BatchResult((outcome(0, 1),), 1.0, None, MINI).cost == 0.0


def test_outcome_result_survives_pickling() -> None:
    """It travels between processes."""
    books = priced({"mini": MINI, "large": LARGE})
    assert pickle.loads(pickle.dumps(books)).cost == books.cost
