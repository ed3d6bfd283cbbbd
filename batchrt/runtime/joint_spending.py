"""Budgets of several runs that pay for one list together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchrt.errors import SpendingLimitError
from batchrt.runtime.spending import Expect, Holder, Payer, Reservation, Spending, reserve

__all__ = ["JointSpending", "joint", "part_of"]


class JointSpending:
    """Pay for a list with items of several runs, each run for its own: cost is shared out by the items.

    Args:
        items: the list that is handed on.
        payers: of each item; `None` for one whose run has no limit.
        costs: each item's part of the list's cost; equal parts if none has any.
        waits: wait where it does not fit beside requests under way; else raise `SpendingBusyError`.
        whole: the payer of all of the list, if this is of a part of it.

    Attributes:
        items: as they were given.
        payers: likewise.
        costs: of each item.
        refusal: the budget because of which a request was not sent, and the error that says so.
    """

    def __init__(
        self,
        items: Sequence[object],
        payers: Sequence[Payer | None],
        costs: Sequence[float],
        *,
        waits: bool = True,
        whole: JointSpending | None = None,
    ) -> None:
        total = sum(costs)
        if not 0 < total < math.inf:
            costs, total = [1.0] * len(payers), float(len(payers))
        self.items: Sequence[object] = items
        self.payers: Sequence[Payer | None] = payers
        self.costs: Sequence[float] = costs
        self._whole = whole
        charged: dict[Spending, float] = {}
        for payer, cost in zip(payers, costs, strict=True):
            for spending, share in () if payer is None else payer.shares:
                charged[spending] = charged.get(spending, 0.0) + share * cost
        budgets = sorted(charged, key=lambda spending: -spending.serial)
        self.shares: Sequence[tuple[Spending, float]] = [(each, charged[each] / total) for each in budgets]
        self.waits: bool = waits
        self.refusal: tuple[Spending, Exception] | None = None

    @property
    def ended(self) -> SpendingLimitError | None:
        """Why nothing more is sent with these payers together."""
        return next((each.ended for each, _ in self.shares if each.ended is not None), None)

    async def reserve(self, model: str, expect: Expect, strand: Holder) -> Reservation:
        """Set aside each budget's share; see `Spending.reserve`.

        Raises:
            SpendingBusyError: one of them would have to wait, and this does not.
        """
        return await reserve(self, model, expect, strand)

    def refused(self, spending: Spending, error: Exception) -> None:
        """Record because of which budget a request is not sent."""
        self.refusal = spending, error
        if self._whole is not None:
            self._whole.refused(spending, error)

    def is_to_blame(self, failure: BaseException) -> bool:
        """Whether a list failed because one of its payers may not spend more."""
        return self.refusal is not None or issubclass(type(failure), SpendingLimitError)

    def refuses(self, payer: Payer | None) -> Exception | None:
        """Return the error of an item that `payer` pays for, if it is for that that a request is not sent."""
        if self.refusal is None or payer is None:
            return None
        spending, error = self.refusal
        return error if any(each is spending for each, _ in payer.shares) else None


def part_of(payer: Payer | None, items: Sequence[object], places: Sequence[int]) -> Payer | None:
    """Return the payer of those of `items` in these places, where `payer` pays for all of them."""
    if not isinstance(payer, JointSpending) or payer.items is not items:
        return payer  # of a list that these are nested in, say
    payers, costs = [payer.payers[place] for place in places], [payer.costs[place] for place in places]
    return JointSpending([], payers, costs, waits=payer.waits, whole=payer)


def joint(items: Sequence[object], payers: Sequence[Payer | None], costs: Sequence[float]) -> Payer | None:
    """Return the payer of a list whose items are paid for by `payers`; see `JointSpending`."""
    first = payers[0]
    if all(payer is first for payer in payers):
        return first
    return JointSpending(items, payers, costs)
