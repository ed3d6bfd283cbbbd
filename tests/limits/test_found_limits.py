"""Found limits: when a hypothesis is believed, kept, doubted and given up."""

from __future__ import annotations

import random

from batchrt.limits.found_limits import FoundLimits
from batchrt.limits.permit import Permit

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
        self.found.pause_ends(self.now)


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
