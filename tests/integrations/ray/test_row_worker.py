"""Row workers, in this process."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anyio.to_thread
import pytest

from batchrt import RunnableLambda
from batchrt.integrations.ray.row_worker import RowWorker, Settled

released = threading.Event()


async def inverse(number: float) -> float:
    return 1 / number


async def held_back(number: float) -> float:
    """Wait for `released` with rows above 1."""
    if number > 1:
        await anyio.to_thread.run_sync(released.wait)
    return 1 / number


@contextmanager
def worker_of(function: object) -> Iterator[RowWorker]:
    worker = RowWorker(pickle.dumps(RunnableLambda(function)), {}, None, "run")  # type: ignore[call-overload]
    yield worker
    worker.close()


def taken(worker: RowWorker, rows: int) -> Settled:
    found: Settled = []
    while len(found) < rows:
        found += worker.take()
    return found


def test_row_worker_hands_back_what_has_ended() -> None:
    """Each outcome comes with the number of its row, those of other messages and errors too."""
    with worker_of(inverse) as worker:
        worker.put([(7, 4), (8, 0)])
        worker.put([(9, 2)])
        found = dict(taken(worker, 3))
    assert {number: outcome.output for number, outcome in found.items()} == {7: 0.25, 8: None, 9: 0.5}
    assert isinstance(found[8].error, ZeroDivisionError)


def test_row_worker_does_not_wait_for_slow_rows() -> None:
    """A row that has ended is handed back while others of its message are under way."""
    released.clear()
    with worker_of(held_back) as worker:
        worker.put([(1, 4), (2, 1)])
        [(number, outcome)] = worker.take()
        assert (number, outcome.output) == (2, 1.0)
        released.set()
        [(number, outcome)] = worker.take()
        assert (number, outcome.output) == (1, 0.25)


def test_row_worker_that_is_stopped_starts_no_more_rows() -> None:
    """Rows that come later are handed back at once."""
    with worker_of(inverse) as worker:
        worker.put([(1, 1)])
        assert taken(worker, 1)[0][1].output == 1.0
        worker.stop()
        worker.put([(2, 1), (3, 1)])
        assert [(number, outcome.status) for number, outcome in taken(worker, 2)] == [
            (2, "not started"),
            (3, "not started"),
        ]


@pytest.mark.parametrize("rows", [0, 1])
def test_row_worker_that_is_closed_lets_takers_go(rows: int) -> None:
    """A call of `take` that waits returns."""
    with ThreadPoolExecutor(1) as threads, worker_of(inverse) as worker:
        worker.put([(number, 1) for number in range(rows)])
        assert len(taken(worker, rows)) == rows
        waiting = threads.submit(worker.take)
        worker.close()
        assert waiting.result() == []
