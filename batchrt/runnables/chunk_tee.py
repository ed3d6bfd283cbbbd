"""A tee: chunks of one input for several branches, each at its own pace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from anyio import CancelScope

from batchrt.runnables.chunk_sums import joined_pairs
from batchrt.runtime.chunk_buffer import BOUND, ChunkBuffer, Pauses, is_ahead
from batchrt.runtime.side_stream import Put, closed
from batchrt.runtime.strand import Strand

__all__ = ["ChunkTee"]

LAG: Final = 256
"""Chunks that a branch may be behind before they are joined: a branch that takes nothing until another one
has ended holds no branch up, and keeps of the input what `ainvoke` would, the input itself."""


class ChunkTee:
    """Give each chunk of `chunks` to every outlet.

    The fastest branch sets the pace: chunks are pulled while one of the branches has fewer than `BOUND` left
    to take. A slower one has the rest in its outlet, where more than `LAG` are joined in pairs, again and
    again, so that their number stays bounded. Chunks that cannot be joined without a loss (numbers, objects)
    make the pump wait instead.

    Attributes:
        outlets: an iterator over the chunks for each branch; one that is closed takes no more.
    """

    __slots__ = ("_chunks", "_pauses", "_scope", "outlets")

    def __init__(self, chunks: AsyncIterator[Any], count: int) -> None:
        self._chunks = chunks
        self._pauses = Pauses()
        self._scope = CancelScope()
        self.outlets: list[_Outlet] = [_Outlet(self._took) for _ in range(count)]

    async def pump(self, strand: Strand, _put: Put) -> None:
        """Pull the chunks; a branch of its own. The outlets raise their error, behind the last chunk."""
        failure: Exception | None = None
        strand.scopes = (*strand.scopes, self._scope)
        with self._scope:
            try:
                async for chunk in self._chunks:
                    await self._hand_out(chunk, strand)
            except Exception as error:  # noqa: BLE001  raised by the outlets
                failure = error
            finally:
                await closed(self._chunks)
        for outlet in self.outlets:
            outlet.end(failure)

    async def _hand_out(self, chunk: Any, strand: Strand) -> None:
        opened = self._opened()
        asked = [outlet for outlet in opened if outlet.asked]
        for outlet in opened:
            outlet.add(chunk)
        borrows = any(outlet.borrows for outlet in asked)
        if not self._has_room():
            await self._pauses.pause(strand, newcomers=True)
        elif is_ahead(strand, asked=len(asked) == len(opened), borrows=borrows):
            await self._pauses.pause(strand, newcomers=False)

    def _opened(self) -> list[_Outlet]:
        return [outlet for outlet in self.outlets if not outlet.closed]

    def _has_room(self) -> bool:
        lengths = [len(outlet.ready) for outlet in self._opened()]
        return not lengths or (min(lengths) < BOUND and max(lengths) < LAG)

    def _took(self) -> None:
        if not self._opened():
            self._scope.cancel()  # no branch wants more
        if not self._pauses:
            return
        fewest = min((len(outlet.ready) for outlet in self._opened()), default=0)
        if fewest <= BOUND // 2 and self._has_room():
            self._pauses.resume()


class _Outlet(ChunkBuffer):
    """The chunks for one branch."""

    __slots__ = ("closed",)

    def __init__(self, taken: Any) -> None:
        super().__init__(taken)
        self.closed: bool = False

    def add(self, chunk: Any) -> None:
        """Add a chunk, and join chunks if there are many."""
        if len(self.ready) >= LAG - 1:
            joined = joined_pairs(self.ready)
            self.ready.clear()
            self.ready.extend(joined)
        self.push(chunk)

    async def aclose(self) -> None:
        """Take no more chunks."""
        self.closed = True
        self.ready.clear()
        self.taken()
