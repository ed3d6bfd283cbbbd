"""The coordinator: answers lease requests so that all workers together keep to the limits.

The prior art is Doorman (leases of capacity, a learning mode after a restart), Envoy's rate limit quota
service (assignments that expire, chosen by reports of use) and GCRA, as in redis-cell, as a reservation.
"""

from __future__ import annotations

import heapq
import math
import uuid
from collections.abc import Iterable, Iterator
from typing import Final

from batchrt.limits.shared.lease_messages import Demand, LeaseReply, LeaseRequest, RateShare, Slots, unit_of
from batchrt.limits.shared.ledger import LEASE_SECONDS, Ledger, WorkerRecord
from batchrt.limits.shared.timeline import Timeline

__all__ = ["Coordinator", "handle", "new_ledger"]

_HORIZON: Final = 1.0
"""Seconds ahead of the time for which slots are granted: a worker that dies wastes no more, and a new one
waits no longer."""
_CHUNK: Final = 0.6
"""Seconds of a worker's fair share that one message grants, which may come every half second: a longer
burst would find too few of its requests ready."""
_FAR: Final = 1.5
"""How many times the seconds that one request of each worker takes a worker without any slot may reserve
its next one ahead."""
_IN_FLIGHT: Final = "max_in_flight"
_AT_ONCE: Final = 16
"""Requests that all workers together have in flight before the first answer, which may tell limits."""
_TRUST: Final = 0.5
"""The share of a surplus of tokens that is given out at once: the rest may belong to answers to come."""
_NONE: Final = Demand(0.0, 0.0, 0.0)


def new_ledger(now: float, *, learns: bool) -> Ledger:
    """Return the state of a quota without workers.

    Args:
        now: the time.
        learns: whether there may be leases of an earlier state: until those have ended, nothing is granted.
    """
    return Ledger(uuid.uuid4().hex, now, LEASE_SECONDS if learns else 0.0)


def handle(
    ledger: Ledger,
    record: WorkerRecord | None,
    expired: Iterable[WorkerRecord],
    request: LeaseRequest,
    now: float,
) -> tuple[WorkerRecord | None, LeaseReply]:
    """Change `ledger`, which was advanced to `now`, by a request.

    Args:
        ledger: the state.
        record: the worker's; `None` if there is none.
        expired: records of workers whose leases have ended, which are given up.
        request: the request.
        now: the time.

    Returns:
        The worker's new record, `None` if it left, and the reply.
    """
    for other in expired:
        _give_up(ledger, other, now)
    if record is not None:
        ledger.remove(record)
    if request.epoch and request.epoch != ledger.epoch:
        # Its lease was granted by a state that was lost, before this one was begun; there may be others.
        ledger.learns_until = max(ledger.learns_until, ledger.began + LEASE_SECONDS)
    _publish(ledger, request, now)
    if request.leaves:
        _take_back(ledger, {name: _absolute(held, now) for name, held in request.held.items()}, now)
        return None, LeaseReply(epoch=ledger.epoch, seconds=0.0, workers=ledger.workers)
    new = WorkerRecord(request.worker)
    new.expires = ledger.lease_time + LEASE_SECONDS
    new.held = {name: _absolute(held, now) for name, held in request.held.items()}
    learning = max(0.0, ledger.learns_until - now)
    if learning:
        for name, held in request.held.items():
            if name in ledger.timelines:
                ledger.timelines[name].hold(held, now)
    in_flight = _share_in_flight(ledger, new, request, learning=learning > 0)
    shares = {name: _share(ledger, name, new, request, now) for name in ledger.timelines}
    ledger.add(new)
    quiet = max(0.0, ledger.quiet_until - now)
    return new, LeaseReply(
        epoch=ledger.epoch,
        seconds=LEASE_SECONDS,
        shares=shares,
        in_flight=in_flight,
        cold=ledger.cold,
        quiet=quiet,
        quiet_reason=ledger.quiet_reason if quiet else "",
        learning=learning,
        workers=ledger.workers,
    )


def _absolute(slots: Iterable[Slots], now: float) -> list[tuple[float, float]]:
    return [(now + slot.start, slot.amount) for slot in slots]


def _give_up(ledger: Ledger, record: WorkerRecord, now: float) -> None:
    """Take a worker's lease, which has ended; it may have used the slots whose time has come."""
    ledger.remove(record)
    future = {name: [slot for slot in held if slot[0] > now] for name, held in record.held.items()}
    _take_back(ledger, future, now)


def _take_back(ledger: Ledger, held: dict[str, list[tuple[float, float]]], now: float) -> None:
    for name, slots in held.items():
        if name in ledger.timelines:
            ledger.timelines[name].give_back(slots, now)


# Limits that workers publish


def _publish(ledger: Ledger, request: LeaseRequest, now: float) -> None:
    if request.given is not None:
        ledger.burst_seconds = request.burst_seconds
        for name, limit in request.given.items():
            _give(ledger, name, limit, now)
    for name, told in request.told.items():
        ledger.told[name] = told.rate, told.capacity
        ledger.set_timeline(name, now)
        timeline = ledger.timelines[name]
        # Tokens of answers that are being made are not in the level yet.
        trust = 1.0 if unit_of(name) == "requests" else _TRUST
        timeline.correct(told, now, trust=trust if told.rate <= timeline.rate else 0.0)
    ledger.cold = ledger.cold and not (request.answered or ledger.timelines)
    if request.quiet > 0 and now + request.quiet > ledger.quiet_until:
        ledger.quiet_until, ledger.quiet_reason = now + request.quiet, request.quiet_reason
        for timeline in ledger.timelines.values():
            timeline.rest(ledger.quiet_until)


