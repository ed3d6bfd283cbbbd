"""Lease messages: the demand of one worker, and the lease that answers it.

They are plain values, which pickle. All times in them are seconds from the moment of the message, so that no
two clocks have to agree; amounts are requests or tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from batchrt.limits.token_bucket import Unit

__all__ = ["Demand", "LeaseReply", "LeaseRequest", "RateShare", "Slots", "TellsLimit", "unit_of"]


class Slots(NamedTuple):
    """Part of a rate limit's future: `amount` becomes usable at the limit's rate from `start` on.

    Attributes:
        start: seconds from now; negative for an amount that is usable already.
        amount: requests or tokens.
    """

    start: float
    amount: float


class Demand(NamedTuple):
    """The requests, or the tokens, that a worker could send; it asks for what it does not hold of them.

    Attributes:
        need: for requests that wait, and debts of requests that took more than was expected.
        want: `need`, and the forecast for requests to come until the next message.
        least: for the first request that waits; less is of no use.
    """

    need: float
    want: float
    least: float


class TellsLimit(NamedTuple):
    """A rate limit as the provider's newest answer told it.

    Attributes:
        rate: amount per second.
        capacity: the most that its bucket holds.
        remaining: the amount left in it when the request arrived.
        age: seconds since the request was sent.
    """

    rate: float
    capacity: float
    remaining: float
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """Ask for a lease, or to renew it.

    Attributes:
        worker: the worker's unique id.
        epoch: of the latest reply; empty before the first.
        demands: by unit, `requests` and `tokens`.
        held: by limit name, such as `requests_per_minute`, the slots of earlier replies that are not used
            up yet.
        in_flight: requests in flight.
        in_flight_wanted: requests that the worker would have in flight if it were free to.
        answered: whether the provider has answered this worker.
        given: limits that were set by hand, by name as in `Quota.set_limits`, and `None` for a lifted one;
            `None` if the coordinator has them already.
        burst_seconds: see `Quota`.
        told: limits that answers told since the last message, by name as in `given`.
        told_in_flight: the limit of requests in flight that answers tell; `None` if they tell none.
        quiet: seconds for which nothing may be sent because of a refusal that the worker has seen since its
            last message; 0 for none.
        quiet_reason: the refusal's class and status.
        leaves: the worker wants nothing any more, and returns what it holds.
    """

    worker: str
    epoch: str = ""
    demands: Mapping[Unit, Demand] = field(default_factory=dict)
    held: Mapping[str, tuple[Slots, ...]] = field(default_factory=dict)
    in_flight: int = 0
    in_flight_wanted: int = 0
    answered: bool = False
    given: Mapping[str, float | None] | None = None
    burst_seconds: float | None = None
    told: Mapping[str, TellsLimit] = field(default_factory=dict)
    told_in_flight: int | None = None
    quiet: float = 0.0
    quiet_reason: str = ""
    leaves: bool = False


class RateShare(NamedTuple):
    """A worker's share of one rate limit.

    Attributes:
        rate: of the whole limit, per second; slots become usable at this rate.
        valid: seconds for which an amount may be used after it became usable.
        slots: granted by this reply, in addition to those held.
        next: seconds until slots may be granted, if the worker got fewer than it needs.
    """

    rate: float
    valid: float
    slots: tuple[Slots, ...] = ()
    next: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReply:
    """Grant or renew a lease.

    Attributes:
        epoch: changes when the coordinator has lost its state; it learns it from its workers again.
        seconds: the lease's; without a renewal nothing may be sent once they are over.
        shares: by limit name; all rate limits there are, also those of which nothing is granted.
        in_flight: how many requests this worker may have in flight; `None` for no limit.
        cold: whether no worker has had an answer, which would tell limits.
        quiet: seconds for which nothing may be sent; 0 for none.
        quiet_reason: the class and status of the refusal that is the reason.
        learning: seconds for which nothing new is granted, after a loss of state.
        workers: how many workers have a lease.
    """

    epoch: str
    seconds: float
    shares: Mapping[str, RateShare] = field(default_factory=dict)
    in_flight: int | None = None
    cold: bool = False
    quiet: float = 0.0
    quiet_reason: str = ""
    learning: float = 0.0
    workers: int = 1


def unit_of(name: str) -> Unit:
    """Return the unit of a rate limit, by its name such as `tokens_per_minute`."""
    return "tokens" if name.startswith("tokens") else "requests"
