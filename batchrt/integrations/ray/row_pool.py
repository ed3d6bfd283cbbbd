"""The row pool: the workers that a job's rows are handed to, and the rows that each of them has."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import Any, Final, Protocol

from batchrt.errors import RunStoppedError
from batchrt.integrations.ray.row_worker import Numbered, Settled
from batchrt.limits.token_estimator import TokenEstimator
from batchrt.messages import Usage
from batchrt.runnables.base import In, Out, Runnable
from batchrt.runnables.description import Description
from batchrt.runtime.event_loop import LoopHandle, Signal
from batchrt.runtime.outcome import Outcome
from batchrt.runtime.spending import Reservation
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["PooledChain", "RowPool", "WorkerHandle"]

_MOST_AT_ONCE: Final = 256
"""Rows in a message."""
_MOST_LOSSES: Final = 3
"""Workers that may die while they have a row, before the row fails."""
_AGAIN: Final = 0.5
"""Seconds from one question whether a worker is back to the next."""


class WorkerHandle(Protocol):
    """Call the methods of a `RowWorker` that is in another process."""

    def ready(self) -> Future[Any]:
        """Return a future that is done once the worker can take rows."""

    def put(self, rows: Numbered) -> Future[Any]:
        """Hand rows in."""

    def take(self) -> Future[Settled]:
        """Ask for outcomes."""

    def stop(self) -> Future[Any]:
        """End the worker's run gracefully."""

    def is_gone(self, error: Exception) -> bool:
        """Whether a call that ended with `error` says that the worker will not be back."""


class _Ticket:
    """A row under way."""

    __slots__ = ("losses", "number", "outcome", "signal", "value", "worker")

    def __init__(self, number: int, value: Any) -> None:
        self.number = number
        self.value = value
        self.signal = Signal()
        self.outcome: Outcome[Any] | None = None
        self.worker: _Worker | None = None
        self.losses = 0

    @property
    def is_suspect(self) -> bool:
        """Whether two workers died while they had it."""
        return self.losses > 1


class _Worker:
    """A worker, and the rows that it has; one is refusing whose provider lets no request through."""

    def __init__(self, handle: WorkerHandle) -> None:
        self.handle = handle
        self.rows: dict[int, _Ticket] = {}
        self.is_ready = self.is_refusing = False

    @property
    def is_tried(self) -> bool:
        """Whether it has a suspect row, which no other is to be lost with."""
        return any(ticket.is_suspect for ticket in self.rows.values()) if len(self.rows) == 1 else False


