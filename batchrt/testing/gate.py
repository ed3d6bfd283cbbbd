"""Where a request is let in or sent away: outages, the queue and the quota, in this order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager

from .draws import digest_of
from .families import Family, ServerFamily
from .ledger import ACCEPTED, FULL, OUTAGE, REJECTED, Ledger, Wait
from .limits import RateLimits
from .outages import Outage, outage_reply
from .queueing import Place, Queue, Queueing
from .quotas import Quota
from .replies import Bill, Headers, Reply
from .throttling import Throttling
from .timeline import Timeline
from .verdict import Verdict, judge

__all__ = ["Gate", "Visit"]


class Visit:
    """Hold what became of one request at the gate.

    Attributes:
        refusal: what it gets instead of an answer, if it is sent away.
        place: its place in the queue, if it is let in and there is one.
    """

    __slots__ = ("_bill", "_gate", "_ledger", "_number", "_quota", "place", "refusal")

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        number: int,
        quota: Quota,
        bill: Bill,
        *,
        refusal: Reply | None,
        place: Place | None,
    ) -> None:
        self._gate = gate
        # A reset gives the gate another; what came before is settled where it was noted.
        self._ledger = ledger
        self._number = number
        self._quota = quota
        self._bill = bill
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
            if self.refusal is None and not gone:
                spent = self._quota.settle(self._bill, second, answered=status == 200)  # noqa: PLR2004
                self._ledger.settle(self._number, spent)
            if wait and not gone:
                self._ledger.ask(Wait(self._quota.number, second, second + wait))


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
    ) -> None:
        self.lock: AbstractContextManager[object] = threading.RLock()
        self.timeline: Timeline = Timeline()
        self._family = family
        self._limits = limits
        self._queueing = queueing
        self._outages = tuple(outages)
        self._throttling = Throttling(server, family, limits)
        self._queue = None if queueing is None else Queue(queueing, self.timeline, self.lock)
        self._quotas: dict[tuple[bytes, str], Quota] = {}
        self._ledger = Ledger()

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

    def verdict(
        self, *, since: float | None, until: float | None, grace: float, peak_in_flight: int
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
            )

    def enter(self, now: float, bill: Bill, authorization: bytes, attempt: int) -> Visit:
        """Let a valid request in, or send it away."""
        with self.lock:
            second = self.timeline.second(now)
            quota = self._quota(authorization, bill.model)
            outcome, refusal = self._fate(quota, bill, now, second)
            place: Place | None = None
            if refusal is None:
                quota.take(bill, second)
                place = None if self._queue is None else self._queue.join(now)
            spent = bill.reserved if refusal is None else 0
            number = self._ledger.note(
                second, quota.number, outcome, attempt, reserved=bill.reserved, spent=spent
            )
            return Visit(self, self._ledger, number, quota, bill, refusal=refusal, place=place)

    def _quota(self, authorization: bytes, model: str) -> Quota:
        name = (authorization, model)
        quota = self._quotas.get(name)
        if quota is None:
            key = digest_of(authorization) if authorization else 0
            quota = self._quotas[name] = Quota(key, model, len(self._quotas), self._limits)
        return quota

    def _fate(self, quota: Quota, bill: Bill, now: float, second: float) -> tuple[int, Reply | None]:
        for outage in self._outages:
            if outage.covers(second):
                return OUTAGE, outage_reply(outage, second, self._family, self._throttling)
        if self._queueing is not None and self._queue is not None and self._queue.is_full(now):
            return FULL, self._too_busy(self._queueing)
        shortage = quota.shortage(bill, second)
        if shortage is not None:
            return REJECTED + shortage.place, self._throttling.over(quota, shortage, second)
        return ACCEPTED, None

    def _too_busy(self, queueing: Queueing) -> Reply:
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
