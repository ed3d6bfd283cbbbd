"""The budget of a cluster's run: what its workers may spend, and what they have been granted of it.

Invariant: the grants to all workers, dead ones included, and the spending beyond them add up to no more than
the limits. A grant is never taken back from a worker that falls silent: it may have been spent. Prior art:
escrow locking (O'Neil 1986), which divides a counter with a bound among transactions.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

__all__ = ["NOTHING", "Amount", "BudgetLedger", "BudgetReply", "BudgetRequest"]

_LEAST: Final = 0.01
"""The smallest grant, as a share of the limit: with smaller ones the last percents would be all messages."""


class Amount(NamedTuple):
    """Tokens and money."""

    tokens: float
    cost: float

    def plus(self, other: Amount) -> Amount:
        """Return the sum."""
        return Amount(self.tokens + other.tokens, self.cost + other.cost)

    def minus(self, other: Amount) -> Amount:
        """Return the difference."""
        return Amount(self.tokens - other.tokens, self.cost - other.cost)

    def most(self, other: Amount) -> Amount:
        """Return the larger of each."""
        return Amount(max(self.tokens, other.tokens), max(self.cost, other.cost))

    def least(self, other: Amount) -> Amount:
        """Return the smaller of each."""
        return Amount(min(self.tokens, other.tokens), min(self.cost, other.cost))

    def times(self, factor: float) -> Amount:
        """Return the product."""
        return Amount(self.tokens * factor, self.cost * factor)

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be bought with it."""
        return self.tokens <= 0 or self.cost <= 0


NOTHING: Final = Amount(0.0, 0.0)


class BudgetRequest(NamedTuple):
    """Ask for more budget, or tell what became of it.

    Attributes:
        worker: the worker's unique id.
        limit: of the whole run.
        granted: to this worker so far.
        spent: by it, which may be more, as far as estimates were wrong.
        used: of the limit by all workers, as the last reply had it.
        wants: whether the worker needs more than it was granted.
    """

    worker: str
    limit: Amount
    granted: Amount
    spent: Amount
    used: Amount
    wants: bool


class BudgetReply(NamedTuple):
    """Answer a request.

    Attributes:
        granted: to this worker in all.
        used: of the limit by all workers, those that are gone included.
        learning: seconds until there may be more, after a loss of state.
    """

    granted: Amount
    used: Amount
    learning: float = 0.0


class BudgetLedger:
    """Grant the budget of one run to its workers; for one caller at a time.

    Args:
        learns_until: when the state before this one has been told by the workers; nothing is granted before.
    """

    def __init__(self, learns_until: float = -math.inf) -> None:
        self._learns_until = learns_until
        self._workers: dict[str, Amount] = {}
        self._told = NOTHING
        self._others: Amount | None = None

    def exchange(self, request: BudgetRequest, now: float) -> BudgetReply:
        """Handle a request at `now`, in seconds on a clock that never goes back."""
        held = self._workers.get(request.worker, NOTHING).most(request.granted).most(request.spent)
        self._workers[request.worker] = held
        learning = max(0.0, self._learns_until - now)
        if learning > 0:
            self._told = self._told.most(request.used)
            return BudgetReply(request.granted, self._told.most(self._sum()), learning)
        if self._others is None:
            # The grants of workers that are gone, or that have not been heard of.
            self._others = NOTHING.most(self._told.minus(self._sum()))
        granted = request.granted
        left = request.limit.minus(self._used())
        if request.wants and not left.is_empty:
            part = left.times(1 / (2 * len(self._workers))).most(request.limit.times(_LEAST)).least(left)
            granted = request.granted.most(request.spent).plus(part)
            self._workers[request.worker] = granted
        return BudgetReply(granted, self._used())

    def _sum(self) -> Amount:
        total = NOTHING
        for held in self._workers.values():
            total = total.plus(held)
        return total

    def _used(self) -> Amount:
        return self._sum().plus(self._others or NOTHING)