class RowPool:
    """Hand rows to workers, and those of a worker that died to others; for one event loop.

    Each row has one outcome: that of the worker which had it last.

    Args:
        workers: the workers; those that are ready get rows.
        rows_each: the most rows that a worker has at a time.

    Attributes:
        problem: why no worker is left; `None` as long as there is one.
        on_end: called when none is.
        lost: workers that died.
    """

    def __init__(self, workers: Sequence[WorkerHandle], rows_each: int) -> None:
        self._workers = [_Worker(handle) for handle in workers]
        self._rows_each = rows_each
        self._numbers = count()
        self._queue: deque[_Ticket] = deque()
        self._loop: LoopHandle | None = None
        self._is_flushing = False
        self._is_stopped = False
        self.problem: BaseException | None = None
        self.on_end: Callable[[], object] = lambda: None
        self.lost: int = 0

    @property
    def capacity(self) -> int:
        """The most rows that all workers have at a time."""
        return self._rows_each * len(self._workers)

    @property
    def under_way(self) -> int:
        """How many rows the workers have."""
        return sum(len(worker.rows) for worker in self._workers)

    async def outcome(self, value: Any) -> Outcome[Any]:
        """Have a worker run `value`, and return its outcome; the row's own error is not raised."""
        if self._loop is None:
            self._start()
        ticket = _Ticket(next(self._numbers), value)
        self._queue.append(ticket)
        self._flush_soon()
        try:
            await ticket.signal.wait()
        finally:
            if ticket.worker is not None:
                ticket.worker.rows.pop(ticket.number, None)
            elif ticket.outcome is None and ticket in self._queue:
                self._queue.remove(ticket)
        assert ticket.outcome is not None
        return ticket.outcome

    def stop(self) -> None:
        """Have the workers start no more rows; to be called on the event loop."""
        self._is_stopped = True
        for worker in self._workers:
            if worker.is_ready:
                worker.handle.stop()
        self._flush_soon()

    def _start(self) -> None:
        self._loop = LoopHandle.current()
        for worker in self._workers:
            self._call(worker.handle.ready, self._was_ready, worker)

    def _call(
        self,
        method: Callable[..., Future[Any]],
        then: Callable[[_Worker, Future[Any]], object],
        worker: _Worker,
        *arguments: Any,
    ) -> None:
        """Call a method of a worker, and `then` on the loop once there is a result, while it runs."""
        loop = self._loop
        assert loop is not None
        future = method(*arguments)
        future.add_done_callback(lambda done: loop.soon(partial(then, worker, done)))

    def _flush_soon(self) -> None:
        """Hand the queue out once the loop has done what it is at: rows come many at a time."""
        if not self._is_flushing and self._loop is not None:
            self._is_flushing = True
            self._loop.soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._is_stopped or self.problem is not None:
            error = RunStoppedError("the run was stopped before this row was sent")
            while self._queue:
                self._settle(self._queue.popleft(), _failed(error))
            return
        while self._queue:
            worker = self._next_worker(self._queue[0])
            if worker is None:
                return
            self._hand_in(worker)

    def _next_worker(self, ticket: _Ticket) -> _Worker | None:
        """Return the worker for the next row, or `None` if it must wait."""
        ready = [worker for worker in self._workers if worker.is_ready and not worker.is_tried]
        if ticket.is_suspect:
            ready = [worker for worker in ready if not worker.rows]
        # One without a key would have failed all rows before the others had sent a few.
        willing = [worker for worker in ready if not worker.is_refusing] or ready
        free = [worker for worker in willing if len(worker.rows) < self._rows_each]
        return min(free, key=lambda worker: len(worker.rows), default=None)

    def _hand_in(self, worker: _Worker) -> None:
        """Give a worker rows of the queue; one that workers may have died of goes alone."""
        most = min(_MOST_AT_ONCE, self._rows_each - len(worker.rows))
        is_suspect = self._queue[0].is_suspect
        rows: list[tuple[int, Any]] = []
        while self._queue and len(rows) < (1 if is_suspect else most):
            if self._queue[0].is_suspect and not is_suspect:
                break
            ticket = self._queue.popleft()
            ticket.worker = worker
            worker.rows[ticket.number] = ticket
            rows.append((ticket.number, ticket.value))
        numbers = [number for number, _ in rows]
        self._call(worker.handle.put, partial(self._was_put, numbers), worker, rows)

    def _was_put(self, numbers: list[int], worker: _Worker, future: Future[Any]) -> None:
        """Have rows that could not be handed in go to another worker."""
        if future.exception() is not None:
            self._take_back(worker, numbers)

    def _was_ready(self, worker: _Worker, future: Future[Any]) -> None:
        """Begin with a worker that has started, or started anew, and forget one that will not."""
        error = future.exception()
        if error is None:
            worker.is_ready = True
            if self._is_stopped:
                worker.handle.stop()
            self._call(worker.handle.take, self._was_taken, worker)
            self._flush_soon()
        elif isinstance(error, Exception) and not worker.handle.is_gone(error):
            again = threading.Timer(_AGAIN, self._call, (worker.handle.ready, self._was_ready, worker))
            again.daemon = True
            again.start()
        else:
            self._workers.remove(worker)
            if not self._workers:
                self.problem = error
                self.on_end()
            self._flush_soon()

    def _was_taken(self, worker: _Worker, future: Future[Any]) -> None:
        """Settle the rows that a worker has ended, and ask it for more."""
        if future.exception() is None:
            self._settle_all(worker, future.result())
            self._call(worker.handle.take, self._was_taken, worker)
            self._flush_soon()
            return
        # The worker's end, whatever it is called.
        self.lost += 1
        worker.is_ready = False
        self._take_back(worker, list(worker.rows))
        self._call(worker.handle.ready, self._was_ready, worker)

    def _settle_all(self, worker: _Worker, outcomes: Settled) -> None:
        """Settle the rows that a worker has ended, and have others try those that it did not send."""
        unsent: list[int] = []
        for number, outcome in outcomes:
            if number not in worker.rows:
                continue
            error = outcome.error
            if isinstance(error, RunStoppedError) and not (error.started or self._is_stopped):
                unsent.append(number)
                continue
            worker.is_refusing = worker.is_refusing and error is not None
            self._settle(worker.rows.pop(number), outcome)
        if unsent:
            worker.is_refusing = True
            self._take_back(worker, unsent, losses=0)

    def _take_back(self, worker: _Worker, numbers: list[int], losses: int = 1) -> None:
        """Put rows of a worker back to the front of the queue."""
        for number in reversed(numbers):
            ticket = worker.rows.pop(number, None)
            if ticket is None:
                continue
            ticket.worker = None
            ticket.losses += losses
            if ticket.losses > _MOST_LOSSES:
                said = f"a worker died each of the {ticket.losses} times that it had this row"
                self._settle(ticket, _failed(RuntimeError(said)))
            else:
                self._queue.appendleft(ticket)
        self._flush_soon()

    def _settle(self, ticket: _Ticket, outcome: Outcome[Any]) -> None:
        ticket.worker = None
        ticket.outcome = outcome
        ticket.signal.set()


