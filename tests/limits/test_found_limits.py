"""Found limits: when a hypothesis is believed, kept, doubted and given up."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from batchrt.limits.explanation import Explanation
from batchrt.limits.found_limits import FoundLimits
from batchrt.limits.permit import Permit
from batchrt.limits.rate_doubts import RateDoubts
from batchrt.limits.refusal_log import RefusalLog

LATENCY = 0.1
REFUSAL = 0.005
"""Seconds until an answer, and until a refusal."""


class Client:
    """Send requests through found limits, and tell the outcome of each after a while."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, float | None, float | None]] = []
        self.found = FoundLimits(
            lambda name, before, after, reason: self.changes.append((name, before, after)),
            lambda wave: None,
            lambda wait: None,
            lambda: None,
        )
        self.now = 0.0

    def wave(self, *refused: bool, wait: float = 0.0) -> None:
        """Send as many requests at once, the given ones of which are refused, and conclude."""
        permits = [Permit(1) for _ in refused]
        for permit in permits:
            permit.sent_at = self.now
            self.found.granted(self.now)
            self.found.sent(permit)
        leads = True
        for permit, was_refused in zip(permits, refused, strict=True):
            if was_refused:
                at = self.now + REFUSAL
                self.found.refused(permit, at, wait, leads=leads, parallel=False, explained=False)
                self.found.ended()
                leads = False
        for permit, was_refused in zip(permits, refused, strict=True):
            if not was_refused:
                self.found.answered(permit, self.now + LATENCY)
                self.found.ended()
        self.now += max(LATENCY, wait)
        self.found.lets_in_at(Permit(1), 0, self.now, wanted=True)


def test_found_limits_keep_a_number_in_flight_beside_random_refusals() -> None:
    """A refusal beside fewer says nothing about as many."""
    client = Client()
    client.wave(*[False] * 4, *[True] * 12)
    assert client.found.in_flight.base == 4
    for number in range(12):
        client.wave(number % 4 == 3, False, False, False)
    assert client.found.in_flight.base == 4
    assert client.found.rate.bucket is None


def test_found_limits_give_a_number_in_flight_up_that_was_outgrown() -> None:
    """Refusals that it does not explain tell that it is none, once several times as many are accepted."""
    client = Client()
    client.wave(*[False] * 2, *[True] * 10)
    assert client.found.in_flight.base == 2
    while not client.found.in_flight.is_outgrown:
        client.now += 5
        limit = client.found.in_flight.limit or 0
        client.found.lets_in_at(Permit(1), limit, client.now, wanted=True)
    for _ in range(20):
        client.wave(*[False] * 5, True, *[False] * 14)
    assert client.found.in_flight.limit is None
    assert client.changes[-1][0] == "max_in_flight"


def test_found_limits_send_one_request_at_a_time_where_most_is_refused() -> None:
    """Acceptance may be chance, and no slower pace improves it."""
    client, dice = Client(), random.Random(1)
    for _ in range(400):
        client.wave(dice.random() < 0.6)
        client.now += dice.uniform(0, 1)
    rate = client.found.rate.rate
    assert rate is None or rate >= 0.9 / LATENCY


class ScriptedLog(RefusalLog):
    """A log with a given explanation, whatever was refused."""

    def __init__(self, cause: Explanation, between: float | None = None) -> None:
        super().__init__()
        self.cause = cause
        self.between = between
        self.weighs = 1.0
        self.accepts = (1.0, 0.0)

    def explain(
        self,
        now: float,
        known_rates: Sequence[float | None] = (),
        known_limit: int | None = None,
        *,
        waits_differ: bool = False,
    ) -> Explanation:
        return self.cause

    def rate_between_refusals(self, now: float, since: float = -math.inf) -> float | None:
        return self.between

    def weight(self, now: float) -> float:
        return self.weighs

    def let_in(self, now: float) -> tuple[float, float]:
        return self.accepts

    def fastest(self, now: float) -> float:
        return math.inf


def scripted(cause: Explanation, between: float | None = None) -> tuple[Client, ScriptedLog]:
    """Return a client whose refusals have this explanation, and its log."""
    client, log = Client(), ScriptedLog(cause, between)
    client.found.log = log
    client.found._doubts = RateDoubts(client.found.rate, log)
    return client, log


RATE = Explanation("rate", rate=10.0, highest=10.0, refused=4.0)
CLEAR = RATE._replace(clear=True)
LOWER = CLEAR._replace(rate=8.0, highest=8.0)
CHANCE = Explanation("too little evidence", refused=1.0)


def refusals_until_given_up(client: Client) -> int:
    """Return how many waves of refusals it takes to give the believed rate up."""
    count = 0
    while client.found.rate.bucket is not None:
        client.wave(True)
        count += 1
    return count


