"""The ledger: the state of one shared quota, and the records of its workers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from batchrt.limits.shared.timeline import NEVER, Timeline
from batchrt.limits.token_bucket import MINUTE, SECONDS

__all__ = ["LEASE_SECONDS", "Ledger", "WorkerRecord"]

LEASE_SECONDS: Final = 3.0
"""Seconds of a lease. A worker renews it once a second at the least, so that two messages may be lost."""
_LONGEST_SILENCE: Final = 1.5
"""Seconds without any message after which the carrier is taken to have been away: the leases' time stands
still meanwhile."""
_FIRST_SECONDS: Final = 1.0
"""Seconds of a given limit that the provider's bucket is taken to hold, as long as answers do not tell."""

SlotTimes: TypeAlias = "list[tuple[float, float]]"


class WorkerRecord:
    """Hold what one worker has been granted.

    Args:
        worker: its id.

    Attributes:
        expires: when its lease ends, in leases' time.
        needs: its needs, by limit name.
        held: the slots it may use still, by limit name.
        in_flight: how many requests it may have in flight.
        starved: it may have fewer than its fair share in flight, and wants more.
    """

    __slots__ = ("expires", "held", "in_flight", "needs", "starved", "worker")

    def __init__(self, worker: str) -> None:
        self.worker: str = worker
        self.expires: float = 0.0
        self.needs: dict[str, float] = {}
        self.held: dict[str, SlotTimes] = {}
        self.in_flight: int = 0
        self.starved: bool = False

    def to_state(self) -> list[Any]:
        """Return the record as JSON types."""
        return [self.worker, self.expires, self.needs, self.held, self.in_flight, self.starved]

    @classmethod
    def of_state(cls, state: list[Any]) -> WorkerRecord:
        """Return the record of a state."""
        record = cls(state[0])
        _, record.expires, record.needs, held, record.in_flight, record.starved = state
        record.held = {name: [(start, amount) for start, amount in slots] for name, slots in held.items()}
        return record


class Ledger:
    """Hold the limits of one shared quota, and how much of them is granted.

    Its size does not depend on the number of workers, whose records are stored beside it: handling a message
    takes the ledger, one record, and those whose leases have ended.

    Args:
        epoch: a new one for each loss of state.
        now: the time.
        learns: seconds for which nothing new is granted.

    Attributes:
        store: the life of the store that it is kept in; empty in memory.
        began: when it was made.
        at: the time of the latest message.
        lease_time: the leases' time, which stands still while the carrier is away: a lease must not end, and
            be granted to another worker, because its holder could not renew it.
        learns_until: when everything that was granted before a loss of state has been reported or has ended.
        quiet_until: when the cool-down ends.
        quiet_reason: the refusal that is its reason.
        given: limits set by hand, by name, per minute or day.
        told: rates per second and capacities that answers told, by name.
        timelines: rate limits, by name.
        max_in_flight: the limits of requests in flight, by source.
        burst_seconds: see `Quota`.
        cold: whether no limit is known, and no worker has had an answer.
        workers: how many have a lease.
        in_flight: the sum of their shares of requests in flight.
        starved: how many want more in flight and have less than a fair share.
    """

    def __init__(self, epoch: str, now: float, learns: float = 0.0) -> None:
        self.epoch: str = epoch
        self.store: str = ""
        self.began: float = now
        self.at: float = now
        self.lease_time: float = 0.0
        self.learns_until: float = now + learns
        self.quiet_until: float = NEVER
        self.quiet_reason: str = ""
        self.given: dict[str, float] = {}
        self.told: dict[str, tuple[float, float]] = {}
        self.timelines: dict[str, Timeline] = {}
        self.max_in_flight: dict[str, int] = {}
        self.burst_seconds: float | None = None
        self.cold: bool = True
        self.workers: int = 0
        self.in_flight: int = 0
        self.starved: int = 0

    def advance(self, now: float) -> None:
        """Let the time pass."""
        self.lease_time += min(max(0.0, now - self.at), _LONGEST_SILENCE)
        self.at = now
        for timeline in self.timelines.values():
            timeline.advance(now)

    def set_timeline(self, name: str, now: float) -> None:
        """Make a rate limit the lower one of those given and told, if there are any."""
        given, told = self.given.get(name), self.told.get(name)
        if given is None and told is None:
            self.timelines.pop(name, None)
            return
        seconds = SECONDS["day" if name.endswith("day") else "minute"]
        rate, capacity = told or (math.inf, math.inf)
        if given is not None:
            rate = min(rate, given / seconds)
            filled = self.burst_seconds or (_FIRST_SECONDS if told is None else math.inf)
            capacity = min(capacity, given if seconds > MINUTE else max(1.0, rate * filled))
        timeline = self.timelines.get(name)
        if timeline is None:
            timeline = self.timelines[name] = Timeline(rate, capacity, now)
            if told is None and self.learns_until <= now:
                timeline.at -= timeline.lag  # the provider's bucket is full, as far as is known
        timeline.rate, timeline.capacity = rate, capacity

    def add(self, record: WorkerRecord) -> None:
        """Count in a worker's needs and shares."""
        self.workers += 1
        self.in_flight += record.in_flight
        self.starved += record.starved
        for name, need in record.needs.items():
            if name in self.timelines:
                self.timelines[name].needs += need

    def remove(self, record: WorkerRecord) -> None:
        """Count out a worker's needs and shares; its slots are not given back."""
        self.workers -= 1
        self.in_flight -= record.in_flight
        self.starved -= record.starved
        for name, need in record.needs.items():
            if name in self.timelines:
                self.timelines[name].needs -= need

    def to_state(self) -> Mapping[str, Any]:
        """Return the state as JSON types."""
        timelines = {name: timeline.to_state() for name, timeline in self.timelines.items()}
        return {**vars(self), "timelines": timelines}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Ledger:
        """Return the ledger of a state."""
        ledger = cls(state["epoch"], state["at"])
        vars(ledger).update(state)
        ledger.told = {name: (rate, capacity) for name, (rate, capacity) in state["told"].items()}
        ledger.timelines = {name: Timeline.of_state(own) for name, own in state["timelines"].items()}
        return ledger
