"""A buffer of chunks between the task that produces them and the one that consumes them.

Slots and streams. A leaf that streams is at work while it is asked for its next chunk, and not while it is
suspended behind one. So its strand keeps the slot from chunk to chunk, and lends it only

- while the buffer is full (`BOUND` chunks that the consumer has not taken), until half of them are taken;
- while the consumer has to take a slot back before it can go on with the chunk, and none is free;
- while it is ahead of its consumer, and a strand under way waits for a slot.

A consumer that waits for a chunk lends its own slot, if it has one. So as many leaves are at work at once as
there are slots, no strand waits for anything while it holds one, and the streams that are open and suspended
are at most those of the items that were admitted: a full buffer admits no more. This is credit-based flow
control, with a credit of `BOUND`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self

from batchrt.runtime.event_loop import Signal
from batchrt.runtime.strand import Strand, current_strand

__all__ = ["BOUND", "ChunkBuffer", "Pauses", "is_ahead", "without_slot"]

BOUND: Final = 16
"""Chunks that may wait for a consumer: enough that tasks switch rarely, and some kilobytes of text."""


class Pauses:
    """Suspend the producers of a buffer until `resume`."""

    __slots__ = ("_signals",)

    def __init__(self) -> None:
        self._signals: list[Signal] = []

    def __bool__(self) -> bool:
        return bool(self._signals)

    async def pause(self, strand: Strand, *, newcomers: bool) -> None:
        """Wait, without the slot of `strand`; it may go to new items with `newcomers`."""
        signal = Signal()
        self._signals.append(signal)
        try:
            await without_slot(strand, signal, newcomers=newcomers)
        finally:
            if signal in self._signals:
                self._signals.remove(signal)

    def resume(self) -> None:
        """Let all producers go on."""
        signals, self._signals = self._signals, []
        for signal in signals:
            signal.set()


async def without_slot(strand: Strand, signal: Signal, *, newcomers: bool) -> None:
    """Wait for `signal` and lend the slot meanwhile, if the strand has one."""
    if strand.has_slot:
        async with strand.lending(newcomers=newcomers):
            await signal.wait()
        return
    strand.halt()
    try:
        await signal.wait()
    finally:
        strand.go()


def is_ahead(strand: Strand, *, asked: bool, borrows: bool) -> bool:
    """Whether a producer is to lend its slot behind a chunk, though its buffer has room.

    Args:
        strand: the producer's.
        asked: the consumer waited for this chunk.
        borrows: the consumer lent its slot, which it takes back before it goes on.
    """
    if not strand.has_slot:
        return False
    if borrows and strand.slots.free <= 0:
        return True
    return not asked and strand.slots.wanted()


class ChunkBuffer(AsyncIterator[Any]):
    """Iterate over the chunks that another task pushes, and lend the caller's slot while none is there.

    Attributes:
        ready: the chunks that were not taken.
        asked: whether the consumer waits for a chunk.
        borrows: whether it lent its slot when it last waited.
        taken: called whenever a chunk was taken.
    """

    __slots__ = ("_ended", "_error", "_more", "borrows", "ready", "taken")

    def __init__(self, taken: Callable[[], object]) -> None:
        self.ready: deque[Any] = deque()
        self.borrows: bool = False
        self.taken: Callable[[], object] = taken
        self._more: Signal | None = None
        self._ended = False
        self._error: BaseException | None = None

    def __aiter__(self) -> Self:
        return self

    @property
    def asked(self) -> bool:
        """Whether the consumer waits."""
        return self._more is not None

    @property
    def ended(self) -> bool:
        """Whether no more chunks will come."""
        return self._ended

    def push(self, chunk: Any) -> None:
        """Add a chunk."""
        self.ready.append(chunk)
        self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """Record that there are no more chunks; `error` is raised behind the last one."""
        self._ended, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        more, self._more = self._more, None
        if more is not None:
            more.set()

    async def __anext__(self) -> Any:
        """Return the next chunk.

        Raises:
            StopAsyncIteration: there are no more.
            BaseException: the error that the chunks ended with, once.
        """
        while not self.ready:
            if self._ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            strand = current_strand()
            assert strand is not None
            self.borrows = strand.has_slot
            more = self._more = Signal()
            try:
                await without_slot(strand, more, newcomers=True)
            finally:
                self._more = None
        chunk = self.ready.popleft()
        self.taken()
        return chunk
