"""Where a request is let in or sent away: outages, noise, the queue and the quota, in this order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from batchrt.testing.admission.noise import Noise
from batchrt.testing.admission.outages import Outage, outage_reply
from batchrt.testing.admission.queue import Place, Queue, Queueing
from batchrt.testing.admission.quota import Quota
from batchrt.testing.admission.rate_limits import RateLimits, WaitForm
from batchrt.testing.admission.schedules import Schedule
from batchrt.testing.admission.throttle_responses import Throttling
from batchrt.testing.admission.timeline import Timeline
from batchrt.testing.endpoints.replies import Bill, Headers, Reply
from batchrt.testing.endpoints.server_families import Family, ServerFamily
from batchrt.testing.faults.seeded import digest_of
from batchrt.testing.verdict import Verdict, judge
from batchrt.testing.verdict_log import ACCEPTED, CROWDED, FULL, NOISE, OUTAGE, REJECTED, Ledger, Wait

__all__ = ["Arrival", "Gate", "Visit"]


class Arrival(NamedTuple):
    """Hold a valid request for a model that stands before the gate.

    Attributes:
        now: when it came, in the event loop's time.
        bill: what it costs.
        authorization: what it showed.
        digest: of its path and body.
        attempt: how often that has come.
        items: how many inputs it carries.
        is_embedding: whether the family's own limit of what is in flight holds for it.
    """

    now: float
    bill: Bill
    authorization: bytes
    digest: int
    attempt: int
    items: int
    is_embedding: bool


class Visit:
    """Hold what became of one request at the gate.

    Attributes:
        refusal: what it gets instead of an answer, if it is sent away.
        place: its place in the queue, if it is let in and there is one.
    """

    __slots__ = (
        "_arrived",
        "_bill",
        "_digest",
        "_gate",
        "_is_noise",
        "_items",
        "_ledger",
        "_number",
        "_quota",
        "place",
        "refusal",
    )

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        number: int,
        quota: Quota,
        arrival: Arrival,
        *,
        outcome: int,
        refusal: Reply | None,
        place: Place | None,
    ) -> None:
        self._gate = gate
        # A reset gives the gate another; what came before is settled where it was noted.
        self._ledger = ledger
        self._number = number
        self._quota = quota
        self._bill = arrival.bill
        self._items = arrival.items
        self._arrived = arrival.now
        self._digest = arrival.digest
        self._is_noise = outcome == NOISE
        self.refusal: Reply | None = refusal
        self.place: Place | None = place

    def dressed(self, reply: Reply, now: float) -> Reply:
        """Give the reply of who is let in the headers of its quota."""
        told = () if reply.status is None else self._gate.headers(self._quota, now, reply.status)
        return reply._replace(headers=(*reply.headers, *told)) if told else reply

    def leave(self, now: float, status: int | None, wait: float | None, *, gone: bool) -> None:
        """Settle when the request is over: answered with `status`, or the client is `gone`."""
        with self._gate.lock:
            second = self._gate.timeline.second(now)
            if self.place is not None:
                self._gate.free(self.place, now)
            if self.refusal is None:
                self._quota.free()
                self._gate.left(self._items)
            if self.refusal is None and not gone:
                spent = self._quota.settle(self._bill, second, answered=status == 200)  # noqa: PLR2004
                self._ledger.settle(self._number, spent)
            if wait and not gone:
                asked = Wait(self._quota.number, second, second + wait, self._is_noise, self._digest)
                self._ledger.ask(asked)
            # One that left the queue was never worked on.
            began = self._arrived if self.place is None else min(now, self.place.began)
            began = self._gate.timeline.second(began)
            answered = self.refusal is None and not gone and status == 200  # noqa: PLR2004
            self._ledger.end(self._number, second, began=began, answered=answered)


class Gate:
    """Decide who is let in, and remember it; the arguments are those of MockProvider.

    Safe to use from any thread.
    """

    def __init__(
        self,
        server: ServerFamily,
        family: Family,
        *,
        limits: RateLimits | None,
        queueing: Queueing | None,
        outages: Sequence[Outage],
        noise: Noise | None = None,
        seed: int = 0,
        refusal_latency: float = 0.0,
    ) -> None:
        self.lock: AbstractContextManager[object] = threading.RLock()
        self.timeline: Timeline = Timeline()
        self._family = family
        self._limits = limits
        self._queueing = queueing
        self._outages = tuple(outages)
        self._counts_inputs = queueing is not None and queueing.counts == "inputs"
        self._noise = noise
        self._seed = seed
        self._refusal_latency = refusal_latency
        self._throttling = Throttling.of(server, family, limits)
        self._hissing = _hissing(server, family, noise, limits)
        queue_style = None if queueing is None else queueing.style
        self._shedding = None if queue_style is None else Throttling(server, family, style=queue_style)
        self._queue = None if queueing is None else Queue(queueing, self.timeline, self.lock)
        self._quotas: dict[tuple[bytes, str], Quota] = {}
        self._ledger = Ledger()
        self._in_flight = 0
        self._items_in_flight = 0

    def begin(self, now: float) -> None:
        """Note the provider's first request, valid or not."""
        with self.lock:
            self.timeline.begin(now)

    def reset(self) -> None:
        """Forget all but what is in the queue."""
        with self.lock:
            self.timeline.restart()
            self._quotas = {}
            self._ledger = Ledger()

    def headers(self, quota: Quota, now: float, status: int) -> Headers:
        """Tell how `quota` stands, as far as an answer with `status` does."""
        if self._limits is None:
            return ()
        with self.lock:
            return self._throttling.headers(quota, self.timeline.second(now), status)

    def free(self, place: Place, now: float) -> None:
        """Take a place in the queue back."""
        if self._queue is not None:
            self._queue.leave(place, now)

    def left(self, items: int) -> None:
        """Note that a request that was let in is over."""
        self._in_flight -= 1
        self._items_in_flight -= items

    def verdict(
        self,
        *,
        since: float | None,
        until: float | None,
        grace: float,
        peak_in_flight: int,
        max_concurrency: int | None,
    ) -> Verdict:
        """Judge what came; see `MockProvider.verdict`."""
        with self.lock:
            return judge(
                self._ledger,
                tuple(self._quotas.values()),
                since=since,
                until=until,
                grace=grace,
                peak_in_flight=peak_in_flight,
                capacity=None if self._queueing is None else Schedule(self._queueing.capacity),
                max_concurrency=max_concurrency,
            )

    def enter(self, arrival: Arrival) -> Visit:
        """Let a valid request in, or send it away."""
        with self.lock:
            now, bill = arrival.now, arrival.bill
            second = self.timeline.second(now)
            quota = self._quota(arrival.authorization, bill.model)
            outcome, refusal = self._fate(quota, arrival, second)
            place: Place | None = None
            if refusal is None:
                quota.take(bill, second)
                self._in_flight += 1
                self._items_in_flight += arrival.items
                place = None if self._queue is None else self._queue.join(now, arrival.items)
            elif outcome != OUTAGE:
                refusal = refusal._replace(delay=refusal.delay + self._refusal_latency)
            spent = bill.reserved if refusal is None else 0
            number = self._ledger.note(
                second,
                quota.number,
                outcome,
                arrival.attempt,
                reserved=bill.reserved,
                spent=spent,
                size=max(1, arrival.items) if self._counts_inputs else 1,
                row=arrival.digest,
                rows=bill.rows,
            )
            return Visit(
                self, self._ledger, number, quota, arrival, outcome=outcome, refusal=refusal, place=place
            )

    def _quota(self, authorization: bytes, model: str) -> Quota:
        name = (authorization, model)
        quota = self._quotas.get(name)
        if quota is None:
            key = digest_of(authorization) if authorization else 0
            quota = self._quotas[name] = Quota(key, model, len(self._quotas), self._limits)
        return quota

    def _fate(self, quota: Quota, arrival: Arrival, second: float) -> tuple[int, Reply | None]:
        for outage in self._outages:
            if outage.covers(second):
                return OUTAGE, outage_reply(outage, second, self._family, self._throttling)
        noise = self._noise
        if noise is not None and noise.strikes(self._seed, arrival.digest, arrival.attempt, second):
            return NOISE, self._hissing.refusal("Rate limit reached.", noise.wait)
        busy = self._busy(arrival)
        if busy is not None:
            return FULL, busy
        if quota.parallel_left(second) == 0:
            return CROWDED, self._throttling.crowded(quota, second)
        shortage = quota.shortage(arrival.bill, second)
        if shortage is not None:
            return REJECTED + shortage.place, self._throttling.over(quota, shortage, second)
        return ACCEPTED, None

    def _busy(self, arrival: Arrival) -> Reply | None:
        if self._queueing is not None and self._queue is not None and self._queue.is_full(arrival.now):
            return self._too_busy(self._queueing)
        if arrival.is_embedding and self._is_crowded(arrival.items):
            return self._family.too_busy().reply
        return None

    def _is_crowded(self, items: int) -> bool:
        most = self._family.max_in_flight
        if most is None:
            return False
        if self._family.counts_inputs:
            return self._items_in_flight + items > most
        return self._in_flight >= most

    def _too_busy(self, queueing: Queueing) -> Reply:
        if self._shedding is not None:
            status = queueing.full_status or 429
            refusal = self._shedding.refusal("The server is overloaded.", None, status=status)
            return refusal.asking(queueing.retry_after)
        if queueing.full_status is None:
            error = self._family.too_busy()
        else:
            kind, code = {
                503: ("server_error", "server_is_overloaded"),
                429: ("requests", "rate_limit_exceeded"),
            }[queueing.full_status]
            error = self._family.complaint(
                queueing.full_status, "The server is overloaded.", kind=kind, code=code
            )
        return error.reply.asking(queueing.retry_after)


def _hissing(
    server: ServerFamily, family: Family, noise: Noise | None, limits: RateLimits | None
) -> Throttling:
    """Say how refusals at random are worded."""
    style = None if limits is None else limits.style
    if noise is None:
        return Throttling(server, family, style=style)
    style = noise.style or style
    made = Throttling(server, family, style=style, waits=noise.waits)
    if noise.waits is not None or made.names_waits:
        return made
    header: WaitForm = "retry-after"
    return Throttling(server, family, style=style, waits=(header,))