@pytest.mark.parametrize("again", [RATE, CHANCE])
def test_found_limits_give_a_rate_up_after_three_refusals_in_a_row_below_it(again: Explanation) -> None:
    """Each time it takes twice as many, up to 24."""
    client, log = scripted(CLEAR)
    counts = []
    for _ in range(5):
        log.cause = CLEAR
        client.wave(True)
        assert client.found.rate.bucket is not None
        log.cause = again
        client.found._doubts._sceptical_until = -math.inf
        counts.append(refusals_until_given_up(client))
        name, before, after = client.changes[-1]
        assert (name, after) == ("requests_per_minute", None)
        assert before is not None
    assert counts == [3, 6, 12, 24, 24]


def test_found_limits_count_clear_and_probed_refusals_as_no_surprise() -> None:
    """A refusal that growth explains ends the row of those that nothing explains."""
    client, log = scripted(CLEAR)
    client.wave(True)
    for explanation in (RATE, RATE, LOWER, RATE, RATE):
        log.cause = explanation
        client.wave(True)
        assert client.found.rate.bucket is not None
    client.now += 100
    client.found.rate.advance(client.now, wanted=True)
    assert client.found.rate.probed(client.now)
    for explanation in (RATE, RATE, RATE):
        log.cause = explanation
        client.wave(True)
    assert client.found.rate.bucket is not None
    client.wave(True)
    assert client.found.rate.bucket is None


@pytest.mark.parametrize(("kept", "believed"), [(2, False), (20, True)])
def test_found_limits_give_a_rate_up_that_is_told_again_after_a_few_requests(
    kept: int, believed: bool
) -> None:
    """Also beyond doubt: each refusal at random, after which growth starts anew, fits the rate then."""
    client, _ = scripted(CLEAR)
    client.wave(True)
    for _ in range(3):
        for _ in range(kept):
            client.found.granted(client.now)
        client.wave(True)
    assert (client.found.rate.bucket is not None) is believed


def test_found_limits_doubt_a_rate_for_a_while_after_one_was_given_up() -> None:
    """For 15, 30, 60 and 120 s, unless it is beyond doubt or more than twice as many were refused."""
    for refused, clear in ((2.0, False), (4.0, False), (4.1, False), (2.0, True)):
        client, log = scripted(CLEAR)
        client.wave(True)
        log.cause, log.weighs = RATE, 2.0
        refusals_until_given_up(client)
        log.cause = RATE._replace(refused=refused, clear=clear)
        client.wave(True)
        assert (client.found.rate.bucket is not None) is (refused > 4 or clear)
    client, log = scripted(CLEAR)
    for seconds in (15, 30, 60, 120, 120):
        log.cause = CLEAR
        client.wave(True)
        log.cause = RATE
        refusals_until_given_up(client)
        since = client.found._doubts._sceptical_until - seconds
        assert since == pytest.approx(client.now, abs=1)
        client.now = since + seconds - 0.2
        log.cause, log.weighs = RATE._replace(refused=1.0), 1.0
        client.wave(True)
        assert client.found.rate.bucket is None
        client.now = since + seconds
        client.wave(True)
        assert client.found.rate.bucket is not None


def test_found_limits_give_a_rate_up_at_once_for_six_refusals_without_explanation() -> None:
    """Fewer may be chance, and lower it."""
    for refused, believed in ((5.9, True), (6.0, False)):
        client, log = scripted(CLEAR)
        client.wave(True)
        log.cause = Explanation("noise", refused=refused, unexplained=refused)
        client.wave(True)
        assert (client.found.rate.bucket is not None) is believed
        assert client.found.is_certain is not believed


@pytest.mark.parametrize(
    ("between", "rate"), [(9.0, 9.0), (1.0, math.sqrt(7 * 10)), (20.0, 10.0), (None, 10.0)]
)
def test_found_limits_lower_a_rate_to_that_of_the_accepted_requests(
    between: float | None, rate: float
) -> None:
    """By three tenths at the most, from where the mean is tried; a refusal never raises it."""
    client, log = scripted(CLEAR, between)
    client.wave(True)
    log.cause = CHANCE
    client.wave(True)
    assert client.found.rate.base == pytest.approx(rate)


def test_found_limits_probe_at_once_beside_a_limit_after_mixed_refusals() -> None:
    """Such a refusal is noise: it bounds nothing, and no hold is waited for."""
    client, log = scripted(Explanation("in flight", limit=4, refused=4.0))
    client.wave(*[False] * 4, True)
    assert client.found.in_flight.limit == 4
    log.cause = CHANCE._replace(mixed=True)
    client.wave(False, True, False)
    assert client.found.is_certain
    late = client.now + LATENCY
    assert client.found.lets_in_at(Permit(1), 4, late, wanted=True) == late
    assert client.found.in_flight.limit == 5


