"""RetryQueue paid for out of a budget, and those who wait for one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio

from batchrt.limits.error_kinds import Failure, FailureKind
from batchrt.limits.events import BudgetEmpty, Events
from batchrt.limits.retry_budget import RetryBudget, RetryTokens
from batchrt.runtime.event_loop import Signal

__all__ = ["RetryQueue"]


class Slotted(Protocol):
    """Hold a slot."""

    def give(self) -> None:
        """Give it up."""


class RetryQueue:
    """Pay for retries; safe to use from any event loop and thread.

    Args:
        budget: what there is; `None` for no bound.
        events: tells when it is empty.
        is_idle: says whether nothing is under way whose answer could pay for anything.
    """

    def __init__(self, budget: RetryBudget | None, events: Events, is_idle: Callable[[], bool]) -> None:
        self._tokens = None if budget is None else RetryTokens(budget)
        self._events = events
        self._is_idle = is_idle
        self._lock = threading.Lock()
        self._waiting: deque[Signal] = deque()

    @property
    def left(self) -> float | None:
        """What is left of the budget; `None` without one."""
        return None if self._tokens is None else self._tokens.left

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for one."""
        return bool(self._waiting)

    def afford(self, failure: Failure) -> bool:
        """Pay for a retry after `failure`, if there is enough for it.

        One that the provider has set a time for costs nothing: nobody sends until then, and it is one
        after the other afterwards.
        """
        if self._tokens is None or failure.paced:
            return True
        cost = self._tokens.cost(timed_out=failure.kind is FailureKind.TIMED_OUT)
        with self._lock:
            # Those who wait for it come first.
            if not self._waiting and self._tokens.spend(cost):
                return True
            left = self._tokens.left
        if self._events.listeners:
            self._events.tell(BudgetEmpty(left, cost))
        return False

    def words(self) -> str:
        """Say what is left of the budget, and why."""
        assert self._tokens is not None
        budget = self._tokens.budget
        return (
            f"the retry budget is empty ({self._tokens.left:g} of {budget.capacity:g} left; a retry costs "
            f"{budget.cost:g}, an answer repays {budget.repayment:g})"
        )

    async def wait(self, patience: float, strand: Slotted) -> bool:
        """Wait for a retry that cannot be afforded, without a slot; `False` if that takes too long.

        Each answer lets one go: whoever waits is not in a hurry, and one for each answer is no flood.
        """
        signal = Signal()
        with self._lock:
            self._waiting.append(signal)
        self.relieve()
        strand.give()
        let_go = False
        try:
            with anyio.move_on_after(patience):
                await signal.wait()
                let_go = True
        finally:
            with self._lock:
                if signal in self._waiting:
                    self._waiting.remove(signal)
                elif not let_go:
                    self._let_one_go()  # one that has a use for it
        return let_go

    def repay(self) -> None:
        """Note an answer."""
        if self._tokens is None:
            return
        with self._lock:
            if not self._let_one_go():
                self._tokens.repay()

    def relieve(self) -> None:
        """Let one go who waits, if there is nobody whose answer could."""
        if self._waiting and self._is_idle():
            with self._lock:
                self._let_one_go()

    def begin_anew(self) -> None:
        """Forget those who wait in the process that this one was forked from."""
        self._lock = threading.Lock()
        self._waiting.clear()

    def _let_one_go(self) -> bool:
        if not self._waiting:
            return False
        self._waiting.popleft().set()
        return True
