"""The run of a worker: one run of a chain, on the rows of several blocks at once."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

from batchrt.config import RunConfig
from batchrt.errors import DeadlineExceededError, RunStoppedError, SpendingLimitError
from batchrt.integrations.ray.budget_ledger import NOTHING, Amount
from batchrt.integrations.ray.run_share import RunShare
from batchrt.limits.abort_policy import AbortPolicy
from batchrt.runnables.base import Runnable
from batchrt.runtime.event_loop import Signal
from batchrt.runtime.outcome import Outcome
from batchrt.runtime.outcome_iterator import SyncOutcomeIterator
from batchrt.runtime.portal import call_blocking

__all__ = ["Put", "RowRun"]

Put: TypeAlias = Callable[[int, Outcome[Any]], object]
"""Takes the place of a row among those that were handed in together, and its outcome; from any thread."""

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Seconds before a run that was aborted is begun anew; they double. Other workers may have a key that works,
and should get the blocks that this worker could only fail."""

_OF_THE_RUN: Final = (RunStoppedError, SpendingLimitError, DeadlineExceededError)

_CLOSED: Final = "the worker has been closed"

_log: Final = logging.getLogger("batchrt")


class _Block:
    """Rows that were handed in together, and their outcomes."""

    __slots__ = ("_put", "done", "left", "outcomes", "values")

    def __init__(self, values: Sequence[Any], put: Put | None = None) -> None:
        self.values = values
        self.left = len(values)
        self.outcomes: list[Outcome[Any] | None] = [None] * len(values)
        self.done = threading.Event()
        self._put = put

    def settle(self, place: int, outcome: Outcome[Any]) -> None:
        self.outcomes[place] = outcome
        self.left -= 1
        if self._put is not None:
            self._put(place, outcome)
        if not self.left:
            self.done.set()

    def fail_rest(self, error: Exception) -> None:
        """Give `error` to the rows that have no outcome."""
        for place, outcome in enumerate(self.outcomes):
            if outcome is None:
                self.settle(place, Outcome(place, None, error, 0, 0.0, None))
        self.done.set()


_Row: TypeAlias = "tuple[_Block, int]"
"""A block, and a row's place in it."""


class _Feed:
    """Hand the rows of blocks to a run, in the order of the blocks, and wait for more of them.

    Blocks are put by any thread; the rows are taken on the event loop.

    Args:
        opening: awaited before the first row of each run.

    Attributes:
        pending: the rows that were taken and have no outcome, by their number in the run.
        is_used: set when a block was put, or it was closed.
    """

    def __init__(self, opening: Callable[[], Awaitable[object]]) -> None:
        self._opening = opening
        self._lock = threading.Lock()
        self._blocks: deque[_Block] = deque()
        self._again: deque[_Row] = deque()
        self._block: _Block | None = None
        self._next = 0
        self._signal: Signal | None = None
        self._closed = False
        self.pending: dict[int, _Row] = {}
        self._pulled = 0
        self.is_used = threading.Event()

    def begin(self, again: Iterable[_Row] = ()) -> None:
        """Number the rows anew, for another run, which gets the rows `again` first."""
        self._again = deque(again)
        self.pending, self._pulled = {}, 0

    def rows_left(self) -> int:
        """Return how many rows have no outcome yet."""
        with self._lock:
            rows = sum(len(block.values) for block in self._blocks) + len(self._again) + len(self.pending)
            return rows if self._block is None else rows + len(self._block.values) - self._next

    def put(self, block: _Block) -> None:
        """Add a block."""
        with self._lock:
            self._blocks.append(block)
            signal, self._signal = self._signal, None
        self.is_used.set()
        if signal is not None:
            signal.set()

    def close(self) -> None:
        """End the run once the blocks that were put have ended."""
        with self._lock:
            self._closed = True
            signal, self._signal = self._signal, None
        self.is_used.set()
        if signal is not None:
            signal.set()

    def take_rest(self) -> set[_Block]:
        """Return the blocks of which rows are left, and forget them; with no run under way."""
        with self._lock:
            rest = {block for block, _ in (*self.pending.values(), *self._again)} | set(self._blocks)
            if self._block is not None:
                rest.add(self._block)
            self._blocks.clear()
            self._again.clear()
            self._block = None
            self.pending = {}
        return rest

    def __aiter__(self) -> _Feed:
        return self

    async def __anext__(self) -> Any:
        if not self._pulled:
            await self._opening()
        if self._again:
            return self._taken(*self._again.popleft())
        block = self._block
        while block is None or self._next == len(block.values):
            with self._lock:
                signal = None
                block = self._block = self._blocks.popleft() if self._blocks else None
                self._next = 0
                if block is None and self._closed:
                    raise StopAsyncIteration
                if block is None:
                    signal = self._signal = Signal()
            if signal is not None:
                await signal.wait()
        self._next += 1
        return self._taken(block, self._next - 1)

    def _taken(self, block: _Block, place: int) -> Any:
        self.pending[self._pulled] = block, place
        self._pulled += 1
        return block.values[place]


