"""The token estimator: expected tokens, from those of earlier requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.limits.token_estimator import TokenEstimator
from batchrt.messages import Usage


def test_token_estimator_begins_with_four_bytes_a_token_and_a_usual_answer() -> None:
    """For each of the answers that are asked for, and none for vectors."""
    costs = TokenEstimator()
    assert costs.expect(400) == (100, 256)
    assert costs.expect(400, answers=3) == (100, 768)
    assert costs.expect(400, answers=0) == (100, 0)


def test_token_estimator_expects_no_more_than_the_longest_answer() -> None:
    """`max_tokens` bounds the estimate; before the first answer nothing else is known."""
    costs = TokenEstimator()
    assert costs.expect(0, most=50)[1] == 50
    assert costs.expect(0, most=5000)[1] == 5000
    costs.learn(1000, 1, Usage(500, 100, 600))
    assert costs.expect(0, most=5000)[1] == 100
    assert costs.expect(0, most=50)[1] == 50


def test_token_estimator_counts_the_first_answers_in_full() -> None:
    """One answer is all that is known; of two it is the mean."""
    costs = TokenEstimator()
    costs.learn(1000, 1, Usage(500, 100, 600))
    assert costs.expect(1000) == (500, 100)
    costs.learn(1000, 1, Usage(300, 200, 500))
    assert costs.expect(1000) == pytest.approx((400, 150))


def test_token_estimator_follows_answers_that_become_longer() -> None:
    """Within some dozens of answers."""
    costs = TokenEstimator()
    for _ in range(1000):
        costs.learn(100, 1, Usage(25, 10, 35))
    for _ in range(60):
        costs.learn(100, 1, Usage(25, 1000, 1025))
    assert 900 < costs.expect(0)[1] <= 1000


def test_token_estimator_counts_answers_of_a_list_one_by_one() -> None:
    """Four answers in one request count as a quarter each."""
    costs = TokenEstimator()
    costs.learn(100, 4, Usage(25, 400, 425))
    assert costs.expect(0, answers=1)[1] == 100


def test_token_estimator_ignores_empty_usage() -> None:
    """Some servers count no input, and vectors have no output."""
    costs = TokenEstimator()
    costs.learn(100, 0, Usage(0, 0, 0))
    costs.learn(0, 0, Usage(10, 0, 10))
    assert costs.expect(400) == (100, 256)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 10**6), st.integers(0, 10**6))
    )
)
def test_token_estimator_stays_within_observed_values(answers: list[tuple[int, int, int, int]]) -> None:
    """Never below nothing, never beyond the most."""
    costs = TokenEstimator()
    for size, count, tokens, output in answers:
        costs.learn(size, count, Usage(tokens, output, tokens + output))
    cost = costs.expect(1000)
    rates = [tokens / size for size, _, tokens, _ in answers if size and tokens]
    outputs = [output / count for _, count, _, output in answers if count]
    assert 0 <= cost[0] <= 1000 * max([0.25, *rates]) * 1.000001
    assert 0 <= cost[1] <= max([256.0, *outputs]) * 1.000001
