"""Withdrawals: items that wait to be sent, taken out of a run that ends gracefully.

Invariant: a withdrawn item has no slot, and neither has a strand of it (a branch, nested work, the list that
carries it), so that no request and no function of it is cancelled. A worker has one cancel scope for as long
as it lives, and items have none: no item is admitted after the first withdrawal, so the scope is used once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.lowlevel
from anyio import CancelScope

from batchrt.errors import RunStoppedError
from batchrt.runtime.event_loop import Host
from batchrt.runtime.item import Item
from batchrt.runtime.run import Run
from batchrt.runtime.strand import Strand

__all__ = ["Withdrawals"]

WITHDRAWAL_SECONDS: Final = 0.1
"""How often a run that ends gracefully looks for items that have come to wait."""


class Withdrawals:
    """Keep the items under way of a run that can be stopped, and cancel those that wait.

    Args:
        run: the run; its `live` is kept from now on.
    """

    def __init__(self, run: Run) -> None:
        if run.live is None:
            run.live = set()
        self._live = run.live
        self._carried: dict[Item, _Carried] = {}
        self._scopes: dict[Host, CancelScope] = {}
        self._begun = anyio.Event()

    @contextmanager
    def worker(self) -> Iterator[Host]:
        """Surround a worker with a scope in which one item of it can be cancelled, the last."""
        with CancelScope() as scope:
            own = Host()
            self._scopes[own] = scope
            try:
                yield own
            finally:
                del self._scopes[own]

    def add(self, strand: Strand, own: Host) -> None:
        """Note an item that a worker begins to carry."""
        scope = self._scopes[own]
        self._carried[strand.item] = _Carried(strand, scope)
        strand.scopes = (scope,)

    def remove(self, item: Item) -> None:
        """Forget an item that has ended."""
        del self._carried[item]

    def error_of(self, item: Item) -> RunStoppedError | None:
        """Return why an item was withdrawn; `None` if it was not."""
        return self._carried[item].error

    def at_work(self) -> set[int]:
        """Return the indices of the items that have a leaf or a list under way."""
        busy = self._busy()
        return {item.index for item, carried in self._carried.items() if carried.strand in busy}

    def _busy(self) -> set[Strand]:
        """Return the strands that are at work, and all that they are branches of or nested in."""
        busy: set[Strand] = set()
        for strand in self._live:
            above: Strand | None = strand if strand.is_at_work else None
            while above is not None and above not in busy:
                busy.add(above)
                above = above.above or above.run.above
        return busy

    def begin(self) -> None:
        """Withdraw the items that wait, and from now on those that come to wait; needs no current task."""
        if not self._begun.is_set():
            self._begun.set()
            self.withdraw()

    def withdraw(self) -> None:
        """Cancel the items that wait."""
        busy = self._busy()
        for carried in list(self._carried.values()):
            if carried.strand not in busy and not carried.scope.cancel_called:
                carried.error = RunStoppedError(
                    "the run was stopped while the item waited to be sent",
                    started=carried.strand.item.was_sent,
                )
                carried.scope.cancel()

    async def keep(self) -> None:
        """Withdraw items that come to wait after `begin`, until cancelled."""
        await self._begun.wait()
        while True:
            await anyio.sleep(WITHDRAWAL_SECONDS)
            self.withdraw()


class _Carried:
    """An item on its way through a run that can be stopped.

    Attributes:
        strand: carries it.
        scope: its worker's, which takes no other item once it is cancelled.
        error: why it was withdrawn.
    """

    __slots__ = ("error", "scope", "strand")

    def __init__(self, strand: Strand, scope: CancelScope) -> None:
        self.strand: Strand = strand
        self.scope: CancelScope = scope
        self.error: RunStoppedError | None = None
