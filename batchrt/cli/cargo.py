"""What a job carries: rows on their way from the input to the output."""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol

from batchrt.cli.entries import Entry
from batchrt.cli.feed import Feed, PipeFeed
from batchrt.cli.purse import Purse
from batchrt.cli.tally import Tally
from batchrt.config import RunConfig
from batchrt.runnables.base import Runnable
from batchrt.runtime.stream import Stream

__all__ = ["Cargo", "RowCargo"]

_CHUNK: Final = 256
_AHEAD_PER_SLOT: Final = 20
"""How many rows may be begun while one holds up the output, for each request in flight: some kilobytes
each, for seconds in which a retry sleeps or a server stalls and everybody else goes on."""
_FEWEST_AHEAD: Final = 2000
_MOST_AHEAD: Final = 20_000


class Cargo(Protocol):
    """Rows that are carried through a run; to be used once."""

    def start(self) -> Stream[Any]:
        """Return the run, which begins with the first outcome that is asked for."""

    async def take(self, outcomes: Stream[Any]) -> list[Entry]:
        """Wait for rows that are done with, in order, and let go of them.

        Raises:
            StopAsyncIteration: there are no more.
            SpendingLimitError: no more may be begun.
        """

    def rest(self) -> list[Entry]:
        """Return the rows that ended while others before them had not."""

    def stop(self) -> None:
        """Begin no more rows."""


class RowCargo:
    """Carry rows one by one.

    Args:
        chain: gives each entry back with what became of it.
        feed: the entries.
        cap: the most requests in flight, or auto.
        tally: where rows are counted.
        purse: what may be spent.
    """

    def __init__(
        self,
        chain: Runnable[Entry, Entry],
        feed: Feed | PipeFeed,
        cap: int | Literal["auto"],
        tally: Tally,
        purse: Purse,
    ) -> None:
        self._chain = chain
        self._feed = feed
        self._cap = cap
        self._tally = tally
        self._purse = purse

    def start(self) -> Stream[Any]:
        """Return the run; its outcomes are entries."""
        config = RunConfig(max_concurrency=self._cap, window=_window(self._cap))
        return self._chain.abatch_iter(self._feed, self._purse.limit(config), return_exceptions=True)

    async def take(self, outcomes: Stream[Any]) -> list[Entry]:
        """Wait for some rows that are done with."""
        entries = [self._end(outcome) for outcome in await outcomes.next_chunk(_CHUNK)]
        return [entry for entry in entries if entry.ended]  # the others were left out

    def _end(self, outcome: Entry | Exception) -> Entry:
        entry = self._feed.entries.popleft()
        self._feed.load.remove(entry.row.size)
        if isinstance(outcome, Exception):  # what even the books could not hold, such as a stray cancellation
            entry.fail(outcome)
            self._tally.add_failure(entry, outcome)
        return entry

    def rest(self) -> list[Entry]:
        """Return the rows that ended while others before them had not."""
        return [entry for entry in self._feed.entries if entry.ended]

    def stop(self) -> None:
        """Begin no more rows."""
        self._feed.stop()


def _window(cap: int | Literal["auto"]) -> int:
    if cap == "auto":
        # Twice as many as may come to be in flight. Rows that are sent or done count; of those that wait
        # to be sent the run begins a hundred and no more, and one in flight is only some kilobytes.
        return _MOST_AHEAD
    return max(_FEWEST_AHEAD, 2 * cap, min(_AHEAD_PER_SLOT * cap, _MOST_AHEAD))
