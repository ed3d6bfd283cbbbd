"""RunnableEach: a step over every element of a list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from batchrt.runnables.base import In, Out, Runnable, RunnableLike, coerce
from batchrt.runnables.description import Description, together
from batchrt.runtime.context import drive
from batchrt.runtime.fork import Branch, fork
from batchrt.runtime.side_stream import Put, SideStream
from batchrt.runtime.slots import Waiter
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = ["RunnableEach"]

UNCAPPED_WIDTH: Final = 1000
"""Elements under way at once if `max_concurrency` is `None`; otherwise the bound on elements under way plus
those that wait for a retry or a provider. It is the default window of a run."""


class RunnableEach(Runnable[Sequence[In], list[Out]]):
    """Map a list to the list of the outputs of `bound`, in order; the result of `map`.

    Elements run concurrently, under the run's slots; an element that waits for another attempt does not
    delay the others. The first that fails cancels the others.

    Streamed, it yields a list of one output after the other, in order.
    """

    def __init__(self, bound: RunnableLike[In, Out]) -> None:
        self.bound: Runnable[In, Out] = coerce(bound)

    def __repr__(self) -> str:
        return f"{self.bound!r}.map()"

    def _takes(self, keyword: str) -> bool:
        return self.bound._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self.bound._keyword_hint(keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        return together([self.bound.describe(kwargs)])

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step = self.bound._step(kwargs)
        if step.inline:
            return Step(lambda values, strand: [step.call(v, strand) for v in values], inline=True)

        async def call(given: Iterable[Any], strand: Strand) -> list[Any]:
            return await _over_elements(step, given, strand)

        async def produce(given: Iterable[Any], _strand: Strand) -> AsyncIterator[Any]:
            side = SideStream([partial(_streamed_elements, step, given)])
            some = False
            try:
                async for chunk in side:
                    some = True
                    yield chunk
                if not some:
                    yield []
            finally:
                await side.aclose()

        return Step.of(call, [step], forks=True, produce=produce)


async def _over_elements(
    step: Step, given: Iterable[Any], strand: Strand, put: Put | None = None
) -> list[Any]:
    """Return the outputs for all elements; with `put`, hand each over as a list, in order."""
    # A copy, since the list may change meanwhile; by `iter`, since `list` calls `__len__`.
    values = list(iter(given))
    outputs: list[Any] = [None] * len(values)
    width = min(len(values), max(strand.slots.limit or UNCAPPED_WIDTH, step.lists))
    elements = _Elements(step.call, values, outputs, None if put is None else _InOrder(outputs, put))
    branches = [elements.carry] * width
    if width < min(len(values), UNCAPPED_WIDTH):
        elements.spare = UNCAPPED_WIDTH - width
        await fork(strand, [*branches, elements.lead], elements.join)
    else:
        await fork(strand, branches)
    return outputs


async def _streamed_elements(step: Step, given: Iterable[Any], strand: Strand, put: Put) -> None:
    await _over_elements(step, given, strand, put)


class _InOrder:
    """Hand outputs over in order, each as a list of one, whatever order they come in."""

    __slots__ = ("_busy", "_next", "_outputs", "_put", "_ready")

    def __init__(self, outputs: list[Any], put: Put) -> None:
        self._outputs = outputs
        self._put = put
        self._ready: set[int] = set()
        self._next = 0
        self._busy = False

    async def came(self, index: int) -> None:
        """Take an output, and hand over those that are next."""
        self._ready.add(index)
        if self._busy:
            return  # the branch that hands one over goes on with this one
        self._busy = True
        while self._next in self._ready:
            self._ready.remove(self._next)
            output, self._outputs[self._next] = self._outputs[self._next], None
            self._next += 1
            await self._put([output])
        self._busy = False


class _Elements:
    """Carry the elements of one list through a step, as many at a time as there are branches for them.

    There is a branch for each slot and one leader, as in a run (see `scheduler.py`): the leader waits for a
    slot that a branch gave up while it waits, adds a new leader, and goes on with the next element.

    Attributes:
        spare: how many branches may still be added; sleeping branches take memory.
    """

    __slots__ = ("_add", "_in_order", "_leader", "_outputs", "_source", "_step", "_unbegun", "spare")

    def __init__(
        self, step: StepCall, values: Sequence[Any], outputs: list[Any], in_order: _InOrder | None
    ) -> None:
        self.spare: int = 0
        self._step = step
        self._source = enumerate(values)
        self._unbegun = len(values)
        self._outputs = outputs
        self._in_order = in_order
        self._leader: Waiter | None = None
        self._add: Callable[[Branch], None] | None = None

    def join(self, add: Callable[[Branch], None]) -> None:
        """Receive the function that adds branches to the fork."""
        self._add = add

    async def carry(self, strand: Strand) -> None:
        """Carry elements one after the other, on a slot of its own."""
        base, step, outputs = copy_context(), self._step, self._outputs
        for index, value in self._source:
            self._unbegun -= 1
            if not self._unbegun and self._leader is not None:
                self._leader.withdraw()
            # A context for each element: the next one must not see the variables that it sets.
            strand.start_over()
            outputs[index] = await drive(base.copy(), step(value, strand))
            if self._in_order is not None:
                await self._in_order.came(index)

    async def lead(self, strand: Strand) -> None:
        """Wait as the leader for a slot that is given up, then carry elements on it."""
        if not self._unbegun or not await self._take(strand):
            return
        self.spare -= 1
        if self.spare and self._add is not None:
            self._add(self.lead)
        await self.carry(strand)

    async def _take(self, strand: Strand) -> bool:
        self._leader = Waiter()
        strand.halt()  # without a slot it cannot bring an item to a list call
        try:
            # As a newcomer: behind strands under way, and not on slots that are lent to nested work.
            strand.has_slot = await strand.slots.take(self._leader, newcomer=True)
        finally:
            self._leader = None
            strand.go()
        return strand.has_slot and self._unbegun > 0
