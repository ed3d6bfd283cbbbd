"""A step over every element of a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final

from batchrt.runnables.base import In, Out, Runnable, RunnableLike, coerce
from batchrt.runtime.context import drive
from batchrt.runtime.fork import Job, fork
from batchrt.runtime.slots import Waiter
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = ["RunnableEach"]

UNCAPPED_WIDTH: Final = 1000
"""Elements under way at once when `max_concurrency` is `None`, or, when it is not, together with those that
wait for another attempt or for a provider; the run's default window."""


class RunnableEach(Runnable[Sequence[In], list[Out]]):
    """Take a list and give the list of the outputs of `bound`, in order; what `map` makes.

    Elements run at the same time, under the run's slots; those that wait for another attempt hold up no
    others. The first that fails cancels the others.
    """

    def __init__(self, bound: RunnableLike[In, Out]) -> None:
        self.bound: Runnable[In, Out] = coerce(bound)

    def __repr__(self) -> str:
        return f"{self.bound!r}.map()"

    def _takes(self, keyword: str) -> bool:
        return self.bound._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self.bound._keyword_hint(keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        step = self.bound._step(kwargs)
        if step.inline:
            return Step(lambda values, strand: [step.call(v, strand) for v in values], inline=True)

        async def call(given: Iterable[Any], strand: Strand) -> list[Any]:
            # A copy: the list may be changed meanwhile. By `iter`, for `list` asks for a length.
            values = list(iter(given))
            outputs: list[Any] = [None] * len(values)
            width = min(len(values), max(strand.slots.limit or UNCAPPED_WIDTH, step.lists))
            elements = _Elements(step.call, values, outputs)
            jobs = [elements.carry] * width
            if width < min(len(values), UNCAPPED_WIDTH):
                elements.spare = UNCAPPED_WIDTH - width
                await fork(strand, [*jobs, elements.carry_on_a_free_slot], elements.join)
            else:
                await fork(strand, jobs)
            return outputs

        return Step.of(call, [step], forks=True)


class _Elements:
    """Carry the elements of one list through a step, as many at a time as there are jobs for them.

    There is a job for each slot, and a leader, as a run has one (see `scheduler.py`): it waits for a slot
    that a job gave up to wait for something else, carries on with the next element, and has itself replaced.

    Attributes:
        spare: how many jobs there may be more; those that sleep take memory.
    """

    __slots__ = ("_add", "_leader", "_outputs", "_source", "_step", "_unbegun", "spare")

    def __init__(self, step: StepCall, values: Sequence[Any], outputs: list[Any]) -> None:
        self.spare: int = 0
        self._step = step
        self._source = enumerate(values)
        self._unbegun = len(values)
        self._outputs = outputs
        self._leader: Waiter | None = None
        self._add: Callable[[Job], None] | None = None

    def join(self, add: Callable[[Job], None]) -> None:
        """Be handed what adds jobs."""
        self._add = add

    async def carry(self, strand: Strand) -> None:
        """Carry elements, one after the other."""
        base, step, outputs = copy_context(), self._step, self._outputs
        for index, value in self._source:
            self._unbegun -= 1
            if not self._unbegun and self._leader is not None:
                self._leader.withdraw()
            # A context of its own: what an element sets is not seen by the next.
            strand.start_over()
            outputs[index] = await drive(base.copy(), step(value, strand))

    async def carry_on_a_free_slot(self, strand: Strand) -> None:
        """Lead."""
        if not self._unbegun or not await self._take(strand):
            return
        self.spare -= 1
        if self.spare and self._add is not None:
            self._add(self.carry_on_a_free_slot)
        await self.carry(strand)

    async def _take(self, strand: Strand) -> bool:
        self._leader = Waiter()
        strand.halt()  # it brings nothing to a list before it has its slot
        try:
            # Behind what is under way, and what is lent to nested work is not for it.
            strand.has_slot = await strand.slots.take(self._leader, newcomer=True)
        finally:
            self._leader = None
            strand.go()
        return strand.has_slot and self._unbegun > 0
