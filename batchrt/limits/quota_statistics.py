"""Statistics of a quota: requests, limits, the share of them in use, and where each limit comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Changes", "LimitStatus", "QuotaStatistics", "SharedQuotaStatus", "Source", "limit_statuses"]

Source: TypeAlias = Literal["given", "told", "found"]
Changes: TypeAlias = "Mapping[tuple[Source, str], tuple[float, str]]"
"""When and why each limit changed last, by source and name."""


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """One limit that holds, and the reason for it.

    Attributes:
        name: as in `QuotaStatistics.limits`.
        limit: how much is allowed in the limit's period; of `max_in_flight`, at once.
        source: `given` by hand, `told` by the provider's answers, or `found` from its refusals.
        since: seconds since it changed last; `None` if it never did.
        reason: why it changed.
    """

    name: str
    limit: float
    source: Source
    since: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SharedQuotaStatus:
    """This process's part in a quota that several processes share.

    Attributes:
        name: the quota's name.
        carrier: the file or the server that has its state.
        workers: how many quotas, of all processes, had a lease at the latest message.
        lease_left: seconds for which the lease goes on without a renewal; 0 if there is none.
        shares: by limit name, the requests or tokens that are granted and not used yet.
        max_in_flight: how many requests this process may have in flight; `None` for no limit.
        messages: messages that were answered.
        waits_for: the reason for which no lease can be had; empty if it can.
    """

    name: str
    carrier: str
    workers: int
    lease_left: float
    shares: Mapping[str, float]
    max_in_flight: int | None
    messages: int
    waits_for: str


@dataclass(frozen=True, slots=True)
class QuotaStatistics:
    """The state of a quota at one moment.

    Attributes:
        in_flight: requests in flight.
        waiting: requests that wait to be sent.
        limits: by name, the limits that are known: how much is allowed in the limit's period, and as
            `max_in_flight` how many requests at once.
        used: by name, the share of the limit that is used up right now, 0 to 1.
        quiet_for: seconds left of the cool-down that the provider asked for.
        max_concurrency: the limit that `"auto"` has found; `None` where it is not in use.
        down_for: seconds for which the provider has been down; `None` if it is up.
        retry_tokens: tokens left in the retry budget; `None` without one.
        requests: requests sent since the quota was made; this one and the following are counters, for a
            monitoring system to scrape.
        answers: requests that succeeded.
        tokens: tokens billed, as far as answers said.
        refusals: requests refused because of rate limits or overload.
        retries: requests that were sent, or will be, in place of one that failed.
        sources: where each limit comes from, since when, and why; limits found from refusals too.
        shared: this process's part in a quota that several share; `None` if it is not shared.
    """

    in_flight: int
    waiting: int
    limits: Mapping[str, float]
    used: Mapping[str, float]
    quiet_for: float
    max_concurrency: int | None
    down_for: float | None
    retry_tokens: float | None
    requests: int = 0
    answers: int = 0
    tokens: int = 0
    refusals: int = 0
    retries: int = 0
    sources: tuple[LimitStatus, ...] = ()
    shared: SharedQuotaStatus | None = None


def limit_statuses(
    limits: Mapping[Source, Mapping[str, float]], changes: Changes, now: float
) -> Iterator[LimitStatus]:
    """Yield the status of each of `limits`, which are given by source and name."""
    for source, values in limits.items():
        for name, limit in values.items():
            at, why = changes.get((source, name), (None, ""))
            yield LimitStatus(name, limit, source, None if at is None else now - at, why)
