"""Admission controller: outages, random refusals, the queue and the quota, checked in this order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from batchrt.testing.admission.noise import Noise
from batchrt.testing.admission.outages import Outage, outage_reply
from batchrt.testing.admission.queue import MockQueue, QueueEntry, Queueing
from batchrt.testing.admission.quota import MockQuota
from batchrt.testing.admission.rate_limits import RateLimits, WaitForm
from batchrt.testing.admission.schedules import Schedule
from batchrt.testing.admission.throttle_responses import ThrottleResponses
from batchrt.testing.admission.timeline import Timeline
from batchrt.testing.endpoints.replies import Headers, MockReply, TokenCharge
from batchrt.testing.endpoints.server_families import MockFamily, ServerFamily
from batchrt.testing.faults.seeded import digest_of
from batchrt.testing.verdict import Verdict, judge
from batchrt.testing.verdict_log import (
    ACCEPTED,
    NOISE,
    OUTAGE,
    OVER_PARALLEL,
    QUEUE_FULL,
    REJECTED,
    RequestedWait,
    VerdictLog,
)

__all__ = ["AdmissionController", "AdmissionDecision", "ArrivingRequest"]


class ArrivingRequest(NamedTuple):
    """A valid request for a model, before admission.

    Attributes:
        now: its arrival, in the event loop's time.
        charge: the tokens it costs.
        authorization: its Authorization header.
        digest: of its path and body.
        attempt: how often that has come, this time included.
        items: the number of its inputs.
        is_embedding: whether the family's own limit of requests in flight applies.
    """

    now: float
    charge: TokenCharge
    authorization: bytes
    digest: int
    attempt: int
    items: int
    is_embedding: bool


class AdmissionDecision:
    """The decision about one request.

    Attributes:
        refusal: the reply in place of an answer, if the request is refused.
        queue_entry: its entry in the queue, if it is admitted and there is a queue.
    """

    __slots__ = (
        "_arrived",
        "_charge",
        "_controller",
        "_digest",
        "_is_noise",
        "_items",
        "_number",
        "_quota",
        "_verdict_log",
        "queue_entry",
        "refusal",
    )

    def __init__(
        self,
        controller: AdmissionController,
        verdict_log: VerdictLog,
        number: int,
        quota: MockQuota,
        arrival: ArrivingRequest,
        *,
        outcome: int,
        refusal: MockReply | None,
        queue_entry: QueueEntry | None,
    ) -> None:
        self._controller = controller
        # A reset replaces the controller's log; earlier requests are settled in the log that has them.
        self._verdict_log = verdict_log
        self._number = number
        self._quota = quota
        self._charge = arrival.charge
        self._items = arrival.items
        self._arrived = arrival.now
        self._digest = arrival.digest
        self._is_noise = outcome == NOISE
        self.refusal: MockReply | None = refusal
        self.queue_entry: QueueEntry | None = queue_entry

    def with_rate_limit_headers(self, reply: MockReply, now: float) -> MockReply:
        """Return the reply of an admitted request with the headers of its quota."""
        told = () if reply.status is None else self._controller.headers(self._quota, now, reply.status)
        return reply._replace(headers=(*reply.headers, *told)) if told else reply

    def finish(self, now: float, status: int | None, wait: float | None, *, gone: bool) -> None:
        """Settle a request that is over: answered with `status`, or its client is `gone`."""
        with self._controller.lock:
            second = self._controller.timeline.second(now)
            if self.queue_entry is not None:
                self._controller.free(self.queue_entry, now)
            if self.refusal is None:
                self._quota.free()
                self._controller.finished(self._items)
            if self.refusal is None and not gone:
                spent = self._quota.settle(self._charge, second, answered=status == 200)  # noqa: PLR2004
                self._verdict_log.settle(self._number, spent)
            if wait and not gone:
                asked = RequestedWait(self._quota.number, second, second + wait, self._is_noise, self._digest)
                self._verdict_log.ask(asked)
            # A request that left the queue was never processed.
            began = self._arrived if self.queue_entry is None else min(now, self.queue_entry.began)
            began = self._controller.timeline.second(began)
            answered = self.refusal is None and not gone and status == 200  # noqa: PLR2004
            self._verdict_log.end(self._number, second, began=began, answered=answered)


class AdmissionController:
    """Admit or refuse requests and log the decisions; the arguments are those of MockProvider.

    Safe to use from any thread.
    """

    def __init__(
        self,
        server: ServerFamily,
        family: MockFamily,
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
        self._throttle_responses = ThrottleResponses.of(server, family, limits)
        self._noise_responses = _noise_responses(server, family, noise, limits)
        queue_style = None if queueing is None else queueing.style
        self._queue_full_responses = (
            None if queue_style is None else ThrottleResponses(server, family, style=queue_style)
        )
        self._queue = None if queueing is None else MockQueue(queueing, self.timeline, self.lock)
        self._quotas: dict[tuple[bytes, str], MockQuota] = {}
        self._verdict_log = VerdictLog()
        self._in_flight = 0
        self._items_in_flight = 0

    def begin(self, now: float) -> None:
        """Record the provider's first request, valid or not."""
        with self.lock:
            self.timeline.begin(now)

    def reset(self) -> None:
        """Forget everything except the queue's content."""
        with self.lock:
            self.timeline.restart()
            self._quotas = {}
            self._verdict_log = VerdictLog()

    def headers(self, quota: MockQuota, now: float, status: int) -> Headers:
        """Return the rate-limit headers of `quota` for an answer with `status`."""
        if self._limits is None:
            return ()
        with self.lock:
            return self._throttle_responses.headers(quota, self.timeline.second(now), status)

    def free(self, queue_entry: QueueEntry, now: float) -> None:
        """Remove an entry from the queue."""
        if self._queue is not None:
            self._queue.leave(queue_entry, now)

    def finished(self, items: int) -> None:
        """Record that an admitted request is over."""
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
        """Judge the logged requests; see `MockProvider.verdict`."""
        with self.lock:
            return judge(
                self._verdict_log,
                tuple(self._quotas.values()),
                since=since,
                until=until,
                grace=grace,
                peak_in_flight=peak_in_flight,
                capacity=None if self._queueing is None else Schedule(self._queueing.capacity),
                max_concurrency=max_concurrency,
            )

    def enter(self, arrival: ArrivingRequest) -> AdmissionDecision:
        """Admit or refuse a valid request."""
        with self.lock:
            now, charge = arrival.now, arrival.charge
            second = self.timeline.second(now)
            quota = self._quota(arrival.authorization, charge.model)
            outcome, refusal = self._decide(quota, arrival, second)
            queue_entry: QueueEntry | None = None
            if refusal is None:
                quota.take(charge, second)
                self._in_flight += 1
                self._items_in_flight += arrival.items
                queue_entry = None if self._queue is None else self._queue.join(now, arrival.items)
            elif outcome != OUTAGE:
                refusal = refusal._replace(delay=refusal.delay + self._refusal_latency)
            spent = charge.reserved if refusal is None else 0
            number = self._verdict_log.note(
                second,
                quota.number,
                outcome,
                arrival.attempt,
                reserved=charge.reserved,
                spent=spent,
                size=max(1, arrival.items) if self._counts_inputs else 1,
                row=arrival.digest,
                rows=charge.rows,
            )
            return AdmissionDecision(
                self,
                self._verdict_log,
                number,
                quota,
                arrival,
                outcome=outcome,
                refusal=refusal,
                queue_entry=queue_entry,
            )

    def _quota(self, authorization: bytes, model: str) -> MockQuota:
        name = (authorization, model)
        quota = self._quotas.get(name)
        if quota is None:
            key = digest_of(authorization) if authorization else 0
            quota = self._quotas[name] = MockQuota(key, model, len(self._quotas), self._limits)
        return quota

    def _decide(
        self, quota: MockQuota, arrival: ArrivingRequest, second: float
    ) -> tuple[int, MockReply | None]:
        for outage in self._outages:
            if outage.covers(second):
                return OUTAGE, outage_reply(outage, second, self._family, self._throttle_responses)
        noise = self._noise
        if noise is not None and noise.strikes(self._seed, arrival.digest, arrival.attempt, second):
            return NOISE, self._noise_responses.refusal("Rate limit reached.", noise.wait)
        busy = self._busy(arrival)
        if busy is not None:
            return QUEUE_FULL, busy
        if quota.parallel_left(second) == 0:
            return OVER_PARALLEL, self._throttle_responses.over_parallel_limit(quota, second)
        shortage = quota.shortage(arrival.charge, second)
        if shortage is not None:
            return REJECTED + shortage.bucket_index, self._throttle_responses.over_quota(
                quota, shortage, second
            )
        return ACCEPTED, None

    def _busy(self, arrival: ArrivingRequest) -> MockReply | None:
        if self._queueing is not None and self._queue is not None and self._queue.is_full(arrival.now):
            return self._too_busy(self._queueing)
        if arrival.is_embedding and self._is_over_in_flight_limit(arrival.items):
            return self._family.too_busy().reply
        return None

    def _is_over_in_flight_limit(self, items: int) -> bool:
        most = self._family.max_in_flight
        if most is None:
            return False
        if self._family.counts_inputs:
            return self._items_in_flight + items > most
        return self._in_flight >= most

    def _too_busy(self, queueing: Queueing) -> MockReply:
        if self._queue_full_responses is not None:
            status = queueing.full_status or 429
            refusal = self._queue_full_responses.refusal("The server is overloaded.", None, status=status)
            return refusal.asking_to_wait(queueing.retry_after)
        if queueing.full_status is None:
            error = self._family.too_busy()
        else:
            kind, code = {
                503: ("server_error", "server_is_overloaded"),
                429: ("requests", "rate_limit_exceeded"),
            }[queueing.full_status]
            error = self._family.make_error(
                queueing.full_status, "The server is overloaded.", kind=kind, code=code
            )
        return error.reply.asking_to_wait(queueing.retry_after)


def _noise_responses(
    server: ServerFamily, family: MockFamily, noise: Noise | None, limits: RateLimits | None
) -> ThrottleResponses:
    """Return the wording of random refusals."""
    style = None if limits is None else limits.style
    if noise is None:
        return ThrottleResponses(server, family, style=style)
    style = noise.style or style
    made = ThrottleResponses(server, family, style=style, waits=noise.waits)
    if noise.waits is not None or made.names_waits:
        return made
    header: WaitForm = "retry-after"
    return ThrottleResponses(server, family, style=style, waits=(header,))
