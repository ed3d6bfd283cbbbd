"""The evidence for limits: which cause explains the refusals."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import count

import pytest

from batchrt.limits.refusal_log import ACCEPTED, UNKNOWN, RefusalLog

RESULT = 0.01
"""Seconds until a refusal is known."""


@dataclass
class Entry:
    sent_at: float
    beside: int = 0
    verdict: int = 0


def log_of(outcomes: list[tuple[float, int, bool]]) -> tuple[RefusalLog, float]:
    """Return a log of requests (when, beside how many, refused), and a moment at which all is known."""
    log, at = RefusalLog(), 0.0
    for at, beside, refused in outcomes:
        entry = Entry(at)
        log.sent(entry, beside)
        if refused:
            log.was_refused(entry, at + RESULT)
        else:
            entry.verdict = ACCEPTED
    return log, at + 10


def bucket(rate: float, burst: float, pace: float, requests: int) -> list[tuple[float, int, bool]]:
    """Return what a bucket makes of requests at an even pace, five of which are always under way."""
    level, outcomes = burst, []
    for number in range(requests):
        level = min(burst, level + rate / pace)
        refused = level < 1
        level -= not refused
        outcomes.append((number / pace, 5, refused))
    return outcomes


@pytest.mark.parametrize(("rate", "burst", "pace"), [(50, 10, 80), (5, 5, 20), (200, 1, 260), (1, 3, 4)])
def test_refusal_log_finds_a_rate(rate: float, burst: float, pace: float) -> None:
    """From when requests are refused, whatever the size of the bucket."""
    log, now = log_of(bucket(rate, burst, pace, 120))
    explanation = log.explain(now)
    assert explanation.cause == "rate"
    # What comes into a full bucket is lost, so that the rate may lie anywhere between the two.
    assert explanation.rate / 1.2 <= rate <= explanation.highest * 1.2


@pytest.mark.parametrize("limit", [1, 4, 64])
def test_refusal_log_finds_a_number_in_flight(limit: int) -> None:
    """From beside how many requests are refused, whatever the time."""
    dice = random.Random(1)
    times = sorted(dice.uniform(0, 10) for _ in range(120))
    outcomes = [(at, beside, beside >= limit) for at in times for beside in [dice.randrange(2 * limit)]]
    log, now = log_of(outcomes)
    explanation = log.explain(now)
    assert (explanation.cause, explanation.limit) == ("in flight", limit)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_refusal_log_takes_refusals_at_random_for_noise(share: float, seed: int) -> None:
    """They come in the middle of what is let in."""
    dice = random.Random(seed)
    bursts = [number // 30 * 0.1 for number in range(150)]
    log, now = log_of([(at, number % 30, dice.random() < share) for number, at in zip(count(), bursts)])
    assert log.explain(now).cause == "noise"


@pytest.mark.parametrize("seed", range(5))
def test_refusal_log_takes_random_refusals_of_a_paced_client_for_noise(seed: int) -> None:
    """The pace that is kept to would explain any refusal: it is always near the edge of such a bucket."""
    dice = random.Random(seed)
    log, now = log_of([(number / 5, 1, dice.random() < 0.15) for number in range(150)])
    assert log.explain(now, known_rates=[5.0]).cause == "noise"


def test_refusal_log_needs_more_than_that_most_is_refused() -> None:
    """A rate so low that it predicts nothing but refusals explains none of them."""
    dice = random.Random(1)
    log, now = log_of([(0.2 * number, 0, dice.random() < 0.75) for number in range(150)])
    assert log.explain(now).cause == "noise"


def test_refusal_log_keeps_a_limit_beside_random_refusals() -> None:
    """Refusals beside fewer are noise and no reason to give a number in flight up for another cause."""
    dice = random.Random(2)
    wave = [(0.0, beside, beside >= 4) for beside in range(16)]
    later = [(1 + 0.05 * number, number % 4, dice.random() < 0.05) for number in range(60)]
    log, now = log_of([*wave, *later, (5.0, 4, True)])
    explanation = log.explain(now, known_limit=4)
    assert (explanation.cause, explanation.limit) == ("in flight", 4)


def test_refusal_log_fits_the_size_of_the_bucket() -> None:
    """A size between those that are tried: what came in while it was full tells it."""
    outcomes, level, last = list[tuple[float, int, bool]](), 40.0, 0.0
    for burst in range(4):
        for number in range(70):
            at = 2.0 * burst + number * 0.002
            level, last = min(40.0, level + 100 * (at - last)), at
            refused = level < 1
            level -= not refused
            outcomes.append((at, 5, refused))
    log, now = log_of(outcomes)
    explanation = log.explain(now)
    assert explanation.cause == "rate"
    assert explanation.rate <= 120
    assert explanation.highest >= 80


def test_refusal_log_begins_as_empty_as_the_first_refusals_tell() -> None:
    """Refused for 1.8 s, a bucket with a token in two seconds held next to nothing at first."""
    refused_at = (0.0, 0.9, 1.8, 2.8, 4.9)
    let_in_at = (2.05, 4.1, 6.2)
    times = [(at, 0, True) for at in refused_at] + [(at, 0, False) for at in let_in_at]
    log, now = log_of(sorted(times))
    explanation = log.explain(now, [0.5])
    assert (explanation.cause, explanation.unexplained) == ("rate", 0.0)
    assert explanation.highest >= 0.5


def test_refusal_log_leaves_named_waits_out_of_the_pace() -> None:
    """Nothing is sent during them: a pace is kept between two waits."""
    log, at = RefusalLog(), 0.0
    for _ in range(4):
        for number in range(10):
            entry = Entry(at)
            log.sent(entry, 1)
            if number == 9:
                log.was_refused(entry, at + RESULT, wait=9.0)
                log.was_refused(Entry(at), at + RESULT, wait=8.0)
            else:
                entry.verdict = ACCEPTED
            at += 0.1
        at += 9.0
    _, rate = log.let_in(at)
    assert 8 <= rate <= 12


def test_refusal_log_infers_nothing_from_one_refusal() -> None:
    """Any limit would explain it; what was let in right after it and beside as many tells that none does."""
    single = [(0.1 * number, 3, number == 20) for number in range(30)]
    assert RefusalLog().explain(1.0).cause == "too little evidence"
    log, now = log_of(single)
    explanation = log.explain(now)
    assert explanation.cause == "too little evidence"
    assert not explanation.mixed
    log, now = log_of([(0.0, number, number == 3) for number in range(8)])
    assert log.explain(now).mixed


def test_refusal_log_leaves_out_what_is_not_known_yet() -> None:
    """Of what was sent just now some refusals may be here already; nor do cancelled requests count."""
    log = RefusalLog()
    for number in range(4):
        entry = Entry(number)
        log.sent(entry, 1)
        log.was_refused(entry, number + 1.0)
    assert log.weight(4.2) < log.weight(10)
    cancelled = Entry(5)
    log.sent(cancelled, 1)
    cancelled.verdict = UNKNOWN
    assert not log.has_let_in(100)
    waiting = Entry(6)
    log.sent(waiting, 1)
    assert not log.has_let_in(6.5)
    assert log.has_let_in(100)


def test_refusal_log_counts_beside_how_many_that_were_let_in() -> None:
    """A request that was refused was never beside those sent after it."""
    log = RefusalLog()
    entries = [Entry(0.0) for _ in range(4)]
    for number, entry in enumerate(entries):
        log.sent(entry, number)
    log.was_refused(entries[1], 0.01)
    assert [entry.beside for entry in entries] == [0, 1, 1, 2]


def test_refusal_log_tells_what_is_let_in_between_refusals() -> None:
    """Over a span that is long enough to be exact."""
    log, now = log_of([(0.1 * number, 1, number in {0, 40}) for number in range(41)])
    assert log.rate_between_refusals(now) == pytest.approx(10, rel=0.05)
    log, now = log_of([(0.1 * number, 1, number == 5) for number in range(10)])
    assert log.rate_between_refusals(now) is None
    assert log.let_in_within(0.45, 0.9) == 4


def test_refusal_log_finds_the_first_request_under_a_lower_limit() -> None:
    """Beside few refusals before, not beside as many; and what was sent before it can be forgotten."""
    before = [(number / 10, 5, number == 20) for number in range(60)]
    after = [(6 + number / 10, 5, number % 3 == 0) for number in range(12)]
    log, now = log_of(before + after)
    assert log.change(0.0, now) == pytest.approx(6.0)
    assert log.change(5.0, now) is None, "too little was sent in between"
    assert log.outcomes_since(6.0, now) == (8, 4)
    log.forget(6.0)
    assert log.outcomes_since(0.0, now) == (8, 4)
    assert log.change(0.0, now) is None


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5])
def test_refusal_log_finds_no_change_in_refusals_at_random(share: float) -> None:
    """Or once in a while: a row of chances has clusters."""
    found = 0
    for seed in range(200):
        chance = random.Random(seed)
        log, now = log_of([(number / 10, 5, chance.random() < share) for number in range(160)])
        found += log.change(0.0, now) is not None
    assert found <= 10


def test_refusal_log_says_whether_anything_was_let_in() -> None:
    """Refusals alone tell no rate, whether they name a wait or not."""
    blind, now = log_of([(float(at), 0, True) for at in (0, 1, 3)])
    assert blind.explain(now).blind
    assert blind.explain(now).is_vague(0.0)
    seeing, now = log_of([(0.0, 0, False), *[(float(at), 0, True) for at in (1, 2, 4)]])
    assert not seeing.explain(now).blind
    assert not seeing.explain(now).is_vague(0.0)
