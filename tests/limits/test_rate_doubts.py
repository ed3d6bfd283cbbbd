"""Doubts about a rate: refusals below it, and what is refused once it is given up."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from batchrt.limits.explanation import Explanation
from batchrt.limits.rate_doubts import RateDoubts
from batchrt.limits.rate_estimator import RateEstimator
from batchrt.limits.refusal_log import ACCEPTED, RefusalLog
from batchrt.limits.refusal_wave import Wave

RESULT = 0.001
"""Seconds until a refusal is known."""


@dataclass
class Entry:
    sent_at: float
    beside: int = 0
    verdict: int = 0


class Client:
    """Send requests that are refused as told, at a rate of ten a second that was found at first."""

    def __init__(self) -> None:
        self.log = RefusalLog()
        self.rate = RateEstimator()
        self.doubts = RateDoubts(self.rate, self.log)
        self.now = 0.0
        self.rate.found(10.0, 10.0, 0.0, 0.0)

    def send(self, outcomes: str, seconds: float = 0.1) -> None:
        """Send one request for each letter, which is `r` where it is refused."""
        for outcome in outcomes:
            entry = Entry(self.now)
            self.log.sent(entry, 0)
            if outcome == "r":
                self.log.was_refused(entry, self.now + RESULT)
            else:
                entry.verdict = ACCEPTED
                self.log.replied(self.now + RESULT)
            self.now += seconds

    def wave(self) -> Wave:
        return Wave(0, 0, 0.0, 0.0, self.now, self.now)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("." * 40, "r.r" * 4, True),
        ("...r" * 10, "rrr." * 4, True),
        ("...r" * 10, "r.." * 6, False),
        ("." * 40, "rrr" * 3, False),
        ("." * 40, "...r" * 8, False),
    ],
    ids=["many", "several times as many", "hardly more", "few requests", "few refusals"],
)
def test_rate_doubts_return_to_a_rate_without_which_far_more_is_refused(
    before: str, after: str, *, found: bool
) -> None:
    """Whether refusals depend on the pace shows in the share of them, of a dozen requests and more."""
    client = Client()
    client.send(before)
    client.doubts.give_up(client.now)
    assert client.rate.bucket is None
    client.send(after)
    rate = client.doubts.given_up_in_vain(client.now)
    assert (rate is not None) is found
    assert client.doubts.given_up_in_vain(client.now) is None or not found, "once"
    if found:
        assert client.log.outcomes_since(0.0, client.now) == (after.count("."), after.count("r"))
        assert client.doubts.is_credible(Explanation("rate", refused=1.0), client.now)


@pytest.mark.parametrize(("seconds", "rate"), [(1.0, 5.0), (0.2, 5.0), (0.05, 6.66), (0.01, 10.0)])
def test_rate_doubts_return_to_what_was_accepted_since(seconds: float, rate: float) -> None:
    """Between half the rate that was given up and all of it."""
    client = Client()
    client.send("." * 40)
    client.doubts.give_up(client.now)
    client.send("r.r" * 4, seconds)
    assert client.doubts.given_up_in_vain(client.now) == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize(("count", "seconds"), [(61, 0.1), (20, 4.0)])
def test_rate_doubts_forget_a_rate_after_a_minute_or_sixty_requests(count: int, seconds: float) -> None:
    """Whatever is refused after that has another reason."""
    client = Client()
    client.send("." * 40)
    client.doubts.give_up(client.now)
    client.send("." * count, seconds)
    assert client.doubts.given_up_in_vain(client.now) is None
    client.send("r" * 60)
    assert client.doubts.given_up_in_vain(client.now) is None


def test_rate_doubts_temper_a_rate_at_which_requests_are_refused_again() -> None:
    """By a twentieth, unless a lower one explains the refusals; not the first time."""
    client = Client()
    told = Explanation("rate", rate=10.0, highest=10.0)
    assert client.doubts.tempered(told) == told
    assert client.doubts.expects(told, client.wave())
    assert client.doubts.tempered(told).rate == pytest.approx(9.5)
    assert client.doubts.tempered(told._replace(rate=8.0)).rate == 8.0


def test_rate_doubts_give_a_rate_up_after_three_surprises_and_then_six() -> None:
    """A rate beside noise is found again and again."""
    client = Client()
    for surprises in (3, 6, 12, 24, 24):
        kept = 0
        while client.doubts.surprised(client.wave()):
            kept += 1
        assert kept == surprises - 1
        client.doubts.give_up(client.now)
        assert client.doubts.are_none
        client.rate.found(10.0, 10.0, 0.0, client.now)
