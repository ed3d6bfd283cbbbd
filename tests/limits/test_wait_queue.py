"""The wait queue: which permit is next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import OutageError, ProviderError
from batchrt.limits.permit import Permit, Waiting
from batchrt.limits.wait_queue import FairQueue, WaitQueue
from batchrt.runtime.event_loop import LoopHandle
from tests.limits.quotas import BACKENDS, virtually

on_both = pytest.mark.parametrize("backend", BACKENDS)


def permit(run: object = None, *, size: int = 0, again: bool = False, patience: float = 0.0) -> Permit:
    """Return a permit of `run`; its size is its name."""
    made = Permit(size, patience=patience)
    made.run, made.again = run, again
    return made


def names(permits: Iterable[Permit]) -> list[int]:
    return [each.size for each in permits]


def queue_of(*permits: Permit, parked: bool = False) -> WaitQueue:
    queue = WaitQueue(lambda _: None)
    for each in permits:
        queue.join(each, parked=parked)
    return queue


def popped(queue: WaitQueue) -> list[int]:
    """Return the names of the permits in the order in which they are granted."""
    order = []
    while queue.head() is not None:
        order.append(queue.pop().size)
    return order


def test_fair_queue_gives_runs_turns() -> None:
    """First in, first out within a run; a run that comes later has its turn after those that wait."""
    queue = FairQueue()
    for size, run in enumerate("aaabbc"):
        queue.append(permit(run, size=size))
    assert names([queue.popleft() for _ in range(4)]) == [0, 3, 5, 1]
    queue.append(permit("c", size=6))
    assert names(queue.popleft() for _ in range(3)) == [4, 2, 6]
    assert not queue
    assert len(queue) == 0


def test_fair_queue_permit_put_in_front_is_the_next() -> None:
    """Before those of its run, whose turn comes first; a run that did not wait has its turn at once."""
    queue = FairQueue()
    for size, run in enumerate("aab"):
        queue.append(permit(run, size=size))
    queue.appendleft(permit("b", size=3))
    queue.appendleft(permit("c", size=4))
    assert queue[0].size == 4
    assert names(queue.popleft() for _ in range(5)) == [4, 3, 0, 2, 1]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["append", "left", "pop", "remove"]))))
def test_fair_queue_holds_each_permit_once(steps: list[tuple[str, str]]) -> None:
    """Whatever the order of changes; a run without permits is forgotten."""
    queue, held = FairQueue(), list[Permit]()
    for run, step in steps:
        made = permit(run)
        if step == "append":
            queue.append(made)
            held.append(made)
        elif step == "left":
            queue.appendleft(made)
            held.append(made)
            assert queue[0] is made
        elif held and step == "pop":
            first = queue[0]
            assert queue.popleft() is first
            held.remove(first)
        elif held:
            queue.remove(held.pop(0))
        assert set(map(id, queue)) == set(map(id, held))
        assert len(queue) == len(held)
        assert bool(queue) == bool(held)
        assert len(queue.queues) == len({each.run for each in held})


def test_wait_queue_retries_go_first() -> None:
    """Each in the order of its arrival; parked permits are not granted."""
    queue = queue_of(permit(size=0), permit(size=1, again=True), permit(size=2), permit(size=3, again=True))
    queue.join(permit(size=4, patience=1), parked=True)
    assert len(queue) == 5
    assert popped(queue) == [1, 3, 0, 2]
    assert len(queue) == 1
    assert queue


def test_wait_queue_tells_the_first_of_each_queue() -> None:
    """And whether a permit would be the next."""
    queue = WaitQueue(lambda _: None)
    first, again = permit(), permit(again=True)
    assert queue.is_ahead(first, parked=False)
    assert queue.join(permit(), parked=False)
    assert not queue.join(permit(), parked=False)
    assert not queue.is_ahead(first, parked=False)
    assert queue.is_ahead(again, parked=False)
    assert queue.join(permit(again=True), parked=False)
    assert not queue.is_ahead(again, parked=False)
    assert queue.is_ahead(first, parked=True)
    assert queue.join(permit(patience=1), parked=True)
    assert not queue.is_ahead(first, parked=True)


def test_wait_queue_skips_withdrawn_permits() -> None:
    """Also where nothing else waits."""
    permits = [permit(size=size) for size in range(4)]
    queue = queue_of(*permits)
    for size in (0, 2, 3):
        permits[size].withdrawn = True
    assert len(queue) == 1
    assert popped(queue) == [1]
    assert not queue
    assert queue.head() is None


def test_wait_queue_removes_withdrawn_permits_when_they_are_most() -> None:
    """So that removing one costs little, and memory is bounded by the permits that wait."""
    permits = [permit(size=size, again=size % 2 == 0) for size in range(100)]
    queue = queue_of(*permits)
    held = []
    for each in permits[:80]:
        each.withdrawn = True
        queue.note_withdrawn()
        held.append(len(queue._first) + len(queue._again))
    assert held[:50] == [100] * 50
    assert held[50] == 49
    assert max(held[51:]) == 49, "32 are left in the queue in any case"
    assert popped(queue) == [*range(80, 100, 2), *range(81, 100, 2)]


def test_wait_queue_parks_patient_permits_and_returns_them_to_the_front() -> None:
    """In their order; a permit that came meanwhile is behind them."""
    queue = queue_of(
        permit(size=0, patience=9),
        permit(size=1),
        permit(size=2, patience=5),
        permit(size=3, again=True, patience=7),
        permit(size=4, again=True),
    )
    queue.park()
    assert queue.least_patience() == 5
    probe = queue.next_probe()
    assert probe is not None
    assert probe.size == 3
    queue.join(permit(size=5), parked=False)
    queue.unpark()
    assert queue.least_patience() is None
    assert queue.next_probe() is None
    assert popped(queue) == [3, 4, 0, 2, 1, 5]


def test_wait_queue_least_patience_is_that_of_parked_permits() -> None:
    """A bound from below: it may be that of a permit that is gone, and is forgotten with the last."""
    short, long = permit(patience=2), permit(patience=8)
    queue = queue_of(long, short, parked=True)
    assert queue.least_patience() == 2
    assert queue.pop_probe() is long
    short.withdrawn = True
    assert queue.least_patience() is None
    queue.join(permit(patience=8), parked=True)
    assert queue.least_patience() == 8


@pytest.mark.parametrize("parked", [True, False])
def test_wait_queue_rejects_permits_with_an_error(parked: bool) -> None:
    """Each once, and none that was withdrawn."""
    error = OutageError("down", seconds=1.0)
    asked: list[Permit] = []

    def why(each: Permit) -> ProviderError | None:
        asked.append(each)
        return error if each.size == 1 else None

    permits = [permit(size=size, patience=5) for size in (0, 1, 1)]
    permits[2].withdrawn = True
    queue = queue_of(*permits, parked=parked)
    queue.reject_parked(why)
    assert asked == (permits[:2] if parked else [])
    queue.reject(why)
    assert [each.error for each in permits] == [None, error, None]
    assert len(queue) == 1


def test_wait_queue_permit_is_taken_out_of_its_queue() -> None:
    """Whichever that is."""
    permits = [permit(size=0), permit(size=1, again=True), permit(size=2, patience=math.inf), permit(size=3)]
    queue = WaitQueue(lambda _: None)
    for each in permits:
        queue.join(each, parked=each.patience > 0)
    for each in permits[:3]:
        queue.take_out(each)
    assert queue.next_probe() is None
    assert popped(queue) == [3]


class Elsewhere:
    """The event loop of another thread: keeps the functions that it is to call."""

    def __init__(self, *, ended: bool = False) -> None:
        self.token = object()
        self.called: list[Callable[[], object]] = []
        self._ended = ended

    def time(self) -> float:
        return 7.0

    def here(self) -> bool:
        return False

    def is_open(self) -> bool:
        return not self._ended

    def call(self, function: Callable[[], object]) -> bool:
        self.called.append(function)
        return True


def elsewhere(*, ended: bool = False) -> Any:
    return Elsewhere(ended=ended)


def test_wait_queue_is_true_while_a_permit_waits_in_any_queue() -> None:
    """Retries, first attempts and parked permits alike; not those that were withdrawn."""
    for made, parked in ((permit(again=True), False), (permit(), False), (permit(patience=1), True)):
        queue = queue_of(made, parked=parked)
        assert queue
        made.withdrawn = True
        assert not queue


def test_wait_queue_keeps_a_few_withdrawn_permits() -> None:
    """Up to 32 of them, even if they are most; counted anew after each removal."""
    permits = [permit(size=size) for size in range(100)]
    queue = queue_of(*permits[:40])
    for each in permits[:32]:
        each.withdrawn = True
        queue.note_withdrawn()
    assert len(queue._first) == 40
    permits[32].withdrawn = True
    queue.note_withdrawn()
    assert len(queue._first) == 7
    for each in permits[40:]:
        queue.join(each, parked=False)
    for each in permits[33:66]:
        each.withdrawn = True
        queue.note_withdrawn()
    assert len(queue._first) == 67, "33 are less than half"
    permits[66].withdrawn = True
    queue.note_withdrawn()
    assert len(queue._first) == 33


def test_wait_queue_parks_permits_with_any_patience() -> None:
    """Half a second is some."""
    queue = queue_of(permit(size=0, patience=0.5), permit(size=1))
    queue.park()
    assert queue.least_patience() == 0.5
    assert popped(queue) == [1]


def test_wait_queue_tells_how_much_waits() -> None:
    """The most tokens that each may cost, and those of the first; not of withdrawn and parked permits."""
    queue = WaitQueue(lambda _: None)
    assert queue.waiting(lambda _: None) == Waiting()
    first, again, bounded, gone = permit(), permit(again=True), permit(), permit()
    for tokens, each in enumerate((first, again, bounded, gone), start=1):
        each.input, each.output = 10.0 * tokens, float(tokens)
        queue.join(each, parked=False)
    queue.join(permit(patience=1), parked=True)
    bounded.most = 100.0
    gone.withdrawn = True
    expected: list[Permit] = []
    assert queue.waiting(expected.append) == Waiting(3, 11.0 + 22.0 + 130.0, 22.0)
    assert set(map(id, expected)) == {id(first), id(again), id(bounded)}


def test_wait_queue_withdraws_permits_of_loops_that_ended() -> None:
    """Those of open loops, and those of none, stay; an ended loop is not woken any more."""
    queue = WaitQueue(lambda _: None)
    ended, running = elsewhere(ended=True), elsewhere()
    permits = [permit(size=0), permit(size=1, again=True), permit(size=2, patience=1), permit(size=3)]
    permits[0].loop = permits[1].loop = permits[2].loop = ended
    permits[3].loop = running
    for each in permits:
        queue.join(each, parked=each.patience > 0)
    queue.join(permit(size=4), parked=False)
    queue.waiters_on(ended, 0.0)
    queue.waiters_on(running, 0.0)
    queue.drop_closed()
    assert queue.loops() == [running]
    assert queue.next_probe() is None
    assert popped(queue) == [3, 4]


@on_both
def test_loop_waiters_ring_at_the_earliest_time_that_was_set(backend: str) -> None:
    """By the common time, once; not after the last permit has left."""

    async def main() -> None:
        rung: list[float] = []
        queue = WaitQueue(rung.append)
        assert queue.now() is None
        loop = LoopHandle.current()
        waiters = queue.waiters_on(loop, 100.0)
        assert queue.waiters_on(loop, 100.0) is waiters
        assert queue.loops() == [loop]
        start = queue.now()
        assert start == anyio.current_time() + 100
        for seconds in (5, 3, 4):
            queue.wake_at(start + seconds)
        set_to = waiters.alarm.when
        queue.wake_at(start + 3 - 0.0004)
        assert waiters.alarm.when == set_to, "no loop is as exact as that"
        await anyio.sleep(10)
        assert rung == [pytest.approx(start + 3)]
        queue.wake_soon()
        assert rung[1:] == [pytest.approx(start + 10)]
        queue.wake_at(start + 11)
        queue.leave(waiters)
        assert queue.loops() == [loop]
        queue.leave(waiters)
        assert queue.loops() == []
        await anyio.sleep(10)
        waiters.ring()
        assert len(rung) == 2

    virtually(backend, main)


@on_both
def test_loop_waiters_of_another_thread_ring_there(backend: str) -> None:
    """The alarm is theirs to set: they are asked to look."""

    async def main() -> None:
        rung: list[float] = []
        queue, other = WaitQueue(rung.append), elsewhere()
        waiters = queue.waiters_on(other, 100.0)
        assert queue.now() is None
        queue.wake_at(150.0)
        queue.wake_soon()
        assert waiters.alarm.when == math.inf
        assert len(other.called) == 2
        for function in other.called:
            function()
        assert rung == [107.0, 107.0]

    virtually(backend, main)
