"""Payment for a list whose values belong to several runs, each of which pays for its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from batchrt.batching.list_call import ListCall, check_length
from batchrt.errors import SpendingLimitError
from batchrt.runtime.joint_spending import JointSpending, joint
from batchrt.runtime.spending import Payer
from batchrt.runtime.strand import Strand

__all__ = ["PaidValue", "paid_jointly"]


class PaidValue(Protocol):
    """A value, its cost, and the budgets that pay for it."""

    value: Any
    cost: float
    spending: Payer | None


def paid_jointly(call: ListCall) -> ListCall:
    """Return `call` for lists of `PaidValue`s.

    Values whose run may spend no more get its error, and the others are sent without them.
    """

    async def send(paid: Sequence[PaidValue], strand: Strand) -> Sequence[Any]:
        results: dict[PaidValue, Any] = {}
        while left := [each for each in paid if each not in results]:
            values = [each.value for each in left]
            payer = joint(values, [each.spending for each in left], [each.cost for each in left])
            strand.spending = payer
            await strand.take()
            try:
                sent = await call.call(values, strand)
            except Exception as error:
                refused = _refused(payer, left, error)
                if not refused:
                    raise
                results.update(refused)
            else:
                results.update(zip(left, check_length(call, left, sent), strict=True))
        return [results[each] for each in paid]

    return replace(call, call=send, cost=None if call.cost is None else lambda paid: paid.cost)


def _refused(
    payer: Payer | None, values: Sequence[PaidValue], failure: Exception
) -> dict[PaidValue, Exception]:
    """Return the errors of the values whose runs may spend no more; the failure is not about the others."""
    if not isinstance(payer, JointSpending):
        return {}
    found = {each: payer.refuses(each.spending) for each in values}
    if payer.refusal is None and issubclass(type(failure), SpendingLimitError):
        # A budget had ended before, and the call nested in the list call was not even tried.
        found = {each: None if each.spending is None else each.spending.ended for each in values}
    return {each: error for each, error in found.items() if error is not None}
