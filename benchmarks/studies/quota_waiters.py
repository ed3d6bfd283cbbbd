"""What a quota costs, in real time: those who wait for it, those who do not, and how exact it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.harness.isolation import run_worker
from benchmarks.harness.measuring import Series, per_item, rotated, settle, stopwatch
from benchmarks.studies.quota_exact import LANGCHAIN, PER_SECOND
from benchmarks.studies.quota_peers import PEERS, missing
from benchmarks.studies.quota_runs import series_of
from benchmarks.studies.results import Column, Row, Table

if TYPE_CHECKING:
    from batchrt.limits.quota import Quota
    from batchrt.runtime.run import Run
    from batchrt.runtime.strand import Strand

__all__ = ["BATCHRT", "BUSY", "EXACT", "PACED", "WAITING", "measure", "work"]

WAITING = "10,000 tasks wait for one quota, in real time"
PASSING = "a request through a quota that does not bind, in real time"
EXACT = f"{PER_SECOND} a second with a bucket of one request, 500 tasks wait, in real time"
BATCHRT = "batchrt"
FREE, SEMAPHORE = "no quota", "asyncio.Semaphore(100)"
IDLE, BUSY, PACED = "Quota that does not bind", "Quota, 100 in flight", "Quota, 5,000 a second"

_WAITING_COLUMNS = (
    Column("cpu", "CPU µs/task", 2),
    Column("above", "above no quota", 2),
    Column("wait", "above one that does not bind", 2),
    Column("timers", "timers", 0),
    Column("handles", "in the heap", 0),
    Column("waiting", "waiting", 0),
)
_PASSING_COLUMNS = (Column("cpu", "CPU µs/request", 2),)
_EXACT_COLUMNS = (
    Column("rate", "per second", 1),
    Column("share", "% of the rate", 1),
    Column("bucket", "bucket it takes", 1),
    Column("cpu", "CPU %", 0),
)
_TASKS = 10_000
_IN_FLIGHT = 100

One = Callable[["Strand"], Awaitable[None]]
"""Does one task's work."""


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure each table in a process of its own."""
    tell(WAITING)
    rounds = 2 if quick else 5
    samples = run_worker("studies.quota_waiters", {"what": WAITING, "rounds": rounds})
    yield Table(WAITING, _WAITING_COLUMNS, [_waiting_row(who, samples) for who in samples])
    tell(PASSING)
    samples = run_worker("studies.quota_waiters", {"what": PASSING, "rounds": rounds})
    rows = [Row(who, "asyncio", {"cpu": Series(tuple(values))}) for who, values in samples.items()]
    yield Table(PASSING, _PASSING_COLUMNS, rows)
    yield Table(EXACT, _EXACT_COLUMNS, list(_exact_rows(tell, quick=quick)))


def _waiting_row(who: str, samples: Mapping[str, Any]) -> Row:
    figures = series_of(samples[who])
    figures["cpu"] = _microseconds(samples[who])
    figures["above"] = _above(samples[who], samples[FREE])
    if who in {BUSY, PACED}:
        figures["wait"] = _above(samples[who], samples[IDLE])
    return Row(who, "asyncio", figures)


def _microseconds(samples: Sequence[Mapping[str, float]]) -> Series:
    return per_item([sample["cpu"] for sample in samples], _TASKS)


def _above(samples: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> Series:
    pairs = zip(_microseconds(samples).values, _microseconds(others).values, strict=True)
    return Series(tuple(mine - least for mine, least in pairs))


def _exact_rows(tell: Callable[[str], None], *, quick: bool) -> Iterator[Row]:
    seconds, rounds = (3, 1) if quick else (5, 3)
    for who in (BATCHRT, LANGCHAIN):
        note = missing(PEERS[1]) if who == LANGCHAIN else ""
        if note:
            yield Row(who, "asyncio", note=note)
            continue
        samples = []
        for number in range(rounds):
            tell(f"{EXACT}: {who}, round {number + 1} of {rounds}")
            samples.append(run_worker("studies.quota_exact", {"who": who, "seconds": seconds}))
        yield Row(who, "asyncio", series_of(samples))


def work(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the contenders of one table, in turns; see `isolation.run_worker`."""
    measured = _waiting if settings["what"] == WAITING else _passing
    return asyncio.run(measured(settings["rounds"]))


async def _waiting(rounds: int) -> dict[str, list[dict[str, float]]]:
    names = (FREE, SEMAPHORE, IDLE, BUSY, PACED)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in rotated(names, number):
            one, quota = _task(name)
            sample = await _crowd(one, quota)
            if number:  # the first round warms up
                found[name].append(sample)
    return found


