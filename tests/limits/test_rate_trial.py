"""The trial of a rate: when it is held, and what ends it."""

from __future__ import annotations

import pytest

from batchrt.limits.permit import Permit
from batchrt.limits.rate_trial import RateTrial
from batchrt.limits.refusal_log import ACCEPTED, PENDING, REFUSED, UNKNOWN
from batchrt.limits.refusal_wave import Wave

SETTLING = 0.008


def refusal(at: float, wait: float = 0.0) -> Wave:
    """Return the wave of one refusal of a request that was sent then."""
    return Wave(0, 0, wait, wait, at, at)


def begun(rate: float = 1.0, wait: float = 0.0, refused: float = 3.0, share: float = 0.3) -> RateTrial:
    """Return a trial after the refusal of a request that was sent at 0."""
    trial = RateTrial()
    trial.refused(rate, refusal(0.0, wait), 0.01, refused=refused, share=share)
    return trial


def send(trial: RateTrial, at: float, verdict: int = PENDING) -> None:
    """Send one request."""
    permit = Permit(1)
    permit.sent_at, permit.verdict = at, verdict
    trial.granted(at)
    trial.sent(permit)


def test_rate_trial_disproves_a_rate_by_more_than_it_allows() -> None:
    """A bucket that held less than a token, and was refilled for a moment, lets no two requests in."""
    trial = begun(rate=1.0)
    assert trial.due(0.01, SETTLING) == 0.01
    send(trial, 0.01)
    assert trial.due(0.01, SETTLING) == 0.01 + SETTLING
    assert not trial.disproves(0.02, SETTLING)
    send(trial, 0.02, ACCEPTED)
    assert not trial.disproves(0.02, SETTLING)
    assert trial.disproves(0.03, SETTLING)
    assert not trial.is_open


def test_rate_trial_counts_the_refill() -> None:
    """A bucket lets in what comes in meanwhile."""
    trial = begun(rate=1.0)
    for second in (1.0, 2.0, 3.0):
        send(trial, second)
        assert not trial.disproves(second + SETTLING, SETTLING)


def test_rate_trial_counts_no_request_without_a_verdict() -> None:
    """A request that failed for another reason was not let in."""
    trial = begun(rate=1.0)
    send(trial, 0.01)
    send(trial, 0.02, UNKNOWN)
    assert not trial.disproves(0.03, SETTLING)


def test_rate_trial_costs_few_refusals_where_the_rate_is_a_limit() -> None:
    """One refusal each, and ever more refusals from one to the next, until a limit is all but certain."""
    trial, held, now = RateTrial(), [], 0.0
    for _ in range(60):
        now += 10
        trial.refused(1.0, refusal(now), now + 0.01, refused=3.0, share=0.3)
        held.append(trial.is_open)
        if trial.is_open:
            now += 0.02
            send(trial, now, REFUSED)
            assert trial.is_failed_by(refusal(now))
            trial.failed(refusal(now), 0.2)
            assert not trial.is_open
    places = [place for place, was_held in enumerate(held) if was_held]
    assert places[:4] == [0, 2, 5, 9]
    assert len(places) <= 11


def test_rate_trial_is_held_sooner_where_requests_were_let_in_before_a_refusal() -> None:
    """One accepted request in a moment is likelier at random than by the rate."""
    odds = []
    for let_in in (0, 1):
        trial = begun(rate=1.0)
        for _ in range(let_in):
            send(trial, 0.02, ACCEPTED)
        send(trial, 0.04, REFUSED)
        trial.failed(refusal(0.04), 0.2)
        odds.append(trial._odds)
    assert odds[1] < odds[0] / 4


def test_rate_trial_is_not_held_while_a_rate_is_searched_for() -> None:
    """A refusal that lowers the rate by a third and more was to be expected."""
    trial = RateTrial()
    trial.refused(8.0, refusal(1.0), 1.01, refused=3.0, share=0.3)
    trial.refused(5.0, refusal(2.0), 2.01, refused=3.0, share=0.3)
    assert not trial.is_open
    trial.refused(4.0, refusal(3.0), 3.01, refused=3.0, share=0.3)
    assert trial.is_open


@pytest.mark.parametrize(
    "reason", ["exact wait", "long wait", "most is refused", "most of few is refused", "steady"]
)
def test_rate_trial_is_not_held_where_refusals_tell_a_limit(reason: str) -> None:
    """Or where a refusal would cost a long wait."""
    assert begun(wait=1.0).is_open
    assert begun(refused=8.0, share=0.75).is_open
    if reason == "steady":
        trial = RateTrial()
        for number in range(40):
            trial.granted(float(number))
        trial.refused(1.0, refusal(40.0), 40.01, refused=3.0, share=0.3)
    else:
        trial = {
            "exact wait": lambda: begun(wait=0.25),
            "long wait": lambda: begun(wait=60.0),
            "most is refused": lambda: begun(refused=20.0, share=0.5),
            "most of few is refused": lambda: begun(refused=4.0, share=0.8),
        }[reason]()
    assert not trial.is_open


def test_rate_trial_ends_without_a_verdict_where_the_rate_is_near_what_is_sent() -> None:
    """Six requests, in each of which two tokens come in, tell nothing."""
    trial = begun(rate=20.0)
    for number in range(7):
        assert trial.is_open
        send(trial, 0.1 * number)
        assert not trial.disproves(0.1 * number + 0.09, SETTLING)
    assert not trial.is_open
