"""The coordinator of a shared quota."""

from __future__ import annotations

from typing import Any

import pytest

from batchrt.limits.shared.coordinator import Coordinator
from batchrt.limits.shared.lease_messages import Demand, LeaseReply, LeaseRequest, Slots, TellsLimit
from batchrt.limits.shared.ledger import LEASE_SECONDS

RPM = "requests_per_minute"


def asks(worker: str, need: float = 1_000, **options: Any) -> LeaseRequest:
    options.setdefault("demands", {"requests": Demand(need, need, min(need, 1.0))})
    return LeaseRequest(worker=worker, **options)


def granted(reply: LeaseReply) -> float:
    return sum(slots.amount for slots in reply.shares[RPM].slots)


def begun(limit: float = 600.0, **options: Any) -> Coordinator:
    """Return a coordinator that knows a limit, whose bucket was used up."""
    coordinator = Coordinator()
    coordinator.exchange("k", asks("a", 0, given={RPM: limit}, leaves=True, **options), 0.0)
    coordinator._ledgers["k"].timelines[RPM].at = 0.0
    return coordinator


def test_coordinator_shares_a_rate_among_workers() -> None:
    """Workers with the same demand get the same, and together the rate."""
    coordinator = begun()
    held: dict[str, float] = dict.fromkeys("abcd", 0.0)
    now = 0.0
    while now < 30:
        for worker in sorted(held, key=held.__getitem__):
            held[worker] += granted(coordinator.exchange("k", asks(worker), now))
        now += 0.5
    assert sum(held.values()) == pytest.approx(10 * 30, abs=15)
    assert max(held.values()) <= 1.3 * min(held.values())


def test_coordinator_gives_a_dead_workers_slots_to_others() -> None:
    """Slots whose time had not come when the lease ended are granted again; the others count as used."""
    coordinator = begun()
    ledger = coordinator._ledgers["k"]
    coordinator.exchange("k", asks("dead"), 0.0)
    now = 0.0
    while now < LEASE_SECONDS:
        now += 0.5
        coordinator.exchange("k", asks("other", 0), now)
    ledger.timelines[RPM].at = now + 5
    far = [(now + 3.0, 4.0)]
    coordinator._records["k"]["late"] = record = coordinator._records["k"].pop("other")
    record.worker, record.held, record.expires = "late", {RPM: far}, ledger.lease_time
    coordinator._ends["k"].insert(0, (record.expires, "late"))
    coordinator.exchange("k", asks("new", 0), now + 0.1)
    assert ledger.timelines[RPM].free == far


def test_coordinator_counts_no_time_for_leases_while_nothing_is_heard() -> None:
    """Leases do not end while the carrier is away, when their holders could not renew them."""
    coordinator = Coordinator()
    given = {"max_in_flight": 10.0}
    coordinator.exchange("k", asks("a", given=given, in_flight_wanted=10, answered=True), 0.0)
    reply = coordinator.exchange("k", asks("b", in_flight_wanted=10), 60.0)
    assert reply.in_flight == 0
    for now in (61.0, 62.0):
        reply = coordinator.exchange("k", asks("b", in_flight_wanted=10), now)
    assert reply.in_flight == 10


def test_coordinator_takes_a_share_in_flight_back_step_by_step() -> None:
    """A worker that has all sends none until others have theirs; all together never have more."""
    coordinator = Coordinator()
    given = {"max_in_flight": 10.0}
    first = coordinator.exchange("k", asks("a", given=given, in_flight_wanted=50, answered=True), 0.0)
    assert first.in_flight == 10
    assert coordinator.exchange("k", asks("b", in_flight_wanted=50), 0.1).in_flight == 0
    assert coordinator.exchange("k", asks("a", in_flight=10, in_flight_wanted=50), 0.5).in_flight == 5
    assert coordinator.exchange("k", asks("b", in_flight_wanted=50), 0.6).in_flight == 0
    coordinator.exchange("k", asks("a", in_flight=5, in_flight_wanted=50), 1.0)
    assert coordinator.exchange("k", asks("b", in_flight_wanted=50), 1.1).in_flight == 5


def test_coordinator_learns_before_it_grants() -> None:
    """After a restart nothing is granted for a lease, and slots that are held are not granted again."""
    coordinator = Coordinator(learns=True)
    now, given = 100.0, {RPM: 600.0}
    first = coordinator.exchange("k", asks("a", epoch="lost", given=given), now)
    assert first.learning == pytest.approx(LEASE_SECONDS)
    assert granted(first) == 0
    held = {RPM: (Slots(-0.1, 3.0), Slots(4.0, 10.0))}
    assert granted(coordinator.exchange("k", asks("b", epoch="lost", held=held), now + 1)) == 0
    learned = now + LEASE_SECONDS + 0.1
    assert granted(coordinator.exchange("k", asks("a", epoch=first.epoch), learned)) == 0
    reply = coordinator.exchange("k", asks("a", epoch=first.epoch), now + 5.5)
    assert now + 5.5 + reply.shares[RPM].slots[0].start == pytest.approx(now + 1 + 4.0 + 1.0)


def test_coordinator_that_is_new_learns_once_an_old_lease_shows() -> None:
    """A state that was thought to be the first one stops granting when a worker knows an earlier one."""
    coordinator = begun()
    reply = coordinator.exchange("k", asks("old", epoch="another"), 0.5)
    assert reply.learning == pytest.approx(LEASE_SECONDS - 0.5)
    assert granted(reply) == 0


def test_coordinator_tells_all_of_a_cooldown() -> None:
    """A refusal that one worker has seen stops grants to all, with its reason."""
    coordinator = begun()
    coordinator.exchange("k", asks("a", quiet=4.0, quiet_reason="429"), 1.0)
    reply = coordinator.exchange("k", asks("b"), 2.0)
    assert reply.quiet == pytest.approx(3.0)
    assert reply.quiet_reason == "429"
    assert granted(reply) == 0
    assert coordinator.exchange("k", asks("b"), 5.5).quiet == 0


def test_coordinator_publishes_limits_that_answers_tell() -> None:
    """A limit that one worker is told restrains all, and the lower one of given and told counts."""
    coordinator = begun(limit=600.0)
    told = {RPM: TellsLimit(5.0, 300.0, 0.0, 0.1)}
    coordinator.exchange("k", asks("a", told=told), 1.0)
    assert coordinator.exchange("k", asks("b"), 1.5).shares[RPM].rate == 5.0
    coordinator.exchange("k", asks("a", given={RPM: 60.0}), 2.0)
    assert coordinator.exchange("k", asks("b"), 2.5).shares[RPM].rate == 1.0
    coordinator.exchange("k", asks("a", given={RPM: None}), 3.0)
    assert coordinator.exchange("k", asks("b"), 3.5).shares[RPM].rate == 5.0


def test_coordinator_lets_few_requests_go_before_the_first_answer() -> None:
    """While nothing is known, all workers together have few requests in flight."""
    coordinator = Coordinator()
    replies = [coordinator.exchange("k", asks(f"w{n}", in_flight_wanted=50), 0.0) for n in range(8)]
    assert sum(reply.in_flight or 0 for reply in replies) <= 16
    coordinator.exchange("k", asks("w0", in_flight=1, answered=True), 0.5)
    assert coordinator.exchange("k", asks("w1"), 0.6).in_flight is None


def test_coordinator_keeps_keys_apart() -> None:
    """Quotas of different names share nothing."""
    coordinator = begun()
    assert coordinator.exchange("other", asks("a"), 1.0).shares == {}
