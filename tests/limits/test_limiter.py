"""The limiter: decisions from numbers and times, without locks, loops or queues."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import OutageError, ServerError
from batchrt.limits.error_kinds import Failure
from batchrt.limits.events import Events
from batchrt.limits.limiter import Limiter
from batchrt.limits.permit import Permit
from batchrt.messages import Usage


def down_limiter() -> Limiter:
    """Return a limiter whose provider has been down since 0."""
    limiter = Limiter(None, Events())
    assert limiter.breaker.open(0.0)
    return limiter


def charged(limiter: Limiter, now: float, permit: Permit) -> Permit:
    """Charge a request that is sent now."""
    limiter.expect(permit)
    limiter.charge(permit, now)
    permit.sent_at = now
    limiter.found.sent(permit)
    return permit


def test_limiter_request_is_hopeless_after_its_patience() -> None:
    """Only one that waits for the provider, and not before."""
    limiter = down_limiter()
    assert isinstance(limiter.hopeless(Permit(1, patience=5), 5.0), OutageError)
    assert limiter.hopeless(Permit(1, patience=5.1), 5.0) is None
    assert limiter.hopeless(Permit(1), 5.0) is None
    assert Limiter(None, Events()).hopeless(Permit(1, patience=5), 5.0) is None


def test_limiter_request_is_not_hopeless_while_a_probe_may_end_the_outage() -> None:
    """One in flight, or the next, where none was sent for long."""
    limiter, impatient = down_limiter(), Permit(1, patience=1)
    probe = charged(limiter, 1.0, Permit(1, patience=100))
    assert probe.probes
    assert limiter.hopeless(impatient, 2.0) is None
    limiter.undo(probe, 2.0)
    assert limiter.breaker.probe_at == pytest.approx(4.0), "the next probe after 2 s"
    assert isinstance(limiter.hopeless(impatient, 3.0), OutageError)
    assert limiter.hopeless(impatient, 17.0) is None, "the provider may be up again"


def test_limiter_waits_for_the_next_probe_where_the_provider_is_down() -> None:
    """Requests without patience are sent, and fail fast."""
    limiter = down_limiter()
    assert limiter.due(Permit(1, patience=5), 0.5, wanted=True) == 1.0
    assert limiter.due(Permit(1), 0.5, wanted=True) == 0.5
    charged(limiter, 1.0, Permit(1, patience=5))
    assert limiter.due(Permit(1, patience=5), 1.0, wanted=True) == math.inf


def test_limiter_overload_without_a_wait_lowers_the_adaptive_limit() -> None:
    """It is no refusal, since it may be an outage; the number in flight may be its reason all the same."""
    limiter = Limiter(None, Events())
    limiter.concurrency.begin_auto()
    auto = limiter.concurrency.auto
    assert auto is not None
    permits = [charged(limiter, 0.0, Permit(1, auto=True)) for _ in range(20)]
    before = auto.limit
    failure = Failure.of(ServerError("busy", status=503, code="overloaded"))
    assert not failure.refused
    assert not limiter.failed(permits[0], failure, 1.0, None)
    assert auto.limit < before
    assert limiter.pacing.cooldown.left(1.0) == 0


def test_limiter_forgets_requests_in_flight() -> None:
    """As in a forked process, where they do not end."""
    limiter = Limiter(None, Events())
    limiter.rates.set_limits({("tokens", "minute"): 600})
    for _ in range(3):
        charged(limiter, 0.0, Permit(1))
    limiter.pacing.start_slowly(100)
    assert limiter.due(Permit(1), 0.0, wanted=False) == 0.0, "the slow start's first"
    assert limiter.pacing.recovery_due(4, 0.0) == math.inf
    limiter.forget_in_flight()
    assert limiter.in_flight == 0
    assert limiter.pacing.recovery_due(4, 0.0) == 0.0
    assert limiter.rates._outstanding == [0, 0, 0]


def records(limiter: Limiter) -> list[Any]:
    """Return what a limiter has recorded of requests."""
    rates, found, log = limiter.rates, limiter.found, limiter.found.log
    return [
        (limiter.in_flight, limiter.reached, limiter._answered_at),
        (rates._sent, rates._counted, rates._outstanding),
        (found.latency, found._open, found._granted_at),
        [(entry.sent_at, entry.beside, entry.verdict) for entry in log._entries],
        (limiter.tokens.expect(100), limiter.tokens.known),
    ]


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2000), st.sampled_from([None, 50.0]), st.booleans(), st.booleans()),
        max_size=30,
    )
)
def test_limiter_keeps_the_same_records_while_nothing_is_held_back(steps: list[Any]) -> None:
    """The short way of charging and answering requests leaves nothing out."""
    full, short = Limiter(None, Events()), Limiter(None, Events())
    open_permits: list[tuple[Permit, Permit]] = []
    for now, (size, most, ends, billed) in enumerate(steps):
        pair = Permit(size, most=most), Permit(size, most=most)
        charged(full, float(now), pair[0])
        short.charge_freely(pair[1], float(now))
        assert pair[0].granted == pair[1].granted
        assert pair[0].counted == pair[1].counted
        open_permits.append(pair)
        if ends:
            first, second = open_permits.pop(0)
            usage = Usage(size, 7, size + 7) if billed else None
            full.answered(first, usage, now + 0.5)
            full.ended(first, now + 0.5, answered=True)
            short.answered_freely(second, usage, now + 0.5)
        assert records(full) == records(short)


def test_limiter_is_clear_until_something_holds_back() -> None:
    """After the cold start; not with a limit, in an outage, or within a cool-down."""
    limiter = Limiter(None, Events())
    assert not limiter.is_clear(0.0), "the first request begins a cold start"
    charged(limiter, 0.0, Permit(1))
    assert not limiter.is_clear(0.0)
    assert limiter.due(Permit(1), 10.0, wanted=False) == 10.0
    assert limiter.is_clear(10.0)
    limiter.pacing.cooldown.until = 11.0
    assert not limiter.is_clear(10.0)
    assert limiter.is_clear(11.0)
    limiter.concurrency.set_told(5)
    assert not limiter.is_clear(11.0)
    limiter.concurrency.told = None
    limiter.rates.set_limits({("requests", "minute"): 60.0})
    assert not limiter.is_clear(11.0), "the limit takes effect with the next request"
    assert not down_limiter().is_clear(11.0)
