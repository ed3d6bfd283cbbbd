"""The retry budget: bounds retries, so that they do not make an outage worse."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from batchrt.limits.error_kinds import Failure, FailureKind
from batchrt.limits.events import BudgetEmpty, Events
from batchrt.runtime.event_loop import Signal
from batchrt.runtime.slot_holder import SlotHolder

__all__ = ["RetryBudget", "RetryQueue", "RetryTokens"]

_CAPACITY: Final = 500.0
_COST: Final = 5.0
_TIMEOUT_COST: Final = 10.0
_REPAYMENT: Final = 1.0
"""All four in tokens, as in AWS's SDKs (retry token bucket)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """How many retries there may be, in proportion to the requests that are answered.

    A token bucket, full at first, which all models that share a quota have in common. A retry takes tokens
    out, an answer puts some in. So a hundred retries may come at once, and in the long run one for every
    five answers; in an outage calls fail fast instead of multiplying.

    Args:
        capacity: tokens at first, and at the most; 0 for no retries.
        cost: of a retry.
        timeout_cost: of a retry after no answer in time.
        repayment: for an answer.
    """

    capacity: float = _CAPACITY
    cost: float = _COST
    timeout_cost: float = _TIMEOUT_COST
    repayment: float = _REPAYMENT

    def __post_init__(self) -> None:
        for name in ("capacity", "cost", "timeout_cost", "repayment"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number of tokens, not {value!r}")
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 tokens or more, not {value}")


class RetryTokens:
    """Hold the tokens that are left of a `RetryBudget`.

    Invariant: 0 ≤ `left` ≤ `capacity`.
    """

    __slots__ = ("budget", "left")

    def __init__(self, budget: RetryBudget) -> None:
        self.budget: RetryBudget = budget
        self.left: float = budget.capacity

    def cost(self, *, timed_out: bool) -> float:
        """Return the cost of a retry."""
        return self.budget.timeout_cost if timed_out else self.budget.cost

    def spend(self, cost: float) -> bool:
        """Take `cost` out; return whether there was enough."""
        if self.left < cost or not self.budget.capacity:
            return False
        self.left -= cost
        return True

    def repay(self) -> None:
        """Put an answer's repayment in."""
        if self.left < self.budget.capacity:
            self.left = min(self.left + self.budget.repayment, self.budget.capacity)


class RetryQueue:
    """Pay for retries, and queue those that cannot be paid for; safe from any event loop and thread.

    Invariant: no retry is paid for while others wait, first come first served. An answer releases one
    waiting retry instead of putting tokens in; where no request is in flight or waits for the quota, so that
    no answer can come, one is released all the same.

    Args:
        budget: bounds the number of retries; `None` for no bound.
        events: announces that the budget is empty.
        is_idle: returns whether no request is in flight or waits for the quota.
    """

    def __init__(self, budget: RetryBudget | None, events: Events, is_idle: Callable[[], bool]) -> None:
        self._tokens = None if budget is None else RetryTokens(budget)
        self._events = events
        self._is_idle = is_idle
        # Reentrant: a finalizer that the garbage collector runs under it may end a request.
        self._lock = threading.RLock()
        self._waiting: deque[Signal] = deque()

    @property
    def left(self) -> float | None:
        """The tokens that are left; `None` without a budget."""
        return None if self._tokens is None else self._tokens.left

    @property
    def awaited(self) -> bool:
        """Whether retries wait."""
        return bool(self._waiting)

    def afford(self, failure: Failure) -> bool:
        """Pay for a retry after `failure`, if there are enough tokens.

        A retry for which the provider has named the time is free: no request is sent until then, and
        retries go one after the other afterwards.
        """
        if self._tokens is None or failure.paced:
            return True
        cost = self._tokens.cost(timed_out=failure.kind is FailureKind.TIMED_OUT)
        with self._lock:
            if not self._waiting and self._tokens.spend(cost):
                return True
            left = self._tokens.left
        if self._events.listeners:
            self._events.tell(BudgetEmpty(left, cost))
        return False

    def words(self) -> str:
        """Say how much is left of the budget, and why."""
        assert self._tokens is not None
        budget = self._tokens.budget
        return (
            f"the retry budget is empty ({self._tokens.left:g} of {budget.capacity:g} left; a retry costs "
            f"{budget.cost:g}, an answer repays {budget.repayment:g})"
        )

    async def wait(self, patience: float, holder: SlotHolder) -> bool:
        """Wait without a slot for a retry that is not affordable; return `False` after `patience` seconds.

        Each answer releases one, which is no flood: a retry that waits is in no hurry.
        """
        signal = Signal()
        with self._lock:
            self._waiting.append(signal)
        self.relieve()
        holder.give()
        released = False
        try:
            with anyio.move_on_after(patience):
                await signal.wait()
                released = True
        finally:
            with self._lock:
                if signal in self._waiting:
                    self._waiting.remove(signal)
                elif not released:
                    self._release_one()  # this one has no use for its turn
        return released

    def repay(self) -> None:
        """Record an answer."""
        tokens = self._tokens
        if tokens is None or (tokens.left >= tokens.budget.capacity and not self._waiting):
            return
        with self._lock:
            if not self._release_one():
                tokens.repay()

    def relieve(self) -> None:
        """Release one retry, if no request is left whose answer could."""
        if self._waiting and self._is_idle():
            with self._lock:
                self._release_one()

    def reset_after_fork(self) -> None:
        """Forget the retries of the parent process, and its lock, which may be held."""
        self._lock = threading.RLock()
        self._waiting.clear()

    def _release_one(self) -> bool:
        if not self._waiting:
            return False
        self._waiting.popleft().set()
        return True
