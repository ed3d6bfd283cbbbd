"""The timeline of one rate limit: its future, which is given out to workers in slots."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable
from typing import Any, Final

from batchrt.limits.shared.lease_messages import Slots, TellsLimit

__all__ = ["NEVER", "Timeline"]

NEVER: Final = -1e18
"""A time before all others; JSON knows no infinity."""

_MOST_VALID: Final = 2.0
_LEAST_VALID: Final = 0.1
_VALID_SHARE: Final = 0.35
"""Seconds for which slots may be used late: a share of the time in which the bucket fills, within bounds. The
least is what timers and messages between processes can keep to at all."""
_RESERVE_SHARE: Final = 0.25
_MOST_RESERVED: Final = 0.5
"""The share of the bucket, and the most seconds of its rate, that is never given out: requests do not arrive
as evenly as they are sent."""
_MOST_FREE: Final = 256
"""Returned slots that are remembered; further ones are lost."""
_SETTLED: Final = 1.5
"""Seconds until answers show that less is given out: slots that were granted before are used up."""
_SENDING: Final = 0.1
"""Seconds from a grant until a request that uses it has reached the provider, beside the time it may wait."""


class Timeline:
    """Give out a rate limit's refill, present and future, each part of it once.

    This is the generic cell rate algorithm (GCRA, ITU-T I.371) as a reservation: `at` is the theoretical
    arrival time of the next cell, and granting `amount` moves it by `amount / rate`. Slots are used at their
    time or up to `valid` seconds later, and `at` lags behind the time by at most `lag` seconds.

    Invariant: by any time t at most `rate * (t - t0 + lag)` were granted for use by then, and none of it is
    used more than `valid` seconds after its time, or after it was granted if that is later. Since
    `lag + valid` seconds of refill fit into the provider's bucket, less a reserve, it never overflows with
    requests, whenever within their time the slots are used.

    Args:
        rate: amount per second.
        capacity: the most that the provider's bucket holds.
        at: the time up to which the refill is given out.

    Attributes:
        free: slots that were returned, by start and amount.
        needs: the sum of the workers' needs.
        settled_at: when all slots of a correction, or of refill that had been kept, are used.
        lowered_at: when the last correction downwards shows in answers.
    """

    __slots__ = ("at", "capacity", "free", "lowered_at", "needs", "rate", "settled_at")

    def __init__(self, rate: float, capacity: float, at: float) -> None:
        self.rate: float = rate
        self.capacity: float = capacity
        self.at: float = at
        self.needs: float = 0.0
        self.free: list[tuple[float, float]] = []
        self.settled_at: float = NEVER
        self.lowered_at: float = NEVER

    @property
    def valid(self) -> float:
        """Seconds for which slots may be used late."""
        return max(_LEAST_VALID, min(_MOST_VALID, _VALID_SHARE * self.capacity / self.rate))

    @property
    def reserve(self) -> float:
        """The amount that is never given out."""
        return min(_RESERVE_SHARE * self.capacity, _MOST_RESERVED * self.rate)

    @property
    def lag(self) -> float:
        """Seconds of refill that are kept for later if nothing is asked for."""
        return max(0.0, (self.capacity - self.reserve) / self.rate - self.valid)

    def advance(self, now: float) -> None:
        """Forget the refill that the provider's bucket did not hold."""
        oldest = now - self.lag
        self.at = max(self.at, oldest)
        while self.free and self.free[0][0] < oldest:
            del self.free[0]

    def first(self) -> float:
        """Return when the next slot that may be granted begins."""
        return min(self.at, self.free[0][0]) if self.free else self.at

    def take(self, amount: float, least: float, now: float, until: float) -> list[tuple[float, float]]:
        """Grant up to `amount`, as far as it begins before `until`, but `least` or nothing.

        Amounts are whole: a part of a request is of no use.
        """
        slots: list[tuple[float, float]] = []
        left = float(math.floor(amount))
        if left <= 0 or self.first() >= until:
            return slots
        if self.first() < now:
            self.settled_at = max(self.settled_at, now + self.valid + _SENDING)
        while left > 0 and self.free and self.free[0][0] < until:
            start, there = self.free[0]
            used = min(there, left)
            slots.append((start, used))
            left -= used
            if used < there:
                self.free[0] = start + used / self.rate, there - used
            else:
                del self.free[0]
        got = sum(part for _, part in slots)
        more = max(min(left, math.floor((until - self.at) * self.rate)), math.ceil(least - got))
        if more > 0:
            slots.append((self.at, more))
            self.at += more / self.rate
        return slots

    def give_back(self, slots: Iterable[tuple[float, float]], now: float) -> None:
        """Take back slots that are not going to be used."""
        for start, amount in sorted(slots, reverse=True):
            end = start + amount / self.rate
            if end >= self.at - 1e-9:
                self.at = min(self.at, start)
            elif start >= now - self.lag and len(self.free) < _MOST_FREE:
                insort(self.free, (start, amount))

    def hold(self, slots: Iterable[Slots], now: float) -> None:
        """Take up slots that a lost state had granted."""
        for slot in slots:
            self.at = max(self.at, now + slot.start + slot.amount / self.rate)

    def rest(self, until: float) -> None:
        """Give out nothing before `until`, and no refill of the time before: it was refused."""
        self.at = max(self.at, until)
        self.free = [slot for slot in self.free if slot[0] >= until]

    def correct(self, told: TellsLimit, now: float, *, trust: float) -> None:
        """Follow the level of the provider's bucket, as an answer tells it.

        It is lower than the refill that is left here if another program uses the same key, and higher if
        slots expired unused, or if nothing was known at first. Slots that may be used after the answer's
        request was sent count as used then.

        Args:
            told: the level, and when it was told.
            now: the time.
            trust: the share by which more may be given out; 0 if the limit is lower than the provider's.
        """
        sent_at = now - told.age
        spare = (told.remaining - self.reserve) / self.rate
        if spare < 0:
            if sent_at >= self.lowered_at:
                self.at, self.lowered_at = max(self.at, now) - spare, now + _SETTLED
            return
        earlier = trust * (self.at - sent_at - max(0.0, self.at - sent_at + self.valid) + spare)
        if sent_at >= self.settled_at and earlier * self.rate >= 1:
            # The refill between the new and the old time is given out twice until the old time is past.
            self.settled_at = max(self.at, now) + self.valid
            self.at = max(self.at - earlier, now - self.lag)

    def to_state(self) -> list[Any]:
        """Return the state as JSON types."""
        times = self.settled_at, self.lowered_at
        return [self.rate, self.capacity, self.at, self.needs, self.free, *times]

    @classmethod
    def of_state(cls, state: list[Any]) -> Timeline:
        """Return the timeline of a state."""
        rate, capacity, at, needs, free, settled_at, lowered_at = state
        timeline = cls(rate, capacity, at)
        timeline.needs, timeline.settled_at, timeline.lowered_at = needs, settled_at, lowered_at
        timeline.free = [(start, amount) for start, amount in free]
        return timeline