def test_found_limits_replace_a_rate_by_a_number_in_flight_and_the_reverse() -> None:
    """One of them is believed at a time, and each change is told."""
    client, log = scripted(CLEAR)
    client.wave(True)
    log.cause = Explanation("in flight", limit=3, refused=4.0)
    client.wave(True)
    assert (client.found.rate.bucket, client.found.in_flight.limit) == (None, 3)
    log.cause = CLEAR
    client.wave(True)
    rate = client.found.rate.base
    assert rate is not None
    assert client.found.in_flight.limit is None
    assert client.changes == [
        ("requests_per_minute", None, 600),
        ("requests_per_minute", 600, None),
        ("max_in_flight", None, 3),
        ("max_in_flight", 3, None),
        ("requests_per_minute", None, 60 * rate),
    ]


def test_found_limits_give_back_the_charge_of_a_withdrawn_request() -> None:
    """Its turn is the next request's."""
    client, _ = scripted(CLEAR)
    client.wave(True)
    client.now += 1
    permit, found = Permit(1), client.found
    assert found.lets_in_at(permit, 0, client.now, wanted=False) == client.now
    found.granted(client.now)
    assert found.lets_in_at(permit, 0, client.now, wanted=False) > client.now
    found.withdrawn()
    assert found.lets_in_at(permit, 0, client.now, wanted=False) == client.now


@pytest.mark.parametrize(
    ("share", "a_second", "latency", "rate"),
    [(0.5, 40.0, LATENCY, 50.0), (0.5, 4.0, LATENCY, 10.0), (0.5, 4.0, 0.0, 5.0), (0.6, 40.0, LATENCY, None)],
)
def test_found_limits_send_little_more_than_is_accepted_where_most_is_refused(
    share: float, a_second: float, latency: float, rate: float | None
) -> None:
    """A quarter more, and no less than one request at a time; listeners are told."""
    client, log = scripted(Explanation("noise", refused=2.0))
    client.found.latency = latency
    log.accepts = (share, a_second)
    client.wave(True)
    assert client.found.rate.base == rate
    assert client.changes == ([] if rate is None else [("requests_per_minute", None, 60 * rate)])


@pytest.mark.parametrize("found", [CLEAR, Explanation("in flight", limit=3, refused=4.0)])
def test_found_limits_count_unexplained_refusals_anew_after_an_explanation(found: Explanation) -> None:
    """Two in a row are certain to have no limit for a reason."""
    noise = Explanation("noise", refused=2.0, unexplained=2.0)
    client, log = scripted(noise)
    client.wave(True)
    assert client.found.is_certain
    log.cause = found
    client.wave(True)
    assert (client.found.is_certain, client.found.unexplained) == (False, 0)


@pytest.mark.parametrize(
    ("latency", "jitter", "pauses"),
    [
        (0.0, 0.0, [0.5, 1, 2, 4, 8, 8]),
        (0.0, 1.0, [0.375, 0.75, 1.5, 3, 6, 6]),
        (0.2, 0.0, [0.1, 0.2, 0.4, 0.8]),
        (0.01, 0.0, [0.02, 0.04]),
        (60.0, 0.0, [0.5, 1]),
    ],
)
def test_found_limits_pause_doubles_while_nothing_is_answered(
    latency: float, jitter: float, pauses: list[float]
) -> None:
    """From half a round trip, if that is known; an answer ends it, and the next begins anew."""
    found = Client().found
    found.latency = latency
    assert [found.pause(1.0, 0.0, lambda: jitter) for _ in pauses] == pytest.approx(pauses)
    until = 1 + pauses[-1]
    assert found.lets_in_at(Permit(1), 0, 1.0, wanted=True) == pytest.approx(until)
    answered = Permit(1)
    answered.sent_at = 1.0 - latency
    found.answered(answered, 1.0)
    assert found.lets_in_at(Permit(1), 0, 1.0, wanted=True) == 1.0
    assert found.pause(1.0, 0.0, lambda: jitter) == pytest.approx(pauses[0])


def test_found_limits_named_wait_is_enough_for_three_refusals_in_a_row() -> None:
    """From the fourth on it may be longer: the provider keeps asking for too little."""
    found = Client().found
    assert [found.pause(0.0, 1.0, lambda: 0.0) for _ in range(7)] == [1, 1, 1, 1, 1, 2, 4]


@pytest.mark.parametrize("wait", [0.0, 1.0])
def test_found_limits_tell_no_rate_by_refused_probes_that_name_a_wait(wait: float) -> None:
    """The waits keep the pace until a request is let in; without them the guess does."""
    client = Client()
    for _ in range(5):
        client.wave(*[False] * 48)
    client.wave(*[False] * 47, True, wait=wait)
    client.now += 1 - wait
    for _ in range(3):
        client.wave(True, wait=wait)
        client.now += 1 - wait
    assert (client.found.rate.bucket is None) is (wait > 0)