def _failed(error: Exception) -> Outcome[Any]:
    return Outcome(0, None, error, 0, 0.0, None)


class PooledChain(Runnable[In, Out]):
    """Run a chain in the workers of a pool: to a run, or a job's journal, it is that chain.

    What the workers report of a row (attempts, tokens, request id) is that of its item. A limit of spending
    is the run's own: the expected tokens of a row, by those of the rows before it, are set aside while a
    worker has it.

    Args:
        chain: the chain, which the workers have too.
        pool: the workers.
        max_tokens: the most tokens of an answer; `None` if nothing says.
    """

    def __init__(self, chain: Runnable[In, Out], pool: RowPool, max_tokens: int | None = None) -> None:
        self._chain = chain
        self._pool = pool
        self._max_tokens = max_tokens
        self._tokens = TokenEstimator()
        described = chain.describe()
        self._model = described.model or ""
        self._render = described.render if described.asks else None
        self._fields = described.fields

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on: the chain, wherever it runs."""
        return self._chain.describe(kwargs)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002  the workers' chain takes none
        return Step(self._call)

    async def _call(self, value: Any, strand: Strand) -> Any:
        size, reservation = 0, None
        if strand.spending is not None:
            size = self._size(value)
            reservation = await self._reserve(size, strand)
        try:
            await strand.take()
            outcome = await self._pool.outcome(self._needed(value))
        except BaseException:
            _end(reservation, None)  # it may have been sent
            raise
        usage = outcome.usage
        if usage is None and (outcome.error is not None or not outcome.attempts):
            usage = Usage()
        _end(reservation, usage)
        self._record(outcome, size, strand)
        if outcome.error is not None:
            raise outcome.error
        return outcome.output

    def _record(self, outcome: Outcome[Any], size: int, strand: Strand) -> None:
        item = strand.item
        retries = max(0, outcome.attempts - 1)
        item.retries += retries
        item.add_bills(outcome.usage_by_model)
        item.add_request(outcome.request_seconds)
        item.request_id = outcome.request_id
        for reason, seconds in (outcome.waits or {}).items():
            item.add_wait(reason, seconds)
        if outcome.usage is not None and outcome.request_seconds is not None:
            self._tokens.learn(size, 1, outcome.usage)
        # An answer that was kept is billed nothing, and no request was sent for it.
        kept = outcome.error is None and outcome.usage is not None and outcome.request_seconds is None
        strand.run.counts.add(retries=retries, cached=int(kept))

    def _needed(self, value: Any) -> Any:
        """Return the fields of `value` that the chain uses, which are less to send."""
        if self._fields is None or not isinstance(value, Mapping):
            return value
        return {name: value[name] for name in self._fields if name in value}

    def _size(self, value: Any) -> int:
        """Return the bytes of the request that `value` leads to."""
        if self._render is None:
            return 0
        try:
            body = self._render(value)
        except Exception:  # noqa: BLE001  nothing is sent for it: the worker's chain raises the error again
            return 0
        return len(body)

    async def _reserve(self, size: int, strand: Strand) -> Reservation:
        assert strand.spending is not None

        def expect() -> tuple[float, float, bool]:
            taken, given = self._tokens.expect(size, most=self._max_tokens)
            return taken, given, self._tokens.known

        return await strand.spending.reserve(self._model, expect, strand)


def _end(reservation: Reservation | None, usage: Usage | None) -> None:
    if reservation is not None:
        reservation.settle(usage)
