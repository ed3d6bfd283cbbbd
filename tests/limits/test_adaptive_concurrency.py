"""Adaptive concurrency: up while goodput grows, down at refusals."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.limits.adaptive_concurrency import FIRST_LIMIT, MOST_AT_ONCE, AdaptiveConcurrency

Change = tuple[float, float, str]


class Load:
    """Keep as many requests under way as may be, in virtual time, against a server of a given kind."""

    def __init__(self, seed: int = 0, spread: float = 0.3) -> None:
        self.changes: list[Change] = []
        self.adaptive = AdaptiveConcurrency(lambda *change: self.changes.append(change))
        self.now = 0.0
        self._random = Random(seed)  # the same each time
        self._spread = spread
        self._under_way: list[tuple[float, float]] = []
        self._free: list[float] = []

    def run(self, answers: int, capacity: int, *, rejects: bool = False) -> None:
        """Have so many answered by a server that works on `capacity` at a time, for about a second each."""
        adaptive = self.adaptive
        self._free = [max(self.now, at) for at in sorted(self._free)[:capacity]]
        self._free += [self.now] * (capacity - len(self._free))
        heapify(self._free)
        while answers:
            while len(self._under_way) < adaptive.limit:
                if rejects and len(self._under_way) >= capacity:
                    adaptive.rejected(self.now, self.now, len(self._under_way), 0.0)
                    self.now += 0.001
                    continue
                begins = max(self.now, heappop(self._free))
                ends = begins + self._random.lognormvariate(0.0, self._spread)
                heappush(self._free, ends)
                heappush(self._under_way, (ends, self.now))
            adaptive.wanted = True
            self.now, sent_at = heappop(self._under_way)
            adaptive.answered(sent_at, self.now, 100)
            answers -= 1


def test_adaptive_concurrency_begins_with_few_and_doubles() -> None:
    """While answers come, none is refused, and more wait."""
    load = Load()
    assert load.adaptive.limit == FIRST_LIMIT
    load.run(24, 10_000)
    assert load.adaptive.limit == FIRST_LIMIT + 24


def test_adaptive_concurrency_takes_no_latency_that_varies_for_a_queue() -> None:
    """But now and then: the fastest answers come first, and beside their mean all others seemed late."""
    fell = 0
    for seed in range(60):
        load = Load(seed, spread=0.8)
        load.run(400, 10_000)
        fell += any(after < before for before, after, _ in load.changes)
    assert fell <= 10


def test_adaptive_concurrency_climbs_from_few_in_flight_within_some_rounds() -> None:
    """A refusal at the start cut it to two; nothing is refused any more."""
    load = Load()
    load.adaptive.rejected(0.0, 0.0, 1, 0.0)
    load.adaptive.rejected(0.0, 0.0, 1, 0.0)
    assert load.adaptive.limit <= 5
    load.run(600, 1000)
    assert load.adaptive.limit >= 24


@pytest.mark.parametrize("capacity", [16, 40, 200])
@pytest.mark.parametrize("rejects", [True, False], ids=["rejects", "queues"])
def test_adaptive_concurrency_ends_near_the_capacity(capacity: int, rejects: bool) -> None:
    """Whether it queues or rejects the requests beyond that."""
    for seed in range(3):
        load = Load(seed)
        load.run(60 * capacity, capacity, rejects=rejects)
        assert 0.75 * capacity <= load.adaptive.limit <= 2.2 * capacity


@pytest.mark.parametrize("rejects", [True, False], ids=["rejects", "queues"])
def test_adaptive_concurrency_follows_a_capacity_that_falls(rejects: bool) -> None:
    """Half the servers, and no more than twice as much as they can do."""
    load = Load()
    load.run(4000, 80, rejects=rejects)
    load.run(6000, 40, rejects=rejects)
    assert load.adaptive.limit <= 2 * 40


def test_adaptive_concurrency_follows_a_capacity_that_rises() -> None:
    """In steps that grow as they succeed."""
    load = Load()
    load.run(2000, 20, rejects=True)
    assert load.adaptive.limit <= 20
    load.run(40_000, 100, rejects=True)
    assert load.adaptive.limit >= 60


def test_adaptive_concurrency_does_not_grow_unless_requests_wait() -> None:
    """Few requests tell nothing about many."""
    load = Load()
    for _ in range(500):
        load.now += 1
        load.adaptive.answered(load.now - 1, load.now, 100)
        load.adaptive.wanted = False
    assert load.adaptive.limit == FIRST_LIMIT
    assert not load.changes


def test_adaptive_concurrency_does_not_grow_while_requests_fail() -> None:
    """A provider in trouble is no reason to send more, nor to send less."""
    load = Load()
    load.run(16, 10_000)
    limit = load.adaptive.limit
    for _ in range(200):
        load.adaptive.failed()
        load.adaptive.wanted = True
        load.now += 0.01
        load.adaptive.answered(load.now - 1, load.now, 100)
    assert load.adaptive.limit == limit


def test_adaptive_concurrency_cuts_once_for_a_wave_of_refusals() -> None:
    """A hundred that were sent before the first of them was heard do not cut a hundred times."""
    load = Load()
    load.run(100, 10_000)
    limit = load.adaptive.limit
    for left in range(limit - 1, limit // 2, -1):
        load.adaptive.rejected(load.now, load.now + 0.1, left, 0.0)
    assert 0.45 * limit <= load.adaptive.limit < limit


def test_adaptive_concurrency_says_why_it_changes() -> None:
    """Before, after, and a reason in words; one follows on the other."""
    load = Load()
    load.run(2000, 30)
    load.run(1000, 15, rejects=True)
    before = float(FIRST_LIMIT)
    for was, after, why in load.changes:
        assert was == before
        assert was != after
        assert why
        before = after
    assert before == load.adaptive.limit
    reasons = {why.split(":")[0] for *_, why in load.changes}
    assert len(reasons) >= 2


EVENTS: Any = st.lists(
    st.tuples(
        st.sampled_from(["answered", "failed", "rejected"]),
        st.floats(0, 100),
        st.floats(0, 100),
        st.floats(0, 1e6),
        st.integers(0, 20_000),
        st.booleans(),
    ),
    max_size=300,
)


@given(EVENTS)
def test_adaptive_concurrency_stays_within_its_bounds(events: Any) -> None:
    """Latencies of nothing, answers of nothing, waits of any length."""
    load, now = Load(), 0.0
    for what, pause, latency, amount, in_flight, wanted in events:
        now += pause
        load.adaptive.wanted = wanted
        if what == "answered":
            load.adaptive.answered(now - latency, now, amount)
        elif what == "failed":
            load.adaptive.failed()
        else:
            load.adaptive.rejected(now - latency, now, in_flight, amount)
        assert 1 <= load.adaptive.limit <= MOST_AT_ONCE
