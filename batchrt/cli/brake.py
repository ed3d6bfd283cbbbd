"""The end of a job that does not wait for those who wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio
from anyio import CancelScope

from batchrt.runtime.strand import Strand

__all__ = ["Brake", "LeftOutError"]

_SECONDS: Final = 0.1
"""How often is looked for requests that failed and wait for another attempt."""


class LeftOutError(Exception):
    """Say that a request was given up while it waited to be sent."""


class Brake:
    """Let requests that are under way finish, and give those up that wait to be sent.

    A pause that the provider asks for may be an hour, and its limits may let through one request a
    minute: who stops a job means those who wait, whether for their first attempt or another one.
    """

    def __init__(self) -> None:
        self._guarded: dict[Strand, tuple[CancelScope, int]] = {}
        self._pulled = anyio.Event()

    @contextmanager
    def over(self, strand: Strand, rows: int = 1) -> Iterator[None]:
        """Carry a request for so many rows within the block.

        Raises:
            LeftOutError: it was given up.
        """
        with CancelScope() as scope:
            self._guarded[strand] = (scope, rows)
            try:
                yield
            finally:
                del self._guarded[strand]
        if scope.cancelled_caught:
            raise LeftOutError

    def pull(self) -> int:
        """Give up what waits, now and from now on; return for how many rows that was now."""
        self._pulled.set()
        return self._give_up()

    def _give_up(self) -> int:
        # Whoever waits, for the quota or for another attempt, does so without a slot.
        waiting = [guarded for strand, guarded in self._guarded.items() if not strand.has_slot]
        for scope, _ in waiting:
            scope.cancel()
        return sum(rows for _, rows in waiting)

    async def keep_pulling(self) -> None:
        """Give up what comes to wait after `pull`, until cancelled."""
        await self._pulled.wait()
        while True:
            await anyio.sleep(_SECONDS)
            self._give_up()
