"""The leases of one worker: its shares of a shared quota, and when to ask for more."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Final

from batchrt.limits.permit import Waiting
from batchrt.limits.shared.lease_messages import Demand, LeaseReply, LeaseRequest, TellsLimit, unit_of
from batchrt.limits.shared.leased_rate import LeasedRate
from batchrt.limits.token_bucket import Unit

__all__ = ["Leases"]

_RENEWAL: Final = 1.0
"""Seconds after which a lease is renewed that is in use: cool-downs of other workers are heard of by then."""
_BETWEEN: Final = 0.5
"""Seconds between two messages, unless there is something to publish."""
_AHEAD: Final = 0.7
"""Seconds before the last slot begins at which more are asked for."""
_IDLE: Final = 1.0
"""Seconds without a request after which the lease is returned."""
_SPARE: Final = 2.0
_SPARED: Final = 4.0
"""The demand after slots have expired unused: so many times the amount used since the last message, and so
many requests more. Requests that wait here may wait for something else too, such as a place in their run."""


class _Use:
    """Amounts of one unit that were used since the last message and during the one before."""

    __slots__ = ("before", "now", "seconds")

    def __init__(self) -> None:
        self.now = self.before = 0.0
        self.seconds = _BETWEEN

    def turn(self, seconds: float) -> None:
        self.before, self.now, self.seconds = self.now, 0.0, max(seconds, _BETWEEN / 2)

    def forecast(self) -> float:
        """Return the amount that is used until the next message but one, at the same rate."""
        return self.before / self.seconds * _RENEWAL


class Leases:
    """Hold what the coordinator has granted to this worker, and write its requests.

    Invariants: nothing is sent beyond slots and shares, nor after the lease ended, which is counted from the
    moment the request for it was sent; at most two messages are sent in any second.

    Attributes:
        rates: rate limits, by name; empty before the first reply.
        in_flight: how many requests may be in flight; `None` for no limit.
        expires: when the lease ends.
        learns_until: when the coordinator has learned its state again, and grants.
        workers: how many workers have a lease.
        messages: requests that were answered.
        told_in_flight: the limit of requests in flight that answers tell.
        answered: whether the provider has answered this worker.
        quiet_until: when the latest cool-down ends that this worker published.
    """

    def __init__(self, burst_seconds: float | None) -> None:
        self.rates: dict[str, LeasedRate] = {}
        self.in_flight: int | None = None
        self.expires: float = -math.inf
        self.learns_until: float = -math.inf
        self.workers: int = 0
        self.messages: int = 0
        self.told_in_flight: int | None = None
        self.answered: bool = False
        self._cold = False
        self._burst_seconds = burst_seconds
        self._worker = uuid.uuid4().hex
        self._epoch = ""
        self._given: dict[str, float | None] = {}
        self._gives = False
        self._told: dict[str, tuple[float, TellsLimit]] = {}
        self._latest: dict[str, TellsLimit] = {}
        self._news = False
        self.quiet_until: float = -math.inf
        self._quiet_reason = ""
        self._use: dict[Unit, _Use] = {"requests": _Use(), "tokens": _Use()}
        self._used_at = -math.inf
        self._sent = (-math.inf, -math.inf)
        self._next = -math.inf

    def begin_anew(self) -> None:
        """Forget all leases, which belong to the parent process of a fork."""
        given, told = self._given, self.told_in_flight
        Leases.__init__(self, self._burst_seconds)
        self.told_in_flight = told
        self.tell_given(given)

    # Requests to the provider

    def lets_in(self, in_flight: int, now: float) -> bool:
        """Whether there is a lease, and one more request may be in flight."""
        if now >= self.expires or (self.in_flight is not None and in_flight >= self.in_flight):
            return False
        return bool(self.rates) or now >= self.learns_until

    def wait_for(self, amounts: Mapping[str, float], now: float) -> float:
        """Return the seconds until `amounts` fit; infinity if that takes more slots."""
        longest = 0.0
        for name, amount in amounts.items():
            longest = max(longest, self.rates[name].wait_for(amount, now))
        return longest

    def charge(self, amounts: Mapping[str, float], tokens: float, now: float) -> None:
        """Charge a request that is sent, of so many tokens."""
        self._used_at = now
        self._use["requests"].now += 1
        self._use["tokens"].now += tokens
        for name, amount in amounts.items():
            self.rates[name].charge(amount)

    def settle(self, name: str, more: float, charged_at: float, now: float) -> None:
        """Charge `more` for a request than was charged then, or less if that is negative.

        A negative amount is lost once the slots that were charged would have expired.
        """
        rate = self.rates.get(name)
        if rate is not None and more > 0:
            rate.charge(more)
        elif rate is not None and more < 0 and now < charged_at + rate.valid:
            rate.refund(-more, now)

    # News for other workers

    def tell_limit(self, name: str, told: TellsLimit, sent_at: float) -> None:
        """Publish a limit that the answer to a request tells which was sent at `sent_at`."""
        before = self._told.get(name)
        if before is None or before[0] <= sent_at:
            self._told[name] = sent_at, told
            self._latest[name] = told
        self._news = self._news or name not in self.rates

    def tell_quiet(self, until: float, reason: str) -> None:
        """Publish a cool-down, unless it is known."""
        if until > self.quiet_until:
            self.quiet_until, self._quiet_reason = until, reason
            self._news = True

    def tell_answered(self) -> None:
        """Publish that the provider answers."""
        self._news = self._news or (self._cold and not self.answered)
        self.answered = True

    def tell_given(self, given: Mapping[str, float | None]) -> None:
        """Publish limits that were set by hand."""
        self._given.update(given)
        self._gives = self._news = True

    # Messages

    def next_message(self, waiting: Waiting, in_flight: int, now: float) -> float:
        """Return when the next message is to be sent; infinity if this worker wants nothing now."""
        earliest, between = self._sent[0] + 2 * _BETWEEN, self._sent[1] + _BETWEEN
        if self._news and self._epoch:
            return earliest
        if not (waiting.requests or in_flight) and now >= self._used_at + _IDLE:
            return math.inf
        when = self._sent[1] + _RENEWAL
        if now >= self.expires:
            when = min(when, between)
        if self.in_flight is not None and waiting.requests and in_flight >= self.in_flight:
            when = min(when, between)
        for name, rate in self.rates.items():
            rate.advance(now)
            demand = self._demand(unit_of(name), waiting)
            if rate.held < demand.need:
                lasts = max(rate.ends_at() - _AHEAD, self._next)
                when = min(when, max(between if self.messages > 1 else earliest, lasts))
            elif rate.held < demand.want / 2:
                when = min(when, between)
        return max(when, earliest)

    def request(self, waiting: Waiting, in_flight: int, now: float) -> LeaseRequest:
        """Write a message that asks for a lease, or renews it."""
        self._news = False
        if self.in_flight is not None:
            # The share is not used beyond what is reported until the reply confirms it.
            self.in_flight = min(self.in_flight, in_flight)
        held = {name: rate.slots(now) for name, rate in self.rates.items()}
        demands: dict[Unit, Demand] = {unit: self._demand(unit, waiting) for unit in self._use}
        for use in self._use.values():
            use.turn(now - self._sent[1])
        for rate in self.rates.values():
            rate.wasted = 0.0
        self._sent = self._sent[1], now
        return LeaseRequest(
            worker=self._worker,
            epoch=self._epoch,
            demands=demands,
            held=held,
            in_flight=in_flight,
            in_flight_wanted=in_flight + waiting.requests,
            answered=self.answered,
            given=dict(self._given) if self._gives else None,
            burst_seconds=self._burst_seconds,
            told={name: told._replace(age=now - at) for name, (at, told) in self._told.items()},
            told_in_flight=self.told_in_flight,
            quiet=max(0.0, self.quiet_until - now),
            quiet_reason=self._quiet_reason,
        )

    def leave(self, now: float) -> LeaseRequest | None:
        """Give up the lease, if there is one; return the message that says so."""
        if now >= self.expires:
            return None
        held = {name: rate.slots(now) for name, rate in self.rates.items()}
        for rate in self.rates.values():
            rate.drop()
        self.expires = -math.inf
        return LeaseRequest(worker=self._worker, epoch=self._epoch, held=held, leaves=True)

    def apply(self, request: LeaseRequest, reply: LeaseReply, sent_at: float, now: float) -> None:
        """Take up a reply, to a request that was sent at `sent_at`."""
        self.messages += 1
        self.workers = reply.workers
        self.expires = sent_at + reply.seconds
        self.in_flight, self._cold = reply.in_flight, reply.cold
        self.learns_until = now + reply.learning if reply.learning else -math.inf
        self._forget_published(request)
        if reply.epoch != self._epoch and self._epoch:
            self._publish_again(now)
        self._epoch = reply.epoch
        if not reply.learning:
            self.rates = {name: rate for name, rate in self.rates.items() if name in reply.shares}
        self._next = -math.inf
        for name, share in reply.shares.items():
            rate = self.rates.setdefault(name, LeasedRate(share.rate, share.valid))
            rate.rate, rate.valid = share.rate, share.valid
            rate.add(share.slots, sent_at, now)
            if share.next:
                self._next = max(self._next, now + share.next)

    def _forget_published(self, request: LeaseRequest) -> None:
        if request.given is not None and request.given == self._given:
            self._gives = False
        for name, told in request.told.items():
            if self._told[name][1].remaining == told.remaining:
                del self._told[name]

    def _publish_again(self, now: float) -> None:
        """Publish all limits that are known: the coordinator's state was lost."""
        self._gives = bool(self._given)
        # The level of the provider's buckets is not known any more, since others have used them.
        again = {name: (now, told._replace(remaining=0.0)) for name, told in self._latest.items()}
        self._told = {**again, **self._told}
        self._news = True

    def _demand(self, unit: Unit, waiting: Waiting) -> Demand:
        need, first = float(waiting.requests), 1.0
        if unit == "tokens":
            need, first = waiting.tokens, waiting.first
        rates = [rate for name, rate in self.rates.items() if unit_of(name) == unit]
        use, least = self._use[unit], first if waiting.requests else 0.0
        if any(rate.wasted > 0 for rate in rates):
            need = min(need, max(least, _SPARE * use.now + _SPARED * least))
        debt = max((rate.debt for rate in rates), default=0.0)
        return Demand(need + debt, max(need + debt, use.forecast()), least + debt)
