"""The circuit breaker: when it opens, and how often it is probed."""

from __future__ import annotations

import math

from batchrt.limits.circuit_breaker import CircuitBreaker


def test_breaker_opens_after_ten_failures_in_a_row() -> None:
    """One answer in between, and they are not in a row."""
    breaker = CircuitBreaker()
    for second in range(9):
        assert not breaker.failed(second, second)
    assert breaker.answered(9, 9) is None
    assert [breaker.failed(second, second) for second in range(10, 20)] == [False] * 9 + [True]
    assert breaker.since == 19
    assert not breaker.failed(20, 20), "it is known already"


def test_breaker_tells_how_long_it_was_open() -> None:
    """From the failure that made it one to the answer that ended it."""
    breaker = CircuitBreaker()
    assert breaker.open(100)
    assert not breaker.open(150)
    assert breaker.answered(162, 163) == 63
    assert breaker.since is None
    assert breaker.failures == 0
    assert breaker.answered(163, 164) is None


def test_breaker_stays_open_on_answers_to_earlier_requests() -> None:
    """It was made before the provider went down."""
    breaker = CircuitBreaker()
    for _ in range(10):
        breaker.failed(100, 101)
    assert breaker.since == 101
    assert breaker.answered(99, 105) is None
    assert breaker.since == 101
    assert breaker.failures == 10
    assert breaker.answered_at == 99
    assert breaker.answered(106, 111) == 10


def test_breaker_probes_become_rarer_but_never_rare() -> None:
    """After one second, two, four, and then every five."""
    breaker = CircuitBreaker()
    breaker.open(0)
    gaps, now = [], 0.0
    for _ in range(6):
        gaps.append(breaker.probe_at - now)
        now = breaker.probe_at
        breaker.probe_sent()
        assert breaker.probe_at == math.inf, "one at a time"
        breaker.probe_failed(now)
    assert gaps == [1, 2, 4, 5, 5, 5]


def test_breaker_probes_quickly_at_first_in_each_outage() -> None:
    """Whatever the last one came to."""
    breaker = CircuitBreaker()
    breaker.open(0)
    for _ in range(5):
        breaker.probe_failed(0)
    breaker.answered(49, 50)
    breaker.open(100)
    assert breaker.probe_at == 101


def test_breaker_is_closed_at_first() -> None:
    """No probe is due, and none has failed."""
    breaker = CircuitBreaker()
    assert breaker.since is None
    assert breaker.probe_at == math.inf
    assert not breaker.is_recent(0.0)


def test_breaker_failures_in_a_row_begin_with_the_first() -> None:
    """An answer to a request that was sent with the first or after it ends them; the rest are no new row."""
    breaker = CircuitBreaker()
    for second in range(100, 110):
        breaker.failed(second, second + 1)
    assert breaker.since == 110
    assert breaker.answered(99.5, 112) is None
    assert breaker.answered(100, 112) == 2
    breaker.failed(200, 201)
    assert breaker.failures == 1
    breaker.answered(200, 202)
    assert breaker.failures == 0


def test_breaker_probe_that_failed_is_recent_for_fifteen_seconds() -> None:
    """As is the failure that opened it: three times the longest pause between probes."""
    breaker = CircuitBreaker()
    breaker.open(10)
    assert breaker.is_recent(24.9)
    assert not breaker.is_recent(25)
    breaker.probe_failed(30)
    assert breaker.is_recent(44.9)
    assert not breaker.is_recent(45)
