"""The retry budget: what keeps retries from making an outage worse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["RetryBudget", "RetryTokens"]

_CAPACITY: Final = 500.0
_COST: Final = 5.0
_TIMEOUT_COST: Final = 10.0
_REPAYMENT: Final = 1.0
"""All four as AWS's SDKs have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """Say how many retries there may be beside the requests that are answered.

    A bucket of tokens, full at first, that is shared by all who share a quota. A retry takes some out, an
    answer puts some in. So a hundred retries may come at once, and in the long run one for every five
    answers; in an outage calls fail fast instead of multiplying.

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
    """Hold what is left of a `RetryBudget`."""

    __slots__ = ("budget", "left")

    def __init__(self, budget: RetryBudget) -> None:
        self.budget: RetryBudget = budget
        self.left: float = budget.capacity

    def cost(self, *, timed_out: bool) -> float:
        """Return what a retry costs."""
        return self.budget.timeout_cost if timed_out else self.budget.cost

    def spend(self, cost: float) -> bool:
        """Take `cost` out if it is there."""
        if self.left < cost or not self.budget.capacity:
            return False
        self.left -= cost
        return True

    def repay(self) -> None:
        """Note an answer."""
        if self.left < self.budget.capacity:
            self.left = min(self.left + self.budget.repayment, self.budget.capacity)
