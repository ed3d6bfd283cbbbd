"""How sending begins, and begins again after a wait."""

from __future__ import annotations

import math

import pytest

from batchrt.errors import RateLimitError
from batchrt.limits.cooldown import LONGEST_QUIET, ColdStart, CoolDown, HalfOpen, SlowStart
from batchrt.runtime.clock import clock_time


def test_cold_start_doubles_and_is_sped_up_by_answers() -> None:
    """Every 25 ms from the first reply on; by one request for each answer."""
    start = ColdStart(4, 10.0)
    for _ in range(4):
        assert start.due(10.0) == 10.0
        start.sent()
    assert start.due(10.0) == pytest.approx(10.15 + 0.025 * math.log2(5 / 4))
    start.replied(10.0, answered=False)
    assert start.due(10.0) == pytest.approx(10.0 + 0.025 * math.log2(5 / 4))
    assert start.due(10.1) == 10.1
    start.replied(10.1, answered=True)
    start.replied(10.1, answered=True)
    for _ in range(2):
        assert start.due(10.0) == 10.0
        start.sent()
    assert start.due(10.0) == pytest.approx(10.0 + 0.025 * math.log2(7 / 6))
    assert not start.is_over(10.3)
    assert start.is_over(10.5)


def test_cold_start_after_a_recovery_begins_at_once_with_as_many_as_were_enough() -> None:
    """Of which some are in flight."""
    start = ColdStart.from_recovery(8, 6, 10.0)
    for _ in range(2):
        assert start.due(10.0) == 10.0
        start.sent()
    assert start.due(10.0) == pytest.approx(10.0 + 0.025 * math.log2(9 / 8))
    start.replied(10.0, answered=True)
    assert start.due(10.0) == 10.0
    assert start.is_over(10.5)


def test_slow_start_adds_one_request_for_each_answer() -> None:
    """From one more than there are, or from as many as went before."""
    start = SlowStart(4)
    assert start.lets_in(1)
    assert not start.lets_in(2)
    assert not start.answered()
    assert start.lets_in(2)
    assert start.answered()
    hurried = SlowStart(8)
    assert not hurried.hurry(4)
    assert hurried.lets_in(3)
    assert not hurried.lets_in(4)
    assert hurried.hurry(8)
    other = SlowStart(40, allowed=10)
    assert other.lets_in(9)
    assert not other.lets_in(10)


def test_half_open_lets_one_through_and_more_as_those_are_answered() -> None:
    """Requests that were sent before the wait do not count."""
    recovery = HalfOpen(2.0, 4, 10.0, at_first=math.inf, span=2.0)
    assert recovery.due(10.0) == 10.0
    recovery.sent()
    assert recovery.due(10.5) == pytest.approx(12.0), "twice as many after a further wait"
    assert not recovery.ended(9.0, answered=True)
    assert recovery.due(10.5) > 10.5
    assert not recovery.ended(10.0, answered=True)
    assert recovery.due(10.6) == 10.6
    recovery.sent()
    assert not recovery.ended(10.6, answered=True)
    recovery.sent()
    recovery.sent()
    assert recovery.due(10.7) > 10.7, "two at once"
    assert not recovery.ended(10.6, answered=True)
    assert recovery.ended(10.6, answered=True), "as many as are no reason to hold back"


def test_half_open_sends_no_more_at_first_than_it_is_told() -> None:
    """Within the span, however fast answers come."""
    recovery = HalfOpen(0.1, 40, 10.0, at_first=3, span=1.0)
    at, sent = 10.0, 0
    while at < 11.0:
        if recovery.due(at) <= at:
            recovery.sent()
            recovery.ended(at, answered=True)
            sent += 1
        at += 0.01
    assert sent == 3
    assert recovery.due(11.2) == 11.2


def test_cooldown_goes_on_until_the_latest_end() -> None:
    """A shorter wait changes nothing, and says so; an hour is the most unless a request waits for longer."""
    cooldown, error = CoolDown(), RateLimitError("slow", status=429)
    assert cooldown.left(0.0) == 0
    assert cooldown.prolong(10, error, 0.0)
    assert not cooldown.prolong(5, error, 1.0)
    assert not cooldown.prolong(9, error, 1.0)
    assert (cooldown.until, cooldown.left(4.0), cooldown.left(11.0)) == (10, 6, 0)
    assert cooldown.prolong(86_400, error, 1.0)
    assert cooldown.until == 1 + LONGEST_QUIET
    assert cooldown.prolong(86_400, error, 1.0, longest=7200)
    assert cooldown.until == 1 + 7200


