"""The targets of the studies, compared with their measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.studies import (
    lists,
    quota_auto,
    quota_limits,
    quota_outage,
    quota_socket,
    quota_waiters,
    refusals_cases,
    streaming,
)
from benchmarks.studies.quota_runs import TOGETHER
from benchmarks.studies.results import Table

__all__ = ["Criterion", "Verdict", "criteria", "judge"]

Measured = Mapping[str, Sequence[Table]]
"""The tables of each suite."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """Demand that one figure stays within a limit; its median is what counts, unless said.

    Attributes:
        below: the limit itself is not met.
        least: the limit is the least that is demanded, not the most.
        worst: the worst round counts.
    """

    point: int
    suite: str
    what: str
    case: str
    contender: str
    figure: str
    limit: float
    unit: str
    loop: str = "asyncio"
    below: bool = False
    least: bool = False
    worst: bool = False

    @property
    def relation(self) -> str:
        """How the figure has to stand to the limit."""
        if self.least:
            return "≥"
        return "<" if self.below else "≤"

    def judge(self, measured: Measured) -> Verdict:
        """Hold it against what was measured; what was not measured is not met."""
        for table in measured.get(self.suite, ()):
            if table.case == self.case:
                series = table.figure(self.contender, self.figure, self.loop)
                if series is not None and series.values:
                    worst = series.min if self.least else series.max
                    return self._verdict(worst if self.worst else series.median)
        return Verdict(self, None, met=False)

    def _verdict(self, value: float) -> Verdict:
        met = {"≥": value >= self.limit, "<": value < self.limit, "≤": value <= self.limit}
        return Verdict(self, value, met=met[self.relation])


@dataclass(frozen=True, slots=True)
class Verdict:
    """Say whether a criterion was met; `value` is `None` if it was not measured."""

    criterion: Criterion
    value: float | None
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        criterion = self.criterion
        return {
            "point": criterion.point,
            "what": criterion.what,
            "value": self.value,
            "limit": criterion.limit,
            "unit": criterion.unit,
            "met": self.met,
        }


def judge(measured: Measured) -> list[Verdict]:
    """Judge every criterion of the suites that were run."""
    return [each.judge(measured) for each in criteria() if each.suite in measured]


def criteria() -> list[Criterion]:
    """Return all criteria, in order."""
    makers: tuple[Callable[[], list[Criterion]], ...]
    makers = (
        _as_completed,
        _lists,
        _quota_use,
        _auto,
        _outages,
        _quota_cost,
        _refusals,
    )
    return [criterion for make in makers for criterion in make()]


def _as_completed() -> list[Criterion]:
    case, contender = streaming.case_name(100_000), "batchrt abatch_as_completed"
    first = "as completed: first result after the end of the first leaf"
    growth = "as completed: growth in memory"
    suite = "streaming"
    return [
        Criterion(3, suite, first, case, contender, "first", 50, "ms"),
        Criterion(3, suite, growth, case, contender, "growth", 20, "MB", below=True),
    ]


def _lists() -> list[Criterion]:
    found: list[Criterion] = []
    for load in lists.loads(quick=False):
        title = f"lists of {load.size}, {load.in_flight} in flight"
        fill, total = f"{title}: fill under load", f"{title}: total against the better ideal"
        schedule = f"{title}: schedule alone against the better ideal"
        found += [
            Criterion(8, "lists", fill, load.name, "batchrt", "fill_loaded", 90, "%", least=True),
            Criterion(8, "lists", total, load.name, "batchrt", "ratio", 1.15, "x"),
            Criterion(8, "lists", schedule, load.name, "batchrt", "schedule_ratio", 1.15, "x"),
        ]
    return found


def _quota_use() -> list[Criterion]:
    socket = quota_socket.CASE
    known, learnt, refused = quota_limits.GIVEN, quota_limits.LEARNT, quota_limits.REFUSED
    demands = (
        (known, known, TOGETHER, "virtual", 97, 1),
        (learnt, learnt, TOGETHER, "virtual", 97, 1),
        (refused, refused, TOGETHER, "virtual", 90, 3),
        (f"{socket}, {known}", socket, known, "asyncio", 97, 1),
        (f"{socket}, {learnt}", socket, learnt, "asyncio", 97, 1),
    )
    found: list[Criterion] = []
    for title, case, who, loop, used, rejected in demands:
        demand = partial(Criterion, 9, "quota", case=case, contender=who, loop=loop, worst=True)
        found += [
            demand(f"{title}: used", figure="used", limit=used, unit="%", least=True),
            demand(f"{title}: rejected", figure="rejected", limit=rejected, unit="%"),
            demand(f"{title}: waits not kept", figure="broken", limit=0, unit=""),
            demand(f"{title}: failed", figure="failed", limit=0, unit="items"),
        ]
    return found


def _auto() -> list[Criterion]:
    found: list[Criterion] = []
    for server in quota_auto.SERVERS:
        case, who = quota_auto.case_name(server), quota_auto.AUTO
        demand = partial(Criterion, 9, "quota", case=case, contender=who, loop="virtual", worst=True)
        found += [
            demand(f"{case}: time against the best fixed", figure="ratio", limit=1.15, unit="x"),
            demand(f"{case}: rejected", figure="turned_away", limit=5, unit="%"),
            demand(f"{case}: failed", figure="failed", limit=0, unit="items"),
        ]
    return found


def _outages() -> list[Criterion]:
    given = quota_outage.load(quick=False)
    most = 1.1 * given.items + quota_outage.RETRIES
    found: list[Criterion] = []
    for kind in quota_outage.KINDS:
        case, title = quota_outage.case_name(kind, given), f"outage ({kind})"
        demand = partial(Criterion, 9, "quota", case=case, loop="virtual", worst=True)
        plain = partial(demand, contender=quota_outage.BATCHRT)
        patient = partial(demand, contender=quota_outage.PATIENT)
        found += [
            plain(f"{title}: requests", figure="sent", limit=most, unit=""),
            plain(f"{title}: failed without a reason", figure="unexplained", limit=0, unit="items"),
            patient(f"{title}, with patience: requests", figure="sent", limit=most, unit=""),
            patient(f"{title}, with patience: failed", figure="failed", limit=0, unit="items"),
        ]
    return found


def _quota_cost() -> list[Criterion]:
    demand = partial(Criterion, 9, "quota")
    waiting, exact, who = quota_waiters.WAITING, quota_waiters.EXACT, quota_waiters.BATCHRT
    found: list[Criterion] = []
    for row in (quota_waiters.BUSY, quota_waiters.PACED):
        cost, timers = f"{waiting}, {row}: CPU each", f"{waiting}, {row}: timers"
        found += [
            demand(cost, waiting, row, "above", 10, "µs"),
            demand(timers, waiting, row, "timers", 1, "", worst=True),
        ]
    return [
        *found,
        demand(f"{exact}: rate, at least", exact, who, "share", 97, "%", least=True),
        demand(f"{exact}: rate, at most", exact, who, "share", 101, "%", worst=True),
    ]


def _refusals() -> list[Criterion]:
    found: list[Criterion] = []
    for case in refusals_cases.cases():
        for who in ("batchrt", "batchrt, cap auto"):
            title = f"{case.key}, {who}"
            demand = partial(Criterion, 10, "refusals", case=case.name, contender=who, worst=True)
            found += [
                demand(f"{title}: lost", figure="lost", limit=0, unit="items"),
                demand(f"{title}: time against the ideal", figure="ideal", limit=1.3, unit="x"),
            ]
            if not case.at_random:
                found.append(demand(f"{title}: refused", figure="refused", limit=10, unit="%"))
    return found