def _task(name: str) -> tuple[One, Quota | None]:
    """Return what each task does, and the quota that it asks."""
    from batchrt import Quota

    if name == FREE:
        return _free, None
    if name == SEMAPHORE:
        return partial(_with_semaphore, asyncio.Semaphore(_IN_FLIGHT)), None
    if name == IDLE:
        quota = Quota(max_in_flight=2 * _TASKS, requests_per_minute=1e9)
    elif name == BUSY:
        quota = Quota(max_in_flight=_IN_FLIGHT)
    else:
        quota = Quota(requests_per_minute=300_000, burst_seconds=0.02)
    return partial(_with_quota, quota), quota


async def _free(strand: Strand) -> None:
    await strand.take()
    await asyncio.sleep(0)


async def _with_semaphore(semaphore: asyncio.Semaphore, strand: Strand) -> None:
    async with semaphore:
        await _free(strand)


async def _with_quota(quota: Quota, strand: Strand) -> None:
    from batchrt import Usage
    from batchrt.limits.permit import Permit

    permit = Permit(100)
    await quota.admit(permit, strand)
    await asyncio.sleep(0)
    quota.answered(permit, Usage(25, 25, 50), strand.run.now())


async def _crowd(one: One, quota: Quota | None) -> dict[str, float]:
    """Have all tasks do `one` at once; return the CPU it took, and the most timers that there were."""
    from batchrt.runtime.run import Run
    from batchrt.runtime.slots import Slots

    run, watch = Run(Slots(None)), _Watch(quota)

    async def task(number: int) -> None:
        strand = _strand(run)
        await one(strand)
        strand.close()
        if number % 500 == 0:
            watch.look()

    settle()
    with stopwatch() as sample:
        async with asyncio.TaskGroup() as group:
            for number in range(_TASKS):
                group.create_task(task(number))
            await asyncio.sleep(0)
            watch.look()
    return {"cpu": sample.cpu, **watch.most}


def _strand(run: Run) -> Strand:
    from batchrt.runtime.item import Item
    from batchrt.runtime.strand import Strand

    return Strand(run, Item(0), {}, run.slots)


class _Watch:
    """Look how many timers a loop has, and how many wait for a quota."""

    def __init__(self, quota: Quota | None) -> None:
        self._quota = quota
        self.most: dict[str, float] = {"timers": 0, "handles": 0, "waiting": 0}

    def look(self) -> None:
        loop: Any = asyncio.get_running_loop()
        handles = loop._scheduled
        self._note("handles", len(handles))
        self._note("timers", sum(not handle.cancelled() for handle in handles))
        self._note("waiting", 0 if self._quota is None else self._quota.statistics().waiting)

    def _note(self, name: str, value: int) -> None:
        self.most[name] = max(self.most[name], value)


async def _passing(rounds: int) -> dict[str, list[float]]:
    from batchrt import Quota
    from batchrt.limits.rate_limits import RateLimitStatus
    from batchrt.runtime.run import Run
    from batchrt.runtime.slots import Slots

    limits: dict[str, Any] = {
        "requests_per_minute": 1e9,
        "tokens_per_minute": 1e12,
        "requests_per_day": 1e12,
        "tokens_per_day": 1e15,
    }
    told = (
        RateLimitStatus("requests", 1e9, 1e9 - 1, 0.001),
        RateLimitStatus("tokens", 1e12, 1e12 - 100, 0.001),
    )
    strand = _strand(Run(Slots(None)))
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, given, limits_told in (
            ("no limits", {}, ()),
            ("four limits given", limits, ()),
            ("two limits learnt from headers", {}, told),
            ("four limits given, and headers", limits, told),
        ):
            quota = Quota(**given)
            await _pass(quota, limits_told, strand, 100)
            settle()
            with stopwatch() as sample:
                await _pass(quota, limits_told, strand, 20_000)
            found.setdefault(name, []).append(sample.cpu / 20_000 * 1e6)
    return found


async def _pass(quota: Quota, limits_told: Any, strand: Strand, requests: int) -> None:
    from batchrt import Usage
    from batchrt.limits.permit import Permit

    usage = Usage(25, 25, 50)
    for _ in range(requests):
        permit = Permit(100)
        await quota.admit(permit, strand)
        permit.told = limits_told
        quota.answered(permit, usage, strand.run.now())