def test_cooldown_is_too_long_for_a_request_that_waits_for_less() -> None:
    """By what the provider asked for, while it goes on; the error has its cause and the seconds left."""
    cooldown, error = CoolDown(), RateLimitError("slow", status=429, code="rate")
    assert cooldown.too_long(0.0, 1.0, lambda: 0.0) is None
    cooldown.prolong(86_400, error, 0.0)
    assert cooldown.too_long(10.0, 86_390, lambda: 0.0) is None
    found = cooldown.too_long(10.0, 86_389, lambda: 0.0)
    assert found is not None
    assert (found.status, found.code, found.attempts, found.retry_after) == (429, "rate", 0, 86_390)
    cause = found.__cause__
    assert (type(cause), str(cause), vars(cause)) == (type(error), str(error), vars(error))
    assert cooldown.too_long(LONGEST_QUIET, 1.0, lambda: 0.0) is None, "a probe is sent then"


def test_cooldown_keeps_no_traceback_of_its_cause() -> None:
    """Nor what the error came from: frames hold all that the refused request worked for."""
    cooldown = CoolDown()
    try:
        try:
            raise ValueError
        except ValueError as source:
            raise RateLimitError("slow", status=429) from source
    except RateLimitError as error:
        cooldown.prolong(600, error, 0.0)
        assert error.__traceback__ is not None
    found = cooldown.too_long(0.0, 60.0, lambda: 0.0)
    assert found is not None
    assert isinstance(found.__cause__, RateLimitError)
    kept = found.__cause__
    assert (kept.__traceback__, kept.__cause__, kept.__context__) == (None, None, None)


def test_cooldown_first_refusal_of_a_wave_is_new() -> None:
    """Those of requests that were sent before it came belong to the same wave."""
    cooldown = CoolDown()
    assert cooldown.is_new(0.0, 5.0)
    assert not cooldown.is_new(4.0, 6.0)
    assert cooldown.is_new(5.0, 7.0)
    assert not cooldown.is_new(6.9, 8.0)


def test_cooldown_error_says_until_when_the_provider_is_left_alone() -> None:
    """In seconds and by the wall clock."""
    cooldown = CoolDown()
    cooldown.prolong(600, RateLimitError("slow", status=429), 0.0)
    found = cooldown.too_long(100.0, 60.0, lambda: 1_000_000.0)
    assert found is not None
    assert "for 500 s more, which is more than is waited for (60 s)" in str(found)
    assert f"until {clock_time(1_000_500.0)}; nothing was sent" in str(found)


def test_recoveries_let_two_requests_go_before_they_are_over() -> None:
    """Even where one would be enough: one in flight at a time shows nothing of a limit."""
    assert SlowStart(1).enough == 2
    recovery = HalfOpen(2.0, 1, 10.0, at_first=math.inf, span=2.0)
    recovery.sent()
    assert not recovery.ended(10.0, answered=True)
    recovery.sent()
    assert recovery.ended(10.0, answered=True)


def test_half_open_without_answers_doubles_with_each_wait() -> None:
    """And is over in any case once eight times as many as enough were sent."""
    recovery = HalfOpen(2.0, 2, 10.0, at_first=math.inf, span=2.0)
    for _ in range(3):
        recovery.sent()
    assert recovery.due(10.5) == pytest.approx(10.0 + 2 * 2.0), "four have two waits"
    for _ in range(12):
        recovery.sent()
    assert not recovery.ended(11.0, answered=False)
    recovery.sent()
    assert recovery.ended(11.0, answered=False)


def test_slow_start_counts_no_answers_until_the_pause_is_over() -> None:
    """They are those of requests that were sent before it."""
    start = SlowStart(4)
    assert not start.answered()
    assert start.allowed == 0
    assert start.lets_in(0)
    assert start.allowed == 1


def test_half_open_doubles_only_once_its_first_allowance_is_over() -> None:
    """However long that took: all that waited went at once."""
    recovery = HalfOpen(0.025, 100, 10.0, at_first=2, span=1.0)
    for _ in range(2):
        assert recovery.due(10.1) == 10.1
        recovery.sent()
    assert recovery.due(10.5) == pytest.approx(11.1)
    for count in range(3, 9):
        assert recovery.due(11.1) == pytest.approx(11.1 + 0.025 * math.log2(count / 2))
        recovery.sent()