def _give(ledger: Ledger, name: str, limit: float | None, now: float) -> None:
    if name == _IN_FLIGHT:
        if limit is None:
            ledger.max_in_flight.pop("given", None)
        else:
            ledger.max_in_flight["given"] = int(limit)
        return
    if limit is None:
        ledger.given.pop(name, None)
    else:
        ledger.given[name] = limit
    ledger.set_timeline(name, now)


# Shares


def _share(ledger: Ledger, name: str, record: WorkerRecord, request: LeaseRequest, now: float) -> RateShare:
    timeline = ledger.timelines[name]
    demand = request.demands.get(unit_of(name), _NONE)
    held = sum(amount for _, amount in record.held.get(name, ()))
    need = record.needs[name] = max(0.0, demand.need - held)
    pause = max(ledger.learns_until, ledger.quiet_until) - now
    if pause > 0:
        return RateShare(timeline.rate, timeline.valid, (), pause)
    slots = list(_grant(ledger.workers + 1, timeline, demand, held, now))
    record.held.setdefault(name, []).extend(slots)
    granted = sum(amount for _, amount in slots)
    record.needs[name] = max(0.0, need - granted)
    relative = tuple(Slots(start - now, amount) for start, amount in slots)
    wait = 0.0 if granted >= need else max(0.0, timeline.first() - _HORIZON - now)
    return RateShare(timeline.rate, timeline.valid, relative, wait)


def _grant(
    workers: int, timeline: Timeline, demand: Demand, held: float, now: float
) -> Iterator[tuple[float, float]]:
    """Grant slots to one of so many workers: its fair share, or in proportion to its need if that is more."""
    need, least = demand.need - held, max(0.0, demand.least - held)
    ahead = _CHUNK * timeline.rate
    fair = max(ahead / workers, ahead * need / (timeline.needs + need) if need > 0 else 0.0)
    left = demand.want - held
    for slot in timeline.take(min(need, max(fair, least)), least, now, now + _HORIZON):
        left -= slot[1]
        yield slot
    if left >= demand.want - held and held <= 0 < least:
        far = max(2 * _HORIZON, _FAR * workers * least / timeline.rate)
        for slot in timeline.take(least, least, now, now + far):
            left -= slot[1]
            yield slot
    # A forecast is served from refill that is left over.
    yield from timeline.take(min(left, timeline.rate), 0.0, now, now)


def _share_in_flight(
    ledger: Ledger, record: WorkerRecord, request: LeaseRequest, *, learning: bool
) -> int | None:
    """Return how many requests a worker may have in flight.

    If that is less than it has, it sends none until enough of them have ended; until it reports so, those
    that it has count as its share.
    """
    if request.told_in_flight is not None:
        ledger.max_in_flight["told"] = request.told_in_flight
    limits = [*ledger.max_in_flight.values(), *([_AT_ONCE] if ledger.cold else ())]
    limit = min(limits, default=None)
    record.in_flight = request.in_flight
    if limit is None or learning:
        return None if limit is None else request.in_flight
    fair = max(1, limit // (ledger.workers + 1))
    wanted = max(request.in_flight, request.in_flight_wanted)
    share: int = max(0, min(wanted, limit - ledger.in_flight))
    record.starved = share < min(wanted, fair)
    if ledger.starved:
        share = min(share, fair)
    record.in_flight = max(share, request.in_flight)
    return share


class Coordinator:
    """Keep ledgers in memory, one for each key; for one caller at a time.

    Args:
        learns: whether it replaces one that was lost, whose leases may go on.
    """

    def __init__(self, *, learns: bool = False) -> None:
        self._learns = learns
        self._ledgers: dict[str, Ledger] = {}
        self._records: dict[str, dict[str, WorkerRecord]] = {}
        self._ends: dict[str, list[tuple[float, str]]] = {}
        self._began = -math.inf

    def exchange(self, key: str, request: LeaseRequest, now: float) -> LeaseReply:
        """Handle a request at `now`, in seconds on a clock that never goes back."""
        if self._began == -math.inf:
            self._began = now
        ledger = self._ledgers.get(key)
        if ledger is None:
            learns = self._learns and now < self._began + LEASE_SECONDS
            ledger = self._ledgers[key] = new_ledger(now, learns=learns)
            self._records[key], self._ends[key] = {}, []
        ledger.advance(now)
        records = self._records[key]
        record = records.pop(request.worker, None)
        expired = list(self._expired(key, ledger.lease_time))
        new, reply = handle(ledger, record, expired, request, now)
        if new is not None:
            records[new.worker] = new
            heapq.heappush(self._ends[key], (new.expires, new.worker))
        return reply

    def _expired(self, key: str, lease_time: float) -> Iterator[WorkerRecord]:
        ends, records = self._ends[key], self._records[key]
        while ends and ends[0][0] <= lease_time:
            expires, worker = heapq.heappop(ends)
            if worker in records and records[worker].expires == expires:
                yield records.pop(worker)
