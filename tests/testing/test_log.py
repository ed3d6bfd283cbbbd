from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import anyio
import pytest

from batchrt.testing import Fault, LogRecord, LogSnapshot, RequestLog
from batchrt.testing.log import _Waiter

ROUTE = "POST /v1/chat/completions"


def ended(
    time: float = 0.0, status: int | None = 200, fault: Fault | None = None, *, gone: bool = False
) -> LogRecord:
    return LogRecord(time, ROUTE, status, fault, 0.5, 1, 255, gone)


def test_counts_are_kept_by_route_status_and_fault() -> None:
    """Each request is counted once for all that it was."""
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


def test_in_flight_rises_and_falls_and_its_peak_stays() -> None:
    """The peak is the most at once, not the sum."""
    log = RequestLog()
    for _ in range(3):
        log.arrived(0)
    log.finished(ended())
    log.arrived(0)
    assert (log.snapshot().in_flight, log.snapshot().peak_in_flight) == (3, 3)


def test_a_client_that_left_is_a_disconnect() -> None:
    """Gone requests count as disconnects and have no status."""
    log = RequestLog()
    log.arrived(0)
    log.finished(ended(status=None, gone=True))
    assert (log.snapshot().disconnects, log.snapshot().by_status) == (1, {})


def test_gaps_sum_up_the_time_between_arrivals() -> None:
    """Least, mean and greatest; none before there are two requests."""
    log = RequestLog()
    log.arrived(10)
    assert log.snapshot().gaps is None
    log.arrived(11)
    log.arrived(14)
    gaps = log.snapshot().gaps
    assert gaps is not None
    assert (gaps.min, gaps.mean, gaps.max) == (1, 2, 3)


def test_another_clock_makes_no_negative_gap() -> None:
    """Event loops count from different zeros."""
    log = RequestLog()
    log.arrived(10)
    log.arrived(5)
    gaps = log.snapshot().gaps
    assert gaps is not None
    assert gaps.min == gaps.mean == 0


def test_records_are_the_newest_and_bounded() -> None:
    """Memory is what `keep` says; times count from the first request."""
    log = RequestLog(keep=10)
    for number in range(100):
        log.arrived(1000 + number)
        log.finished(ended(1000 + number))
    assert [record.time for record in log.records()] == list(range(90, 100))
    assert [record.time for record in log.records(newest=2)] == [98, 99]
    assert log.snapshot().requests == 100


def test_reset_forgets_all_but_what_is_in_flight() -> None:
    """A request under way still ends afterwards."""
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


def test_inputs_are_counted_with_their_requests() -> None:
    """How many came in all, how many wait, and the longest list; a reset leaves those that wait."""
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


def test_a_snapshot_does_not_change() -> None:
    """Neither by later requests nor by its reader."""
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


def test_everything_can_be_json() -> None:
    """Snapshots and records become plain documents."""
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


def test_no_request_is_lost_between_threads() -> None:
    """Counting from several threads at once adds up."""
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
async def test_wait_for_gives_at_once_what_already_holds() -> None:
    """No event is needed for what is so."""
    log = RequestLog()
    with anyio.fail_after(5):
        assert (await log.wait_for(lambda seen: seen.requests == 0)).requests == 0


@pytest.mark.anyio
async def test_wait_for_wakes_on_each_change_and_looks_only_then() -> None:
    """The predicate is asked once at first and once a change: that is no polling."""
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
async def test_wait_for_hears_of_changes_in_another_thread() -> None:
    """A provider that is served from a thread wakes the test's loop."""
    log = RequestLog()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(log.wait_for, lambda seen: seen.requests == 1)
            await anyio.wait_all_tasks_blocked()
            thread = threading.Thread(target=log.arrived, args=(0,))
            thread.start()
    thread.join()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_waiter_whose_loop_has_ended_is_no_trouble(backend: str) -> None:
    """News that come too late are dropped, not raised in the server's thread."""

    async def make() -> _Waiter:
        return _Waiter()

    with ThreadPoolExecutor(1) as elsewhere:
        waiter = elsewhere.submit(lambda: anyio.run(make, backend=backend)).result()
    waiter.wake()
    assert not waiter._event.is_set()


@pytest.mark.anyio
async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    """Nobody is told who no longer listens; an error of the predicate comes out."""
    log = RequestLog()
    with anyio.move_on_after(0):
        await log.wait_for(lambda _seen: False)
    with pytest.raises(ZeroDivisionError):
        await log.wait_for(lambda seen: 1 / seen.requests > 0)
    assert not log._waiters
