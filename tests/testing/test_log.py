from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import anyio
import pytest

from batchrt.testing import Fault, LogRecord, LogSnapshot, RequestLog
from batchrt.testing.serving.wakeup import Wakeup

ROUTE = "POST /v1/chat/completions"


def ended(
    time: float = 0.0, status: int | None = 200, fault: Fault | None = None, *, gone: bool = False
) -> LogRecord:
    return LogRecord(time, ROUTE, status, fault, 0.5, 1, 255, gone)


def test_log_counts_by_route_status_and_fault() -> None:
    """Each request is counted once under each."""
    log = RequestLog()
    for record in (ended(), ended(status=500, fault=Fault.SERVER_ERROR), ended(status=None)):
        log.arrived(0)
        log.finished(record)
    seen = log.snapshot()
    assert seen.requests == 3
    assert seen.by_status == {200: 1, 500: 1}
    assert seen.by_route == {ROUTE: {200: 1, 500: 1}}
    assert seen.by_fault == {Fault.SERVER_ERROR: 1}
    assert seen.disconnects == 0


def test_log_counts_requests_in_flight_and_their_peak() -> None:
    """The peak is the most at once, not the sum."""
    log = RequestLog()
    for _ in range(3):
        log.arrived(0)
    log.finished(ended())
    log.arrived(0)
    assert (log.snapshot().in_flight, log.snapshot().peak_in_flight) == (3, 3)


def test_log_counts_disconnects() -> None:
    """Such requests have no status."""
    log = RequestLog()
    log.arrived(0)
    log.finished(ended(status=None, gone=True))
    assert (log.snapshot().disconnects, log.snapshot().by_status) == (1, {})


def test_log_gaps_are_the_times_between_arrivals() -> None:
    """Least, mean and greatest; none before there are two requests."""
    log = RequestLog()
    log.arrived(10)
    assert log.snapshot().gaps is None
    log.arrived(11)
    log.arrived(14)
    gaps = log.snapshot().gaps
    assert gaps is not None
    assert (gaps.min, gaps.mean, gaps.max) == (1, 2, 3)


def test_log_gaps_are_never_negative() -> None:
    """Event loops count from different zeros."""
    log = RequestLog()
    log.arrived(10)
    log.arrived(5)
    gaps = log.snapshot().gaps
    assert gaps is not None
    assert gaps.min == gaps.mean == 0


def test_log_records_are_the_newest_and_bounded() -> None:
    """At most `keep`; times count from the first request."""
    log = RequestLog(keep=10)
    for number in range(100):
        log.arrived(1000 + number)
        log.finished(ended(1000 + number))
    assert [record.time for record in log.records()] == list(range(90, 100))
    assert [record.time for record in log.records(newest=2)] == [98, 99]
    assert log.snapshot().requests == 100


def test_log_reset_keeps_requests_in_flight() -> None:
    """They still end afterwards."""
    log = RequestLog()
    log.arrived(0)
    log.arrived(1)
    log.finished(ended())
    log.reset()
    seen = log.snapshot()
    assert (seen.requests, seen.in_flight, seen.peak_in_flight) == (0, 1, 1)
    assert (seen.by_status, log.records(), seen.gaps) == ({}, (), None)
    log.finished(ended())
    assert log.snapshot().in_flight == 0


def test_log_counts_inputs() -> None:
    """In all, in flight, and the longest list; a reset keeps those in flight."""
    log = RequestLog()
    for items in (2, 5, 1):
        log.arrived(0, items)
    log.finished(ended()._replace(items=5))
    seen = log.snapshot()
    assert (seen.requests, seen.items, seen.items_in_flight, seen.most_items) == (3, 8, 3, 5)
    document = json.loads(json.dumps(seen.to_dict()))
    assert (document["items"], document["items_in_flight"], document["most_items"]) == (8, 3, 5)
    assert log.records()[0].to_dict()["items"] == 5
    log.reset()
    seen = log.snapshot()
    assert (seen.items, seen.items_in_flight, seen.most_items) == (0, 3, 0)


def test_log_snapshot_is_immutable() -> None:
    """Neither later requests nor its reader change it."""
    log = RequestLog()
    log.arrived(0)
    log.finished(ended())
    seen = log.snapshot()
    log.arrived(0)
    log.finished(ended())
    assert seen.by_route[ROUTE][200] == seen.requests == 1
    with pytest.raises(FrozenInstanceError):
        seen.requests = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        seen.by_status[200] = 5  # type: ignore[index]


def test_log_snapshot_and_records_convert_to_json() -> None:
    """Both become plain documents."""
    log = RequestLog()
    for _ in range(2):
        log.arrived(0)
        log.finished(ended(fault=Fault.SLOW_DRIP))
    document = json.loads(json.dumps(log.snapshot().to_dict()))
    assert document["by_route"] == {ROUTE: {"200": 2}}
    assert document["by_fault"] == {"slow_drip": 2}
    assert document["gaps"] == {"min": 0, "mean": 0, "max": 0}
    record = json.loads(json.dumps(log.records()[0].to_dict()))
    assert (record["fault"], record["digest"]) == ("slow_drip", "00000000000000ff")
    assert json.loads(json.dumps(ended().to_dict()))["fault"] is None


def test_log_is_thread_safe() -> None:
    """Counts from several threads at once add up."""
    log = RequestLog(keep=10)

    def work() -> None:
        for _ in range(2_000):
            log.arrived(0)
            log.finished(ended())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = log.snapshot()
    assert (seen.requests, seen.by_status, seen.in_flight) == (8_000, {200: 8_000}, 0)


@pytest.mark.anyio
async def test_log_wait_for_returns_at_once_if_the_predicate_holds() -> None:
    """Without an event."""
    log = RequestLog()
    with anyio.fail_after(5):
        assert (await log.wait_for(lambda seen: seen.requests == 0)).requests == 0


@pytest.mark.anyio
async def test_log_wait_for_checks_once_a_change() -> None:
    """The predicate is called once at first and once for each change: no polling."""
    log = RequestLog()
    asked: list[int] = []

    def three(seen: LogSnapshot) -> bool:
        asked.append(seen.requests)
        return seen.requests == 3

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(log.wait_for, three)
            for _ in range(3):
                await anyio.wait_all_tasks_blocked()
                log.arrived(0)
    assert asked == [0, 1, 2, 3]


@pytest.mark.anyio
async def test_log_wait_for_wakes_on_changes_in_another_thread() -> None:
    """As of a provider that is served from a thread."""
    log = RequestLog()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(log.wait_for, lambda seen: seen.requests == 1)
            await anyio.wait_all_tasks_blocked()
            thread = threading.Thread(target=log.arrived, args=(0,))
            thread.start()
    thread.join()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_log_waiter_of_a_closed_loop_is_dropped(backend: str) -> None:
    """It does not raise in the server's thread."""

    async def make() -> tuple[anyio.Event, Wakeup]:
        event = anyio.Event()
        return event, Wakeup(event.set)

    with ThreadPoolExecutor(1) as elsewhere:
        event, waiter = elsewhere.submit(lambda: anyio.run(make, backend=backend)).result()
    waiter()
    assert not event.is_set()


@pytest.mark.anyio
async def test_log_wait_for_removes_its_waiter_when_cancelled() -> None:
    """An error of the predicate is raised."""
    log = RequestLog()
    with anyio.move_on_after(0):
        await log.wait_for(lambda _seen: False)
    with pytest.raises(ZeroDivisionError):
        await log.wait_for(lambda seen: 1 / seen.requests > 0)
    assert not log._waiters