class RowRun:
    """Run a chain on rows that are handed in block by block, by any number of threads.

    All blocks share one run, so that a slow row delays only its own block: the slots that it leaves free are
    used for rows of the other blocks. A run that the provider refuses altogether (see `AbortPolicy`) fails
    the rows at hand, and is begun anew after a pause.

    Args:
        chain: the chain.
        config: of the run.
        share: this worker's in the slots and the budget of `config`; without one it has all of them.
    """

    def __init__(self, chain: Runnable[Any, Any], config: RunConfig, share: RunShare | None = None) -> None:
        self._chain = chain
        self._config = config
        self._share = share
        self._spent = NOTHING
        self._unpaid: list[tuple[_Row, Outcome[Any]]] = []
        self._feed = _Feed(self._open)
        self._policy = AbortPolicy(max_wait=math.inf)
        self._iterator: SyncOutcomeIterator[Any] | None = None
        self._ended: Exception | None = None
        self._stopped = False
        self._pause = FIRST_PAUSE
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="batchrt rows", daemon=True)
        self._thread.start()

    def outcomes(self, values: Sequence[Any]) -> list[Outcome[Any]]:
        """Wait for the outcomes of `values` and return them, in the same order; no row's error is raised."""
        block = _Block(values)
        if not values:
            return []
        self._hand_in(block)
        block.done.wait()
        return [outcome for outcome in block.outcomes if outcome is not None]

    def begin(self, values: Sequence[Any], put: Put) -> None:
        """Hand in `values`; each outcome is given to `put` as soon as there is one."""
        if values:
            self._hand_in(_Block(values, put))

    def stop(self) -> None:
        """End gracefully: rows in flight are finished; those that wait, and later ones, are not started."""
        self._stopped = True
        self._closed.set()
        self._stop()
        self._feed.close()

    def _hand_in(self, block: _Block) -> None:
        self._feed.put(block)
        if self._ended is not None:  # no run takes the block any more
            self._fail_rest(self._ended)

    def close(self) -> None:
        """End the run when the rows that were handed in have ended, and wait for that."""
        self._closed.set()
        self._feed.close()
        self._thread.join()

    def _serve(self) -> None:
        """Run one run after the other, until `close` or a limit that stays reached."""
        self._feed.is_used.wait()  # a worker without rows needs no budget
        again: list[_Row] = []
        while self._ended is None:
            if self._stopped:
                self._give_up(RunStoppedError(_CLOSED))
                return
            config = self._paid_config()
            if config is None:
                self._give_up(self._limit_reached())
                return
            self._feed.begin(again)
            self._unpaid = []
            error = self._run_once(config)
            again = [row for row, _ in self._unpaid]
            if error is not None and again:
                again += self._feed.pending.values()
            else:
                self._conclude(error)

    def _run_once(self, config: RunConfig) -> BaseException | None:
        """Run until the feed or the budget ends, or an abort; return why it ended early."""
        self._policy = AbortPolicy(max_wait=math.inf)
        self._policy.on_abort = self._stop
        try:
            with self._chain.run_iter(
                self._feed, config, ordered=False, on_outcome=self._settle
            ) as self._iterator:
                if self._stopped:  # before there was one to stop
                    self._stop()
                for _ in self._iterator:
                    pass
        except BaseException as failure:  # noqa: BLE001  the rows' error: the worker must not die of it
            return failure
        found = self._iterator.statistics()
        self._spent = self._spent.plus(Amount(found.tokens or 0.0, found.cost or 0.0))
        return self._iterator.ended

    async def _open(self) -> None:
        if self._share is not None:
            await self._share.begin(self)

    def slots_taken(self) -> int:
        """Return how many slots are taken."""
        slots = None if self._iterator is None else self._iterator.slots
        return 0 if slots is None else slots.taken

    def rows_left(self) -> int:
        """Return how many rows have no outcome yet, those that wait for a quota included."""
        return self._feed.rows_left()

    def allow(self, slots: int) -> None:
        """Take at most so many slots from now on."""
        there = None if self._iterator is None else self._iterator.slots
        if there is not None and there.total is not None:
            there.withhold(max(0, there.total - slots))

    def _paid_config(self) -> RunConfig | None:
        """Return the config of the next run, with what it may spend; `None` if there is nothing left."""
        if self._share is None or not self._share.has_budget:
            return self._config
        left = call_blocking(partial(self._share.more_budget, self._spent))
        if left is None:
            return None
        config = self._config.copy()
        if config.get("max_tokens_total") is not None:
            config["max_tokens_total"] = max(1, math.floor(left.tokens))
        if config.get("max_cost") is not None:
            config["max_cost"] = left.cost
        return config

    def _limit_reached(self) -> SpendingLimitError:
        for _, outcome in self._unpaid:
            if isinstance(outcome.error, SpendingLimitError):
                return outcome.error.again(started=False)
        limit = "max_cost" if self._config.get("max_cost") is not None else "max_tokens_total"
        said = f"all of the run's {limit} has been leased to its workers"
        return SpendingLimitError(said, limit=limit, tokens=int(self._spent.tokens), cost=self._spent.cost)

    def _give_up(self, error: Exception) -> None:
        for (block, place), outcome in self._unpaid:
            block.settle(place, outcome)
        self._ended = error
        self._fail_rest(error)

    def _conclude(self, error: BaseException | None) -> None:
        refusal = self._policy.refusal
        if error is None and self._policy.is_aborted:
            _log.warning(
                "the provider refuses every request: %s: %s; its rows fail, and others are tried in %g s",
                type(refusal).__name__,
                refusal,
                self._pause,
            )
            self._fail_rest(self._refused())
            self._closed.wait(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return
        if error is None:
            error = RunStoppedError(_CLOSED)
        elif not isinstance(error, Exception):
            error = RunStoppedError(f"the run of the worker ended: {error!r}")
        self._give_up(error)

    def _fail_rest(self, error: Exception) -> None:
        for block in self._feed.take_rest():
            block.fail_rest(error)

    def _stop(self) -> None:
        if self._iterator is not None:
            self._iterator.stop()

    def _settle(self, outcome: Outcome[Any]) -> None:
        """Take an outcome, on the event loop, before its slot goes on."""
        row = self._feed.pending.pop(outcome.index)
        if outcome.error is None:
            self._policy.record_success()
            self._pause = FIRST_PAUSE
        elif not isinstance(outcome.error, _OF_THE_RUN):
            self._policy.record_failure(outcome.error)
        elif self._policy.is_aborted:
            outcome = replace(outcome, error=self._refused())
        elif isinstance(outcome.error, SpendingLimitError) and self._share is not None:
            self._unpaid.append((row, outcome))
            return
        row[0].settle(row[1], outcome)

    def _refused(self) -> RunStoppedError:
        return RunStoppedError(
            f"not sent: the provider refused the requests before it: {self._policy.refusal}"
        )
