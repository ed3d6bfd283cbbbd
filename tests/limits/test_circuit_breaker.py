"""When a provider counts as down, and how often somebody looks."""

from __future__ import annotations

import math

from batchrt.limits.circuit_breaker import CircuitBreaker


def test_ten_failures_in_a_row_are_an_outage() -> None:
    """One answer in between, and they are not in a row."""
    downtime = CircuitBreaker()
    for second in range(9):
        assert not downtime.failed(second, second)
    assert downtime.answered(9, 9) is None
    assert [downtime.failed(second, second) for second in range(10, 20)] == [False] * 9 + [True]
    assert downtime.since == 19
    assert not downtime.failed(20, 20), "it is known already"


def test_the_end_says_how_long_it_was() -> None:
    """From the failure that made it one to the answer that ended it."""
    downtime = CircuitBreaker()
    assert downtime.begin(100)
    assert not downtime.begin(150)
    assert downtime.answered(162, 163) == 63
    assert downtime.since is None
    assert downtime.failures == 0
    assert downtime.answered(163, 164) is None


def test_an_answer_to_what_was_sent_before_ends_nothing() -> None:
    """It was made before the provider went down."""
    downtime = CircuitBreaker()
    for _ in range(10):
        downtime.failed(100, 101)
    assert downtime.since == 101
    assert downtime.answered(99, 105) is None
    assert downtime.since == 101
    assert downtime.failures == 10
    assert downtime.answered_at == 99
    assert downtime.answered(106, 111) == 10


def test_looks_become_rarer_but_never_rare() -> None:
    """After one second, two, four, and then every five."""
    downtime = CircuitBreaker()
    downtime.begin(0)
    gaps, now = [], 0.0
    for _ in range(6):
        gaps.append(downtime.look_at - now)
        now = downtime.look_at
        downtime.look()
        assert downtime.look_at == math.inf, "one at a time"
        downtime.looked(now)
    assert gaps == [1, 2, 4, 5, 5, 5]


def test_another_outage_begins_with_quick_looks() -> None:
    """Whatever the last one came to."""
    downtime = CircuitBreaker()
    downtime.begin(0)
    for _ in range(5):
        downtime.looked(0)
    downtime.answered(49, 50)
    downtime.begin(100)
    assert downtime.look_at == 101
